// Package certtest makes certificates for the tests of everything that reads
// them. Nothing else may import it.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// An Authority issues certificates.
type Authority struct {
	Cert *x509.Certificate
	PEM  []byte
	key  crypto.Signer
}

// A Pair is a certificate and its key.
type Pair struct {
	Chain, Key []byte // PEM
	TLS        tls.Certificate
}

// NewKey returns an ECDSA key on P-256.
func NewKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}
}

// New returns an authority that trusts itself.
func New(t testing.TB, name string) *Authority {
	t.Helper()
	c := template(name)
	c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
	a := &Authority{key: NewKey(t)}
	a.sign(t, c, c, a.key)
	return a
}

// Under returns an authority that a vouches for. edit, if any, changes what is
// certified.
func (a *Authority) Under(t testing.TB, name string, edit func(*x509.Certificate)) *Authority {
	t.Helper()
	c := template(name)
	c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
	if edit != nil {
		edit(c)
	}
	b := &Authority{key: NewKey(t)}
	b.sign(t, c, a.Cert, a.key)
	return b
}

func (a *Authority) sign(t testing.TB, c, parent *x509.Certificate, key crypto.Signer) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, a.key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.Cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.PEM = encode("CERTIFICATE", der)
}

// Pool returns a pool with the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Cert)
	return p
}

// Server issues a certificate for localhost, 127.0.0.1 and ::1.
func (a *Authority) Server(t testing.TB, edit func(*x509.Certificate)) Pair {
	t.Helper()
	return a.Issue(t, "localhost", NewKey(t), func(c *x509.Certificate) {
		c.DNSNames = []string{"localhost"}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if edit != nil {
			edit(c)
		}
	})
}

// Client issues a certificate for a client.
func (a *Authority) Client(t testing.TB, name string, edit func(*x509.Certificate)) Pair {
	t.Helper()
	return a.Issue(t, name, NewKey(t), func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if edit != nil {
			edit(c)
		}
	})
}

// Issue certifies key.
func (a *Authority) Issue(t testing.TB, name string, key crypto.Signer, edit func(*x509.Certificate)) Pair {
	t.Helper()
	c := template(name)
	c.KeyUsage = x509.KeyUsageDigitalSignature
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, a.Cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{encode("CERTIFICATE", der), encode("PRIVATE KEY", raw),
		tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
