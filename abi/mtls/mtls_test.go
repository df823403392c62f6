package mtls_test

import (
	"bytes"
	"net/url"
	"path"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/mtls"
)

var section = mtls.Section{Rule: abi.Rule{ID: "mesh", Line: "p.yaml:5"}, Principal: mtls.SPIFFE, TrustDomain: "acme.internal"}

func TestSectionRoundTrip(t *testing.T) {
	if got, err := mtls.Decode(section.Encode()); err != nil || got != section {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestSectionDecodeRefuses(t *testing.T) {
	full := section.Encode()
	encode := func(p mtls.Principal, domain string) []byte {
		return (&mtls.Section{Principal: p, TrustDomain: domain}).Encode()
	}
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "a byte more": append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
		"zero bytes": make([]byte, 13), "an unknown principal": encode(4, ""), "a trust domain of DNS names": encode(mtls.DNS, "a"),
		"capitals": encode(mtls.SPIFFE, "Acme"), "a path": encode(mtls.SPIFFE, "acme/x"),
	} {
		if got, err := mtls.Decode(b); err == nil || got != (mtls.Section{}) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func TestTrustDomain(t *testing.T) {
	for id, want := range map[string]string{
		"spiffe://acme.internal/ns/a/sa/b": "acme.internal", "spiffe://a_b-c.1/X": "a_b-c.1", "spiffe://a/.a": "a",
		"": "", "spiffe://a": "", "spiffe://a/": "", "spiffe://a/b/": "", "spiffe://a//b": "", "spiffe:///b": "", "SPIFFE://a/b": "", "https://a/b": "",
		"spiffe://A/b": "", "spiffe://a:1/b": "", "spiffe://u@a/b": "", "spiffe://a/b?c": "", "spiffe://a/b#c": "", "spiffe://a/%41": "", "spiffe://a/./b": "",
		"spiffe://a/../b": "", "spiffe://a/b c": "", "spiffe://" + strings.Repeat("a", 256) + "/b": "",
	} {
		if got, ok := mtls.TrustDomain(id); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", id, got, ok)
		}
	}
}

func TestNamesOfPrincipals(t *testing.T) {
	for _, n := range mtls.PrincipalNames() {
		if p, ok := mtls.ParsePrincipal(n); !ok || p.String() != n {
			t.Errorf("%s: %v, %v", n, p, ok)
		}
	}
	if _, ok := mtls.ParsePrincipal(""); ok {
		t.Error("the empty name is one")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(section.Encode())
	f.Add(make([]byte, 13))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := mtls.Decode(b)
		if err == nil && (!bytes.Equal(s.Encode(), b) || s.Principal == 0) {
			t.Fatal("two encodings of one section, or no principal")
		}
	})
}

// A name that is taken is a URI that says nothing but who it is, and the same to
// every reader.
func FuzzTrustDomain(f *testing.F) {
	for _, s := range []string{"spiffe://acme.internal/ns/pay/sa/api", "spiffe://a/b", "spiffe://a", "spiffe://a/../b", "spiffe://a/%41", "spiffe://u@a/b", "SPIFFE://a/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		domain, ok := mtls.TrustDomain(id)
		if !ok {
			if domain != "" {
				t.Fatalf("%q is refused and has the domain %q", id, domain)
			}
			return
		}
		u, err := url.Parse(id)
		if err != nil || u.Scheme != "spiffe" || u.Host != domain || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.String() != id || path.Clean(u.Path) != u.Path || len(u.Path) < 2 {
			t.Fatalf("%q of %q is read as %+v (%v)", id, domain, u, err)
		}
	})
}
