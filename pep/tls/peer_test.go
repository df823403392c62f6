package tls

import (
	"crypto/x509"
	"net/url"
	"testing"

	"lorica.dev/lorica/abi/mtls"
)

// A certificate names a workload as the policy reads such names, or is nobody's.
func FuzzPeer(f *testing.F) {
	for _, s := range []string{"spiffe://acme.internal/api", "spiffe://a", "SPIFFE://a/b", "spiffe://a/b?c", "spiffe:a/b", "spiffe://a/%62", "https://a/b", "spiffe://u@a/b"} {
		f.Add(s, "")
		f.Add(s, "https://a.example/")
	}
	f.Fuzz(func(t *testing.T, one, other string) {
		leaf := &x509.Certificate{}
		for _, s := range []string{one, other} {
			u, err := url.Parse(s) // as crypto/x509 reads it
			if err != nil {
				return
			}
			if s != "" {
				leaf.URIs = append(leaf.URIs, u)
			}
		}
		p, err := newPeer([][]*x509.Certificate{{}, {leaf}})
		if err != nil {
			if p != nil {
				t.Fatalf("%+v and %v", p, err)
			}
			return
		}
		if p.SPIFFE == "" {
			for _, u := range leaf.URIs {
				if u.Scheme == "spiffe" {
					t.Fatalf("%v is overlooked", u)
				}
			}
			return
		}
		if _, ok := mtls.TrustDomain(p.SPIFFE); !ok || len(leaf.URIs) != 1 || leaf.URIs[0].String() != p.SPIFFE {
			t.Fatalf("%q of %v", p.SPIFFE, leaf.URIs)
		}
	})
}
