package catalog

import (
	"os"
	"testing"
)

func TestTheModulesOfThisRepositoryLoad(t *testing.T) {
	c, err := Load(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Modules {
		t.Logf("%s %s %v", m.ID, m.Version, Syscalls([]*Module{m}))
	}
}
