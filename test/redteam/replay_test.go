package redteam

import (
	"context"
	"lorica.dev/lorica/tender"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/program"
)

// An image that is given a program can say that another one is in force, an older
// one, or one that it was never told to take. None of it is believed, and it is
// its last word.
func TestClaimsAboutProgramsEndTheImage(t *testing.T) {
	const unasked = "committed what nobody asked for"
	for name, want := range map[string]string{
		"accept, then commit another":         unasked,
		"commit the one before":               unasked,
		"commit the slot before":              unasked,
		"commit in a transaction of long ago": unasked,
		"commit before it is told":            unasked,
		"prepare again instead":               "prepared what nobody asked for",
		"half of a commit":                    "no answer within",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, cfg, err := launch(t, name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Replace(context.Background(), tender.Batch{Program: signed(t, 2), Secrets: cfg.Secrets}); err == nil {
				t.Error("the lie was believed")
			}
			if reason := died(t, c); !strings.Contains(reason, want) {
				t.Errorf("it ended otherwise: %s", reason)
			}
			if s := status(t, c); s.Revision != 1 {
				t.Errorf("the status is %+v", s)
			}
		})
	}
	// These take the program first. It is in force, with or without them.
	for name, want := range map[string]string{"commit twice": unasked, "release what it just committed": "which is not retiring"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, cfg, err := launch(t, name)
			if err != nil {
				t.Fatal(err)
			}
			c.Replace(context.Background(), tender.Batch{Program: signed(t, 2), Secrets: cfg.Secrets})
			if reason := died(t, c); !strings.Contains(reason, want) {
				t.Errorf("it ended otherwise: %s", reason)
			}
		})
	}
}

// An image that takes whatever it is given must not be given what it should refuse:
// a program of before, of another plan or of another workload, all signed.
func TestProgramsAreNotReplayedToAnImageThatTakesAll(t *testing.T) {
	id, err := program.ParsePlanID(plan)
	if err != nil {
		t.Fatal(err)
	}
	other := id
	other[0]++
	for name, c := range map[string]struct {
		program program.Program
		want    string
	}{
		"the one before":              {program.Program{Plan: id, Revision: 2, Tenant: "acme", Workload: "test"}, "its revision 2 is not above 3"},
		"the same again":              {program.Program{Plan: id, Revision: 3, Tenant: "acme", Workload: "test"}, "its revision 3 is not above 3"},
		"the same level, other bytes": {program.Program{Plan: id, Revision: 3, Tenant: "acme", Workload: "test", Policy: "other"}, "its revision 3 is not above 3, which is in force at the same level"},
		"an older level":              {program.Program{Plan: id, Revision: 2, Tenant: "acme", Workload: "test", Levels: []string{"normal", "elevated"}}, "its revision 2 is not above 3"},
		"for another plan":            {program.Program{Plan: other, Revision: 4, Tenant: "acme", Workload: "test"}, "the image is of " + id.String()},
		"for another tenant":          {program.Program{Plan: id, Revision: 4, Tenant: "evil", Workload: "test"}, "it is for evil/test"},
		"for another workload":        {program.Program{Plan: id, Revision: 4, Tenant: "acme", Workload: "shop"}, "it is for acme/shop"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, cfg, err := launch(t, "none")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Replace(context.Background(), tender.Batch{Program: signed(t, 3), Secrets: cfg.Secrets}); err != nil {
				t.Fatal(err)
			}
			if c.program.Levels == nil {
				c.program.Levels = []string{"normal"}
			}
			old, err := program.Sign(&c.program, key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Replace(context.Background(), tender.Batch{Program: old, Secrets: cfg.Secrets}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("replayed: %v", err)
			}
			if reason := died(t, client); !strings.Contains(reason, "it accepted a program that it must refuse") {
				t.Errorf("it ended otherwise: %s", reason)
			}
			if s := status(t, client); s.Revision != 3 {
				t.Errorf("the status is %+v", s)
			}
		})
	}
}
