package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var b64 = base64.RawURLEncoding

// An idp signs tokens with a key of each algorithm, whose kid is its name.
type idp struct {
	ec *ecdsa.PrivateKey
	ed ed25519.PrivateKey
	rs *rsa.PrivateKey
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, err2 := ed25519.GenerateKey(rand.Reader)
	rs, err3 := rsa.GenerateKey(rand.Reader, 2048)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &idp{ec, ed, rs}
}

// jwks is the key set, without the keys that are left out.
func (i *idp) jwks(t *testing.T, without ...string) string {
	t.Helper()
	point, err := i.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, k := range []string{
		fmt.Sprintf(`{"kid": "ES256", "kty": "EC", "crv": "P-256", "x": %q, "y": %q}`, b64.EncodeToString(point[1:33]), b64.EncodeToString(point[33:])),
		fmt.Sprintf(`{"kid": "EdDSA", "kty": "OKP", "crv": "Ed25519", "x": %q}`, b64.EncodeToString(i.ed.Public().(ed25519.PublicKey))),
		fmt.Sprintf(`{"kid": "RS256", "kty": "RSA", "n": %q, "e": "AQAB"}`, b64.EncodeToString(i.rs.N.Bytes())),
	} {
		keep := true
		for _, w := range without {
			keep = keep && !strings.Contains(k, w)
		}
		if keep {
			list = append(list, k)
		}
	}
	return `{"keys": [` + strings.Join(list, ", ") + "]}\n"
}

// token is a good one of a teller, changed by what is given.
func (i *idp) token(t *testing.T, alg string, change map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": "https://idp.example", "aud": "payments", "sub": "spiffe://example/teller", "exp": time.Now().Unix() + 3600, "groups": []string{"tellers"}}
	for k, v := range change {
		claims[k] = v
	}
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed := b64.EncodeToString(fmt.Appendf(nil, `{"alg":%q,"kid":%[1]q,"typ":"JWT"}`, alg)) + "." + b64.EncodeToString(body)
	digest := sha256.Sum256([]byte(signed))
	var signature []byte
	switch alg {
	case "ES256":
		r, s, e := ecdsa.Sign(rand.Reader, i.ec, digest[:])
		if err = e; err == nil {
			signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case "EdDSA":
		signature = ed25519.Sign(i.ed, []byte(signed))
	case "RS256":
		signature, err = rsa.SignPKCS1v15(rand.Reader, i.rs, crypto.SHA256, digest[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	return bearer + signed + "." + b64.EncodeToString(signature)
}

// Tokens of every algorithm are verified in a sealed image, beside passwords; the
// groups of either count, and a key that is taken out no longer opens.
func TestTokens(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	policy := filepath.Join(dir, "policy.yaml")
	edit(t, policy, "    require: true\n", "    require: true\n    jwt: [{name: idp, issuer: \"https://idp.example\", audiences: [payments], jwks: secret/idp-jwks}]\n")
	edit(t, policy, "  secrets:\n", "  secrets:\n    idp-jwks: {file: ./jwks.json}\n")
	edit(t, policy, "groups: basic.groups", "groups: [jwt.groups, basic.groups]")
	keys := newIDP(t)
	write(t, filepath.Join(dir, "jwks.json"), keys.jwks(t))
	x, first := u.up(dir)
	addr := "127.0.0.1:" + port
	c := &client{addr: addr}
	defer c.close()
	transfer := func(user string) answer {
		t.Helper()
		a, err := c.do("POST", "/accounts/7/transfers", user, `{"to": "1", "amount": 5}`)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, alg := range []string{"ES256", "EdDSA", "RS256"} {
		token := keys.token(t, alg, nil)
		for range 2 { // the second is remembered
			if a := transfer(token); a.status != 201 || !strings.Contains(a.body, "spiffe://example/teller") {
				t.Errorf("%s: %d, %s", alg, a.status, a.body)
			}
		}
	}
	if a := transfer(teller); a.status != 201 {
		t.Errorf("a password beside them: %d", a.status)
	}
	if a := transfer(keys.token(t, "ES256", map[string]any{"groups": []string{"staff"}})); a.status != 403 {
		t.Errorf("another group: %d", a.status)
	}
	denied := func(when, user, rule string) {
		t.Helper()
		a := transfer(user)
		if d := x.find(a.decision); a.status != 401 || d.Decision != "Deny" || d.Stage != "authn" || d.Rule != rule || d.Line == "" {
			t.Errorf("%s: %d, %+v", when, a.status, d)
		}
	}
	denied("an expired token", keys.token(t, "ES256", map[string]any{"exp": time.Now().Unix() - 60}), "idp")
	denied("another audience", keys.token(t, "ES256", map[string]any{"aud": "ledger"}), "idp")
	denied("nobody", "", "default:authentication")
	a := transfer("")
	if got := a.header["Www-Authenticate"]; len(got) != 2 || !strings.HasPrefix(got[0], "Bearer ") || !strings.HasPrefix(got[1], "Basic ") {
		t.Errorf("challenges %q", got)
	}

	known := keys.token(t, "ES256", nil)
	if a := transfer(known); a.status != 201 {
		t.Fatal(a.status)
	}
	write(t, filepath.Join(dir, "jwks.json"), keys.jwks(t, "ES256"))
	if e := x.wait("applied"); e.Change != "program" || e.Status.ImageDigest != first.ImageDigest {
		t.Errorf("rotated keys were taken over by %s", e.Change)
	}
	denied("a remembered token whose key is gone", known, "idp")
	if a := transfer(keys.token(t, "EdDSA", nil)); a.status != 201 {
		t.Errorf("a key that stayed: %d", a.status)
	}
}
