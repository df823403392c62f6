package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAGraphOfTooManyLinesIsNotDrawn(t *testing.T) {
	dir := t.TempDir()
	for i := range 1001 {
		m := filepath.Join(dir, fmt.Sprintf("m%d", i))
		if err := os.Mkdir(m, 0o700); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("id: m%d\nversion: \"1\"\nsummary: one of many\nclass: guard\ncode: 1\nprovides: [x]\nconflicts: [x]\n", i)
		if err := os.WriteFile(filepath.Join(m, "module.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, told strings.Builder
	if code := execute(t.Context(), []string{"catalog", "graph", "--catalog", dir}, strings.NewReader(""), &out, &told); code != 1 || !strings.Contains(told.String(), "1002001 pairs") || out.Len() > 0 {
		t.Errorf("exit code %d, %s", code, told.String())
	}
}
