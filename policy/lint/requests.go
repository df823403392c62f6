package lint

import (
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

func (x *linting) requests(b *space.Budget) error {
	a := space.Requests(b, x.d)
	x.ref = x.d.Reference()
	list, err := a.Rules()
	if err != nil {
		return err
	}
	for _, r := range list {
		if r.Index >= 0 {
			x.rule(a, &r, &x.d.Authorization.Rules[r.Index])
		}
	}
	x.routes(a)
	x.groups()
	x.attributes()
	return b.Err()
}

// rule looks at one Cedar rule.
func (x *linting) rule(a *space.Analysis, r *space.CallRule, rule *policy.CedarRule) {
	conditional := len(rule.Policy.Conditions) > 0
	if conditional {
		c := a.Condition(rule)
		switch {
		case r.Status != space.Found && c.Holds == space.None:
			x.find(AlwaysFalse, Warning, rule.Pos, "", "correct the condition, or remove the rule", "the conditions of %s can never hold", rule.ID)
			return
		case c.Fails == space.None:
			x.find(AlwaysTrue, Warning, rule.Pos, "", "remove them, or correct them", "the conditions of %s always hold: it says the same without them", rule.ID)
		case c.Why != "":
			x.unknown(rule.Pos, "whether the conditions of %s always or never hold: %s", rule.ID, c.Why)
		}
	}
	switch r.Status {
	case space.None:
		x.never(a, rule)
	case space.NotAnalysed:
		x.unknown(rule.Pos, "whether %s decides anything: %s", rule.ID, r.Why)
	}
	_, anybody := rule.Policy.Principal.(ast.ScopeTypeAll)
	_, anything := rule.Policy.Resource.(ast.ScopeTypeAll)
	if is, ok := rule.Policy.Principal.(ast.ScopeTypeIs); ok {
		anybody = anybody || is.Type == x.d.Authorization.Principal
	}
	if is, ok := rule.Policy.Resource.(ast.ScopeTypeIs); ok {
		anything = anything || is.Type == x.d.Authorization.Resource
	}
	if conditional || r.Status == space.None {
		return
	}
	shown := ""
	if c := r.First(); c != nil {
		shown = space.CallText(x.p, *c)
	}
	switch {
	case rule.Forbids() && anybody && anything:
		x.find(UnconditionalDeny, Warning, rule.Pos, shown, "add a condition, or a scope", "%s forbids everything to everybody: nothing is allowed", rule.ID)
	case rule.Forbids() && anybody:
		x.find(UnconditionalDeny, Warning, rule.Pos, shown, "add a condition, or remove the route", "%s forbids %s to everybody, whatever they ask", rule.ID, scope(rule.Policy.Resource))
	case !rule.Forbids() && anybody && anything:
		x.find(WildcardScope, Warning, rule.Pos, shown, "name a group and routes, or add a condition", "%s permits everything to everybody", rule.ID)
	case !rule.Forbids() && anybody:
		x.find(WildcardScope, Note, rule.Pos, shown, "leave it where that is meant; else name a group, or add a condition", "%s permits %s to everybody who is authenticated", rule.ID, scope(rule.Policy.Resource))
	case !rule.Forbids() && anything:
		x.find(WildcardScope, Note, rule.Pos, shown, "leave it where that is meant; else name routes", "%s permits every route, those that are added later as well", rule.ID)
	}
}

func scope(n ast.IsResourceScopeNode) string {
	switch s := n.(type) {
	case ast.ScopeTypeEq:
		return "route " + string(s.Entity.ID)
	case ast.ScopeTypeIn:
		return "routes in " + string(s.Entity.ID)
	case ast.ScopeTypeIsIn:
		return "routes in " + string(s.Entity.ID)
	}
	return "every route"
}

// never reports a rule that decides nothing, with a call that it would, and what does.
func (x *linting) never(a *space.Analysis, rule *policy.CedarRule) {
	c, status := a.Holding(rule)
	if status != space.Found {
		why := "no request is in its scope for which its conditions hold"
		if status == space.NotAnalysed {
			why = "others always decide first"
		}
		x.find(NeverDecides, Warning, rule.Pos, "", "remove it, or correct it", "%s can never decide: %s", rule.ID, why)
		return
	}
	dec := x.ref.Authorize(*c)
	by := named(dec.Rule)
	shown := space.CallText(x.p, *c)
	if dec.Verdict == abi.Deny && !rule.Forbids() {
		x.find(NeverDecides, Warning, rule.Pos, shown, "remove it, or narrow what forbids", "%s can never decide: whatever it permits is denied, as here by %s, or permitted by an earlier rule", rule.ID, by)
		return
	}
	what := "permits is permitted"
	if rule.Forbids() {
		what = "forbids is forbidden"
	}
	x.find(NeverDecides, Warning, rule.Pos, shown, "remove it: nothing changes", "%s can never decide: whatever it %s before, as here by %s", rule.ID, what, by)
}

// routes finds routes that nobody may call.
func (x *linting) routes(a *space.Analysis) {
	for _, r := range x.p.Routes {
		switch _, status, why := a.Open(r.Name); status {
		case space.None:
			x.find(RouteWithoutPermit, Warning, r.Pos, "", "add a permit for it, or remove the route", "no request to route %q can be allowed", r.Name)
		case space.NotAnalysed:
			x.unknown(r.Pos, "whether anything can be allowed on route %q: %s", r.Name, why)
		}
	}
}

// groups finds groups that are named where somebody is in them, or forbidden something, and
// that no permit speaks of.
func (x *linting) groups() {
	a := x.d.Authorization
	if a.Group == "" || x.p.Default.Authorization == abi.Allow {
		return
	}
	granted := make(map[string]bool)
	at := make(map[string]api.Pos)
	see := func(g string, pos api.Pos) {
		if _, ok := at[g]; !ok {
			at[g] = pos
		}
	}
	for i := range a.Rules {
		r := &a.Rules[i]
		if _, anybody := r.Policy.Principal.(ast.ScopeTypeAll); anybody && !r.Forbids() {
			return // every group is granted that
		}
		for _, uid := range policy.Literals(r.Policy) {
			if uid.Type != a.Group {
				continue
			}
			see(string(uid.ID), r.Pos)
			if !r.Forbids() {
				granted[string(uid.ID)] = true
			}
		}
	}
	for _, t := range x.p.Tests {
		for _, g := range t.Groups {
			see(g, t.Pos)
		}
	}
	for uid := range a.Entities {
		if uid.Type == a.Group {
			see(string(uid.ID), x.p.Authorization.Entities.Pos)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(at)) {
		if !x.inGranted(cedar.NewEntityUID(a.Group, cedar.String(g)), granted) {
			x.find(GroupWithoutGrant, Note, at[g], "", "add a permit for it, or leave it where it is there to be forbidden", "no permit names group %q, or one that it is in", g)
		}
	}
}

func (x *linting) inGranted(g cedar.EntityUID, granted map[string]bool) bool {
	seen := make(map[cedar.EntityUID]bool)
	for todo := []cedar.EntityUID{g}; len(todo) > 0; todo = todo[1:] {
		if e := todo[0]; !seen[e] {
			if seen[e] = true; e.Type == g.Type && granted[string(e.ID)] {
				return true
			}
			todo = append(todo, slices.Collect(x.d.Authorization.Entities[e].Parents.All())...)
		}
	}
	return false
}

// attributes finds those that no rule reads.
func (x *linting) attributes() {
	read := make(map[string]bool)
	for _, r := range x.p.Routes {
		for _, name := range x.ref.About(r.Name).Reads {
			read[name] = true
		}
	}
	for _, at := range x.d.Authorization.Attributes {
		i := slices.IndexFunc(x.p.Attributes, func(w api.Attribute) bool { return w.Name == at.Name })
		if i >= 0 && !read[at.Name] {
			x.find(UnreadAttribute, Warning, x.p.Attributes[i].Pos, "", "remove it here and from the schema", "attribute %q is read by no policy", at.Name)
		}
	}
}
