package compiler

import (
	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A limitKind is one of the two places of limits in the chain.
type limitKind struct {
	principal       bool // needs to know who asks
	capability, why string
}

var (
	sourceLimits    = limitKind{false, "ratelimit/source", "requests are limited before it is known who asks"}
	principalLimits = limitKind{true, "ratelimit/principal", "requests are limited for each principal"}
)

func (k limitKind) has(l *api.RateLimit) bool { return (l.Key&limit.ByPrincipal != 0) == k.principal }

// modules returns the level whose rules say which modules the image of the i-th level has:
// the highest, which has the rules of all, so that a change of level is a change of
// program; its own where there is a pool of images.
func modules(p *api.SecurityPolicy, i int) int {
	if p.Levels.Pool == "" {
		return len(p.Levels.Names) - 1
	}
	return i
}

// limited returns the first limit of the kind that the image of the i-th level enforces.
func limited(p *api.SecurityPolicy, i int, k limitKind) (api.RateLimit, bool) {
	for _, l := range policy.RateLimits(p, modules(p, i)) {
		if k.has(&l) {
			return l, true
		}
	}
	return api.RateLimit{}, false
}

// limit adds the limits of a kind, those that are tried in a section of their own.
func (l *Level) limit(p *api.SecurityPolicy, i int, k limitKind, name string) {
	l.add(name, limitSection(p, i, k, false).Encode())
	if s := limitSection(p, i, k, true); len(s.Limits) > 0 {
		l.add(dryrun.Of(name), s.Encode())
	}
}

// limitSection holds the limits of a kind at the i-th level that are enforced, or tried;
// there may be none.
func limitSection(p *api.SecurityPolicy, i int, k limitKind, tried bool) *limit.Section {
	s := &limit.Section{}
	for _, l := range policy.RateLimits(p, i) {
		if k.has(&l) && policy.Tries(p, l.DryRun) == tried {
			s.Limits = append(s.Limits, limit.Limit{Rule: abi.Rule{ID: l.Name, Line: l.Pos.Short()},
				Key: l.Key, Routes: l.Routes, Requests: l.Requests, Per: l.Per})
		}
	}
	return s
}

func limitRules(p *api.SecurityPolicy, i int, k limitKind, tried bool) []abi.Rule {
	var list []abi.Rule
	for _, l := range limitSection(p, i, k, tried).Limits {
		list = append(list, l.Rule)
	}
	return list
}
