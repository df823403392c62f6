// Package notrun keeps the list of what a machine could not show: a test that
// finds no kernel feature to test says so there instead of passing in silence.
package notrun

import (
	"fmt"
	"os"
	"testing"
)

// File is the environment variable that names the list. `make test` sets it, and
// prints the list at its end.
const File = "LORICA_NOT_RUN"

// Say logs that what was not shown, and why, and adds a line to the list where
// there is one. A list that cannot be written fails the test. Safe for
// concurrent use, also by several processes: a line is one write.
func Say(t testing.TB, what, reason string) {
	t.Helper()
	t.Logf("not run: %s: %s", what, reason)
	name := os.Getenv(File)
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s: %s\n", what, reason); err != nil {
		t.Fatal(err)
	}
}
