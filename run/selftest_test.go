package run

import (
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
)

// A self test that cannot be says so before anything is built: beside another, which would
// end what it runs, and of what no target can have.
func TestSelftestsThatCannotBe(t *testing.T) {
	m := &Machine{paths: Paths{Data: t.TempDir()}}
	try := func(want string) {
		t.Helper()
		err := m.Selftest(t.Context(), api.TargetMicroVM, api.NetSocket, func(s builder.Step) { t.Errorf("it builds: %v", s) }, func(c Check) { t.Errorf("it tests: %v", c) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	try("a microVM always has a stack of its own")
	lock, err := lockUp(m.paths.Data, selftestName, "selftest")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	try("another 'lorica selftest'")
}
