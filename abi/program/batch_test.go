package program_test

import (
	"math"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/program"
)

// Only what is newer, or another level of what is in force, may follow.
func TestWhatMayFollow(t *testing.T) {
	sum := func(n byte) program.Digest { return program.Digest{n} }
	var b program.Batch
	if err := b.Follows(0, "normal", sum(1)); err != nil {
		t.Errorf("the first: %v", err)
	}
	b.Enter(7, "normal", sum(1))
	b.Enter(7, "elevated", sum(2))
	for name, c := range map[string]struct {
		revision uint64
		level    string
		sum      byte
		want     string
	}{
		"newer":                               {8, "normal", 9, ""},
		"newer, of the same level":            {8, "elevated", 9, ""},
		"another level":                       {7, "lockdown", 3, ""},
		"the level before":                    {7, "normal", 1, ""},
		"the level before with other content": {7, "normal", 4, "had another program"},
		"the same level with other content":   {7, "elevated", 5, "not above 7, which is in force at the same level"},
		"the same program":                    {7, "elevated", 2, "not above 7"},
		"older":                               {6, "lockdown", 6, "revision 6 is not above 7"},
		"no level":                            {6, "", 6, "revision 6 is not above 7"},
	} {
		err := b.Follows(c.revision, c.level, sum(c.sum))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.Enter(math.MaxUint64, "normal", sum(1))
	if err := b.Follows(7, "elevated", sum(2)); err == nil {
		t.Error("a batch of before comes back")
	}
	if b.Follows(math.MaxUint64, "elevated", sum(2)) != nil || b.Follows(0, "elevated", sum(2)) == nil {
		t.Error("at the last revision there is")
	}
	b.Enter(3, "elevated", sum(3))
	if err := b.Follows(3, "normal", sum(8)); err != nil {
		t.Errorf("what another revision had at a level counts: %v", err)
	}
}
