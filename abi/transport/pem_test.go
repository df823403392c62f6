package transport_test

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/abi/transport/certtest"
)

func keyPEM(t testing.TB, kind string, key any) string {
	t.Helper()
	var der []byte
	var err error
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		if kind == "EC PRIVATE KEY" {
			der, err = x509.MarshalECPrivateKey(k)
		} else {
			der, err = x509.MarshalPKCS8PrivateKey(k)
		}
	case *rsa.PrivateKey:
		if kind == "RSA PRIVATE KEY" {
			der = x509.MarshalPKCS1PrivateKey(k)
		} else {
			der, err = x509.MarshalPKCS8PrivateKey(k)
		}
	default:
		der, err = x509.MarshalPKCS8PrivateKey(k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func curve(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0") // to make what must be refused
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeysOfEveryAcceptedKind(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	strong := rsaKey(t, 2048)
	parameters := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	for name, text := range map[string]string{
		"P-256": keyPEM(t, "PRIVATE KEY", curve(t, elliptic.P256())), "P-384": keyPEM(t, "PRIVATE KEY", curve(t, elliptic.P384())),
		"P-521":                keyPEM(t, "EC PRIVATE KEY", curve(t, elliptic.P521())),
		"Ed25519":              keyPEM(t, "PRIVATE KEY", ed),
		"RSA":                  keyPEM(t, "PRIVATE KEY", strong),
		"RSA of another form":  keyPEM(t, "RSA PRIVATE KEY", strong),
		"behind parameters":    parameters + keyPEM(t, "EC PRIVATE KEY", curve(t, elliptic.P256())),
		"behind an annotation": "Bag Attributes\n    friendlyName: x\n" + keyPEM(t, "PRIVATE KEY", ed),
		"without a last line":  strings.TrimSuffix(keyPEM(t, "PRIVATE KEY", ed), "\n"),
		"lines as in Windows":  strings.ReplaceAll(keyPEM(t, "PRIVATE KEY", ed), "\n", "\r\n"),
	} {
		if k, err := transport.ParseKey([]byte(text)); err != nil || k == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is wrong is said with its line and without a byte of the secret.
func TestBadKeysAreRefusedWithTheirLine(t *testing.T) {
	good := keyPEM(t, "PRIVATE KEY", curve(t, elliptic.P256()))
	lines := strings.Count(good, "\n")
	body := strings.Split(good, "\n")[1]
	certificate := string(certtest.New(t, "x").PEM)
	for name, c := range map[string]struct {
		text string
		line int
		says string
	}{
		"nothing":                 {"", 1, "no private key"},
		"text":                    {"hunter2\n", 1, "no private key"},
		"a certificate":           {certificate, 1, "no private key"},
		"two keys":                {good + good, lines + 1, "second block"},
		"a certificate behind":    {good + certificate, lines + 1, "second block"},
		"cut short":               {"# mine\n" + good[:len(good)-10], 2, "malformed"},
		"a BEGIN within":          {strings.Replace(good, body, "-----BEGIN PRIVATE KEY-----", 1), 1, "malformed"},
		"base64 that is none":     {strings.Replace(good, body, "?"+body, 1), 1, "malformed"},
		"an END alone":            {"\n\n-----END PRIVATE KEY-----\n", 3, "END without"},
		"bytes that are no key":   {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 1, "malformed"},
		"no bytes":                {"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", 1, "malformed"},
		"encrypted":               {strings.ReplaceAll(good, "PRIVATE", "ENCRYPTED PRIVATE"), 1, "passphrase"},
		"encrypted as of old":     {strings.Replace(good, "\n", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1), 1, "passphrase"},
		"RSA of 1024 bits":        {keyPEM(t, "PRIVATE KEY", rsaKey(t, 1024)), 1, "1024 bits"},
		"P-224":                   {keyPEM(t, "PRIVATE KEY", curve(t, elliptic.P224())), 1, "not supported"},
		"a key that cannot sign":  {keyPEM(t, "PRIVATE KEY", x25519(t)), 1, "cannot sign"},
		"more than is ever there": {strings.Repeat("x", transport.MaxPEM+1), 0, "limit"},
	} {
		_, err := transport.ParseKey([]byte(c.text))
		var pe *transport.PEMError
		if !errors.As(err, &pe) || pe.Line != c.line || !strings.Contains(pe.Message, c.says) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(err.Error(), body[:8]) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the message quotes the secret: %v", name, err)
		}
	}
}

func x25519(t testing.TB) any {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBadChainsAreRefusedWithTheirLine(t *testing.T) {
	root := certtest.New(t, "root")
	between := root.Under(t, "between", nil)
	other := certtest.New(t, "other")
	leaf := between.Server(t, nil)
	one := strings.Count(string(leaf.Chain), "\n")
	forClients := between.Client(t, "x", nil)
	weak := between.Issue(t, "x", curve(t, elliptic.P224()), func(*x509.Certificate) {})
	good := string(leaf.Chain) + string(between.PEM)
	if c, err := transport.ParseChain([]byte(good)); err != nil || len(c) != 2 {
		t.Fatalf("%d certificates, %v", len(c), err)
	}
	if _, err := transport.ParseChain([]byte("subject=x\n" + good + string(root.PEM))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		line int
		says string
	}{
		"nothing":            {"", 1, "no certificate"},
		"a key":              {string(leaf.Key), 1, "no certificate"},
		"its key behind it":  {string(leaf.Chain) + string(leaf.Key), one + 1, "no certificate"},
		"another's issuer":   {string(leaf.Chain) + string(other.PEM), one + 1, "did not issue"},
		"the wrong order":    {string(between.PEM) + string(leaf.Chain), strings.Count(string(between.PEM), "\n") + 1, "did not issue"},
		"bytes":              {"\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 2, "malformed"},
		"for clients":        {string(forClients.Chain), 1, "serverAuth"},
		"a key that is weak": {string(weak.Chain), 1, "not supported"},
		"too many":           {strings.Repeat(string(leaf.Chain), transport.MaxChain+1), transport.MaxChain*one + 1, "more than"},
	} {
		_, err := transport.ParseChain([]byte(c.text))
		var pe *transport.PEMError
		if !errors.As(err, &pe) || pe.Line != c.line || !strings.Contains(pe.Message, c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAKeyIsThatOfItsCertificate(t *testing.T) {
	ca := certtest.New(t, "ca")
	a, b := ca.Server(t, nil), ca.Server(t, nil)
	if _, err := transport.KeyPair(a.Chain, b.Key); !errors.Is(err, transport.ErrMismatch) {
		t.Errorf("%v", err)
	}
	pair, err := transport.KeyPair(a.Chain, a.Key)
	if err != nil || len(pair.Certificate) != 1 || pair.Leaf == nil {
		t.Errorf("%+v, %v", pair, err)
	}
	if _, err := transport.KeyPair(a.Chain, nil); err == nil || !strings.HasPrefix(err.Error(), "key: line 1") {
		t.Errorf("%v", err)
	}
}

func TestTrustIsOfCertificates(t *testing.T) {
	a, b := certtest.New(t, "a"), certtest.New(t, "b")
	if c, err := transport.ParseTrust([]byte(string(a.PEM) + string(b.PEM))); err != nil || len(c) != 2 {
		t.Errorf("%d, %v", len(c), err)
	}
	for _, text := range []string{"", "x", string(a.Server(t, nil).Key), string(a.PEM)[:100]} {
		if c, err := transport.ParseTrust([]byte(text)); err == nil || c != nil {
			t.Errorf("%q: %d certificates", text, len(c))
		}
	}
}

func FuzzPEM(f *testing.F) {
	ca := certtest.New(f, "ca")
	pair := ca.Server(f, nil)
	f.Add(pair.Chain, pair.Key)
	f.Add(append(pair.Chain, ca.PEM...), append([]byte("text\n"), pair.Key...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), []byte("-----BEGIN \n-----END"))
	f.Add([]byte("-----BEGIN A-----\n-----BEGIN A-----\nAAAA\n-----END A-----"), []byte("-----END"))
	f.Fuzz(func(t *testing.T, chain, key []byte) {
		pair, err := transport.KeyPair(chain, key)
		if err == nil && (len(pair.Certificate) == 0 || pair.Leaf == nil || pair.PrivateKey == nil) {
			t.Errorf("half a pair: %+v", pair)
		}
		for _, b := range [][]byte{chain, key} {
			lines := strings.Count(string(b), "\n") + 1
			_, err1 := transport.ParseChain(b)
			_, err2 := transport.ParseKey(b)
			_, err3 := transport.ParseTrust(b)
			for _, err := range []error{err1, err2, err3} {
				var pe *transport.PEMError
				if err != nil && (!errors.As(err, &pe) || pe.Line < 0 || pe.Line > lines) {
					t.Errorf("an error without its place: %v", err)
				}
			}
		}
	})
}
