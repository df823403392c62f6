package keys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTheSigningKeyIsMadeOnceAndKeptPrivate(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var seen []string
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			k, err := Signing(dir)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			seen = append(seen, string(k))
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(slices.Compact(seen)) != 1 {
		t.Error("callers at the same moment got different keys")
	}
	path := filepath.Join(dir, "keys", "program-signing.pem")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "keys", ".new-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Signing(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	if err := os.WriteFile(path, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, 0o600)
	if _, err := Signing(dir); err == nil {
		t.Error("what is not a key was taken for one")
	}
}

// now is a moment that the tests agree on.
func now() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) }

func parsed(t *testing.T, chain []byte) *x509.Certificate {
	t.Helper()
	c, err := decodeCertificate(chain)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func roots(t *testing.T, d *Development, at time.Time) *x509.CertPool {
	t.Helper()
	path, err := d.Authority(at)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) || bytes.Contains(b, []byte("PRIVATE")) {
		t.Fatalf("what clients trust is %q", b)
	}
	return pool
}

func TestTheServerCertificateIsForLoopback(t *testing.T) {
	d := NewDevelopment(t.TempDir())
	chain, key, err := d.Server(now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		t.Fatal(err)
	}
	pool := roots(t, d, now())
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := parsed(t, chain).Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: now()}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, _, err := d.Server(now().Add(time.Hour)); err != nil || !bytes.Equal(chain, again) {
		t.Errorf("an hour later it is another one (%v)", err)
	}
	if later, _, err := d.Server(now().Add(certificateLife/2 + time.Minute)); err != nil || bytes.Equal(chain, later) {
		t.Errorf("past half of its life it is not made again (%v)", err)
	}
}

// Whoever were to trust the authority by mistake, or steal its key, gains nothing
// beyond loopback.
func TestTheAuthorityVouchesForLoopbackOnly(t *testing.T) {
	d := NewDevelopment(t.TempDir())
	pool := roots(t, d, now())
	a, err := d.authority("authority", now())
	if err != nil {
		t.Fatal(err)
	}
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for name, c := range map[string]*x509.Certificate{
		"bank.example": {DNSNames: []string{"bank.example"}, ExtKeyUsage: server},
		"192.0.2.1":    {IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, ExtKeyUsage: server},
		"2001:db8::1":  {IPAddresses: []net.IP{net.ParseIP("2001:db8::1")}, ExtKeyUsage: server},
	} {
		c.Subject = pkix.Name{CommonName: name}
		b, err := a.issue(c, now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsed(t, b).Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: now()}); err == nil {
			t.Errorf("%s was vouched for", name)
		}
	}
	if life := a.cert.NotAfter.Sub(a.cert.NotBefore); life > 8*24*time.Hour || !a.cert.PermittedDNSDomainsCritical || !a.cert.MaxPathLenZero {
		t.Errorf("it lives %v, critical %v, path %v", life, a.cert.PermittedDNSDomainsCritical, a.cert.MaxPathLenZero)
	}
}

func TestClientsAndServersHaveAuthoritiesOfTheirOwn(t *testing.T) {
	d := NewDevelopment(t.TempDir())
	b, err := d.ClientAuthority(now())
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(b)
	chain, key, err := d.Client("ada", "spiffe://localhost/ada", now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		t.Fatal(err)
	}
	c := parsed(t, chain)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := c.Verify(x509.VerifyOptions{Roots: clients, KeyUsages: usage, CurrentTime: now()}); err != nil {
		t.Error(err)
	}
	if c.Subject.CommonName != "ada" || len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://localhost/ada" {
		t.Errorf("%v %v", c.Subject, c.URIs)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots(t, d, now()), KeyUsages: usage, CurrentTime: now()}); err == nil {
		t.Error("the authority of servers vouches for a client")
	}
	if _, _, err := d.Client("ada", "https://localhost/ada", now()); err == nil {
		t.Error("a URI that is no SPIFFE ID was certified")
	}
}

func TestAnAuthorityIsMadeAgainBeforeItEnds(t *testing.T) {
	d := NewDevelopment(t.TempDir())
	first, err := d.authority("authority", now())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		same  bool
	}{{time.Hour, true}, {authorityLife - certificateLife - time.Minute, true}, {authorityLife - certificateLife + time.Minute, false}} {
		a, err := d.authority("authority", now().Add(c.after))
		if err != nil || a.cert.Equal(first.cert) != c.same {
			t.Errorf("after %v: %v", c.after, err)
		}
	}
}

// Processes that find an authority too old at the same moment go on with one: a
// server's certificate of another would be vouched for by nobody.
func TestOneAuthorityFollowsAnother(t *testing.T) {
	dir := t.TempDir()
	for life := range 5 {
		at := now().Add(time.Duration(life) * authorityLife)
		var mu sync.Mutex
		var seen []string
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				a, err := NewDevelopment(dir).authority("authority", at)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, string(a.cert.Raw))
			})
		}
		wg.Wait()
		slices.Sort(seen)
		if n := len(slices.Compact(seen)); n != 1 {
			t.Fatalf("life %d: %d authorities", life, n)
		}
	}
}

// What was at a path before does not read along, nor is it overwritten.
func TestWriteReplaces(t *testing.T) {
	dir := t.TempDir()
	other, path, open := filepath.Join(dir, "other"), filepath.Join(dir, "link"), filepath.Join(dir, "open")
	for _, p := range []string{other, open} {
		if err := os.WriteFile(p, []byte("before"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, path); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, open} {
		if err := Write(p, []byte("key")); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(p)
		if info, lerr := os.Lstat(p); err != nil || lerr != nil || string(b) != "key" || info.Mode() != 0o600 {
			t.Errorf("%s: %q, %v, %v", p, b, info.Mode(), errors.Join(err, lerr))
		}
	}
	if b, _ := os.ReadFile(other); string(b) != "before" {
		t.Error("it wrote through a link")
	}
	if err := Write(filepath.Join(dir, "none", "x"), nil); err == nil {
		t.Error("written to a folder that is not there")
	}
}

// A token verifies with the key that the set names, by the rules of RFC 7515.
func TestTokensVerifyWithTheSet(t *testing.T) {
	d := NewDevelopment(t.TempDir())
	token, err := d.Sign(Token{Issuer: "i", Audience: "a", Subject: "ada", Groups: []string{"staff"},
		Claims: map[string]any{"mfa": true, "sub": "somebody else"}, Life: time.Hour}, now())
	if err != nil {
		t.Fatal(err)
	}
	set, err := d.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var keys struct{ Keys []map[string]string }
	if err := json.Unmarshal(set, &keys); err != nil || len(keys.Keys) != 1 {
		t.Fatalf("%s: %v", set, err)
	}
	raw := func(s string) []byte {
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	number := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, raw(keys.Keys[0]["x"]), raw(keys.Keys[0]["y"])))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature := raw(parts[2])
	if len(signature) != 64 || !ecdsa.Verify(public, sum[:], number(signature[:32]), number(signature[32:])) {
		t.Error("the signature does not verify")
	}
	var head struct{ Alg, Kid string }
	var claims map[string]any
	if err := json.Unmarshal(raw(parts[0]), &head); err != nil || head.Alg != "ES256" || head.Kid != keys.Keys[0]["kid"] {
		t.Errorf("%+v, %v", head, err)
	}
	if err := json.Unmarshal(raw(parts[1]), &claims); err != nil || claims["sub"] != "ada" || claims["mfa"] != true || claims["exp"] != float64(now().Add(time.Hour).Unix()) {
		t.Errorf("%v, %v", claims, err)
	}
}
