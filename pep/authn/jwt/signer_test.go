package jwt_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
)

// A signer is an issuer's key, written for these tests alone.
type signer struct {
	alg string
	kid string
	key crypto.Signer
}

var b64 = base64.RawURLEncoding

func newES256(kid string) *signer {
	return &signer{"ES256", kid, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
}

func newEdDSA(kid string) *signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return &signer{"EdDSA", kid, must(key, err)}
}

// rsaKey is made once: it takes long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

func newRS256(kid string) *signer { return &signer{"RS256", kid, rsaKey()} }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jwk writes the public key as a member of a key set.
func (s *signer) jwk() string {
	kid := ""
	if s.kid != "" {
		kid = fmt.Sprintf(`, "kid": %q`, s.kid)
	}
	switch k := s.key.Public().(type) {
	case *ecdsa.PublicKey:
		p := must(k.Bytes())
		return fmt.Sprintf(`{"kty": "EC", "crv": "P-256", "x": %q, "y": %q%s}`, b64.EncodeToString(p[1:33]), b64.EncodeToString(p[33:]), kid)
	case ed25519.PublicKey:
		return fmt.Sprintf(`{"kty": "OKP", "crv": "Ed25519", "x": %q%s}`, b64.EncodeToString(k), kid)
	case *rsa.PublicKey:
		return fmt.Sprintf(`{"kty": "RSA", "n": %q, "e": "AQAB"%s}`, b64.EncodeToString(k.N.Bytes()), kid)
	}
	panic("unknown key")
}

func set(signers ...*signer) string {
	var list []string
	for _, s := range signers {
		list = append(list, s.jwk())
	}
	return `{"keys": [` + strings.Join(list, ",\n") + `]}`
}

// signature signs bytes as RFC 7518 and RFC 8037 say.
func (s *signer) signature(signed string) []byte {
	digest := sha256.Sum256([]byte(signed))
	switch k := s.key.(type) {
	case *ecdsa.PrivateKey:
		r, t, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			panic(err)
		}
		return append(fill(r), fill(t)...)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(signed))
	case *rsa.PrivateKey:
		return must(rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:]))
	}
	panic("unknown key")
}

func fill(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }

// raw signs a header and claims exactly as they are written.
func (s *signer) raw(header, claims string) string {
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	return signed + "." + b64.EncodeToString(s.signature(signed))
}

func (s *signer) header() string {
	if s.kid == "" {
		return fmt.Sprintf(`{"alg": %q}`, s.alg)
	}
	return fmt.Sprintf(`{"alg": %q, "kid": %q}`, s.alg, s.kid)
}

// claims are those of a good token, changed by what is given; nil takes one out.
func claims(change map[string]any) string {
	c := map[string]any{"iss": issuer, "aud": "payments", "sub": "ada", "exp": start.Unix() + 600, "iat": start.Unix()}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return string(must(json.Marshal(c)))
}

func (s *signer) token(change map[string]any) string { return s.raw(s.header(), claims(change)) }

func hs256(header, claims string, secret []byte) string {
	signed := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(signed))
	return signed + "." + b64.EncodeToString(m.Sum(nil))
}

func replaced(t testing.TB, s, old, new string) string {
	t.Helper()
	if !strings.Contains(s, old) {
		t.Fatalf("%q is not in %q", old, s)
	}
	return strings.Replace(s, old, new, 1)
}
