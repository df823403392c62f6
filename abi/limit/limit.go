// Package limit is the rate limit sections of a program: one for the limits that
// are judged before it is known who asks, one for those that need to know. Both
// have the same form.
package limit

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Names of the sections.
const (
	SourceName    = abi.StageSourceLimit
	PrincipalName = abi.StagePrincipalLimit
)

// Bounds of a section and of a limit.
const (
	MaxLimits   = 32
	MaxRequests = 1_000_000
	MaxPer      = 24 * time.Hour
)

// A Key says what has a bucket of its own. Bits are combined: ByPrincipal|ByRoute
// is one for each principal on each route.
type Key uint8

const (
	ByPrincipal Key = 1 << iota
	BySource        // an IPv4 address or an IPv6 /64
	ByRoute
)

// A Limit is Requests per time Per and key, all of which may come at once.
type Limit struct {
	Rule     abi.Rule
	Key      Key
	Routes   []string // names; empty: every request
	Requests uint32
	Per      time.Duration
}

// A Section holds the limits of one level, in file order.
type Section struct{ Limits []Limit }

// form is the first byte. Without it, zero bytes would read as no limits at all.
const form = 1

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.U8(form)
	w.U32(uint32(len(s.Limits)))
	for _, l := range s.Limits {
		w.String(l.Rule.ID)
		w.String(l.Rule.Line)
		w.U8(uint8(l.Key))
		w.Strings(l.Routes)
		w.U32(l.Requests)
		w.I64(int64(l.Per))
	}
	return w.Bytes()
}

// Decode reads a section. What it returns without an error is within the bounds.
func Decode(b []byte) (Section, error) {
	r := wire.NewReader(b)
	if v := r.U8(); v != form {
		r.Fail(fmt.Errorf("form %d is unknown", v))
	}
	n := r.Count(29)
	if n > MaxLimits {
		r.Fail(fmt.Errorf("%d limits; at most %d", n, MaxLimits))
	}
	var s Section
	for range n {
		l := Limit{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Key: Key(r.U8()), Routes: r.Strings(),
			Requests: r.U32(), Per: time.Duration(r.I64())}
		if err := l.check(); r.Err() == nil && err != nil {
			r.Fail(fmt.Errorf("limit %q: %w", l.Rule.ID, err))
		}
		if r.Err() != nil {
			break
		}
		s.Limits = append(s.Limits, l)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("limit: %w", err)
	}
	return s, nil
}

func (l *Limit) check() error {
	switch {
	case l.Key == 0 || l.Key > ByPrincipal|BySource|ByRoute:
		return fmt.Errorf("key %d is unknown", l.Key)
	case l.Requests == 0 || l.Requests > MaxRequests:
		return fmt.Errorf("%d requests", l.Requests)
	case l.Per < time.Millisecond || l.Per > MaxPer:
		return errors.New("the time is out of bounds")
	}
	return nil
}
