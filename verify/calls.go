package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

// A found is what is known of a Cedar rule, or of the default: requests that it decides, the
// first stands for it; or why there are none.
type found struct {
	requests []*request
	why      string
}

// Bounds of what is looked at and sent.
const (
	maxWitnesses = 16   // of one rule
	maxMore      = 2000 // of all, beyond the first of each
	maxTried     = 4000 // neighbours of witnesses
	maxUsers     = 16   // of those given who are looked at one by one
)

// A search looks for requests that rules decide.
type search struct {
	*verifier
	now  time.Time
	by   map[string]*found // by rule
	near string            // the rule whose neighbours are tried
	seen map[string]bool   // requests, by their words
}

// cases looks for requests that each Cedar rule decides, now and from here.
func (v *verifier) cases(ctx context.Context) map[string]*found {
	s := &search{verifier: v, now: v.now(), by: map[string]*found{}, seen: map[string]bool{}}
	if v.Deployment.Authorization == nil || len(v.doors) == 0 {
		return s.by
	}
	v.Progress("looking for witnesses")
	var safe []string
	for _, r := range v.Deployment.Policy.Routes {
		if r.Method == "GET" || r.Method == "HEAD" || r.Method == "*" {
			safe = append(safe, r.Name)
		}
	}
	for _, w := range s.variants() {
		for _, routes := range [][]string{safe, nil} {
			if routes != nil && len(routes) == 0 {
				continue
			}
			w.Routes = routes
			s.ask(ctx, w)
		}
	}
	for _, t := range v.Deployment.Policy.Tests {
		if t.Call != "" {
			s.try(draft{t.Call, t.User, t.Groups, t.Set})
		}
	}
	s.spread(ctx)
	s.reasons(ctx)
	return s.by
}

// variants returns what calls from here can be like: with what is made here, and as each
// user that was given.
func (s *search) variants() (list []space.Within) {
	free := s.bounds(nil)
	if len(s.people.issuers) > 0 || s.people.clients {
		list = append(list, free)
	}
	kinds := map[string]bool{}
	for _, l := range s.people.known {
		w := s.bounds(l)
		if k := fmt.Sprint(l.groups, w.Values, w.Absent); kinds[k] || len(kinds) == maxUsers {
			continue
		} else {
			kinds[k] = true
		}
		list = append(list, w)
	}
	return list
}

// bounds returns what calls are like that a login can make, or nil for those that are made
// here.
func (s *search) bounds(l *login) space.Within {
	w := space.Within{Values: map[string][]string{}}
	for name, text := range s.clock(s.now) {
		w.Values[name] = []string{text}
	}
	if l != nil {
		w.Who = &space.Somebody{User: l.user, Groups: l.groups}
		if l.user == "" {
			w.Who.User = authn.Anonymous
		}
	}
	for _, a := range s.attributes() {
		switch k := a.Source.Kind; k {
		case authz.SourcePeer:
			for _, d := range s.doors {
				w.Values[a.Name] = append(w.Values[a.Name], d.from.String())
			}
		case authz.SourceDNS:
			w.Absent = append(w.Absent, a.Name)
		case authz.SourceSPIFFE, authz.SourceSubject:
			if !s.people.clients {
				w.Absent = append(w.Absent, a.Name)
			}
		case authz.SourceClaim, authz.SourceClaimHas:
			switch {
			case l != nil:
				text, ok, err := s.shown(&request{login: l}, a)
				if ok && err == nil {
					w.Values[a.Name] = []string{text}
				} else {
					w.Absent = append(w.Absent, a.Name)
				}
			case len(s.people.issuers) == 0:
				w.Absent = append(w.Absent, a.Name)
			case k == authz.SourceClaimHas: // a token says no where it does not say yes
				w.Values[a.Name] = []string{"false", "true"}
			}
		}
	}
	return w
}

// ask looks for calls within bounds that have no request yet.
func (s *search) ask(ctx context.Context, w space.Within) {
	list, err := space.CallsWithin(space.NewBudget(ctx, space.DefaultSteps), s.Deployment, w)
	if err != nil {
		return
	}
	for _, x := range list {
		if c := x.At[s.level]; c != nil && (x.Index < 0 || s.by[x.Rule.ID] == nil) {
			if d, err := s.draft(c); err == nil {
				s.try(d)
			}
		}
	}
}

