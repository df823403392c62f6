package learn

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	pub "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// A permit is a Cedar policy of the proposal.
type permit struct {
	id      string
	parent  *policy.CedarRule // the present permit that allowed the calls; nil: none did
	routes  []string          // one, or all of group
	group   string
	users   []string // in their order; with neither users nor groups: anybody
	groups  []string
	calls   []*call
	within  bool // what the parent asks is asked, too
	general []Generalised
}

// key tells apart what cannot be one policy.
func (p *permit) key() string {
	id := ""
	if p.parent != nil {
		id = p.parent.ID
	}
	return fmt.Sprintf("%q %q %q", id, p.users, p.groups)
}

// permits returns the Cedar policies for the calls that were seen. Its error says what no
// policy is proposed for.
func (l *Learner) permits() ([]*permit, error) {
	type part struct {
		parent *policy.CedarRule
		route  string
	}
	of := make(map[part][]*call)
	everybody := make(map[string]map[string]bool) // users by group, in the whole log
	for _, c := range inOrder(l.calls) {
		for _, g := range c.Groups {
			if everybody[g] == nil {
				everybody[g] = make(map[string]bool)
			}
			everybody[g][c.Principal] = true
		}
		for _, p := range c.parents {
			of[part{p, c.Route}] = append(of[part{p, c.Route}], c)
		}
	}
	var all []*permit
	parents := []*policy.CedarRule{}
	for i := range l.d.Authorization.Rules {
		parents = append(parents, &l.d.Authorization.Rules[i])
	}
	for _, parent := range append(parents, nil) {
		var list []*permit
		for _, r := range l.d.Policy.Routes {
			calls := of[part{parent, r.Name}]
			if len(calls) == 0 {
				continue
			}
			split, err := l.split(calls, parent, everybody)
			if err != nil {
				return nil, err
			}
			for _, p := range split {
				p.parent, p.routes = parent, []string{r.Name}
			}
			list = append(list, split...)
		}
		all = append(all, l.alike(list)...)
	}
	l.names(all)
	return all, nil
}

// split returns a permit for those whom groups cover, and one for the others; for each
// combination of facts where nothing is generalised.
func (l *Learner) split(calls []*call, parent *policy.CedarRule, everybody map[string]map[string]bool) ([]*permit, error) {
	if l.o.Exact {
		by := make(map[string]*permit)
		var order []string
		for _, c := range calls {
			facts := policy.Call{Route: c.Route, Context: c.Context}
			key := (&call{Call: facts}).key()
			if by[key] == nil {
				by[key] = &permit{}
				order = append(order, key)
			}
			by[key].calls = append(by[key].calls, c)
		}
		var out []*permit
		for _, key := range order {
			by[key].users = users(by[key].calls)
			out = append(out, by[key])
		}
		return out, nil
	}
	always := make(map[string][]string) // groups of a user in all of the calls
	for _, c := range calls {
		groups := c.Groups
		if old, ok := always[c.Principal]; ok {
			groups = slices.DeleteFunc(slices.Clone(old), func(g string) bool { return !slices.Contains(c.Groups, g) })
		}
		always[c.Principal] = groups
	}
	if l.d.Authorization.Group == "" {
		clear(always)
	}
	var grouped, single []*call
	for _, c := range calls {
		if len(always[c.Principal]) > 0 {
			grouped = append(grouped, c)
		} else {
			single = append(single, c)
		}
	}
	var out []*permit
	if len(grouped) > 0 {
		p := &permit{calls: grouped, groups: cover(users(grouped), always, everybody)}
		p.general = append(p.general, Generalised{"", "users", count(grouped), len(users(grouped)), "members of " + strings.Join(p.groups, ", ")})
		out = append(out, p)
	}
	if len(single) > 0 {
		p := &permit{calls: single, users: users(single)}
		switch n := len(p.users); {
		case n <= l.o.Users:
		case l.o.Users == 0 || parent != nil:
			to := "anybody"
			if parent != nil {
				to, p.within = "whomever "+parent.ID+" permits", true
			}
			p.general = append(p.general, Generalised{"", "users", count(single), n, to})
			p.users = nil
		default:
			return nil, fmt.Errorf("route %s was called by %d users without a group, and a rule names at most %d: --max-users %d lists them, --max-users 0 permits anybody who is authenticated", single[0].Route, n, l.o.Users, n)
		}
		out = append(out, p)
	}
	return out, nil
}

