// Package obligations acts on what is denied too often: it reports sources and refuses
// them for a time, and has triggers raise the security level. A source is what shares one rate limit, an IPv4
// address or an IPv6 /64.
//
// The module stands three times in the life of a request: it is told of every
// decision (pep.Observer) and counts denials; it refuses connections of a source
// that is blocked, unread; and as the first guard it refuses requests on the
// connections that were open already.
//
// What counts is what a source did itself: denials by authentication,
// authorization and the request filter, and refusals by rate limits whose buckets
// belong to a source. A module that failed, one that was too busy, a network
// rule, and the block itself count against nobody, so that no block feeds
// itself or another.
//
// Memory is fixed: see ratelimit.Table for the counts, and sources for the blocks.
// Both outlive a change of program while name, kind, count and window of the
// obligation stay the same; one that is removed lifts its blocks.
package obligations

import (
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/ratelimit"
)

// A Module holds what outlives a program.
type Module struct {
	seed maphash.Seed

	mu     sync.Mutex
	counts map[identity]weak.Pointer[count] // alive while a generation uses them
	watch  map[same]weak.Pointer[watched]
}

// identity is what must stay the same for counts and blocks to be carried over.
type identity struct {
	name   string
	on     obligation.On
	count  uint32
	window time.Duration
	dry    bool // nobody is blocked, nor will be for what was counted
}

// A count is the denials of one obligation by source, and the sources that it has
// acted on.
type count struct {
	denials *ratelimit.Table
	sources *sources
}

// New returns the module.
func New() *Module {
	return &Module{seed: maphash.MakeSeed(), counts: map[identity]weak.Pointer[count]{}, watch: map[same]weak.Pointer[watched]{}}
}

// Prepare reads the section. Where a generation that is still in use has the same
// obligation, its counts and blocks are shared.
func (m *Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := obligation.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, p := range m.counts {
		if p.Value() == nil {
			delete(m.counts, id)
		}
	}
	for id, p := range m.watch {
		if p.Value() == nil {
			delete(m.watch, id)
		}
	}
	st := &state{module: m, limits: s.Limits}
	for _, t := range s.Triggers {
		id := same{t.Rule.ID, t.On, t.Key, t.Count, t.Window}
		w := m.watch[id].Value()
		if w == nil {
			w = newWatched(&t)
			m.watch[id] = weak.Make(w)
		}
		st.watch = append(st.watch, watchman{t, w})
	}
	for _, o := range s.Obligations {
		id := identity{o.Rule.ID, o.On, o.Count, o.Window, in.DryRun != nil}
		c := m.counts[id].Value()
		if c == nil {
			c = &count{ratelimit.NewCounter(o.Count, o.Window), newSources()}
			m.counts[id] = weak.Make(c)
		}
		st.duties = append(st.duties, duty{o, c})
	}
	return st, nil
}

// A state is one generation: a GuardState, a GateState, an Observer and a Raiser.
type state struct {
	module *Module
	limits []string
	duties []duty
	watch  []watchman
}

// A duty is an obligation with its counts.
type duty struct {
	obligation.Obligation
	*count
}

// Admit refuses connections of a source that is blocked.
func (s *state) Admit(f flow.Flow) pep.Decision { return s.judge(f.Source(), time.Now()) }

// Judge refuses requests of a source that is blocked, and ends its connection.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	d := s.judge(x.Source(), x.Now)
	if d.Verdict != abi.Allow {
		x.Header.Set("Connection", "close")
	}
	return d
}

func (s *state) judge(source netip.Prefix, now time.Time) pep.Decision {
	for i := range s.duties {
		o := &s.duties[i]
		if o.Block > 0 && o.sources.blocked(source, now) {
			return pep.Decision{Stage: abi.StageObligations, Rule: o.Rule, Status: http.StatusForbidden, Reason: "the source is blocked"}
		}
	}
	// Without a rule: the record names the one that allows.
	return pep.Decision{Verdict: abi.Allow, Stage: abi.StageObligations}
}

// Observe counts a denial against its source, under every obligation that is
// about it. Where several act at once, one alert names all of them.
func (s *state) Observe(x *pep.Exchange, d pep.Decision) (alert pep.Decision, ok bool) {
	kind := s.kind(d)
	if kind == obligation.Never {
		return alert, false
	}
	source := x.Source()
	var acts []string
	for i := range s.duties {
		o := &s.duties[i]
		if o.On != kind && o.On != obligation.Any || !o.due(s.module.hash(source), source, x.Now) || !o.Alert {
			continue
		}
		if len(acts) == 0 {
			alert = pep.Decision{Stage: abi.StageObligations, Rule: o.Rule, Status: http.StatusForbidden}
			acts = append(acts, o.says())
		} else {
			acts = append(acts, o.Rule.ID+": "+o.says())
		}
	}
	alert.Reason = strings.Join(acts, "; ")
	return alert, len(acts) > 0
}

// kind returns what d counts as. Any stands for a rate limit: only obligations on
// everything count those.
func (s *state) kind(d pep.Decision) obligation.On {
	switch {
	case d.Verdict == abi.Allow, d.Rule.ID == abi.RuleError, d.Status == http.StatusServiceUnavailable:
		return obligation.Never
	case d.Stage == abi.StageAuthn:
		return obligation.Authentication
	case d.Stage == abi.StageAuthz:
		return obligation.Authorization
	case d.Stage == abi.StageFilter:
		return obligation.Request
	case (d.Stage == abi.StageSourceLimit || d.Stage == abi.StagePrincipalLimit) && slices.Contains(s.limits, d.Rule.ID):
		return obligation.Any
	}
	return obligation.Never
}

// due counts one denial and reports whether it is the one that the duty acts on.
// A source that it has acted on is left alone until that has passed.
func (o *duty) due(key uint64, source netip.Prefix, now time.Time) bool {
	if o.sources.known(source, now) || o.denials.Take(key, now) == 0 {
		return false
	}
	if o.Block > 0 {
		return o.sources.add(source, now, now.Add(o.Block), true)
	}
	return o.sources.add(source, now, now.Add(o.Window), false)
}

// says is the reason of an alert.
func (o *duty) says() string {
	denials := "denials"
	if o.Count == 1 {
		denials = "denial"
	}
	text := fmt.Sprintf("%d %s (%s) within %v from this source", o.Count, denials, strings.TrimSuffix(o.On.String(), ".deny"), o.Window)
	if o.Block > 0 {
		text += fmt.Sprintf(": blocked for %v", o.Block)
	}
	return text
}

// hash returns the key of a source, under a seed that nobody outside knows:
// nobody can choose sources that meet in one set of the table.
func (m *Module) hash(source netip.Prefix) uint64 {
	var h maphash.Hash
	h.SetSeed(m.seed)
	a := source.Addr().As16() // the zero Prefix has no address: all of those are one source
	h.Write(a[:])
	return h.Sum64()
}
