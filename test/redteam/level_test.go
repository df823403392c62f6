package redteam

import (
	"context"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/tender"
)

// levelled are the programs of two levels under a revision, with a trigger that raises
// the one to the other.
func levelled(t *testing.T, revision uint64) (normal, elevated []byte) {
	t.Helper()
	id, err := program.ParsePlanID(plan)
	if err != nil {
		t.Fatal(err)
	}
	s := obligation.Section{Triggers: []obligation.Trigger{{Rule: abi.Rule{ID: "guessed", Line: "p.yaml:5"}, On: obligation.Any, Count: 5,
		Window: time.Minute, To: "elevated", Hold: time.Hour}}}
	var list [2][]byte
	for i, levels := range [][]string{{"normal"}, {"normal", "elevated"}} {
		list[i], err = program.Sign(&program.Program{Plan: id, Revision: revision, Tenant: "acme", Workload: "test", Levels: levels,
			Sections: []program.Section{{Name: obligation.Name, Data: s.Encode()}}}, key)
		if err != nil {
			t.Fatal(err)
		}
	}
	return list[0], list[1]
}

// An image that lies about triggers can have its level raised, once, and no more: it names
// no level, prolongs no work, and does not keep whoever operates it from the level.
func TestALieAboutTriggersRaisesTheLevelOnly(t *testing.T) {
	normal, elevated := levelled(t, 1)
	batch := func(c *tender.Config) { c.Program, c.Others = normal, []tender.Signed{{Program: elevated}} }
	if reason, _ := death(t, "fire a trigger that there is not", batch); !strings.Contains(reason, `it says that trigger "none" fires, which its program does not have`) {
		t.Errorf("it ended otherwise: %s", reason)
	}
	c, _, err := launch(t, "fire without end", batch)
	if err != nil {
		t.Fatal(err)
	}
	level := func(want string) {
		t.Helper()
		for range 500 {
			if status(t, c).Level == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("the status is %+v", status(t, c))
	}
	level("elevated")
	s := alive(t, c)
	if x := s.Standing; x.Trigger != "guessed" || x.Line != "p.yaml:5" || time.Until(x.Until) > time.Hour || len(x.Stance.Raised) != 1 {
		t.Errorf("it stands at %+v", x)
	}
	if l, err := c.SetLevel(context.Background(), "normal", 0, true); err != nil || l.Level != "normal" {
		t.Errorf("set by hand: %+v, %v", l, err)
	}
	time.Sleep(300 * time.Millisecond)
	level("normal")
	alive(t, c)
	if kib, err := residentOf(s.TenderPID); err != nil || kib > maxResident {
		t.Errorf("the tender has grown to %d KiB (%v)", kib, err)
	}
}

// A level is selected of what was signed: other bytes for a level that was in force, and a
// batch of before, are not put in force by an image that takes all.
func TestOnlyLevelsOfTheBatchFollow(t *testing.T) {
	normal, elevated := levelled(t, 2)
	c, _, err := launch(t, "none", func(c *tender.Config) { c.Program, c.Others = normal, []tender.Signed{{Program: elevated}} })
	if err != nil {
		t.Fatal(err)
	}
	old, _ := levelled(t, 1)
	if l, err := c.SetLevel(context.Background(), "elevated", 0, false); err != nil || l.Level != "elevated" {
		t.Fatalf("%+v, %v", l, err)
	}
	changed := signed(t, 2)
	for what, b := range map[string][]byte{"other bytes of a level of the batch": changed, "a batch of before": old} {
		if _, err := c.Replace(context.Background(), tender.Batch{Program: b}); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if reason := died(t, c); !strings.Contains(reason, "it accepted a program that it must refuse") {
		t.Errorf("it ended otherwise: %s", reason)
	}
	if s := status(t, c); s.Revision != 2 || s.Level != "elevated" {
		t.Errorf("the status is %+v", s)
	}
}
