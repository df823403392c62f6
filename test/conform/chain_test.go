package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/pep"
	pepauthn "lorica.dev/lorica/pep/authn"
	pepbasic "lorica.dev/lorica/pep/authn/basic"
	"lorica.dev/lorica/pep/authn/basic/argon2id"
	pepjwt "lorica.dev/lorica/pep/authn/jwt"
	pepauthz "lorica.dev/lorica/pep/authz"
	"lorica.dev/lorica/pep/filter"
	"lorica.dev/lorica/pep/obligations"
	"lorica.dev/lorica/pep/principallimit"
	"lorica.dev/lorica/pep/sourcelimit"
	"lorica.dev/lorica/policy"
)

// chain runs a request through the guards that the policy asks for, as the image
// of the level would.
func chain(t testing.TB, d *policy.Deployment, secrets map[string][]byte) pep.Chain {
	t.Helper()
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	p := out.Levels[0].Program(d, program.PlanID{}, 1)
	var list pep.Chain
	for _, m := range []struct {
		section string
		guard   pep.Guard
	}{{obligation.Name, obligations.New()}, {route.Name, filter.New()}, {limit.SourceName, sourcelimit.New()}, {jwt.Name, pepjwt.New()}, {basic.Name, pepbasic.New(argon2id.New())},
		{authn.Name, pepauthn.New()}, {limit.PrincipalName, principallimit.New()}, {authz.Name, pepauthz.New()}} {
		if p.Section(m.section) == nil {
			continue
		}
		s, err := m.guard.Prepare(&pep.Input{Level: "normal", Levels: p.Levels, Section: p.Section(m.section), Secrets: secrets})
		if err != nil {
			t.Fatalf("%s: %v", m.section, err)
		}
		list = append(list, pep.Link{Stage: m.section, Guard: s})
	}
	return list
}

// whole is a policy with everything on the way of a request.
func whole(policies int) string {
	var w strings.Builder
	w.WriteString(head + `  default: {network: Allow}
  authentication:
    require: true
    jwt: [{name: idp, issuer: "https://idp", audiences: [w], jwks: secret/keys}]
  secrets: {keys: {file: jwks.json}}
  routes: [{name: pay, group: all, match: {method: GET, path: "/accounts/{id}"}}]
  attributes: {id: route.id, groups: jwt.groups}
  rateLimits:
    - {name: per-source, key: source, requests: 1000000, per: 1s}
    - {name: per-user, key: principal, requests: 1000000, per: 1s}
  obligations:
    - {name: guessing, on: any.deny, count: 1000, window: 1m, do: [blockSource], for: 1m}
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity RouteGroup;
      entity Route in [RouteGroup];
      action "call" appliesTo { principal: User, resource: Route, context: { id: String } };
    cedar: |
`)
	for i := range policies {
		fmt.Fprintf(&w, "      @id(\"p%d\") permit (principal in Group::\"g%d\", action, resource in RouteGroup::\"all\") unless { context.id == \"x%d\" };\n", i, i, i)
	}
	return w.String()
}

// BenchmarkChain measures every guard of a request together, under 1,000 Cedar
// policies: with requests for another path each, and with one that repeats on its
// connection.
func BenchmarkChain(b *testing.B) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	b64 := base64.RawURLEncoding
	dir := b.TempDir()
	set := fmt.Appendf(nil, `{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": %q}]}`, b64.EncodeToString(public))
	if err := os.WriteFile(filepath.Join(dir, "jwks.json"), set, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "public"), 0o755); err != nil {
		b.Fatal(err)
	}
	bundle, err := policy.Parse([]policy.File{{Name: "policy.yaml", Data: []byte(whole(1000)), Dir: dir}})
	if err != nil {
		b.Fatal(err)
	}
	guards := chain(b, bundle.Deployments[0], map[string][]byte{"keys": set})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	claims := must(json.Marshal(map[string]any{"iss": "https://idp", "aud": "w", "sub": "ada", "exp": now.Unix() + 600, "groups": []string{"g7"}}))
	signed := b64.EncodeToString([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + b64.EncodeToString(claims)
	bearer := []string{"Bearer " + signed + "." + b64.EncodeToString(ed25519.Sign(private, []byte(signed)))}
	from := flow.Flow{Src: netip.MustParseAddr("127.0.0.1"), DstPort: 8080, Protocol: flow.TCP}

	r := must(http.NewRequest("GET", "http://w/", nil))
	r.Header["User-Agent"], r.Header["Accept"] = []string{"a client"}, []string{"*/*"}
	header := http.Header{}
	at, n := now, 0
	x := new(pep.Exchange) // what the server makes for a request is not the chain's
	ask := func(target string) {
		// What the server would hand over: the chain takes away and rewrites.
		r.RequestURI, r.Header["Authorization"] = target, bearer
		if n++; n%1000 == 0 {
			at = at.Add(time.Millisecond) // so that no limit is reached
		}
		*x = pep.Exchange{Request: r, Header: header, Flow: from, Now: at}
	}
	b.Run("new", func(b *testing.B) {
		targets := make([]string, 10_000)
		for i := range targets {
			targets[i] = fmt.Sprintf("/accounts/%d", i)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			ask(targets[i%len(targets)])
			if d := guards.Judge(x); d.Verdict != abi.Allow {
				b.Fatalf("denied by %s: %s", d.Rule.ID, d.Reason)
			}
		}
	})
	b.Run("remembered", func(b *testing.B) {
		ask("/accounts/1")
		d, judged := guards.Learn(x)
		if d.Verdict != abi.Allow || judged == nil {
			b.Fatalf("%+v", d)
		}
		b.ReportAllocs()
		for b.Loop() {
			if n++; n%1000 == 0 {
				at = at.Add(time.Millisecond)
			}
			*x = pep.Exchange{Request: r, Header: header, Flow: from, Now: at}
			if d, ok := guards.Again(x, judged); !ok || d.Verdict != abi.Allow {
				b.Fatalf("denied by %s: %s", d.Rule.ID, d.Reason)
			}
		}
	})
}
