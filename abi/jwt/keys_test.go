package jwt_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/jwt"
)

var b64 = base64.RawURLEncoding

// material are public keys, made once.
type material struct{ x, y, ed, n string }

func newMaterial(t testing.TB) material {
	t.Helper()
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ed, _, err2 := ed25519.GenerateKey(rand.Reader)
	rs, err3 := rsa.GenerateKey(rand.Reader, 2048)
	point, err4 := ec.PublicKey.Bytes()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return material{b64.EncodeToString(point[1:33]), b64.EncodeToString(point[33:]), b64.EncodeToString(ed), b64.EncodeToString(rs.N.Bytes())}
}

func (m material) es(more string) string {
	return fmt.Sprintf(`{"kty": "EC", "crv": "P-256", "x": %q, "y": %q%s}`, m.x, m.y, more)
}
func (m material) ed25519(more string) string {
	return fmt.Sprintf(`{"kty": "OKP", "crv": "Ed25519", "x": %q%s}`, m.ed, more)
}
func (m material) rs(more string) string {
	return fmt.Sprintf(`{"kty": "RSA", "n": %q, "e": "AQAB"%s}`, m.n, more)
}

func set(keys ...string) string { return "{\"keys\": [\n" + strings.Join(keys, ",\n") + "\n]}" }

func TestParseKeys(t *testing.T) {
	m := newMaterial(t)
	list, err := jwt.ParseKeys([]byte(set(
		m.es(`, "kid": "a", "alg": "ES256", "use": "sig"`), m.ed25519(`, "kid": "b", "alg": "Ed25519"`), m.rs(`, "kid": "c", "key_ops": ["verify"], "x5c": ["MII"], "x5t": "x"`), m.ed25519(""))))
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		id  string
		alg jwt.Algorithm
	}{{"a", jwt.ES256}, {"b", jwt.EdDSA}, {"c", jwt.RS256}, {"", jwt.EdDSA}}
	if len(list) != len(want) {
		t.Fatalf("got %+v", list)
	}
	for i, k := range list {
		if k.ID != want[i].id || k.Algorithm != want[i].alg || len(k.Material) == 0 {
			t.Errorf("key %d: %+v", i, k)
		}
	}
	if k, ok := list[0].Public.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		t.Errorf("%T", list[0].Public)
	}
	if k, ok := list[1].Public.(ed25519.PublicKey); !ok || b64.EncodeToString(k) != m.ed {
		t.Errorf("%T", list[1].Public)
	}
	if k, ok := list[2].Public.(*rsa.PublicKey); !ok || b64.EncodeToString(k.N.Bytes()) != m.n || k.E != 65537 {
		t.Errorf("%T", list[2].Public)
	}
}

func TestKeysForSomethingElseArePassedOver(t *testing.T) {
	m := newMaterial(t)
	others := []string{m.rs(`, "use": "enc"`), m.rs(`, "alg": "RSA-OAEP"`), m.rs(`, "alg": "RS512"`), m.es(`, "key_ops": ["sign", "deriveKey"]`), m.es(`, "alg": "ECDH-ES"`),
		`{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}`, `{"kty": "OKP", "crv": "X25519", "x": "AA"}`, `{"kty": "new"}`}
	list, err := jwt.ParseKeys([]byte(set(append(others, m.es(""))...)))
	if err != nil || len(list) != 1 || list[0].Algorithm != jwt.ES256 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := jwt.ParseKeys([]byte(set(others...))); err == nil || list != nil || !strings.Contains(err.Error(), "none of the 8 keys") {
		t.Errorf("nothing is left: %+v, %v", list, err)
	}
}

