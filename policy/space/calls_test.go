package space

import (
	"context"
	"slices"
	"testing"

	"lorica.dev/lorica/policy"
)

func budget() *Budget { return NewBudget(context.Background(), DefaultSteps) }

// Of the example every rule decides something at every level where it says something, as
// the reference confirms.
func TestTheRulesOfPayments(t *testing.T) {
	b, err := policy.Load("../../examples/payments")
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	list, err := Calls(budget(), d)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]bool{
		"teller-transfer":       {true, true, false},
		"small-when-elevated":   {false, true, true},
		"read-only-in-lockdown": {false, false, true},
	}
	for _, r := range list {
		if r.Status != Found {
			t.Errorf("%s on %s: %s %s", r.Rule.ID, r.Route, r.Status, r.Why)
		}
		var at []bool
		for l, c := range r.At {
			at = append(at, c != nil)
			if c != nil && (d.Authorize(*c).Rule != r.Rule || c.Level != d.Policy.Levels.Names[l]) {
				t.Errorf("%s does not decide %+v", r.Rule.ID, *c)
			}
		}
		if w, ok := want[r.Rule.ID]; ok && !slices.Equal(at, w) {
			t.Errorf("%s decides at %v, want %v", r.Rule.ID, at, w)
		} else if !ok && slices.Contains(at, false) {
			t.Errorf("%s decides at %v", r.Rule.ID, at)
		}
	}
}