// draft writes a call as texts.
func (s *search) draft(c *policy.Call) (draft, error) {
	d := draft{route: c.Route, user: c.Principal, groups: c.Groups, set: map[string]string{}}
	if d.user == authn.Anonymous {
		d.user = ""
	}
	for _, a := range s.attributes() {
		if x, ok := c.Context[a.Name]; ok {
			text, err := policy.FormatValue(a, x)
			if err != nil {
				return d, err
			}
			d.set[a.Name] = text
		}
	}
	return d, nil
}

// try makes requests of a draft, and notes what decides about them: whether they are what
// was looked for or not. It returns why there are none.
func (s *search) try(d draft) error {
	list, err := s.requests(d, s.door(d))
	for _, q := range list {
		a, err2 := s.expect(q, s.now)
		if err2 != nil {
			err = err2
			continue
		}
		if a.Stage != abi.StageAuthz || !q.safe() && a.Verdict == abi.Allow && !s.Write && s.by[a.Rule.ID] != nil {
			continue
		}
		f := s.by[a.Rule.ID]
		if f == nil {
			f = &found{}
			s.by[a.Rule.ID] = f
		}
		words := q.words() + q.door.from.String()
		if s.seen[words] {
			continue
		}
		q.edge = s.near != "" && s.near != a.Rule.ID
		if len(f.requests) == maxWitnesses {
			i := maxWitnesses - 1
			for i > 0 && f.requests[i].edge {
				i--
			}
			if i == 0 || !q.edge {
				continue
			}
			f.requests = slices.Delete(f.requests, i, i+1)
		}
		switch {
		case len(f.requests) > 0 && a.Verdict == abi.Allow && q.safe() && !f.requests[0].safe():
			s.seen[words], f.requests = true, append([]*request{q}, f.requests...)
		default:
			s.seen[words], f.requests = true, append(f.requests, q)
		}
	}
	return err
}

// door returns the way that a draft asks for, or the first.
func (s *search) door(d draft) door {
	for _, a := range s.attributes() {
		if a.Source.Kind != authz.SourcePeer {
			continue
		}
		for _, x := range s.doors {
			if x.from.String() == d.set[a.Name] {
				return x
			}
		}
	}
	return s.doors[0]
}

// spread tries the neighbours of what was found: the same with one attribute otherwise, at
// each value that rules tell apart.
func (s *search) spread(ctx context.Context) {
	values := map[string]map[string][]string{}
	tried := 0
	for _, id := range slices.Sorted(maps.Keys(s.by)) {
		q := s.by[id].requests[0]
		s.near = id
		if values[q.route] == nil {
			values[q.route] = space.Values(s.Deployment, q.route)
		}
		base := draft{q.route, q.login.user, q.login.groups, q.values()}
		for _, name := range slices.Sorted(maps.Keys(values[q.route])) {
			for _, text := range values[q.route][name] {
				if tried++; tried > maxTried || ctx.Err() != nil {
					return
				}
				d := base
				d.set = maps.Clone(base.set)
				d.set[name] = text
				_ = s.try(d)
			}
		}
	}
}

// reasons says of rules without a request why there is none.
func (s *search) reasons(ctx context.Context) {
	lacking := func(id string) bool { return s.by[id] == nil }
	need := false
	for _, e := range s.Level.Enforced {
		need = need || e.Stage == abi.StageAuthz && lacking(e.ID)
	}
	if !need {
		return
	}
	note := func(id, why string) {
		if lacking(id) {
			s.by[id] = &found{why: why}
		}
	}
	list, err := space.Calls(space.NewBudget(ctx, space.DefaultSteps), s.Deployment)
	if err != nil {
		return
	}
	possible := map[string]*policy.Call{}
	for _, x := range list {
		if c := x.At[s.level]; c != nil && possible[x.Rule.ID] == nil {
			possible[x.Rule.ID] = c
		}
	}
	for _, x := range list {
		switch {
		case possible[x.Rule.ID] != nil:
		case x.Status == space.NotAnalysed:
			note(x.Rule.ID, "not analysed: "+x.Why)
		case x.Status == space.Found:
			note(x.Rule.ID, "it decides nothing at level "+s.Level.Name)
		case x.Index >= 0:
			note(x.Rule.ID, "it decides nothing: whatever is asked, another rule decides")
		}
	}
	for _, x := range list {
		c := possible[x.Rule.ID]
		if c == nil || !lacking(x.Rule.ID) {
			continue
		}
		note(x.Rule.ID, s.needs(ctx, x.Rule.ID, c))
	}
}

