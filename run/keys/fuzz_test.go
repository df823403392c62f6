package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/pem"
	"slices"
	"testing"
	"time"
)

// A key file is a key that can be written and read again, or an error; so is the
// file of an authority, whose key belongs to its certificate.
func FuzzKeyFile(f *testing.F) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	key, err := encodeKey(private)
	if err != nil {
		f.Fatal(err)
	}
	authority, err := newAuthority("test", time.Unix(1_700_000_000, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key)
	f.Add(authority)
	other, err := newAuthority("other", time.Unix(1_700_000_000, 0))
	if err != nil {
		f.Fatal(err)
	}
	certificate, own := pem.Decode(authority)
	_, others := pem.Decode(other)
	f.Add(slices.Concat(pem.EncodeToMemory(certificate), others))
	f.Add(slices.Concat(pem.EncodeToMemory(certificate), []byte("\n\n"), own))
	f.Add(append(bytes.Clone(authority), key...))
	f.Add(append(bytes.Clone(key), authority...))
	f.Add(bytes.Replace(key, []byte("PRIVATE"), []byte("PUBLIC"), 2))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := decodeKey(b); err == nil {
			again, err := encodeKey(k)
			if !bytes.Contains(b, []byte("-----BEGIN PRIVATE KEY-----")) {
				t.Fatalf("%q holds a key", b)
			}
			if err != nil {
				t.Fatal(err)
			}
			twice, err := decodeKey(again)
			if same, ok := k.(interface{ Equal(crypto.PrivateKey) bool }); err != nil || !ok || !same.Equal(twice) {
				t.Fatalf("%T became %T (%v)", k, twice, err)
			}
		}
		if a, err := decodeAuthority(b); err == nil {
			if a.key.Curve == nil || !a.key.PublicKey.Equal(a.cert.PublicKey.(*ecdsa.PublicKey)) {
				t.Fatalf("%+v", a)
			}
			if a.key.Curve != elliptic.P256() {
				return
			}
			if _, err := newJWK(a.key); err != nil {
				t.Fatal(err)
			}
		}
		chain, key, err := split(b)
		if err != nil {
			return
		}
		if block, rest := pem.Decode(chain); block == nil || len(rest) > 0 || bytes.HasPrefix(key, []byte("\n")) || !bytes.HasSuffix(b, key) {
			t.Fatalf("%q and %q", chain, key)
		}
	})
}
