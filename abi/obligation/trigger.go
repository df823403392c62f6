package obligation

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// MaxTriggers bounds a section.
const MaxTriggers = 16

// A Key says whose denials are counted together.
type Key uint8

const (
	ByAll       Key = iota // those of everybody
	BySource               // an IPv4 address or an IPv6 /64
	ByPrincipal            // where it is known who asks
	ByRoute
)

var keyNames = [...]string{ByAll: "all", BySource: "source", ByPrincipal: "principal", ByRoute: "route"}

// KeyNames lists what policies write, in the order of the constants.
func KeyNames() []string { return append([]string(nil), keyNames[:]...) }

func (k Key) String() string {
	if int(k) >= len(keyNames) {
		return "unknown"
	}
	return keyNames[k]
}

// ParseKey is the inverse of String.
func ParseKey(s string) (Key, bool) {
	for i, n := range keyNames {
		if n == s {
			return Key(i), true
		}
	}
	return ByAll, false
}

// A Trigger raises the security level when Count denials of one key come within Window,
// counted as those of an obligation are. It never lowers it.
type Trigger struct {
	Rule   abi.Rule
	On     On // Network too; Any is everything
	Key    Key
	Count  uint32
	Window time.Duration
	To     string        // the level
	Hold   time.Duration // after the last time that it fires; 0: until it is released
}

// Quiet is how long a trigger that fired says nothing: short enough that what goes on
// prolongs its hold.
func (t *Trigger) Quiet() time.Duration {
	quiet := t.Window
	if t.Hold > 0 {
		quiet = min(quiet, t.Hold/2)
	}
	return max(quiet, MinSpan)
}

func (t *Trigger) write(w *wire.Writer) {
	w.String(t.Rule.ID)
	w.String(t.Rule.Line)
	w.U8(uint8(t.On))
	w.U8(uint8(t.Key))
	w.U32(t.Count)
	w.I64(int64(t.Window))
	w.String(t.To)
	w.I64(int64(t.Hold))
}

func readTriggers(r *wire.Reader) (list []Trigger) {
	n := r.Count(34)
	if n > MaxTriggers {
		r.Fail(fmt.Errorf("%d triggers; at most %d", n, MaxTriggers))
	}
	for range n {
		t := Trigger{Rule: abi.Rule{ID: r.String(), Line: r.String()}, On: On(r.U8()), Key: Key(r.U8()), Count: r.U32(),
			Window: time.Duration(r.I64()), To: r.String(), Hold: time.Duration(r.I64())}
		if err := t.check(list); r.Err() == nil && err != nil {
			r.Fail(fmt.Errorf("trigger %q: %w", t.Rule.ID, err))
		}
		if r.Err() != nil {
			return nil
		}
		list = append(list, t)
	}
	return list
}

func (t *Trigger) check(before []Trigger) error {
	for _, o := range before {
		if o.Rule.ID == t.Rule.ID {
			return errors.New("twice")
		}
	}
	switch {
	case t.On == Never || t.On > Network:
		return fmt.Errorf("denials of kind %d", t.On)
	case t.Key > ByRoute:
		return fmt.Errorf("key %d is unknown", t.Key)
	case t.Count == 0 || t.Count > MaxCount:
		return fmt.Errorf("%d denials", t.Count)
	case t.Window < MinSpan || t.Window > MaxSpan:
		return errors.New("the window is out of bounds")
	case t.Hold != 0 && (t.Hold < MinSpan || t.Hold > MaxSpan):
		return errors.New("the hold is out of bounds")
	case t.To == "":
		return errors.New("no level to raise to")
	}
	return nil
}