func users(calls []*call) []string {
	var out []string
	for _, c := range calls {
		out = append(out, c.Principal)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// cover returns few groups that cover users: again and again the one that covers most of
// those that are left, and among these the one with the fewest members in the log.
func cover(users []string, always map[string][]string, everybody map[string]map[string]bool) []string {
	left := make(map[string]bool)
	for _, u := range users {
		left[u] = true
	}
	var out []string
	for len(left) > 0 {
		covers := make(map[string]int)
		for u := range left {
			for _, g := range always[u] {
				covers[g]++
			}
		}
		best := ""
		for _, g := range slices.Sorted(maps.Keys(covers)) {
			if best == "" || covers[g] > covers[best] || covers[g] == covers[best] && len(everybody[g]) < len(everybody[best]) {
				best = g
			}
		}
		out = append(out, best)
		for u := range left {
			if slices.Contains(always[u], best) {
				delete(left, u)
			}
		}
	}
	for i := len(out) - 1; i >= 0; i-- { // what later ones made superfluous
		rest := slices.Delete(slices.Clone(out), i, i+1)
		if !slices.ContainsFunc(users, func(u string) bool {
			return !slices.ContainsFunc(always[u], func(g string) bool { return slices.Contains(rest, g) })
		}) {
			out = rest
		}
	}
	slices.Sort(out)
	return out
}

// alike makes one permit of those for all routes of a group that the same people use in
// the same way.
func (l *Learner) alike(list []*permit) []*permit {
	a := l.d.Authorization
	if a.RouteGroup == "" {
		return list
	}
	members := make(map[string][]string)
	var groups []string
	for _, r := range l.d.Policy.Routes {
		if r.Group != "" && !slices.Contains(groups, r.Group) {
			groups = append(groups, r.Group)
		}
		members[r.Group] = append(members[r.Group], r.Name)
	}
	for _, g := range groups {
		// An entity may put other routes, or routes of other groups, into the group.
		if n := len(members[g]); n < 2 || l.inside(g) != n {
			continue
		}
		by := make(map[string][]*permit)
		var order []string
		for _, p := range list {
			if len(p.routes) != 1 || !slices.Contains(members[g], p.routes[0]) || p.within {
				continue
			}
			key := p.key() + fmt.Sprint(l.reads(p))
			if l.o.Exact {
				conds, _ := l.conditions(p)
				key += strings.Join(conds, " && ")
			}
			if by[key] == nil {
				order = append(order, key)
			}
			by[key] = append(by[key], p)
		}
		for _, key := range order {
			same := by[key]
			if len(same) != len(members[g]) {
				continue
			}
			one := &permit{parent: same[0].parent, group: g, users: same[0].users, groups: same[0].groups}
			for _, p := range same {
				one.routes = append(one.routes, p.routes...)
				one.calls = append(one.calls, p.calls...)
			}
			if len(one.groups) > 0 {
				one.general = append(one.general, Generalised{"", "users", count(one.calls), len(users(one.calls)), "members of " + strings.Join(one.groups, ", ")})
			}
			at := slices.Index(list, same[0])
			list[at] = one
			list = slices.DeleteFunc(list, func(p *permit) bool { return slices.Contains(same, p) })
		}
	}
	return list
}

// inside counts the routes in a group.
func (l *Learner) inside(group string) int {
	n := 0
	target := cedar.NewEntityUID(l.d.Authorization.RouteGroup, cedar.String(group))
	world := l.d.World()
	for _, r := range l.d.Policy.Routes {
		todo := []cedar.EntityUID{cedar.NewEntityUID(l.d.Authorization.Resource, cedar.String(r.Name))}
		seen := map[cedar.EntityUID]bool{}
		for ; len(todo) > 0; todo = todo[1:] {
			if seen[todo[0]] {
				continue
			}
			seen[todo[0]] = true
			todo = append(todo, slices.Collect(world[todo[0]].Parents.All())...)
		}
		if seen[target] {
			n++
		}
	}
	return n
}

// reads are the attributes that the present policies read for all routes of a permit, but
// for the level.
func (l *Learner) reads(p *permit) []authz.Attribute {
	var out []authz.Attribute
	for _, at := range l.d.Authorization.Attributes {
		all := !slices.ContainsFunc(p.routes, func(r string) bool { return !slices.Contains(l.ref.About(r).Reads, at.Name) })
		if all && at.Source.Kind != authz.SourceLevel {
			out = append(out, at)
		}
	}
	return out
}

// names gives each permit an id: that of its parent where it is the only one, so that who
// cites it goes on to.
func (l *Learner) names(all []*permit) {
	used := make(map[string]bool)
	p := l.doc.Policy
	if p.Network != nil {
		for _, r := range p.Network.Ingress {
			used[r.Name] = true
		}
		for _, r := range p.Network.Egress {
			used[r.Name] = true
		}
	}
	for _, m := range policy.Methods(p.Authentication) {
		used[m.Name] = true
	}
	for _, x := range p.RateLimits {
		used[x.Name] = true
	}
	for _, x := range p.Obligations {
		used[x.Name] = true
	}
	children := make(map[*policy.CedarRule]int)
	for _, x := range all {
		children[x.parent]++
	}
	for i := range l.d.Authorization.Rules {
		r := &l.d.Authorization.Rules[i]
		used[r.ID] = used[r.ID] || children[r] == 1
	}
	for _, r := range l.kept() {
		used[r.ID] = true
	}
	for _, x := range all {
		what := x.group
		if what == "" {
			what = x.routes[0]
		}
		switch {
		case x.parent != nil && children[x.parent] == 1:
			x.id = x.parent.ID
			continue
		case x.parent != nil:
			x.id = unused(used, x.parent.ID+"-"+what)
		default:
			x.id = unused(used, "learnt-"+what)
		}
	}
}

// kept are the present rules that stay: those that deny, and those that are tried.
func (l *Learner) kept() (out []*policy.CedarRule) {
	for i := range l.doc.Authorization.Rules {
		r := &l.doc.Authorization.Rules[i]
		if !l.o.Fresh && (r.Forbids() || r.DryRun && !l.doc.Policy.DryRun) {
			out = append(out, r)
		}
	}
	return out
}

// unused is a name like another that nothing has.
func unused(used map[string]bool, name string) string {
	name = strings.TrimRight(name[:min(len(name), 56)], ".-_")
	out := name
	for n := 2; used[out]; n++ {
		out = fmt.Sprintf("%s-%d", name, n)
	}
	used[out] = true
	return out
}

// cedarText writes a permit.
func (l *Learner) cedarText(p *permit) (string, []Generalised) {
	a := l.d.Authorization
	conds, general := l.conditions(p)
	principal, resource := "principal", "resource"
	uid := func(t cedar.EntityType, id string) string {
		return string(cedar.NewEntityUID(t, cedar.String(id)).MarshalCedar())
	}
	many := func(t cedar.EntityType, ids []string) string {
		var list []string
		for _, id := range ids {
			list = append(list, uid(t, id))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	var who []string
	switch {
	case len(p.groups) == 1:
		principal += " in " + uid(a.Group, p.groups[0])
	case len(p.groups) > 1:
		who = append(who, "principal in "+many(a.Group, p.groups))
	case len(p.users) == 1:
		principal += " == " + uid(a.Principal, p.users[0])
	case len(p.users) > 1:
		who = append(who, many(a.Principal, p.users)+".contains(principal)")
	}
	if p.group != "" {
		resource += " in " + uid(a.RouteGroup, p.group)
		if !l.o.Exact {
			general = append([]Generalised{{"", "routes", count(p.calls), len(p.routes), "all of the group " + p.group}}, general...)
		}
	} else {
		resource += " == " + uid(a.Resource, p.routes[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "@id(%q)\npermit (%s, action == %s, %s)", p.id, principal, a.Action.MarshalCedar(), resource)
	// What guards a condition stands before it.
	if p.within && p.parent != nil {
		for _, s := range asked(p.parent, p) {
			fmt.Fprintf(&b, "\n%s", s)
		}
		conds = append(conds, l.present(p)...)
	}
	if conds = append(who, conds...); len(conds) > 0 {
		fmt.Fprintf(&b, "\nwhen { %s }", strings.Join(conds, " && "))
	}
	b.WriteString(";")
	general = append(slices.Clone(p.general), general...)
	for i := range general {
		general[i].Rule = p.id
	}
	return b.String(), general
}

// present are conditions that always hold, and have the attributes read that somebody had
// to give so far: who does not is denied for that alone.
func (l *Learner) present(p *permit) (out []string) {
	for _, at := range l.reads(p) {
		if !at.Optional {
			out = append(out, "context has "+member(at.Name))
		}
	}
	return out
}

// asked are the conditions of a permit as text, that on the principal included where the
// one that is to have them does not say it.
func asked(r *policy.CedarRule, p *permit) (out []string) {
	switch x := r.Policy.Principal.(type) {
	case ast.ScopeTypeEq:
		if len(p.users) != 1 {
			out = append(out, "when { principal == "+string(x.Entity.MarshalCedar())+" }")
		}
	case ast.ScopeTypeIn:
		if len(p.groups) == 1 && p.groups[0] == string(x.Entity.ID) {
			break
		}
		out = append(out, "when { principal in "+string(x.Entity.MarshalCedar())+" }")
	case ast.ScopeTypeIsIn:
		out = append(out, "when { principal in "+string(x.Entity.MarshalCedar())+" }")
	}
	for _, c := range r.Policy.Conditions {
		p := cedar.NewPolicyFromAST((*pub.Policy)(ast.Permit().When(ast.NewNode(c.Body))))
		s := strings.TrimSpace(string(p.MarshalCedar()))
		_, s, _ = strings.Cut(s, "when {")
		s = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(s), "};"))
		word := "when"
		if c.Condition == ast.ConditionUnless {
			word = "unless"
		}
		out = append(out, word+" { "+s+" }")
	}
	return out
}

// written is a present rule as it is written, with an id that does not count rules.
func written(r *policy.CedarRule) string {
	named := slices.ContainsFunc(r.Policy.Annotations, func(a ast.AnnotationType) bool { return a.Key == "id" })
	if r.Text != "" && named {
		return r.Text
	}
	p := *r.Policy
	if !named {
		p.Annotations = append(slices.Clone(p.Annotations), ast.AnnotationType{Key: "id", Value: cedar.String(r.ID)})
	}
	return string(cedar.NewPolicyFromAST((*pub.Policy)(&p)).MarshalCedar())
}

// who are the people of calls, in words.
func who(calls []*call) string {
	list := users(calls)
	for i := range list {
		if list[i] == authn.Anonymous {
			list[i] = "nobody in particular"
		}
		list[i] = clean(list[i])
	}
	n := len(list)
	if n <= 3 {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:3], ", "), n-3)
}
