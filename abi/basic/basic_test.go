package basic_test

import (
	"bytes"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/basic"
)

var section = basic.Section{Rule: abi.Rule{ID: "login", Line: "p.yaml:5"}, Realm: "r", Secret: "users", Attempts: 10, Window: time.Minute}

func TestSectionRoundTrip(t *testing.T) {
	if got, err := basic.Decode(section.Encode()); err != nil || got != section {
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
		if got, err := basic.Decode(b); err == nil || got != (basic.Section{}) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(section.Encode())
	f.Add((&basic.Section{}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := basic.Decode(b)
		if err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
	})
}
