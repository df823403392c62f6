package keys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Lives of what is made for development. A certificate is made again when half
// of its life is over.
const (
	authorityLife   = 7 * 24 * time.Hour
	certificateLife = 48 * time.Hour
	backdate        = 5 * time.Minute // for clocks that differ
)

// Development makes what a policy is tried with. Its methods may be called at
// once.
type Development struct{ dir string }

// NewDevelopment returns the Development that keeps its files below the user's
// data folder.
func NewDevelopment(data string) *Development {
	return &Development{dir: filepath.Join(data, "development")}
}

// Authority returns the path of the certificate that clients trust to reach an
// image with a development certificate: what curl takes as --cacert.
func (d *Development) Authority(now time.Time) (string, error) {
	a, err := d.authority("authority", now)
	if err != nil {
		return "", err
	}
	path := filepath.Join(d.dir, "authority-certificate.pem")
	want := certificatePEM(a.cert)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return path, nil
	}
	return path, Write(path, want)
}

// Server returns the chain and the key of a certificate for the names and
// addresses of loopback, in PEM.
func (d *Development) Server(now time.Time) (chain, key []byte, err error) {
	a, err := d.authority("authority", now)
	if err != nil {
		return nil, nil, err
	}
	good := func(b []byte) bool {
		c, err := decodeCertificate(b)
		return err == nil && c.CheckSignatureFrom(a.cert) == nil && fresh(c, now)
	}
	b, err := kept(filepath.Join(d.dir, "server.pem"), good, func() ([]byte, error) {
		return a.issue(&x509.Certificate{
			Subject:     pkix.Name{CommonName: "localhost"},
			DNSNames:    []string{"localhost"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, now)
	})
	if err != nil {
		return nil, nil, err
	}
	return split(b)
}

// ClientAuthority returns the certificate that vouches for development clients,
// in PEM: the trust bundle of an image.
func (d *Development) ClientAuthority(now time.Time) ([]byte, error) {
	a, err := d.authority("client-authority", now)
	if err != nil {
		return nil, err
	}
	return certificatePEM(a.cert), nil
}

// Client issues a client certificate, in PEM, for a common name and, where it
// is not empty, a SPIFFE ID.
func (d *Development) Client(name, spiffe string, now time.Time) (chain, key []byte, err error) {
	a, err := d.authority("client-authority", now)
	if err != nil {
		return nil, nil, err
	}
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if spiffe != "" {
		u, err := url.Parse(spiffe)
		if err != nil || u.Scheme != "spiffe" || u.Host == "" {
			return nil, nil, fmt.Errorf("%q is not a SPIFFE ID: write spiffe://trust.domain/name", spiffe)
		}
		c.URIs = []*url.URL{u}
	}
	b, err := a.issue(c, now)
	if err != nil {
		return nil, nil, err
	}
	return split(b)
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (d *Development) authority(name string, now time.Time) (*authority, error) {
	path := filepath.Join(d.dir, name+".pem")
	good := func(b []byte) bool {
		a, err := decodeAuthority(b)
		return err == nil && now.After(a.cert.NotBefore) && now.Add(certificateLife).Before(a.cert.NotAfter)
	}
	b, err := kept(path, good, func() ([]byte, error) { return newAuthority(name, now) })
	if err != nil {
		return nil, err
	}
	a, err := decodeAuthority(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

func newAuthority(name string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	usage := x509.ExtKeyUsageServerAuth
	if name == "client-authority" {
		usage = x509.ExtKeyUsageClientAuth
	}
	c := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Lorica development " + name, Organization: []string{"this machine only"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		// Should it be trusted by mistake, it still vouches for nobody else.
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{"localhost"},
		PermittedIPRanges: []*net.IPNet{
			{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
			{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
		},
	}
	return sign(c, c, key, key)
}

// issue signs a certificate for a new key.
func (a *authority) issue(c *x509.Certificate, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c.NotBefore, c.NotAfter = now.Add(-backdate), now.Add(certificateLife)
	c.KeyUsage = x509.KeyUsageDigitalSignature
	return sign(c, a.cert, key, a.key)
}

// sign returns the certificate and its private key, in PEM.
func sign(c, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	c.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	private, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}), private...), nil
}

// fresh reports whether more than half of a certificate's life is left.
func fresh(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotBefore) && now.Add(certificateLife/2).Before(c.NotAfter)
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})
}

func decodeCertificate(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemCertificate {
		return nil, errors.New("there is no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func decodeAuthority(b []byte) (*authority, error) {
	cert, err := decodeCertificate(b)
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(b)
	if err != nil {
		return nil, err
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key does not belong to the certificate")
	}
	return &authority{cert, private}, nil
}

// split takes the certificate and the key of one file apart.
func split(b []byte) (chain, key []byte, err error) {
	cert, rest := pem.Decode(b)
	if cert == nil {
		return nil, nil, errors.New("there is no certificate")
	}
	return pem.EncodeToMemory(cert), bytes.TrimLeft(rest, "\n"), nil
}
