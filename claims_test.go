package lorica

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that docs/threat-model.md names for a claim exists in the folder
// that it names, and every claim names one.
func TestEveryClaimHasItsTest(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| \d+ \| (.*?) \| (.*) \|$`)
	claims := row.FindAllStringSubmatch(string(doc), -1)
	if len(claims) == 0 {
		t.Fatal("no claims in docs/threat-model.md")
	}
	named := regexp.MustCompile("`([^`]+)` ((?:Test|Fuzz)\\w+(?:, (?:Test|Fuzz)\\w+)*)")
	for _, c := range claims {
		groups := named.FindAllStringSubmatch(c[2], -1)
		if len(groups) == 0 {
			t.Errorf("no test would kill: %s", c[1])
		}
		for _, g := range groups {
			have := tests(t, g[1])
			for _, name := range strings.Split(g[2], ", ") {
				if !have[name] {
					t.Errorf("%s has no %s, which would kill: %s", g[1], name, c[1])
				}
			}
		}
	}
}

// tests returns the names of the tests of one folder.
func tests(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	have := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(b), -1) {
			have[m[1]] = true
		}
	}
	return have
}
