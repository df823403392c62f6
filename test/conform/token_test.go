package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/policy"
)

// tokens is a policy about what a token says, beside a user list.
const tokens = head + `  default: {network: Allow}
  authentication:
    require: false
    jwt: [{name: idp, issuer: "https://idp", audiences: [w], jwks: secret/keys}]
    basic: {name: login, users: secret/users}
  secrets: {keys: {file: jwks.json}, users: {file: users.txt}}
  routes: [{name: get, match: {method: GET, path: /}}]
  attributes:
    plan: jwt.plan
    limit: "jwt:/limits/daily"
    mfa: 'jwt.amr has "mfa"'
    groups: ["jwt:/realm/roles", basic.groups]
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity Route;
      action "call" appliesTo { principal: User, resource: Route, context: { plan: String, limit?: Long, mfa?: Bool } };
    cedar: |
      @id("staff-with-mfa")
      permit (principal in Group::"staff", action, resource) when { context has mfa && context.mfa };
      @id("gold")
      permit (principal, action, resource) when { context.plan == "gold" && context has limit && context.limit > 100 };
`

// amrs are claims, and whether they say mfa.
var amrs = []struct {
	claim any
	mfa   bool
}{{nil, false}, {"mfa", true}, {"pwd", false}, {[]string{"pwd", "mfa"}, true}, {[]string{}, false}, {[]string{"mfa2"}, false}}

func TestTokensAreJudgedAsTheReferenceSays(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding
	secrets := map[string][]byte{
		"keys":  fmt.Appendf(nil, `{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": %q}]}`, b64.EncodeToString(public)),
		"users": must(os.ReadFile("testdata/users.txt")),
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"jwks.json": secrets["keys"], "users.txt": secrets["users"]} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "public"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := policy.Parse([]policy.File{{Name: "policy.yaml", Data: []byte(tokens), Dir: dir}})
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	guards := chain(t, d, secrets)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sign := func(claims map[string]any) string {
		signed := b64.EncodeToString([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + b64.EncodeToString(must(json.Marshal(claims)))
		return signed + "." + b64.EncodeToString(ed25519.Sign(private, []byte(signed)))
	}
	g, seen := seeded(3), map[string]int{}
	for range 3000 {
		claims := map[string]any{"iss": "https://idp", "aud": "w", "sub": "ada", "exp": now.Unix() + 60}
		c := policy.Call{Principal: "ada", Route: "get", Context: map[string]cedar.Value{}}
		if plan := pick(g, "", "gold", "tin"); plan != "" {
			claims["plan"], c.Context["plan"] = plan, cedar.String(plan)
		}
		if limit := pick(g, 0, 100, 101); limit > 0 {
			claims["limits"], c.Context["limit"] = map[string]any{"daily": limit}, cedar.Long(limit)
		}
		amr := pick(g, amrs...)
		if c.Context["mfa"] = cedar.Boolean(amr.mfa); amr.claim != nil {
			claims["amr"] = amr.claim
		}
		if roles := pick(g, nil, []string{"staff"}, []string{"b", "staff", "b"}, []string{"x"}); roles != nil {
			claims["realm"], c.Groups = map[string]any{"roles": roles}, roles
		}
		r := must(http.NewRequest("GET", "/", nil))
		r.Host, r.RequestURI = "w", "/"
		if g.IntN(5) > 0 {
			r.Header.Set("Authorization", "Bearer "+sign(claims))
		} else {
			c = policy.Call{Principal: authn.Anonymous, Route: "get"}
		}
		want := d.Authorize(c)
		got := guards.Judge(&pep.Exchange{Request: r, Header: http.Header{}, Now: now})
		if got.Verdict != want.Verdict || got.Rule != want.Rule {
			t.Fatalf("%v: the image says %s by %v (%s), the reference %s by %v (%s)", claims, got.Verdict, got.Rule, got.Reason, want.Verdict, want.Rule, want.Reason)
		}
		seen[got.Rule.ID]++
	}
	for _, rule := range []string{"staff-with-mfa", "gold", abi.RuleAuthz, abi.RuleAttribute} {
		if seen[rule] == 0 {
			t.Errorf("rule %s never decided: %v", rule, seen)
		}
	}
	t.Log(seen)
}