// needs says which facts a rule needs that cannot be had from here: one kind of them where
// that is enough.
func (s *search) needs(ctx context.Context, id string, c *policy.Call) string {
	d, err := s.draft(c)
	if err != nil {
		return err.Error()
	}
	var clocks, peers []string
	for _, a := range s.attributes() {
		switch a.Source.Kind {
		case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday:
			clocks = append(clocks, a.Name)
		case authz.SourcePeer:
			peers = append(peers, a.Name)
		}
	}
	if len(s.people.issuers) == 0 {
		if _, ok := s.loosened(ctx, id, nil, false); !ok {
			if d, ok := s.loosened(ctx, id, nil, true); ok {
				return "it needs " + d.user + inGroups(d.groups) + ": give --users"
			}
		}
	}
	for _, x := range []struct {
		names []string
		what  string
	}{{clocks, "it needs another time"}, {peers, "it needs another source"}} {
		if len(x.names) == 0 {
			continue
		}
		if d, ok := s.loosened(ctx, id, x.names, false); ok {
			var list []string
			for _, name := range x.names {
				if text, ok := d.set[name]; ok {
					list = append(list, name+" "+text)
				}
			}
			return x.what + ", such as " + strings.Join(list, ", ")
		}
	}
	why := fmt.Sprintf("no request from here can be such: %s as %s%s", d.route, d.user, inGroups(d.groups))
	if len(d.set) > 0 {
		why += " with " + pairs(d.set)
	}
	if len(s.people.issuers) == 0 {
		why += " (users can be given with --users)"
	}
	return why
}

// loosened looks for a call that a rule decides, and that can be made from here if some
// attributes were otherwise, or somebody else made it.
func (s *search) loosened(ctx context.Context, id string, names []string, anybody bool) (draft, bool) {
	list := s.variants()
	if anybody {
		list = []space.Within{s.bounds(nil)}
		list[0].Absent = nil
	}
	for _, w := range list {
		for _, name := range names {
			delete(w.Values, name)
		}
		found, err := space.CallsWithin(space.NewBudget(ctx, space.DefaultSteps/8), s.Deployment, w)
		if err != nil {
			return draft{}, false
		}
		for _, x := range found {
			if c := x.At[s.level]; x.Rule.ID == id && c != nil {
				if d, err := s.draft(c); err == nil {
					return d, true
				}
			}
		}
	}
	return draft{}, false
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+" "+m[k])
	}
	return strings.Join(out, ", ")
}

// calls shows what a Cedar rule decides: with the request that stands for it, or with more.
func (v *verifier) calls(ctx context.Context, r *Result, f *found, more bool) {
	switch {
	case len(v.doors) == 0:
		r.Why = "no network rule lets a connection from this machine in"
		return
	case f == nil:
		r.Why = "no request was found that it decides"
		return
	case len(f.requests) == 0:
		r.Why = f.why
		return
	}
	list := f.requests[:1]
	if more {
		list = f.requests[1:]
	}
	for _, q := range list {
		t, err := v.call(ctx, q, r.Rule)
		if err == nil || !more { // what was shown stays so
			r.add(t, err)
		}
	}
}

// call makes a request that a rule decides at this moment.
func (v *verifier) call(ctx context.Context, q *request, rule string) (t Trial, err error) {
	for range 3 {
		a, err := v.expect(q, v.now())
		switch {
		case err != nil:
			return t, err
		case a.Rule.ID != rule:
			return t, errors.New("the clock went on, and another rule decides now")
		case a.Verdict == abi.Allow && !q.safe() && !v.Write:
			return t, errors.New(q.words() + " would reach the application (--write)")
		}
		if t, err = v.send(ctx, q, expected(&a)); err != nil || t.OK {
			return t, err
		}
		if again, err := v.expect(q, v.now()); err == nil && again.Rule == a.Rule {
			return t, nil
		}
	}
	return t, errors.New("the clock goes on too fast")
}
