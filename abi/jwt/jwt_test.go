package jwt_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/jwt"
)

func section() jwt.Section {
	return jwt.Section{Realm: "payments", Groups: "/realm_access/roles", Issuers: []jwt.Issuer{
		{Rule: abi.Rule{ID: "idp", Line: "p.yaml:5"}, Issuer: "https://idp", Audiences: []string{"a", "b"}, Keys: "idp-jwks", Algorithms: jwt.Of(jwt.ES256) | jwt.Of(jwt.RS256), Principal: "sub", Leeway: 30 * time.Second},
		{Rule: abi.Rule{ID: "partner", Line: "p.yaml:6"}, Issuer: "https://partner", Audiences: []string{"a"}, Keys: "partner", Algorithms: jwt.AllAlgorithms, Principal: "email"},
	}}
}

func TestSectionRoundTrip(t *testing.T) {
	s := section()
	if got, err := jwt.Decode(s.Encode()); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestSectionDecodeRefuses(t *testing.T) {
	s := section()
	full := s.Encode()
	change := func(f func(*jwt.Section)) []byte {
		s := section()
		f(&s)
		return s.Encode()
	}
	issuer := func(f func(*jwt.Issuer)) []byte { return change(func(s *jwt.Section) { f(&s.Issuers[0]) }) }
	long := strings.Repeat("x", jwt.MaxText+1)
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "zero bytes": make([]byte, 12), "a byte more": append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
		"no issuer":                change(func(s *jwt.Section) { s.Issuers = nil }),
		"too many issuers":         change(func(s *jwt.Section) { s.Issuers = make([]jwt.Issuer, jwt.MaxIssuers+1) }),
		"one issuer twice":         change(func(s *jwt.Section) { s.Issuers[1].Issuer = s.Issuers[0].Issuer }),
		"a realm with a line":      change(func(s *jwt.Section) { s.Realm = "a\r\nb" }),
		"groups that no pointer":   change(func(s *jwt.Section) { s.Groups = "groups" }),
		"an issuer without a name": issuer(func(i *jwt.Issuer) { i.Issuer = "" }),
		"a long issuer":            issuer(func(i *jwt.Issuer) { i.Issuer = long }),
		"no audience":              issuer(func(i *jwt.Issuer) { i.Audiences = nil }),
		"an empty audience":        issuer(func(i *jwt.Issuer) { i.Audiences = []string{""} }),
		"too many audiences":       issuer(func(i *jwt.Issuer) { i.Audiences = make([]string, jwt.MaxAudiences+1) }),
		"no keys":                  issuer(func(i *jwt.Issuer) { i.Keys = "" }),
		"no principal":             issuer(func(i *jwt.Issuer) { i.Principal = "" }),
		"no algorithm":             issuer(func(i *jwt.Issuer) { i.Algorithms = 0 }),
		"an unknown algorithm":     issuer(func(i *jwt.Issuer) { i.Algorithms = 8 }),
		"a negative leeway":        issuer(func(i *jwt.Issuer) { i.Leeway = -time.Second }),
		"a long leeway":            issuer(func(i *jwt.Issuer) { i.Leeway = jwt.MaxLeeway + time.Second }),
		"a leeway with fractions":  issuer(func(i *jwt.Issuer) { i.Leeway = 1500 * time.Millisecond }),
	} {
		if got, err := jwt.Decode(b); err == nil || !reflect.DeepEqual(got, jwt.Section{}) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	for _, n := range jwt.AlgorithmNames() {
		a, ok := jwt.ParseAlgorithm(n)
		if !ok || a.String() != n || !jwt.AllAlgorithms.Has(a) || jwt.Algorithms(0).Has(a) {
			t.Errorf("%s: %v, %v", n, a, ok)
		}
	}
	for _, n := range []string{"", "none", "None", "HS256", "es256", "ES384", "RS512", "PS256"} {
		if a, ok := jwt.ParseAlgorithm(n); ok || a != 0 || jwt.AllAlgorithms.Has(a) {
			t.Errorf("%q is an algorithm", n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s := section()
	f.Add(s.Encode())
	f.Add(make([]byte, 12))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := jwt.Decode(b)
		if err == nil && (!bytes.Equal(s.Encode(), b) || len(s.Issuers) == 0) {
			t.Fatal("two encodings of one section, or no issuer")
		}
	})
}
