package space

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// Small worlds: few networks and ports, so that every packet can be asked about.
var (
	networks = []string{"10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1",
		"::/0", "::/1", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::1/128", "::ffff:10.1.0.0/112", "::fffe:0:0/95"}
	edges = []uint16{1, 2, 22, 80, 443, 1000, 65534, 65535}
)

func anyVerdict(r *rand.Rand) abi.Verdict {
	if r.IntN(2) == 0 {
		return abi.Deny
	}
	return abi.Allow
}

// network makes a policy of n rules at random.
func network(r *rand.Rand, n int) *policy.Deployment {
	p := &api.SecurityPolicy{Metadata: api.Metadata{Name: "p"}, Network: &api.Network{Pos: api.Pos{File: "p.yaml", Line: 1}}}
	p.Levels.Names = []string{"normal", "elevated", "lockdown"}[:1+r.IntN(3)]
	p.Levels.Initial = "normal"
	p.Default.Network = anyVerdict(r)
	for i, x := range networks {
		p.Endpoints = append(p.Endpoints, api.Endpoint{Name: fmt.Sprint("n", i), CIDRs: []netip.Prefix{netip.MustParsePrefix(x)}})
	}
	for i := range n {
		x := api.IngressRule{Name: fmt.Sprint("r", i), Action: anyVerdict(r), Pos: api.Pos{File: "p.yaml", Line: i + 2}}
		if r.IntN(5) == 0 {
			x.From = []string{api.AnyEndpoint}
		} else {
			for range 1 + r.IntN(3) {
				x.From = append(x.From, p.Endpoints[r.IntN(len(p.Endpoints))].Name)
			}
		}
		for range r.IntN(3) {
			q := api.Port{Protocol: []string{"TCP", "UDP", api.ICMP, "any"}[r.IntN(4)], Hi: 65535}
			if q.Protocol != api.ICMP && r.IntN(3) > 0 {
				a, b := edges[r.IntN(len(edges))], edges[r.IntN(len(edges))]
				q.Lo, q.Hi = min(a, b), max(a, b)
			}
			x.Ports = append(x.Ports, q)
		}
		if r.IntN(3) == 0 {
			lo, hi := r.IntN(len(p.Levels.Names)), r.IntN(len(p.Levels.Names))
			x.MinLevel, x.MaxLevel = p.Levels.Names[min(lo, hi)], p.Levels.Names[max(lo, hi)]
		}
		p.Network.Ingress = append(p.Network.Ingress, x)
	}
	return &policy.Deployment{Workload: &api.Workload{}, Policy: p}
}

// every is one packet of each kind that small worlds tell apart: their networks' first and
// last addresses and those beside them, with the ports at edges and beside them.
var every = func() []api.Packet {
	var froms []netip.Addr
	add := func(a netip.Addr) {
		if a.IsValid() && !a.Is4In6() {
			froms = append(froms, a)
		}
	}
	for _, x := range networks {
		p := netip.MustParsePrefix(x)
		add(p.Addr())
		add(p.Addr().Prev())
		if b := beyond(p); b.IsValid() {
			add(b)
			add(b.Prev())
		}
	}
	add(netip.MustParseAddr("255.255.255.255"))
	add(netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
	slices.SortFunc(froms, netip.Addr.Compare)
	var ports []uint16
	for _, e := range edges {
		ports = append(ports, max(1, e-1), e, max(e, e+1))
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	var out []api.Packet
	for _, from := range slices.Compact(froms) {
		out = append(out, api.Packet{From: from, Protocol: api.ICMP})
		for _, port := range ports {
			out = append(out, api.Packet{From: from, Protocol: "TCP", Port: port}, api.Packet{From: from, Protocol: "UDP", Port: port})
		}
	}
	return out
}()

// A rule decides none <=> none of all packets is decided by it; and every witness is one.
func TestWhatRulesDecideIsWhatAllPacketsShow(t *testing.T) {
	never := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := network(r, 1+r.IntN(12))
		list, err := Network(NewBudget(context.Background(), DefaultSteps), d)
		if err != nil {
			t.Fatal(err)
		}
		cited := make(map[string]bool)
		for _, l := range d.Policy.Levels.Names {
			for _, k := range every {
				cited[l+" "+d.Classify(l, k).Rule.ID] = true
			}
		}
		for _, x := range list {
			some := false
			for l, name := range d.Policy.Levels.Names {
				k := x.At[l]
				if want := cited[name+" "+x.Rule.ID]; want != (k != nil) {
					t.Fatalf("seed %d: %s at %s: witness %v, among all packets: %v", seed, x.Rule.ID, name, k, want)
				}
				if k != nil && d.Classify(name, *k).Rule != x.Rule {
					t.Fatalf("seed %d: %v at %s is decided by %v, not %v", seed, *k, name, d.Classify(name, *k).Rule, x.Rule)
				}
				some = some || k != nil
			}
			if want := map[bool]Status{true: Found, false: None}[some]; x.Status != want {
				t.Fatalf("seed %d: %s: %s, want %s", seed, x.Rule.ID, x.Status, want)
			}
			if x.Status == None && x.Index >= 0 {
				never++
				checkInstead(t, d, &x)
			}
		}
	}
	if never < 20 {
		t.Fatalf("only %d rules decide nothing", never)
	}
}

// What decides instead of a rule covers it: without the others it still decides nothing,
// and each of them decides something that the rule matches.
func checkInstead(t *testing.T, d *policy.Deployment, x *NetworkRule) {
	t.Helper()
	p := *d.Policy
	only := d.Policy.Network.Ingress[x.Index]
	only.MinLevel, only.MaxLevel = "", ""
	p.Levels.Names = []string{"normal"}
	p.Network = &api.Network{Ingress: []api.IngressRule{only}}
	alone := &policy.Deployment{Policy: &p}
	cited := make(map[string]bool)
	for _, k := range every {
		if alone.Classify("", k).Rule.ID != x.Rule.ID {
			continue
		}
		for l, name := range d.Policy.Levels.Names {
			if policy.Applies(d.Policy, &d.Policy.Network.Ingress[x.Index], l) {
				cited[d.Classify(name, k).Rule.ID] = true
			}
		}
	}
	var by []string
	for _, r := range x.By {
		by = append(by, r.ID)
		if !cited[r.ID] {
			t.Fatalf("%s decides nothing that %s matches", r.ID, x.Rule.ID)
		}
	}
	if len(by) != len(cited) {
		t.Fatalf("%s: %v are said to decide instead, not %v", x.Rule.ID, by, cited)
	}
}

// The changes that are found are those that all packets show, by rules.
func TestDifferencesOfNetworksAreWhatAllPacketsShow(t *testing.T) {
	equal, changed := 0, 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		before := network(r, 1+r.IntN(10))
		after := network(r, 1+r.IntN(10))
		if seed%3 > 0 { // a small change
			p := *before.Policy
			network := *p.Network
			p.Network = &network
			network.Ingress = slices.Clone(network.Ingress)
			i, j := r.IntN(len(network.Ingress)), r.IntN(len(network.Ingress))
			network.Ingress[i], network.Ingress[j] = network.Ingress[j], network.Ingress[i]
			after = &policy.Deployment{Policy: &p}
		}
		diff, err := DiffNetwork(NewBudget(context.Background(), DefaultSteps), before, after)
		if err != nil || !diff.Complete {
			t.Fatal(err, diff.Why)
		}
		want := make(map[string]bool)
		for _, l := range before.Policy.Levels.Names {
			if !slices.Contains(after.Policy.Levels.Names, l) {
				continue
			}
			for _, k := range every {
				if x, y := before.Classify(l, k), after.Classify(l, k); x.Verdict != y.Verdict {
					want[l+" "+x.Rule.ID+" "+y.Rule.ID] = true
				}
			}
		}
		got := make(map[string]bool)
		for _, c := range diff.Changes {
			if c.Old != before.Classify(c.Level, c.Packet) || c.New != after.Classify(c.Level, c.Packet) || c.Old.Verdict == c.New.Verdict {
				t.Fatalf("seed %d: %+v", seed, c)
			}
			key := c.Level + " " + c.Old.Rule.ID + " " + c.New.Rule.ID
			if got[key] {
				t.Fatalf("seed %d: %s twice", seed, key)
			}
			got[key] = true
		}
		for k := range want {
			if !got[k] {
				t.Fatalf("seed %d: %s was not found", seed, k)
			}
		}
		for k := range got {
			if !want[k] {
				t.Fatalf("seed %d: %s is not among all packets", seed, k)
			}
		}
		if len(want) == 0 {
			equal++
		} else {
			changed++
		}
	}
	if equal < 8 || changed < 20 {
		t.Fatalf("%d equal, %d changed", equal, changed)
	}
}

// Nobody comes from an IPv4-mapped address: a rule that has nothing else left decides none.
func TestMappedAddressesAreNobody(t *testing.T) {
	d := network(rand.New(rand.NewPCG(1, 1)), 2)
	p := d.Policy
	p.Endpoints = []api.Endpoint{{Name: "before", CIDRs: []netip.Prefix{netip.MustParsePrefix("::fffe:0:0/96")}}, {Name: "both", CIDRs: []netip.Prefix{netip.MustParsePrefix("::fffe:0:0/95")}}}
	p.Network.Ingress = []api.IngressRule{{Name: "a", Action: abi.Allow, From: []string{"before"}}, {Name: "b", Action: abi.Allow, From: []string{"both"}}}
	list, err := Network(budget(), d)
	if err != nil || list[1].Status != None {
		t.Fatal(list, err)
	}
}
