package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/api"
)

// keyNames are in the order of the bits of limit.Key.
var keyNames = [...]string{"principal", "source", "route"}

func (d *decoder) rateLimits(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d.list("spec.rateLimits", func(n *yaml.Node) { s.RateLimits = append(s.RateLimits, d.rateLimit(n)) })(n)
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			d.fail(n, "write the limits, or remove the field", "spec.rateLimits is empty")
		}
	}
}

func (d *decoder) rateLimit(n *yaml.Node) api.RateLimit {
	const p = "spec.rateLimits."
	l := api.RateLimit{Pos: d.pos(n)}
	var requests uint64
	d.object(n, "spec.rateLimits",
		field{name: "name", must: true, read: d.word(&l.Name, p+"name")},
		field{name: "key", must: true, read: d.limitKey(&l.Key)},
		field{name: "routes", read: func(n *yaml.Node) {
			d.words(&l.Routes, p+"routes")(n)
			// An empty list must not read as "every route".
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.fail(n, "name routes, or remove routes for every route", "%sroutes is empty: the limit would count nothing", p)
			}
		}},
		field{name: "requests", must: true, read: d.number(&requests, p+"requests", 1, limit.MaxRequests)},
		field{name: "per", must: true, read: d.duration(&l.Per, p+"per", time.Second, limit.MaxPer)},
		field{name: "scope", read: d.choice(new(string), p+"scope", []string{"instance"}, "deployment", "tenant", "global")},
		field{name: "enforcement", read: d.dryRun(&l.DryRun, p+"enforcement")},
		field{name: "minLevel", read: d.word(&l.MinLevel, p+"minLevel")})
	l.Requests = uint32(requests)
	return l
}

// limitKey reads a key, or a list of keys that count together.
func (d *decoder) limitKey(dst *limit.Key) func(*yaml.Node) {
	const p = "spec.rateLimits.key"
	return func(n *yaml.Node) {
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			d.fail(n, "write principal, source, route, or a list of them", "%s is empty", p)
		}
		d.each(n, p, func(n *yaml.Node) {
			var s string
			d.choice(&s, p, keyNames[:])(n)
			at := slices.Index(keyNames[:], s)
			if at < 0 {
				return
			}
			if *dst&(1<<at) != 0 {
				d.fail(n, "name each key once", "%s names %s twice", p, s)
			}
			*dst |= 1 << at
		})
	}
}

func (p *parsing) checkRateLimits(s *securityPolicy) {
	if n := len(s.RateLimits); n > limit.MaxLimits {
		s.failAt(s.RateLimits[limit.MaxLimits].Pos, "keep the limits that matter, or split the workload", "there are %d rate limits; the limit is %d", n, limit.MaxLimits)
	}
	var known []string
	for _, r := range s.Routes {
		known = append(known, r.Name)
	}
	for _, l := range s.RateLimits {
		if l.Key&limit.ByPrincipal != 0 && s.Authentication == nil && !s.bad["spec.authentication"] {
			s.failAt(l.Pos, "add authentication: {require: true, basic: {...}}, or write key: source", "limit %q counts principals: without authentication nobody has a name", l.Name)
		}
		if l.Key&limit.ByRoute != 0 && len(s.Routes) == 0 && !s.bad["spec.routes"] {
			s.failAt(l.Pos, "add routes, or write key: source", "limit %q counts routes: the policy has none", l.Name)
		}
		for i, r := range l.Routes {
			switch {
			case !slices.Contains(known, r) && !s.bad["spec.routes"]:
				s.failAt(l.Pos, didYouMean(r, known), "limit %q: there is no route %q", l.Name, r)
			case slices.Contains(l.Routes[:i], r):
				s.failAt(l.Pos, "name each route once", "limit %q names route %q twice", l.Name, r)
			}
		}
		if l.MinLevel != "" && !slices.Contains(s.Levels.Names, l.MinLevel) && !s.bad["spec.levels"] {
			s.failAt(l.Pos, didYouMean(l.MinLevel, s.Levels.Names), "limit %q: there is no level %q", l.Name, l.MinLevel)
		}
	}
}

// RateLimits returns the limits that exist at the i-th level, in file order: those
// of all levels up to it, so that a higher level only adds some.
func RateLimits(p *api.SecurityPolicy, i int) []api.RateLimit {
	var list []api.RateLimit
	for _, l := range p.RateLimits {
		// An unknown level is below all: the limit exists.
		if l.MinLevel == "" || slices.Index(p.Levels.Names, l.MinLevel) <= i {
			list = append(list, l)
		}
	}
	return list
}

// whyLimited adds the limits that count the request. Whether one is used up is
// known in the instance only, so that no verdict changes.
func (d *Deployment) whyLimited(a *Answer, x *exchange) {
	if a.Stage == abi.StageFilter && a.Verdict == abi.Deny {
		return // refused before any limit
	}
	for _, l := range RateLimits(d.Policy, slices.Index(d.Policy.Levels.Names, x.Level)) {
		if len(l.Routes) > 0 && x.route != nil && !slices.Contains(l.Routes, x.route.Name) {
			continue
		}
		if l.Key&limit.ByPrincipal != 0 && a.Stage == abi.StageAuthn && a.Verdict == abi.Deny {
			continue
		}
		text := fmt.Sprintf("allows %d requests in %s for each %s; what is left of them only the instance knows", l.Requests, span(l.Per), keyText(l.Key))
		if Tries(d.Policy, l.DryRun) {
			text += " (dry run)"
		}
		a.Considered = append(a.Considered, Outcome{Rule: abi.Rule{ID: l.Name, Line: l.Pos.Short()}, Text: text})
	}
}

func keyText(k limit.Key) string {
	var list []string
	for i, name := range keyNames {
		if k&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, " and ")
}

// span is a duration without the zeros that Go writes: 1m, not 1m0s.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
