package authn_test

import (
	"bytes"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
)

var section = authn.Section{Rule: abi.Rule{ID: "login", Line: "p.yaml:5"}, Require: true, Realm: "r", Secret: "users", Attempts: 10, Window: time.Minute}

func TestSectionRoundTrip(t *testing.T) {
	if got, err := authn.Decode(section.Encode()); err != nil || got != section {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestSectionDecodeRefuses(t *testing.T) {
	negative := section
	negative.Window = -1
	full := section.Encode()
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "a negative window": negative.Encode(),
		"a byte more": append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
	} {
		if got, err := authn.Decode(b); err == nil || got != (authn.Section{}) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(section.Encode())
	f.Add((&authn.Section{}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := authn.Decode(b)
		if err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
	})
}
