package space

import (
	"slices"
	"testing"

	"lorica.dev/lorica/policy"
)

// What is found is within the bounds, and what is not there is not found.
func TestWithin(t *testing.T) {
	b, err := policy.Load("../../examples/payments")
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	amounts := Values(d, "transfer")["amount"]
	if !slices.Contains(amounts, "10000") || !slices.Contains(amounts, "10001") {
		t.Errorf("amounts %v", amounts)
	}
	hour := func(h string) Within { return Within{Values: map[string][]string{"hour": {h}}} }
	for name, x := range map[string]struct {
		within Within
		rule   string
		want   Status
	}{
		"by night":            {hour("23"), "large-by-day", Found},
		"not by day":          {hour("12"), "large-by-day", None},
		"by day, another":     {hour("12"), "large-needs-mfa", Found},
		"of a teller":         {Within{Who: &Somebody{"ada", []string{"tellers"}}}, "teller-transfer", Found},
		"of nobody of them":   {Within{Who: &Somebody{"ada", []string{"staff"}}}, "teller-transfer", None},
		"not on these routes": {Within{Routes: []string{"listAccounts"}}, "teller-transfer", None},
		"nor without amount":  {Within{Absent: []string{"amount"}}, "teller-transfer", None},
		"nor of such amounts": {Within{Values: map[string][]string{"amount": {"0"}}}, "teller-transfer", None},
	} {
		list, err := CallsWithin(budget(), d, x.within)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if x.within.Routes != nil && r.Index < 0 && r.Route != "listAccounts" {
				t.Errorf("%s: route %s was looked at", name, r.Route)
			}
			if r.Rule.ID != x.rule {
				continue
			}
			if r.Status != x.want {
				t.Errorf("%s: %s is %s (%s)", name, x.rule, r.Status, r.Why)
			}
			for _, c := range r.At {
				if c != nil && (d.Authorize(*c).Rule != r.Rule || x.within.Who != nil && c.Principal != "ada" || x.within.Values["hour"] != nil && c.Context["hour"].String() != x.within.Values["hour"][0]) {
					t.Errorf("%s: %+v", name, *c)
				}
			}
		}
	}
}

// Whoever is in a group is in those above it.
func TestGroupsOfSomebody(t *testing.T) {
	b, err := policy.Load("../../examples/clinic")
	if err != nil {
		t.Fatal(err)
	}
	list, err := CallsWithin(budget(), b.Deployments[0], Within{Who: &Somebody{"nurse-1", []string{"nurses"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if want := map[string]Status{"clinicians-read": Found, "doctors-prescribe": None}; r.Index >= 0 && want[r.Rule.ID] != NotAnalysed && r.Status != want[r.Rule.ID] {
			t.Errorf("%s is %s", r.Rule.ID, r.Status)
		}
	}
}
