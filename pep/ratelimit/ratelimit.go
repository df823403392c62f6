// Package ratelimit counts requests against token buckets, by principal, source
// or route.
//
// The chain asks it twice, with two sections: pep/sourcelimit stands before
// authentication and holds the limits that do not need to know who asks, so that
// a flood costs no password hash; pep/principallimit stands between
// authentication and authorization. Both are this module under another name,
// because an image has one place in its order for each module.
//
// A request passes when every limit about its route grants it; they are asked in
// file order, and one that a later limit refuses has counted against the earlier
// ones. A refusal is 429 with Retry-After; it counts against nobody.
//
// Memory is fixed: see Table for what happens when more keys arrive than it
// holds. Buckets outlive a change of program where name, key, requests and time
// of the limit stay the same; a limit that changed in any of them starts with
// full buckets. They do not outlive the image, and every instance counts alone.
package ratelimit

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"sync"
	"time"
	"weak"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/pep"
)

// A Module holds the buckets that outlive a program.
type Module struct {
	stage string
	seed  maphash.Seed

	mu     sync.Mutex
	tables map[identity]weak.Pointer[Table] // alive while a generation uses them
}

// identity is what must stay the same for buckets to be carried over.
type identity struct {
	name     string
	key      limit.Key
	requests uint32
	per      time.Duration
	dry      bool // nobody is refused: what is enforced then begins with full buckets
}

// New returns a module whose decisions name the given stage.
func New(stage string) *Module {
	return &Module{stage: stage, seed: maphash.MakeSeed(), tables: map[identity]weak.Pointer[Table]{}}
}

// Prepare reads the section. Where a generation that is still in use has the same
// limit, its buckets are shared.
func (m *Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := limit.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, p := range m.tables {
		if p.Value() == nil {
			delete(m.tables, id)
		}
	}
	st := &state{module: m}
	for _, l := range s.Limits {
		if m.stage == limit.SourceName && l.Key&limit.ByPrincipal != 0 {
			return nil, fmt.Errorf("%s: limit %q needs the principal, which is not known yet", m.stage, l.Rule.ID)
		}
		id := identity{l.Rule.ID, l.Key, l.Requests, l.Per, in.DryRun != nil}
		t := m.tables[id].Value()
		if t == nil {
			t = NewTable(l.Requests, l.Per)
			m.tables[id] = weak.Make(t)
		}
		st.limits = append(st.limits, counted{l, t, fmt.Sprintf("more than %d requests in %v", l.Requests, l.Per)})
	}
	return st, nil
}

type state struct {
	module *Module
	limits []counted
}

// counted is a limit with its buckets.
type counted struct {
	limit.Limit
	table  *Table
	reason string
}

// Judge takes one request from every bucket that x belongs to.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	for i := range s.limits {
		l := &s.limits[i]
		if !l.about(x) {
			continue
		}
		if wait := l.table.Take(s.module.hash(l.Key, x), x.Now); wait > 0 {
			x.RetryAfter(wait)
			return pep.Decision{Stage: s.module.stage, Rule: l.Rule, Reason: l.reason, Status: http.StatusTooManyRequests}
		}
	}
	// Without a rule: the record names the one that allows.
	return pep.Decision{Verdict: abi.Allow, Stage: s.module.stage}
}

// about reports whether the limit counts x. A request without a route is counted
// by all.
func (l *counted) about(x *pep.Exchange) bool {
	return len(l.Routes) == 0 || x.Route == nil || slices.Contains(l.Routes, x.Route.Name)
}

// hash returns the key of x, under a seed that nobody outside knows: nobody can
// choose keys that meet in one set.
func (m *Module) hash(k limit.Key, x *pep.Exchange) uint64 {
	var room [128]byte
	b := room[:0]
	if k&limit.ByPrincipal != 0 {
		b = text(b, x.Principal)
	}
	if k&limit.BySource != 0 {
		p := x.Source() // its zero value has no address: all of those share a bucket
		a := p.Addr().As16()
		b = append(b, a[:]...)
	}
	if k&limit.ByRoute != 0 && x.Route != nil {
		b = text(b, x.Route.Name)
	}
	return maphash.Bytes(m.seed, b)
}

// text appends a length and a string, so that no two keys are the same.
func text(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}
