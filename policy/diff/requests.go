package diff

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

// requests compares what happens to requests: which routes they take, whether they need
// credentials, and what authorization says.
func (x *comparing) requests(b *space.Budget) error {
	list, complete := lines(x.sides[0], x.sides[1])
	if !complete {
		x.unknown("requests", "the routes tell more than %d kinds of paths apart", maxPaths)
	}
	var pairs []space.RoutePair
	at := make(map[space.RoutePair]taken)
	for _, t := range list {
		if t.old == nil || t.new == nil {
			if err := x.oneSided(b, t); err != nil {
				return err
			}
			continue
		}
		p := space.RoutePair{Old: t.old.Name, New: t.new.Name}
		at[p] = t
		switch open := [2]bool{x.sides[0].Authorization == nil, x.sides[1].Authorization == nil}; {
		case open[0] != open[1]: // what has no authorization allows everything
			if err := x.decided(b, t, index(open[0]), false, abi.Deny); err != nil {
				return err
			}
		case !open[0]:
			pairs = append(pairs, p)
		}
		if anybody := [2]bool{anybody(x.sides[0]), anybody(x.sides[1])}; anybody[0] != anybody[1] {
			if err := x.decided(b, t, index(anybody[1]), true, abi.Allow); err != nil {
				return err
			}
		}
	}
	diff, err := space.DiffRoutes(b, x.sides[0], x.sides[1], pairs)
	if err != nil {
		return err
	}
	for _, why := range diff.Why {
		x.unknown("requests", "%s", why)
	}
	for i := range diff.Changes {
		c := &diff.Changes[i]
		level := []string{c.Level}
		if c.EveryLevel {
			level = nil
		}
		x.change(at[c.RoutePair], c.Call, level, [2]policy.Decision{c.Old, c.New})
	}
	return nil
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// anybody reports whether requests without credentials go on.
func anybody(d *policy.Deployment) bool {
	return d.Policy.Authentication == nil || !d.Policy.Authentication.Require
}

// oneSided is about requests that only one policy has a route for.
func (x *comparing) oneSided(b *space.Budget, t taken) error {
	return x.decided(b, t, index(t.old == nil), false, abi.Allow)
}

// decided finds what side s decides with a verdict about requests of which the other side
// says the opposite, whatever else they are.
func (x *comparing) decided(b *space.Budget, t taken, s int, anonymous bool, verdict abi.Verdict) error {
	d, r := x.sides[s], t.old
	if s == 1 {
		r = t.new
	}
	if d.Authorization == nil {
		user := "somebody"
		if anonymous || d.Policy.Authentication == nil {
			user = authn.Anonymous
		}
		x.change(t, policy.Call{Principal: user, Route: r.Name}, nil, [2]policy.Decision{})
		return b.Err()
	}
	rules, err := space.RouteRules(b, d, r.Name, anonymous)
	if err != nil {
		return err
	}
	for _, rule := range rules {
		if rule.Index >= 0 && d.Authorization.Rules[rule.Index].Forbids() == (verdict == abi.Allow) {
			continue
		}
		if rule.Why != "" {
			x.unknown("requests", "route %s: what %s decides: %s", r.Name, rule.Rule.ID, rule.Why)
		}
		var levels []string
		var first *policy.Call
		for l, c := range rule.At {
			name := d.Policy.Levels.Names[l]
			if c == nil || d.Authorize(*c).Verdict != verdict || !slices.Contains(x.shared(), name) {
				continue
			}
			levels = append(levels, name)
			if first == nil {
				first = c
			}
		}
		if first != nil {
			x.change(t, *first, x.levels(levels), [2]policy.Decision{})
		}
	}
	return nil
}

// change adds what became of a call. Both policies are asked about a request that makes the
// call, all of it; the decisions of authorization stand where no request line shows it.
func (x *comparing) change(t taken, c policy.Call, levels []string, decs [2]policy.Decision) {
	out := Change{Kind: Request, Levels: levels}
	for _, r := range []string{name(t, 1), name(t, 0)} {
		if r != "" {
			out.Routes = []string{r}
			break
		}
	}
	var answers [2]policy.Answer
	var args [2][]string
	confirmed := true
	for s := range x.sides {
		q, ok := x.query(t, c, s, levels)
		if !ok {
			confirmed = false
			continue
		}
		a, err := x.sides[s].Why(q)
		confirmed = confirmed && err == nil && (a.Route == "" || name(t, s) == anyRoute.Name || a.Route == name(t, s))
		answers[s], args[s] = a, arguments(q)
	}
	c.Route = out.Routes[0]
	if len(levels) == 0 {
		c.Level = ""
	}
	out.Witness = space.CallText(x.sides[1].Policy, c)
	if confirmed && answers[0].Verdict != answers[1].Verdict {
		out.Old, out.New = side(answers[0].Verdict, answers[0].Rule), side(answers[1].Verdict, answers[1].Rule)
		out.WhyOld, out.WhyNew = args[0], args[1]
	} else if decs[0].Verdict != decs[1].Verdict {
		out.Old, out.New = side(decs[0].Verdict, decs[0].Rule), side(decs[1].Verdict, decs[1].Rule)
	} else {
		x.unknown("requests", "the reference does not confirm what was found: %s", out.Witness)
		return
	}
	x.found(out)
}

// name is that of the route that a request takes on a side.
func name(t taken, s int) string {
	switch r := [2]bool{t.old != nil, t.new != nil}; {
	case s == 0 && r[0]:
		return t.old.Name
	case s == 1 && r[1]:
		return t.new.Name
	}
	return ""
}

// query is a request that makes a call, as one side is asked about it. It reports whether
// there is one.
func (x *comparing) query(t taken, c policy.Call, s int, levels []string) (policy.Query, bool) {
	d := x.sides[s]
	q := policy.Query{User: c.Principal, Groups: c.Groups, Set: map[string]string{}}
	if len(levels) > 0 {
		q.Level = c.Level
	}
	if c.Principal == authn.Anonymous {
		q.User = ""
	}
	path := slices.Clone(t.path)
	query := url.Values{}
	for _, name := range slices.Sorted(maps.Keys(c.Context)) {
		for o, e := range x.sides {
			at, ok := attribute(e, name)
			text, said := valueText(c.Context[name], at)
			switch {
			case !ok:
			case at.Source.Kind == authz.SourceRoute:
				if !said || !fill(path, t, o, at.Source.Arg, text) {
					return q, false
				}
			case at.Source.Kind == authz.SourceQuery:
				query.Set(at.Source.Arg, text)
			case at.Source.Kind == authz.SourceMethod:
				t.method = text
			case o == s && !said:
				return q, false
			case o == s:
				q.Set[name] = text
			}
		}
	}
	q.Request = t.method + " /" + strings.Join(path, "/")
	if len(query) > 0 {
		q.Request += "?" + query.Encode()
	}
	return q, d != nil
}

func attribute(d *policy.Deployment, name string) (authz.Attribute, bool) {
	if d.Authorization != nil {
		for _, at := range d.Authorization.Attributes {
			if at.Name == name {
				return at, true
			}
		}
	}
	return authz.Attribute{}, false
}

// fill writes a value into a path where a side's route has a parameter.
func fill(path []string, t taken, s int, param, text string) bool {
	r := t.old
	if s == 1 {
		r = t.new
	}
	if r == nil {
		return true
	}
	for i, p := range strings.Split(strings.TrimPrefix(r.Path, "/"), "/") {
		if p == "{"+param+"}" && i < len(path) {
			path[i] = url.PathEscape(text)
			return text != ""
		}
	}
	return false
}

// valueText is a value as `--set` takes it.
func valueText(v cedar.Value, at authz.Attribute) (string, bool) {
	text, err := policy.FormatValue(at, v)
	if err != nil {
		return "", false
	}
	back, err := policy.ParseValue(at, text)
	return text, err == nil && back.Equal(v)
}

// arguments are those of `lorica why` for a question.
func arguments(q policy.Query) []string {
	list := []string{q.Request}
	if q.User != "" {
		list = append(list, "--as", q.User)
	}
	if len(q.Groups) > 0 {
		list = append(list, "--groups", strings.Join(q.Groups, ","))
	}
	for _, name := range slices.Sorted(maps.Keys(q.Set)) {
		list = append(list, "--set", name+"="+q.Set[name])
	}
	if q.Level != "" {
		list = append(list, "--level", q.Level)
	}
	return list
}
