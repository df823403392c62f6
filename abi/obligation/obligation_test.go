package obligation_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/obligation"
)

func good() obligation.Section {
	return obligation.Section{Obligations: []obligation.Obligation{
		{Rule: abi.Rule{ID: "a", Line: "p.yaml:5"}, On: obligation.Authentication, Count: 5, Window: time.Minute, Alert: true},
		{Rule: abi.Rule{ID: "b", Line: "p.yaml:6"}, On: obligation.Any, Count: 1, Window: obligation.MaxSpan, Block: obligation.MaxSpan},
	}, Limits: []string{"per-source"}}
}

func TestSectionRoundTrip(t *testing.T) {
	for _, s := range []obligation.Section{good(), {}} {
		if got, err := obligation.Decode(s.Encode()); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%v, %+v", err, got)
		}
	}
}

func TestNamesAreTheirOwnInverse(t *testing.T) {
	names := obligation.Names()
	if len(names) != int(obligation.Any) {
		t.Fatalf("%q", names)
	}
	for i, n := range names {
		if o, ok := obligation.Parse(n); !ok || int(o) != i+1 || o.String() != n {
			t.Errorf("%q: %v", n, o)
		}
	}
	for _, n := range []string{"", "unknown", "authn.deny"} {
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
	whole := good()
	full := whole.Encode()
	many := obligation.Section{}
	for range obligation.MaxObligations + 1 {
		many.Obligations = append(many.Obligations, good().Obligations[0])
	}
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "zero bytes": make([]byte, 9), "more zero bytes": make([]byte, 200),
		"another form": append([]byte{2}, full[1:]...),
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
