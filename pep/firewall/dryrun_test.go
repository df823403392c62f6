package firewall_test

import (
	"net/netip"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// try enforces a section: as what is tried as a whole where let is a rule, with another
// tried beside it where there is one.
func (r *rig) try(s, beside *flow.Section, let *abi.Rule) {
	r.t.Helper()
	st, err := r.module.Prepare(&pep.Input{Section: s.Encode(), DryRun: let})
	if err != nil {
		r.t.Fatal(err)
	}
	if beside != nil {
		tried, err := r.module.Prepare(&pep.Input{Section: beside.Encode(), DryRun: &abi.Rule{}})
		if err != nil {
			r.t.Fatal(err)
		}
		st.(pep.Trier).Try(tried)
	}
	st.(pep.PacketState).Enforce()
}

func (r *rig) reported() map[string]uint64 {
	got := map[string]uint64{}
	for _, p := range r.report() {
		s := p.Flow.Src.String() + " " + p.Decision.Verdict.String() + " " + p.Decision.Rule.ID
		if w := p.Decision.Would; w != nil {
			s += ", would " + w.Verdict.String() + " " + w.Rule.ID
		}
		got[s] += p.Count
	}
	return got
}

func same(t *testing.T, got, want map[string]uint64) {
	t.Helper()
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%q: %d packets, and not %d", k, got[k], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("reported %v", got)
	}
}

// Rules that are tried change no packet. What they would have done is reported once of a
// flow; of connections to a port that is served, where these are accepted.
func TestPacketsAndRulesThatAreTried(t *testing.T) {
	a, b := client("10.0.0.1", 4000, 99), client("10.0.1.1", 4000, 99)
	served := client("10.0.0.2", 4000, 80)
	datagram := func(from netip.Addr) []byte { return ip(from, own4, 17, udpBody(9, 53, 0)) }
	r := newRig(t, place(), nil)
	r.try(letting("10.0.0.0/24"), letting("10.0.1.0/24"), nil)
	r.arrives(pep.Pass, a.in(syn, 1, 0, 0), datagram(a.addr), datagram(a.addr), served.in(syn, 1, 0, 0))
	r.arrives(pep.Refuse, b.in(syn, 1, 0, 0))
	r.arrives(pep.Drop, datagram(b.addr))
	same(t, r.reported(), map[string]uint64{
		"10.0.0.1 Allow let 10.0.0.0/24, would Deny default:network": 2,
		"10.0.1.1 Deny default:network, would Allow let 10.0.1.0/24": 2,
	})
}

// A section that is tried as a whole lets every packet through that could be let through,
// and is enforced when it is no longer tried.
func TestPacketsAndASectionThatIsTried(t *testing.T) {
	a, served := client("10.0.0.1", 4000, 99), client("10.0.0.2", 4000, 80)
	r := newRig(t, place(), nil)
	r.try(letting(), nil, &abi.Rule{ID: abi.RuleDryRun, Line: "p.yaml:2"})
	r.arrives(pep.Pass, a.in(syn, 1, 0, 0), served.in(syn, 1, 0, 0))
	r.leaves(pep.Pass, served.out(syn|ack, 1, 2, 0))
	r.arrives(pep.Drop, a.in(syn|fin, 1, 0, 0))
	same(t, r.reported(), map[string]uint64{"10.0.0.1 Allow default:dry-run, would Deny default:network": 1})
	r.try(letting(), nil, nil)
	r.arrives(pep.Drop, served.in(ack, 2, 2, 10))
	r.leaves(pep.Drop, served.out(ack, 2, 2, 10))
}
