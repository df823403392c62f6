package obligation_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/obligation"
)

func good() obligation.Section {
	return obligation.Section{Obligations: []obligation.Obligation{
		{Rule: abi.Rule{ID: "a", Line: "p.yaml:5"}, On: obligation.Authentication, Count: 5, Window: time.Minute, Alert: true},
		{Rule: abi.Rule{ID: "b", Line: "p.yaml:6"}, On: obligation.Any, Count: 1, Window: obligation.MaxSpan, Block: obligation.MaxSpan},
	}, Limits: []string{"per-source"}, Triggers: []obligation.Trigger{
		{Rule: abi.Rule{ID: "t", Line: "p.yaml:7"}, On: obligation.Network, Key: obligation.ByRoute, Count: 100, Window: time.Minute, To: "elevated", Hold: 10 * time.Minute},
		{Rule: abi.Rule{ID: "u", Line: "p.yaml:8"}, On: obligation.Any, Count: 1, Window: obligation.MinSpan, To: "lockdown"},
	}}
}

func TestSectionRoundTrip(t *testing.T) {
	for _, s := range []obligation.Section{good(), {}} {
		if got, err := obligation.Decode(s.Encode()); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%v, %+v", err, got)
		}
	}
}

func TestNamesAreTheirOwnInverse(t *testing.T) {
	names := obligation.TriggerNames()
	if len(names) != int(obligation.Network) || !slices.Equal(names[:obligation.Any], obligation.Names()) {
		t.Fatalf("%q", names)
	}
	for i, n := range names {
		if o, ok := obligation.Parse(n); !ok || int(o) != i+1 || o.String() != n {
			t.Errorf("%q: %v", n, o)
		}
	}
	for i, n := range obligation.KeyNames() {
		if k, ok := obligation.ParseKey(n); !ok || int(k) != i || k.String() != n {
			t.Errorf("%q: %v", n, k)
		}
	}
	for _, n := range []string{"", "unknown", "authn.deny"} {
		if _, ok := obligation.ParseKey(n); ok {
			t.Errorf("%q is a key", n)
		}
		if o, ok := obligation.Parse(n); ok || o != obligation.Never {
			t.Errorf("%q: %v", n, o)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	with := func(change func(*obligation.Obligation)) []byte {
		s := good()
		change(&s.Obligations[0])
		return s.Encode()
	}
	fires := func(change func(*obligation.Trigger)) []byte {
		s := good()
		change(&s.Triggers[0])
		return s.Encode()
	}
	whole := good()
	full := whole.Encode()
	many := obligation.Section{}
	for range obligation.MaxObligations + 1 {
		many.Obligations = append(many.Obligations, good().Obligations[0])
	}
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "zero bytes": make([]byte, 9), "more zero bytes": make([]byte, 200),
		"another form": append([]byte{1}, full[1:]...),
		"a byte more":  append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
		"no kind":        with(func(o *obligation.Obligation) { o.On = obligation.Never }),
		"unknown kind":   with(func(o *obligation.Obligation) { o.On = obligation.Any + 1 }),
		"no count":       with(func(o *obligation.Obligation) { o.Count = 0 }),
		"large count":    with(func(o *obligation.Obligation) { o.Count = obligation.MaxCount + 1 }),
		"no window":      with(func(o *obligation.Obligation) { o.Window = 0 }),
		"long window":    with(func(o *obligation.Obligation) { o.Window = obligation.MaxSpan + 1 }),
		"negative block": with(func(o *obligation.Obligation) { o.Block = -time.Minute }),
		"short block":    with(func(o *obligation.Obligation) { o.Block = 1 }),
		"long block":     with(func(o *obligation.Obligation) { o.Block = obligation.MaxSpan + 1 }),
		"nothing to do":  with(func(o *obligation.Obligation) { o.Alert = false }),
		"many":           many.Encode(),
		"many triggers":  (&obligation.Section{Triggers: make([]obligation.Trigger, obligation.MaxTriggers+1)}).Encode(),
		"counts nothing": fires(func(t *obligation.Trigger) { t.On = obligation.Never }),
		"counts unknown": fires(func(t *obligation.Trigger) { t.On = obligation.Network + 1 }),
		"unknown key":    fires(func(t *obligation.Trigger) { t.Key = obligation.ByRoute + 1 }),
		"fires at once":  fires(func(t *obligation.Trigger) { t.Count = 0 }),
		"fires never":    fires(func(t *obligation.Trigger) { t.Count = obligation.MaxCount + 1 }),
		"short window":   fires(func(t *obligation.Trigger) { t.Window = 1 }),
		"negative hold":  fires(func(t *obligation.Trigger) { t.Hold = -time.Minute }),
		"long hold":      fires(func(t *obligation.Trigger) { t.Hold = obligation.MaxSpan + 1 }),
		"to no level":    fires(func(t *obligation.Trigger) { t.To = "" }),
		"one name twice": fires(func(t *obligation.Trigger) { t.Rule.ID = "u" }),
	} {
		if got, err := obligation.Decode(b); err == nil || got.Obligations != nil {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s := good()
	f.Add(s.Encode())
	f.Add((&obligation.Section{}).Encode())
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := obligation.Decode(b)
		if err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
	})
}
