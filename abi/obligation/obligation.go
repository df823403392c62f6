// Package obligation is the obligations section of a program: what follows when
// one source is denied too often, and what raises the security level.
package obligation

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = abi.StageObligations

// Bounds of a section and of an obligation.
const (
	MaxObligations = 16
	MaxCount       = 100_000
	MinSpan        = time.Second // of Window and of Block
	MaxSpan        = 24 * time.Hour
)

// On says which denials count. The zero On counts none, and no section may have
// it.
type On uint8

const (
	Never          On = iota
	Authentication    // by authentication
	Authorization     // by authorization
	Request           // by the request filter
	Any               // by all of these and by the rate limits of a source
	Network           // by the firewall; for triggers alone: a source is easily forged
)

var onNames = [...]string{Authentication: "authentication.deny", Authorization: "authorization.deny", Request: "request.deny", Any: "any.deny", Network: "network.deny"}

// Names lists what obligations of policies write, in the order of the constants.
func Names() []string { return append([]string(nil), onNames[Authentication:Network]...) }

// TriggerNames lists what triggers write.
func TriggerNames() []string { return append([]string(nil), onNames[Authentication:]...) }

func (o On) String() string {
	if o == Never || int(o) >= len(onNames) {
		return "unknown"
	}
	return onNames[o]
}

// Parse is the inverse of String.
func Parse(s string) (On, bool) {
	for i, n := range onNames {
		if n == s && n != "" {
			return On(i), true
		}
	}
	return Never, false
}

// An Obligation acts when Count denials come from one source within Window,
// counted as a token bucket counts requests.
type Obligation struct {
	Rule   abi.Rule
	On     On
	Count  uint32
	Window time.Duration
	Alert  bool          // record it
	Block  time.Duration // refuse the source for this long; 0: do not
}

// A Section holds the obligations of one level, in file order. Limits names the
// rate limits whose buckets belong to a source: only their refusals are the
// doing of the source that meets them.
type Section struct {
	Obligations []Obligation
	Limits      []string
	Triggers    []Trigger // of all levels: at the one that it raised, a trigger goes on counting
}

// form is the first byte. Without it, zero bytes would read as no obligations at
// all.
const form = 2

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.U8(form)
	w.U32(uint32(len(s.Obligations)))
	for _, o := range s.Obligations {
		w.String(o.Rule.ID)
		w.String(o.Rule.Line)
		w.U8(uint8(o.On))
		w.U32(o.Count)
		w.I64(int64(o.Window))
		w.Bool(o.Alert)
		w.I64(int64(o.Block))
	}
	w.Strings(s.Limits)
	w.U32(uint32(len(s.Triggers)))
	for i := range s.Triggers {
		s.Triggers[i].write(&w)
	}
	return w.Bytes()
}

// Decode reads a section. What it returns without an error is within the bounds.
func Decode(b []byte) (Section, error) {
	r := wire.NewReader(b)
	if v := r.U8(); v != form {
		r.Fail(fmt.Errorf("form %d is unknown", v))
	}
	n := r.Count(30)
	if n > MaxObligations {
		r.Fail(fmt.Errorf("%d obligations; at most %d", n, MaxObligations))
	}
	var s Section
	for range n {
		o := Obligation{Rule: abi.Rule{ID: r.String(), Line: r.String()}, On: On(r.U8()), Count: r.U32(),
			Window: time.Duration(r.I64()), Alert: r.Bool(), Block: time.Duration(r.I64())}
		if err := o.check(); r.Err() == nil && err != nil {
			r.Fail(fmt.Errorf("obligation %q: %w", o.Rule.ID, err))
		}
		if r.Err() != nil {
			break
		}
		s.Obligations = append(s.Obligations, o)
	}
	s.Limits = r.Strings()
	s.Triggers = readTriggers(r)
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("obligation: %w", err)
	}
	return s, nil
}

func (o *Obligation) check() error {
	switch {
	case o.On == Never || o.On > Any:
		return fmt.Errorf("denials of kind %d", o.On)
	case o.Count == 0 || o.Count > MaxCount:
		return fmt.Errorf("%d denials", o.Count)
	case o.Window < MinSpan || o.Window > MaxSpan:
		return errors.New("the window is out of bounds")
	case o.Block != 0 && (o.Block < MinSpan || o.Block > MaxSpan):
		return errors.New("the time of a block is out of bounds")
	case !o.Alert && o.Block == 0:
		return errors.New("nothing is to be done")
	}
	return nil
}
