package notrun

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLinesAreAdded(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("before: it\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(File, list)
	Say(t, "one", "no kernel")
	Say(t, "two", "no root")
	got, err := os.ReadFile(list)
	if want := "before: it\none: no kernel\ntwo: no root\n"; err != nil || string(got) != want {
		t.Fatalf("%v: %q, want %q", err, got, want)
	}
}

func TestWithoutAListOnlyTheLogHears(t *testing.T) {
	t.Setenv(File, "")
	Say(t, "one", "no kernel")
	if t.Failed() {
		t.Fatal("a missing list is no failure")
	}
}