func TestBadKeySets(t *testing.T) {
	m := newMaterial(t)
	small := b64.EncodeToString(new(big.Int).SetBit(big.NewInt(1), 2046, 1).Bytes())
	large := b64.EncodeToString(new(big.Int).SetBit(big.NewInt(1), 8192, 1).Bytes())
	even := b64.EncodeToString(new(big.Int).SetBit(big.NewInt(0), 2047, 1).Bytes())
	rsaKey := func(n, e string) string { return fmt.Sprintf(`{"kty": "RSA", "n": %q, "e": %q}`, n, e) }
	for name, c := range map[string]struct{ doc, want string }{
		"nothing":                         {"", "line 1: not well-formed"},
		"no JSON":                         {"\n\nsecret-material", "line 3: not well-formed"},
		"one key, not a set":              {m.es(""), "not a key set"},
		"keys in an object":               {`{"keys": {}}`, "not a key set"},
		"no keys":                         {`{"keys": []}`, "none of the 0 keys"},
		"a key that is text":              {"{\"keys\": [\n\"secret-material\"]}", "line 2: a key must be an object"},
		"keys twice":                      {`{"keys": [], "keys": []}`, `a member "keys" twice`},
		"a member twice":                  {set(m.es(`, "kid": "a", "kid": "a"`)), `a member twice`},
		"a member in another case":        {set(m.es(`, "KID": "a"`)), `could be taken for "kid"`},
		"a private key of EC":             {set(m.ed25519(""), m.es(`, "d": "secret-material"`)), `line 3: the key holds a secret (member "d")`},
		"a private key of RSA":            {set(m.rs(`, "p": "secret-material"`)), `the key holds a secret (member "p")`},
		"a private key of something else": {set(m.es(""), `{"kty": "OKP", "crv": "X25519", "x": "AA", "d": "secret-material"}`), `line 3: the key holds a secret (member "d")`},
		"a shared secret":                 {set(m.es(""), `{"kty": "oct", "k": "secret-material", "alg": "HS256"}`), `the key holds a secret (member "k")`},
		"no type":                         {set(`{"crv": "P-256"}`), `"kty" is missing`},
		"a type that is a number":         {set(`{"kty": 1}`), `"kty" has the wrong JSON type`},
		"two keys of one kid":             {set(m.es(`, "kid": "a"`), m.ed25519(`, "kid": "a"`)), `line 3: two keys have the kid "a"`},
		"an empty kid":                    {set(m.es(`, "kid": ""`)), "a kid has 1 to 256 bytes"},
		"a long kid":                      {set(m.es(`, "kid": "` + strings.Repeat("k", 257) + `"`)), "a kid has 1 to 256 bytes"},
		"no y":                            {set(fmt.Sprintf(`{"kty": "EC", "crv": "P-256", "x": %q}`, m.x)), `"y" is missing`},
		"x with padding":                  {set(strings.Replace(m.es(""), m.x, m.x+"=", 1)), `"x" is not base64url`},
		"a short x":                       {set(strings.Replace(m.es(""), m.x, "AAAA", 1)), `"x" has 3 bytes, not 32`},
		"not on the curve":                {set(strings.Replace(m.es(""), m.y, m.x, 1)), "not a point of P-256"},
		"a point of zeros":                {set(fmt.Sprintf(`{"kty": "EC", "crv": "P-256", "x": %q, "y": %[1]q}`, b64.EncodeToString(make([]byte, 32)))), "not a point of P-256"},
		"a short Ed25519 key":             {set(strings.Replace(m.ed25519(""), m.ed, "AAAA", 1)), `"x" has 3 bytes, not 32`},
		"RSA of 2047 bits":                {set(rsaKey(small, "AQAB")), "an RSA key of 2047 bits"},
		"RSA of 8193 bits":                {set(rsaKey(large, "AQAB")), "an RSA key of 8193 bits"},
		"an even modulus":                 {set(rsaKey(even, "AQAB")), "not an odd number"},
		"a modulus with leading zeros":    {set(rsaKey("AAAA"+m.n, "AQAB")), "without leading zeros"},
		"the exponent 3":                  {set(rsaKey(m.n, "Aw")), "only the RSA exponent 65537"},
		"no exponent":                     {set(fmt.Sprintf(`{"kty": "RSA", "n": %q}`, m.n)), `"e" is missing`},
		"too large":                       {strings.Repeat(" ", jwt.MaxKeysSize+1), "the limit is 262144"},
		"too many":                        {set(strings.Split(strings.Repeat(m.es("")+"|", jwt.MaxKeys)+m.es(""), "|")...), "more than 64 keys"},
		"something behind it":             {set(m.es("")) + "\n{}", "line 4: not well-formed JSON: something follows"},
	} {
		list, err := jwt.ParseKeys([]byte(c.doc))
		var ke *jwt.KeysError
		if list != nil || !errors.As(err, &ke) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v; want %q", name, list, err, c.want)
			continue
		}
		if strings.Contains(err.Error(), "secret-material") {
			t.Errorf("%s: the error shows what a member holds: %v", name, err)
		}
	}
}

func TestDecodeSegment(t *testing.T) {
	for s, ok := range map[string]bool{"": true, "AA": true, "AAA": true, "AAAA": true, "_-8": true,
		"A": false, "AA==": false, "AB": false, "AAB": false, "A\nA": false, "AA\r": false, "+/8": false, " AA": false, "AA.": false} {
		if _, got := jwt.DecodeSegment([]byte(s)); got != ok {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// What is accepted keeps every bound, whatever was written.
func FuzzParseKeys(f *testing.F) {
	m := newMaterial(f)
	f.Add([]byte(set(m.es(`, "kid": "a"`), m.ed25519(`, "key_ops": ["verify"]`), m.rs(`, "use": "sig"`))))
	f.Add([]byte(set(m.es(`, "d": "AA"`))))
	f.Add([]byte(`{"keys": [{"kty": "oct", "k": "AA"}]}`))
	f.Add([]byte(`{"keys": [[[]]]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		list, err := jwt.ParseKeys(doc)
		if err != nil {
			var ke *jwt.KeysError
			if list != nil || !errors.As(err, &ke) || ke.Line < 1 {
				t.Fatalf("%v and %T", list, err)
			}
			return
		}
		if len(list) == 0 || len(list) > jwt.MaxKeys {
			t.Fatalf("%d keys", len(list))
		}
		for _, k := range list {
			ok := len(k.ID) <= jwt.MaxKeyID
			switch p := k.Public.(type) {
			case *ecdsa.PublicKey:
				ok = ok && k.Algorithm == jwt.ES256
			case ed25519.PublicKey:
				ok = ok && k.Algorithm == jwt.EdDSA && len(p) == ed25519.PublicKeySize
			case *rsa.PublicKey:
				ok = ok && k.Algorithm == jwt.RS256 && p.E == 65537 && p.N.BitLen() >= jwt.MinRSA && p.N.BitLen() <= jwt.MaxRSA
			default:
				ok = false
			}
			if !ok {
				t.Fatalf("%+v", k)
			}
		}
	})
}
