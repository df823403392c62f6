package mtls_test

import (
	"lorica.dev/lorica/abi/authn"
	"net/http"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	wire "lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authn/mtls"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rule  = abi.Rule{ID: "mesh", Line: "p.yaml:9"}
)

func judge(t testing.TB, s wire.Section, p *pep.Peer, already string) (*pep.Exchange, pep.Decision) {
	t.Helper()
	s.Rule = rule
	st, err := mtls.New().Prepare(&pep.Input{Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	x := &pep.Exchange{Request: &http.Request{Header: http.Header{}}, Header: http.Header{}, Now: start, Peer: p, Principal: already}
	return x, st.Judge(x)
}

func TestWhoIsWho(t *testing.T) {
	end := start.Add(time.Hour)
	for name, c := range map[string]struct {
		section wire.Section
		peer    pep.Peer
		want    string // empty: refused
	}{
		"a SPIFFE ID":                      {wire.Section{Principal: wire.SPIFFE, TrustDomain: "acme.internal"}, pep.Peer{SPIFFE: "spiffe://acme.internal/ns/pay/sa/api"}, "spiffe://acme.internal/ns/pay/sa/api"},
		"of any trust domain":              {wire.Section{Principal: wire.SPIFFE}, pep.Peer{SPIFFE: "spiffe://other/x"}, "spiffe://other/x"},
		"of another trust domain":          {wire.Section{Principal: wire.SPIFFE, TrustDomain: "acme.internal"}, pep.Peer{SPIFFE: "spiffe://acme.internal.evil/x"}, ""},
		"of a domain that only ends alike": {wire.Section{Principal: wire.SPIFFE, TrustDomain: "acme.internal"}, pep.Peer{SPIFFE: "spiffe://evil/acme.internal/x"}, ""},
		"of a signer":                      {wire.Section{Principal: wire.SPIFFE}, pep.Peer{SPIFFE: "spiffe://acme.internal"}, ""},
		"with a dot segment":               {wire.Section{Principal: wire.SPIFFE}, pep.Peer{SPIFFE: "spiffe://acme.internal/a/../b"}, ""},
		"none, but a DNS name":             {wire.Section{Principal: wire.SPIFFE}, pep.Peer{DNS: []string{"a.example"}, Subject: "spiffe://acme.internal/x"}, ""},
		"too long for a principal":         {wire.Section{Principal: wire.SPIFFE}, pep.Peer{SPIFFE: "spiffe://a/" + strings.Repeat("x", 250)}, ""},
		"the first DNS name":               {wire.Section{Principal: wire.DNS}, pep.Peer{DNS: []string{"a.example", "b.example"}}, "a.example"},
		"a wildcard":                       {wire.Section{Principal: wire.DNS}, pep.Peer{DNS: []string{"*.example", "b.example"}}, ""},
		"no DNS name":                      {wire.Section{Principal: wire.DNS}, pep.Peer{Subject: "a.example"}, ""},
		"the subject":                      {wire.Section{Principal: wire.Subject}, pep.Peer{Subject: "staff-3"}, "staff-3"},
		"a subject with a comma":           {wire.Section{Principal: wire.Subject}, pep.Peer{Subject: "staff,admin"}, ""},
		"anonymous by name":                {wire.Section{Principal: wire.Subject}, pep.Peer{Subject: "anonymous"}, ""},
		"no subject":                       {wire.Section{Principal: wire.Subject}, pep.Peer{SPIFFE: "spiffe://a/b"}, ""},
	} {
		c.peer.NotAfter = end
		x, d := judge(t, c.section, &c.peer, "")
		if (d.Verdict == abi.Allow) != (c.want != "") || x.Principal != c.want || d.Rule != rule || d.Stage != abi.StageAuthn {
			t.Errorf("%s: %+v, %q", name, d, x.Principal)
		}
		if c.want != "" && !x.Expires.Equal(end) || c.want == "" && (d.Reason == "" || d.Status != 403) {
			t.Errorf("%s: %+v until %v", name, d, x.Expires)
		}
	}
}

func TestACertificateEnds(t *testing.T) {
	s := wire.Section{Principal: wire.Subject}
	if _, d := judge(t, s, &pep.Peer{Subject: "ada", NotAfter: start.Add(1)}, ""); d.Verdict != abi.Allow {
		t.Errorf("just before: %+v", d)
	}
	if x, d := judge(t, s, &pep.Peer{Subject: "ada", NotAfter: start}, ""); d.Verdict != abi.Deny || x.Principal != "" {
		t.Errorf("at the end: %+v", d)
	}
}

func TestTheNearerCredentialWins(t *testing.T) {
	s := wire.Section{Principal: wire.SPIFFE}
	if x, d := judge(t, s, &pep.Peer{SPIFFE: "spiffe://a/b", NotAfter: start.Add(time.Hour)}, "ada"); d.Verdict != abi.Allow || x.Principal != "ada" || d.Rule != (abi.Rule{}) {
		t.Errorf("a principal is there: %+v, %q", d, x.Principal)
	}
	if x, d := judge(t, s, nil, ""); d.Verdict != abi.Allow || x.Principal != "" || d.Rule != (abi.Rule{}) {
		t.Errorf("no certificate: %+v, %q", d, x.Principal)
	}
}

func TestPrepareFailsClosed(t *testing.T) {
	for name, b := range map[string][]byte{"no section": nil, "malformed": {1}, "zero bytes": make([]byte, 13)} {
		if st, err := mtls.New().Prepare(&pep.Input{Section: b}); err == nil || st != nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Whatever a certificate says, it names one principal in a form that all agree on,
// of the trust domain that is asked for, or nobody.
func FuzzJudge(f *testing.F) {
	f.Add(uint8(1), "acme.internal", "spiffe://acme.internal/api", "a.example", "ada")
	f.Add(uint8(1), "", "spiffe://other/x", "", "")
	f.Add(uint8(1), "acme.internal", "spiffe://acme.internal.evil/api", "", "")
	f.Add(uint8(2), "", "", "*.example", "")
	f.Add(uint8(3), "", "", "", "a,b")
	f.Add(uint8(3), "", "", "", "anonymous")
	f.Fuzz(func(t *testing.T, kind uint8, domain, spiffe, dns, subject string) {
		s := wire.Section{Rule: rule, Principal: wire.Principal(kind), TrustDomain: domain}
		st, err := mtls.New().Prepare(&pep.Input{Section: s.Encode()})
		if err != nil {
			return
		}
		p := &pep.Peer{SPIFFE: spiffe, DNS: []string{dns}, Subject: subject, NotAfter: start.Add(time.Hour)}
		x := &pep.Exchange{Request: &http.Request{Header: http.Header{}}, Header: http.Header{}, Now: start, Peer: p}
		d := st.Judge(x)
		if d.Verdict != abi.Allow {
			if x.Principal != "" || d.Reason == "" || d.Rule != rule {
				t.Fatalf("%+v as %q", d, x.Principal)
			}
			return
		}
		want := map[wire.Principal]string{wire.SPIFFE: spiffe, wire.DNS: dns, wire.Subject: subject}[s.Principal]
		if x.Principal != want || !authn.ValidPrincipal(want) || x.Principal == authn.Anonymous || !x.Expires.Equal(p.NotAfter) {
			t.Fatalf("%+v is %q", p, x.Principal)
		}
		if s.Principal == wire.SPIFFE && domain != "" && !strings.HasPrefix(want, "spiffe://"+domain+"/") {
			t.Fatalf("%q is not of %q", want, domain)
		}
	})
}
