package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/internal/try"
)

// handshakes shows that nobody speaks to the image but over the TLS that the policy asks
// for.
func (v *verifier) handshakes(ctx context.Context, r *Result) {
	if len(v.doors) == 0 {
		r.Why = "no network rule lets a connection from this machine in"
		return
	}
	p := v.Deployment.Policy.TLS
	at := v.doors[0]
	base, err := v.config(nil)
	if err != nil {
		r.Why = err.Error()
		return
	}
	if p.Mode == transport.Mutual && v.people.clients {
		if l, err := v.connected(&login{}, "", ""); err == nil {
			base, _ = v.config(l)
		}
	}
	type attempt struct {
		how    string
		config *tls.Config
	}
	old := func(version uint16) *tls.Config {
		c := base.Clone()
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, version
		return c
	}
	list := []attempt{{"without TLS", nil}, {"with TLS 1.1", old(tls.VersionTLS11)}}
	if p.MinVersion != transport.TLS12 {
		list = append(list, attempt{"with TLS 1.2", old(tls.VersionTLS12)})
	}
	if p.Mode == transport.Mutual {
		c := base.Clone()
		c.Certificates = nil
		list = append(list, attempt{"without a client certificate", c})
	}
	if p.Mode.Clients() {
		if cert, err := selfSigned(); err == nil {
			c := base.Clone()
			// Whatever authorities the server names.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
			list = append(list, attempt{"with a client certificate that it signed itself", c})
		}
	}
	e := expectation{abi.Deny, abi.StageTLS, abi.Rule{ID: r.Rule, Line: r.Line}}
	for _, x := range list {
		t := Trial{Witness: "GET / " + x.how, Expected: e.String()}
		r.add(v.refused(ctx, t, e, at, func() (try.Answer, error) {
			return v.unserved(ctx, at, x.config)
		}))
	}
}

// unserved asks with a configuration that must not be served. That client and server find
// nothing in common is a refusal, whoever notices it first.
func (v *verifier) unserved(ctx context.Context, at door, config *tls.Config) (try.Answer, error) {
	a, err := try.Exchange(ctx, at.to.String(), at.from.String(), config, "GET", "GET / HTTP/1.1\r\nHost: "+at.to.String()+"\r\nConnection: close\r\n\r\n")
	if a.Status == 400 && a.Decision == "" && config == nil { // "this is HTTPS", not HTTP
		a.Status, a.Refused = 0, try.Handshake
	}
	return a, err
}

// selfSigned makes a certificate that nobody vouches for.
func selfSigned() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: nobody}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
