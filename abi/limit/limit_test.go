package limit_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/limit"
)

func good() limit.Section {
	return limit.Section{Limits: []limit.Limit{
		{Rule: abi.Rule{ID: "a", Line: "p.yaml:5"}, Key: limit.BySource, Requests: 5, Per: time.Minute},
		{Rule: abi.Rule{ID: "b", Line: "p.yaml:6"}, Key: limit.ByPrincipal | limit.ByRoute, Routes: []string{"x", "y"}, Requests: 1, Per: limit.MaxPer},
	}}
}

func TestSectionRoundTrip(t *testing.T) {
	for _, s := range []limit.Section{good(), {}} {
		if got, err := limit.Decode(s.Encode()); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%v, %+v", err, got)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	with := func(change func(*limit.Limit)) []byte {
		s := good()
		change(&s.Limits[0])
		return s.Encode()
	}
	whole := good()
	full := whole.Encode()
	many := limit.Section{}
	for range limit.MaxLimits + 1 {
		many.Limits = append(many.Limits, good().Limits[0])
	}
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "zero bytes": make([]byte, 5), "more zero bytes": make([]byte, 200),
		"another form": append([]byte{2}, full[1:]...),
		"a byte more":  append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
		"no key":        with(func(l *limit.Limit) { l.Key = 0 }),
		"unknown key":   with(func(l *limit.Limit) { l.Key = 8 }),
		"no requests":   with(func(l *limit.Limit) { l.Requests = 0 }),
		"many requests": with(func(l *limit.Limit) { l.Requests = limit.MaxRequests + 1 }),
		"no time":       with(func(l *limit.Limit) { l.Per = 0 }),
		"negative time": with(func(l *limit.Limit) { l.Per = -time.Minute }),
		"too long":      with(func(l *limit.Limit) { l.Per = limit.MaxPer + 1 }),
		"many limits":   many.Encode(),
	} {
		if got, err := limit.Decode(b); err == nil || got.Limits != nil {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s := good()
	f.Add(s.Encode())
	f.Add((&limit.Section{}).Encode())
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := limit.Decode(b)
		if err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
	})
}
