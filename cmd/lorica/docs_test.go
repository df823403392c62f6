package main

import (
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
