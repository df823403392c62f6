package firewall_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
)

func (r *rig) report() []pep.PacketDenial { return r.filter.(pep.PacketReporter).Report() }

// denying has a rule for each port from 1000, all of which deny.
func denying(n int) *flow.Section {
	l := flow.List{Rule: abi.Rule{ID: abi.RuleNetwork, Line: "p.yaml:1"}}
	for i := range n {
		x := rule(fmt.Sprint("deny-", i), abi.Deny, "0.0.0.0/0", uint16(1000+i), uint16(1000+i))
		x.Protocol = flow.AnyProtocol
		l.Rules = append(l.Rules, x)
	}
	return &flow.Section{Lists: []flow.List{l}}
}

func TestDenialsAreReported(t *testing.T) {
	r := newRig(t, place(), denying(2))
	a, b := client("10.0.0.1", 4000, 1000), client("10.0.0.2", 4000, 1001)
	r.arrives(pep.Refuse, a.in(syn, 1, 0, 0), a.in(syn, 1, 0, 0), a.in(syn, 1, 0, 0), b.in(syn, 1, 0, 0))
	r.arrives(pep.Drop, a.in(ack, 1, 0, 0), ip(b.addr, own4, 17, udpBody(9, 53, 0)))
	type line struct {
		rule, source string
		opens        bool
		count        uint64
	}
	got := map[line]string{}
	for _, d := range r.report() {
		if x := d.Decision; x.Verdict != abi.Deny || x.Stage != abi.StageFirewall || !x.Record || x.Rule.Line == "" {
			t.Errorf("reported %+v", x)
		}
		got[line{d.Decision.Rule.ID, d.Flow.Src.String(), d.Opens, d.Count}] = d.Decision.Reason
	}
	want := map[line]string{
		{"deny-0", "10.0.0.1", true, 2}:         "the rule denies; the record stands for 2 packets",
		{"deny-0", "10.0.0.1", true, 1}:         "the rule denies",
		{"deny-1", "10.0.0.2", true, 1}:         "the rule denies",
		{"deny-0", "10.0.0.1", false, 1}:        "the rule denies",
		{abi.RuleNetwork, "10.0.0.2", false, 1}: "no rule matches the packet",
	}
	if len(got) != len(want) {
		t.Errorf("reported %v", got)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%+v: %q, and not %q", k, got[k], v)
		}
	}
	if again := r.report(); len(again) != 0 {
		t.Errorf("reported twice: %+v", again)
	}
	n := r.counters().Rules
	if len(n) != 3 || n[0] != (control.RuleCount{ID: "deny-0", Packets: 4}) {
		t.Errorf("counted %+v", n)
	}
}

// Whoever sends without end cannot have more recorded than a few records, nor others
// recorded less: each rule has a sample of its own, up to a number of them, and all are
// counted.
func TestAFloodHidesNoOtherRule(t *testing.T) {
	rules, each := firewall.MaxSampled()
	for _, c := range []struct{ loud, quiet, most int }{
		{1, 1, 2 * each},
		{rules - 1, 1, rules * each},
		{5 * rules, 0, (rules + 1) * each},
	} {
		r := newRig(t, place(), denying(c.loud+c.quiet))
		sent := uint64(0)
		for i := range 20_000 {
			if i == 7_000 && c.quiet > 0 {
				r.arrives(pep.Refuse, client("192.0.2.1", 4000, uint16(1000+c.loud)).in(syn, 1, 0, 0))
				sent++
			}
			r.arrives(pep.Refuse, client("10.0.0.1", uint16(4000+i), uint16(1000+i%c.loud)).in(syn, 1, 0, 0))
			sent++
		}
		list := r.report()
		counted, quiet := uint64(0), 0
		for _, d := range list {
			counted += d.Count
			if d.Flow.Src == netip.MustParseAddr("192.0.2.1") {
				quiet++
			}
		}
		if len(list) > c.most || counted != sent || quiet != c.quiet {
			t.Errorf("%d loud rules: %d records for %d packets of %d; %d of who was quiet", c.loud, len(list), counted, sent, quiet)
		}
	}
}

// Every packet has the same chance to be the one that is recorded.
func TestSamplesAreFair(t *testing.T) {
	_, each := firewall.MaxSampled()
	r := newRig(t, place(), denying(1))
	const rounds, sources = 2000, 20
	picked := map[netip.Addr]int{}
	for range rounds {
		for i := range sources {
			r.arrives(pep.Refuse, client(fmt.Sprint("10.0.0.", i), 4000, 1000).in(syn, 1, 0, 0))
		}
		for _, d := range r.report() {
			picked[d.Flow.Src]++
		}
	}
	want := rounds * each / sources
	for a, n := range picked {
		if n < want*7/10 || n > want*13/10 {
			t.Errorf("%v was recorded %d times, and not about %d", a, n, want)
		}
	}
	if len(picked) != sources {
		t.Errorf("recorded were %v", picked)
	}
}

func TestMoreRulesThanAreCounted(t *testing.T) {
	r := newRig(t, place(), denying(300))
	for i := range 300 {
		for range 1 + i/100 {
			r.arrives(pep.Drop, client("10.0.0.1", 4000, uint16(1000+i)).in(ack, 1, 0, 0))
		}
	}
	n := r.counters().Rules
	if len(n) != 256 || n[0].Packets != 3 || n[99].Packets != 3 || n[100].Packets != 2 || n[255].Packets != 1 {
		t.Errorf("%d rules are counted: %v", len(n), n)
	}
}

// Several goroutines send, one receives, the program changes, and somebody asks for
// the counters: for the race detector, and no packet goes uncounted.
func TestConcurrentUse(t *testing.T) {
	r := newRig(t, place(), letting("10.0.0.0/8"))
	const each = 3000
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := range each {
				c := client("10.0.0.1", uint16(1+i%500), uint16(80+g))
				r.filter.In(c.in(syn, 1, 0, 0))
				r.filter.Out(c.out(syn|ack, 1, 2, 0))
				r.filter.In(c.in(ack, 2, 2, 0))
				r.filter.In(client("192.0.2.1", 1, 1).in(syn, 1, 0, 0))
			}
		})
	}
	done := make(chan struct{})
	reported := uint64(0)
	wg.Go(func() {
		for range 50 {
			r.enforce(letting("10.0.0.0/8"))
			r.counters()
			for _, d := range r.report() {
				reported += d.Count
			}
		}
		close(done)
	})
	wg.Wait()
	<-done
	for _, d := range r.report() {
		reported += d.Count
	}
	n := r.counters()
	if n.In != 3*2*each || n.Out != 3*each || n.Denied != 3*each || reported != n.Denied || n.Flows != 1500 {
		t.Errorf("counted are %+v; reported %d", n, reported)
	}
	for _, x := range n.Rules {
		if strings.HasPrefix(x.ID, "let") && x.Packets > n.In {
			t.Errorf("counted are %+v", n)
		}
	}
}
