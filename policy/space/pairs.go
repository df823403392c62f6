package space

import (
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	public "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// A RoutePair is a route of one policy, and that of another that the same requests take.
type RoutePair struct{ Old, New string }

// A CallChange is calls that two policies decide differently.
type CallChange struct {
	RoutePair
	Level      string
	EveryLevel bool        // levels do not tell the calls of these routes apart
	Call       policy.Call // a witness; on RoutePair.New for the new policy
	Old, New   policy.Decision
}

// A CallDiff is how two policies differ about calls.
type CallDiff struct {
	// Changes has one for each pair of routes, level and pair of rules that decide the same
	// calls with different verdicts, as far as they were found.
	Changes  []CallChange
	Complete bool     // there are no others
	Why      []string // it is not complete: routes and reasons
}

// DiffCalls looks for calls whose decisions differ, on routes and at levels that both
// policies have by name. Its error is that of the context.
func DiffCalls(b *Budget, before, after *policy.Deployment) (CallDiff, error) {
	var pairs []RoutePair
	for _, r := range before.Policy.Routes {
		if after.Authorization != nil && after.Reference().About(r.Name) != nil {
			pairs = append(pairs, RoutePair{r.Name, r.Name})
		}
	}
	return DiffRoutes(b, before, after, pairs)
}

// DiffRoutes looks for calls whose decisions differ on pairs of routes, at levels that both
// policies have by name. Its error is that of the context.
func DiffRoutes(b *Budget, before, after *policy.Deployment, pairs []RoutePair) (CallDiff, error) {
	out := CallDiff{Complete: true}
	if before.Authorization == nil || after.Authorization == nil {
		return out, b.Err()
	}
	same, other := newModel(before, after), newModel(before, after)
	same.unify()
	for _, pair := range pairs {
		x := &asking{m: same, b: b}
		if pair.Old != pair.New { // by another name the same rule may say something else
			x.m = other
		}
		not := func(format string, args ...any) {
			out.Complete = false
			out.Why = append(out.Why, "route "+pair.New+": "+fmt.Sprintf(format, args...))
		}
		if why := x.m.incomparable(pair); why != "" {
			not("%s", why)
			continue
		}
		p := x.m.problem(pair.Old, pair.New)
		if p.same() {
			continue
		}
		compared := 0
		for l, name := range before.Policy.Levels.Names {
			m := slices.Index(after.Policy.Levels.Names, name)
			reads := p.about[0].ReadsLevel || p.about[1].ReadsLevel
			if m < 0 || compared > 0 && !reads {
				continue
			}
			compared++
			d := &pairing{asking: x, p: p, levels: [2]int{l, m}, seen: make(map[string]bool)}
			for s := range 2 {
				d.has[s] = make(map[*ruleExpr]bool)
				for _, r := range p.rules[s] {
					d.has[s][r] = true
				}
			}
			for s := range 2 {
				if why := d.pairs(s); why != "" {
					not("at level %s: %s", name, why)
				}
			}
			for _, c := range d.changes {
				c.RoutePair, c.EveryLevel = pair, !reads
				out.Changes = append(out.Changes, c)
			}
		}
		if compared == 0 {
			not("the policies have no level in common")
		}
	}
	return out, b.Err()
}

// incomparable says why no call can be put to both sides.
func (m *model) incomparable(pair RoutePair) string {
	x, y := m.sides[0], m.sides[1]
	a, b := x.ref.About(pair.Old), y.ref.About(pair.New)
	for _, at := range x.a.Attributes {
		i := slices.IndexFunc(y.a.Attributes, func(o authz.Attribute) bool { return o.Name == at.Name })
		if i < 0 || !slices.Contains(a.Reads, at.Name) || !slices.Contains(b.Reads, at.Name) {
			continue
		}
		o := y.a.Attributes[i]
		switch {
		case o.Type != at.Type || o.Set != at.Set:
			return "the attribute " + at.Name + " has another type in the one policy than in the other"
		case at.Source.Kind == o.Source.Kind:
		case at.Source.Kind == authz.SourceLevel || o.Source.Kind == authz.SourceLevel:
			return "the attribute " + at.Name + " is the level in the one policy alone"
		}
	}
	reads := func(s *modelSide, about *policy.About, k authz.SourceKind) []string {
		var list []string
		for _, at := range s.a.Attributes {
			if at.Source.Kind == k && slices.Contains(about.Reads, at.Name) {
				list = append(list, at.Source.Arg)
			}
		}
		return list
	}
	list := append(reads(x, a, authz.SourceRoute), reads(y, b, authz.SourceRoute)...)
	if len(list) > 0 && a.Route.Path != b.Route.Path {
		return "the rules read what is in the path, and the paths are written differently"
	}
	if list = append(reads(x, a, authz.SourceMethod), reads(y, b, authz.SourceMethod)...); len(list) > 0 && a.Route.Method != b.Route.Method {
		return "the rules read the method, and the routes have different ones"
	}
	return ""
}

// declares returns what a side says of an attribute that its rules read.
func (p *problem) declares(s int, name string) (authz.Attribute, bool) {
	for _, x := range p.m.sides[s].a.Attributes {
		if x.Name == name && slices.Contains(p.about[s].Reads, name) {
			return x, true
		}
	}
	return authz.Attribute{}, false
}

// required returns, of two sides, what a side requires and the other does not: as rules that
// deny calls without it, before all others.
func (p *problem) required(s int) []*ruleExpr {
	if len(p.m.sides) == 1 {
		return nil
	}
	var list []*ruleExpr
	for _, at := range p.m.sides[s].a.Attributes {
		if x, ok := p.declares(s, at.Name); !ok || x.Optional || x.Source.Kind == authz.SourceLevel || p.always(x.Source) {
			continue
		}
		if o, ok := p.declares(1-s, at.Name); ok && !o.Optional {
			continue
		}
		rule := &policy.CedarRule{ID: abi.RuleAttribute, Policy: ast.Forbid().Unless(ast.Context().Has(cedar.String(at.Name)))}
		list = append(list, p.m.rule(s, rule))
	}
	return list
}

// always reports whether every request has a value from a source.
func (p *problem) always(s authz.Source) bool {
	switch s.Kind {
	case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday, authz.SourcePeer, authz.SourceMethod:
		return true
	case authz.SourceRoute:
		return slices.Contains(policy.Params(p.route().Path), s.Arg)
	}
	return false
}

// RouteRules looks for calls on one route that each rule about it decides, the default last;
// anonymous: calls of nobody in particular. Its error is that of the context.
func RouteRules(b *Budget, d *policy.Deployment, route string, anonymous bool) ([]CallRule, error) {
	x := Requests(b, d)
	if anonymous {
		x.within.Who = &Somebody{User: authn.Anonymous}
		for _, at := range d.Authorization.Attributes {
			if !ofCredentials(at.Source.Kind) {
				continue
			}
			if x.within.Absent = append(x.within.Absent, at.Name); !at.Optional && slices.Contains(x.m.sides[0].ref.About(route).Reads, at.Name) {
				return nil, b.Err() // nobody can have it
			}
		}
	}
	p := x.problem(route)
	var out []CallRule
	for _, r := range append(slices.Clone(p.about[0].Rules), nil) {
		c := CallRule{Rule: policy.AuthorizationDefault(d.Policy), Index: noRule, Route: route, At: make([]*policy.Call, len(d.Policy.Levels.Names))}
		if r != nil {
			c.Rule = abi.Rule{ID: r.ID, Line: r.Pos.Short()}
			c.Index = slices.IndexFunc(d.Authorization.Rules, func(o policy.CedarRule) bool { return o.ID == r.ID })
		}
		x.decided(&c, route, r)
		out = append(out, c.judged())
	}
	return out, b.Err()
}

// ofCredentials reports whether values come with the credentials of a client.
func ofCredentials(k authz.SourceKind) bool {
	switch k {
	case authz.SourceClaim, authz.SourceClaimHas, authz.SourceSPIFFE, authz.SourceDNS, authz.SourceSubject, authz.SourceGroups:
		return true
	}
	return false
}

// moved returns the groups of entities that are in something else on the other side.
func (m *model) moved() []string {
	var out []string
	for i, s := range m.sides {
		o := m.sides[1-i]
		for uid := range s.ref.World() {
			if uid.Type == s.a.Group && !slices.Equal(s.above(uid), o.above(cedar.NewEntityUID(o.a.Group, uid.ID))) {
				out = append(out, string(uid.ID))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// above returns what an entity is in, sorted.
func (s *modelSide) above(uid cedar.EntityUID) []string {
	seen := map[cedar.EntityUID]bool{uid: true}
	var out []string
	for todo := []cedar.EntityUID{uid}; len(todo) > 0; todo = todo[1:] {
		for p := range s.ref.World()[todo[0]].Parents.All() {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
				out = append(out, p.String())
			}
		}
	}
	slices.Sort(out)
	return out
}

// unify makes rules one that both policies have, where they mean the same.
func (m *model) unify() {
	x, y := m.sides[0], m.sides[1]
	if x.a.Principal != y.a.Principal || x.a.Group != y.a.Group || x.a.Resource != y.a.Resource || x.a.Action != y.a.Action || !slices.Equal(x.a.Attributes, y.a.Attributes) ||
		!slices.Equal(x.d.Policy.Levels.Names, y.d.Policy.Levels.Names) {
		return
	}
	v, w := x.ref.World(), y.ref.World()
	if len(v) != len(w) {
		return
	}
	for uid, e := range v {
		if o, ok := w[uid]; !ok || !e.Equal(o) {
			return
		}
	}
	known := make(map[string]*policy.CedarRule)
	for i := range x.a.Rules {
		known[said(&x.a.Rules[i])] = &x.a.Rules[i]
	}
	for i := range y.a.Rules {
		if r, ok := known[said(&y.a.Rules[i])]; ok {
			y.rules[&y.a.Rules[i]] = m.rule(0, r)
		}
	}
}

// said is what a rule says, without its annotations.
func said(r *policy.CedarRule) string {
	p := *r.Policy
	p.Annotations = nil
	return string(cedar.NewPolicyFromAST((*public.Policy)(&p)).MarshalCedar())
}

// same reports whether both sides decide by the same rules in the same order.
func (p *problem) same() bool {
	x, y := p.m.sides[0].d, p.m.sides[1].d
	return slices.Equal(p.rules[0], p.rules[1]) && x.Policy.Default.Authorization == y.Policy.Default.Authorization &&
		slices.Equal(x.Policy.Levels.Names, y.Policy.Levels.Names)
}

// pairing looks for pairs of rules on one route at one level.
type pairing struct {
	*asking
	p       *problem
	levels  [2]int
	has     [2]map[*ruleExpr]bool // rules of each side
	seen    map[string]bool
	changes []CallChange
}

// pairs looks for calls that side s allows and the other denies. It returns why it may
// have missed some.
func (d *pairing) pairs(s int) (why string) {
	o := 1 - s
	for _, permit := range append(slices.Clone(d.p.rules[s]), nil) {
		if permit != nil && permit.rule.Forbids() || permit == nil && d.m.sides[s].d.Policy.Default.Authorization != abi.Allow {
			continue
		}
		var allow *goal
		for _, l := range d.p.levels(o, d.levels[o]) {
			for _, deny := range append(slices.Clone(d.p.rules[o]), nil) {
				if deny == nil && d.m.sides[o].d.Policy.Default.Authorization == abi.Allow {
					continue
				}
				if deny != nil && d.has[s][deny] && (d.levels[s] == l || d.p.about[s].ReadsLevel) { // it denies there as well, or cannot be evaluated
					continue
				}
				if deny == nil && permit != nil && d.has[o][permit] && (!permit.level || d.levels[s] == l) { // it permits there as well
					continue
				}
				goal, ok := d.p.denied(o, deny, l)
				if !ok {
					continue
				}
				if allow == nil {
					g := d.p.cited(s, permit, d.levels[s])
					allow = &g
				}
				goal.needs = append(goal.needs, allow.needs...)
				d.sort(goal.needs)
				goal.choices = append(goal.choices, allow.choices...)
				if w := d.pair(goal); w != "" && why == "" {
					why = w
				}
				if d.b.Left() == 0 {
					return d.b.why()
				}
			}
		}
	}
	return why
}

// sort puts first what tells most: what must hold, then what only one side says.
func (d *pairing) sort(list []need) {
	rank := func(n need) int {
		switch {
		case n.mask&fails == 0:
			return 0
		case !d.has[0][n.rule] || !d.has[1][n.rule]:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(list, func(a, b need) int { return rank(a) - rank(b) })
}

func (d *pairing) pair(g goal) (why string) {
	var change CallChange
	c, status, why := d.solve(d.p, g, d.levels[0], func(c policy.Call) bool {
		there := c
		there.Route = d.p.names[1]
		change = CallChange{Level: c.Level, Call: c, Old: d.m.sides[0].ref.Authorize(c), New: d.m.sides[1].ref.Authorize(there)}
		return change.Old.Verdict != change.New.Verdict
	})
	if status == Found && c != nil {
		if k := change.Old.Rule.ID + " " + change.New.Rule.ID; !d.seen[k] {
			d.seen[k] = true
			d.changes = append(d.changes, change)
		}
	}
	return why
}
