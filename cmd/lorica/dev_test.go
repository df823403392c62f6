package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const twoIssuers = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  default: {network: Allow}
  authentication:
    require: true
    jwt:
      - {name: staff, issuer: "https://staff.example", audiences: [shop], jwks: secret/dev, principal: email}
      - {name: partners, issuer: "https://partners.example", audiences: [shop], jwks: secret/dev}
      - {name: real, issuer: "https://real.example", audiences: [shop], jwks: secret/real}
  secrets: {dev: {development: jwks}, real: {file: ./jwks.json}}
  routes: [{name: all, match: {method: GET, path: "/{rest...}"}}]
  attributes: {groups: "jwt:/realm_access/roles"}
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity Route;
      action "call" appliesTo { principal: User, resource: Route };
    cedar: |
      @id("staff-read")
      permit (principal in Group::"staff", action, resource);
---
apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: shop, labels: {app: shop}}
spec:
  app: {static: {dir: ./public}}
  listen: [{name: web, port: 8080}]
`

// A token that the tool signs is one that the policy takes, or it is not signed.
func TestDevTokensAreThoseThatThePolicyTakes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_RUNTIME_DIR", "")
	for name, text := range map[string]string{"shop.yaml": twoIssuers, "public/index.html": "",
		"jwks.json": `{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`} {
		path := filepath.Join(dir, "docs", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token := func(words ...string) (map[string]any, int, string) {
		var out, failed strings.Builder
		line := append([]string{"dev", "token", "-f", filepath.Join(dir, "docs")}, words...)
		code := execute(context.Background(), line, strings.NewReader(""), &out, &failed)
		var claims map[string]any
		if parts := strings.Split(out.String(), "."); len(parts) == 3 {
			b, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err != nil || json.Unmarshal(b, &claims) != nil {
				t.Fatalf("%q", out.String())
			}
		}
		return claims, code, failed.String()
	}
	for _, name := range []string{"staff", "https://staff.example"} {
		c, code, said := token("ada", "--groups", "staff,ops", "--issuer", name)
		if code != 0 || c["iss"] != "https://staff.example" || c["email"] != "ada" || c["aud"] != "shop" ||
			!reflect.DeepEqual(c["realm_access"], map[string]any{"roles": []any{"staff", "ops"}}) {
			t.Errorf("%s: %v, %d, %s", name, c, code, said)
		}
	}
	if c, _, _ := token("ada", "--issuer", "staff", "--claim", "email=eve"); c["email"] != "eve" || c["sub"] != "ada" {
		t.Errorf("a claim that is written: %v", c)
	}
	for _, line := range []string{
		"ada --issuer nobody", "ada --issuer real", "a,da --issuer staff", "ada --issuer staff --groups anonymous", "ada --issuer staff --for 25h",
		"ada --issuer staff --claim sub=eve", `ada --issuer staff --claim amr=["mfa"`,
	} {
		if c, code, said := token(strings.Fields(line)...); code != exitUsage || c != nil || said == "" {
			t.Errorf("dev token %s: %v, %d, %q", line, c, code, said)
		}
	}
	if c, code, said := token("ada"); code == 0 || c != nil || !strings.Contains(said, "staff, partners") {
		t.Errorf("without an issuer: %v, %d, %q", c, code, said)
	}
	if code := execute(context.Background(), strings.Fields("dev client ada --spiffe spiffe://Acme/ada --out "+dir), strings.NewReader(""), io.Discard, io.Discard); code != exitUsage {
		t.Errorf("a SPIFFE ID that no policy takes: exit code %d", code)
	}
}
