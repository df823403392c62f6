package authn_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
)

var section = authn.Section{Rule: abi.Rule{ID: abi.RuleAuthn, Line: "p.yaml:5"}, Optional: true, Challenges: []string{`Basic realm="r"`}}

func TestSectionRoundTrip(t *testing.T) {
	if got, err := authn.Decode(section.Encode()); err != nil || !reflect.DeepEqual(got, section) {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestSectionDecodeRefuses(t *testing.T) {
	with := func(c ...string) []byte { return (&authn.Section{Challenges: c}).Encode() }
	full := section.Encode()
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "a byte more": append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
		"an empty challenge": with(""), "a line break": with("Basic\r\nX: y"), "beyond ASCII": with("Basic é"),
		"a long challenge": with(strings.Repeat("x", authn.MaxChallenge+1)), "too many": with(strings.Split(strings.Repeat("x", authn.MaxChallenges+1), "")...),
	} {
		if got, err := authn.Decode(b); err == nil || !reflect.DeepEqual(got, authn.Section{}) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func TestZeroBytesRequireCredentials(t *testing.T) {
	if s, err := authn.Decode(make([]byte, 13)); err != nil || s.Optional {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestValidPrincipal(t *testing.T) {
	for name, want := range map[string]bool{
		"ada": true, "spiffe://acme.internal/ns/payments/sa/api": true, "ada@example.org": true, "a": true, "auth0|5f": true, "Anonymous": true,
		strings.Repeat("a", authn.MaxPrincipal): true,
		"":                                      false, authn.Anonymous: false, "a b": false, "a,b": false, `a"b`: false, `a\b`: false, "a\nb": false, "a\x7f": false, "ä": false, "\x00": false,
		strings.Repeat("a", authn.MaxPrincipal+1): false,
	} {
		if authn.ValidPrincipal(name) != want {
			t.Errorf("%.40q: want %v", name, want)
		}
	}
}

func TestChallengesQuoteTheRealm(t *testing.T) {
	if got := authn.Challenge("Basic", `a "b" \c`, `charset="UTF-8"`); got != `Basic realm="a \"b\" \\c", charset="UTF-8"` {
		t.Error(got)
	}
	if got := authn.Challenge("Bearer", "r", ""); got != `Bearer realm="r"` {
		t.Error(got)
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
