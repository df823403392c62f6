package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lorica.dev/lorica/policy"
)

// The examples of docs/policy.md, put together, are a workload and a policy
// that check accepts; so is each example that is complete by itself.
func TestTheExamplesOfTheDocs(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) < 5 {
		t.Fatalf("%d examples", len(blocks))
	}
	spec := `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: payments, tenant: acme}
spec:
  selector: {matchLabels: {app: payments}}
`
	for _, b := range blocks[1:] {
		if strings.HasPrefix(b[1], "apiVersion: ") {
			if _, err := policy.Parse([]policy.File{{Name: "example.yaml", Data: []byte(b[1])}}); err != nil {
				t.Errorf("%v\n%s", err, b[1])
			}
			continue
		}
		for line := range strings.Lines(b[1]) {
			spec += "  " + line
		}
	}
	_, err = policy.Parse([]policy.File{
		{Name: "workload.yaml", Data: []byte(blocks[0][1])},
		{Name: "policy.yaml", Data: []byte(spec)},
	})
	if err != nil {
		t.Errorf("%v\n%s", err, spec)
	}
}

// What README.md shows of a new project is what commands print, in a folder where nothing
// was before; its 'up' is of the plan that it shows. Digests are other ones with each change of
// the source.
func TestTheLinesOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_DATA_HOME", t.TempDir()) // HOME stays: the go command goes on to write there when it has answered
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Chdir(t.TempDir())
	digest := regexp.MustCompile(`(plan|sha256):[0-9a-f]+`)
	for _, c := range []struct {
		shown string
		args  []string
		code  int
		err   bool // it is said on standard error
	}{
		{"$ lorica init shop\n", []string{"init", "shop"}, exitOK, false},
		{"$ lorica plan -f shop\n", []string{"plan", "-f", "shop"}, exitOK, false},
		{"$ lorica why -f shop --packet 'tcp 192.0.2.7 -> :8080'\n", []string{"why", "-f", "shop", "--packet", "tcp 192.0.2.7 -> :8080"}, exitOK, false},
		{"refused; what ran before still runs\n", []string{"plan", "-f", "shop"}, exitFailure, true},
	} {
		if c.err {
			edit := func(b []byte) []byte { return bytes.Replace(b, []byte("action: Allow"), []byte("action: Alow"), 1) }
			policy := filepath.Join("shop", "policy.yaml")
			b, err := os.ReadFile(policy)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(policy, edit(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, block, found := strings.Cut(string(readme), c.shown)
		block, _, _ = strings.Cut(block, "```")
		var out, errs bytes.Buffer
		if code := execute(t.Context(), c.args, strings.NewReader(""), &out, &errs); code != c.code || !found {
			t.Fatalf("lorica %v: exit code %d, %s", c.args, code, errs.String())
		}
		printed := out.String()
		if c.err {
			printed = strings.TrimSuffix(errs.String(), "1 error\n")
		}
		if got, want := digest.ReplaceAllString(printed, "$1"), digest.ReplaceAllString(block, "$1"); got != want {
			t.Errorf("lorica %v prints\n%s\nREADME.md shows\n%s", c.args, got, want)
		}
	}
	plans := regexp.MustCompile(`plan:[0-9a-f]{64}`).FindAllString(string(readme), -1)
	if len(plans) != 2 || plans[0] != plans[1] {
		t.Errorf("README.md shows plan and start of %v", plans)
	}
}
