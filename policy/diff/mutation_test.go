package diff_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/diff"
	"lorica.dev/lorica/policy/lint"
)

var (
	seed    = flag.Uint64("seed", 1, "of the mutations and of what is asked")
	changed = flag.Int("mutants", 100, "of each example")
)

const steps = 20_000_000

func example(t testing.TB, name string) (policyText, workload string) {
	t.Helper()
	var out [2]string
	for i, file := range []string{"policy.yaml", "workload.yaml"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "examples", name, file))
		if err != nil {
			t.Fatal(err)
		}
		out[i] = string(b)
	}
	return out[0], out[1]
}

func parse(text, workload string) (*policy.Bundle, error) {
	return policy.Parse([]policy.File{{Name: "policy.yaml", Data: []byte(text)}, {Name: "workload.yaml", Data: []byte(workload)}})
}

// findings are those of lint, without the numbers of lines.
func findings(t *testing.T, b *policy.Bundle) []string {
	t.Helper()
	report, err := lint.Lint(context.Background(), b, steps)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range report.Findings {
		out = append(out, f.Kind+" "+regexp.MustCompile(`\d+`).ReplaceAllString(f.Message, "N"))
	}
	for _, w := range b.Warnings {
		out = append(out, regexp.MustCompile(`\d+`).ReplaceAllString(w.Message, "N"))
	}
	return out
}

// Mutations of the examples do not load, fail a test that the document has, are warned about,
// or are shown by diff; or they are equivalent: diff says that nothing differs, and nothing
// that is asked at random shows that it does.
func TestMutationsAreCaughtOrEquivalent(t *testing.T) {
	counts := make(map[string]int)
	kinds := make(map[string]map[string]int)
	for n, name := range []string{"payments", "clinic"} {
		text, workload := example(t, name)
		original, err := parse(text, workload)
		if err != nil {
			t.Fatal(err)
		}
		known := findings(t, original)
		r := rand.New(rand.NewPCG(*seed, uint64(n)))
		var last *policy.Bundle
		for i, m := range some(r, mutants(r, text), *changed) {
			caught, alone, b := judge(t, r, original, m, workload, known)
			if i%4 == 0 && b != nil {
				if last != nil { // two mutants differ more than one does from where it comes from
					apart(t, r, last, b, m)
				}
				last = b
			}
			counts[caught]++
			counts["diff alone: "+alone]++
			if kinds[m.kind] == nil {
				kinds[m.kind] = make(map[string]int)
			}
			kinds[m.kind][caught]++
		}
	}
	for _, m := range mutators {
		t.Logf("%-28s %v", m.kind, kinds[m.kind])
		if len(kinds[m.kind]) == 0 {
			t.Errorf("no mutant of kind %q", m.kind)
		}
	}
	t.Logf("in all: %v", counts)
	for _, class := range []string{"check", "test", "lint", "diff", "equivalent", "diff alone: shown"} {
		if counts[class] == 0 {
			t.Errorf("none: %s", class)
		}
	}
}

// judge says what catches a mutant, and what diff says of it where there are no tests.
func judge(t *testing.T, r *rand.Rand, original *policy.Bundle, m mutant, workload string, known []string) (caught, alone string, b *policy.Bundle) {
	t.Helper()
	fatal := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s, %s: %s", *seed, m.kind, m.what, fmt.Sprintf(format, args...))
	}
	untested, _, _ := strings.Cut(m.text, "\n  tests:\n")
	b, err := parse(untested+"\n", workload)
	if err != nil {
		return "check", "does not load", nil
	}
	report, err := diff.Bundles(context.Background(), original, b, steps)
	if err != nil || len(report.Deployments) != 1 {
		fatal("%v %v", err, report)
	}
	d := report.Deployments[0]
	asked := 400
	switch {
	case d.Same():
		alone, asked = "equivalent", 4000
	case len(d.Allowed)+len(d.Denied) > 0:
		alone = "shown"
	case len(d.Differences) > 0:
		alone = "said"
	default:
		alone = "not analysed"
	}
	there := *b.Deployments[0].Policy
	there.Tests = slices.Clone(original.Deployments[0].Policy.Tests)
	for i := range there.Tests { // of both policies at the same level
		there.Tests[i].Level = cmp.Or(there.Tests[i].Level, original.Deployments[0].Policy.Levels.Initial)
	}
	tested := *b.Deployments[0]
	tested.Policy = &there
	for _, res := range tested.RunTests() {
		if res.Decision.Verdict != res.Test.Expect && strings.HasPrefix(res.Problem, "expected") && alone != "shown" && alone != "not analysed" {
			fatal("the diff shows nothing, and %s", res.Problem)
		}
	}
	if wrong := missed(r, original.Deployments[0], b.Deployments[0], d, asked); wrong != "" {
		fatal("%s", wrong)
	}
	if _, err := parse(m.text, workload); err != nil {
		var list policy.Errors
		if !errors.As(err, &list) {
			fatal("%v", err)
		}
		return "test", alone, b
	}
	for _, f := range findings(t, b) {
		if !slices.Contains(known, f) {
			return "lint", alone, b
		}
	}
	if alone == "not analysed" {
		fatal("nothing catches it: %+v", d.NotAnalysed)
	}
	if alone == "equivalent" {
		return "equivalent", alone, b
	}
	return "diff", alone, b
}

// apart holds a diff to what is asked at random.
func apart(t *testing.T, r *rand.Rand, before, after *policy.Bundle, m mutant) {
	t.Helper()
	report, err := diff.Bundles(context.Background(), before, after, steps)
	if err != nil {
		t.Fatal(err)
	}
	if wrong := missed(r, before.Deployments[0], after.Deployments[0], report.Deployments[0], 500); wrong != "" {
		t.Fatalf("seed %d: %s, %s, after another one: %s", *seed, m.kind, m.what, wrong)
	}
}

// missed asks both policies about packets and requests at random, and returns one that they
// decide differently and that a diff has no change for, though it says that it is complete.
func missed(r *rand.Rand, before, after *policy.Deployment, d *diff.Deployment, n int) string {
	type pair struct{ kind, old, new, was string }
	said := make(map[pair]bool)
	for _, list := range [][]diff.Change{d.Allowed, d.Denied} {
		for _, c := range list {
			said[pair{c.Kind, c.Old.Rule + c.Old.Line, c.New.Rule + c.New.Line, c.Old.Decision}] = true
		}
	}
	open := make(map[string]bool)
	for _, x := range d.NotAnalysed {
		open[x.What] = true
	}
	levels := before.Policy.Levels.Names
	w := newWorld(before, after)
	for range n {
		level := levels[r.IntN(len(levels))]
		k := w.packet(r)
		a, b := before.Classify(level, k), after.Classify(level, k)
		if a.Verdict != b.Verdict && !open["packets"] && !said[pair{diff.Packet, a.Rule.ID + a.Rule.Line, b.Rule.ID + b.Rule.Line, a.Verdict.String()}] {
			return fmt.Sprintf("the diff does not say that %v is decided by %s, and then by %s", k, a.Rule.ID, b.Rule.ID)
		}
		q := w.request(r)
		q.Level = level
		x, err := before.Why(q)
		y, err2 := after.Why(q)
		if err != nil || err2 != nil || x.Verdict == y.Verdict || open["requests"] {
			continue
		}
		if !said[pair{diff.Request, x.Rule.ID + x.Rule.Line, y.Rule.ID + y.Rule.Line, x.Verdict.String()}] {
			return fmt.Sprintf("the diff does not say that %+v is decided by %s, and then by %s", q, x.Rule.ID, y.Rule.ID)
		}
	}
	return ""
}

// A world is what packets and requests are made of.
type world struct {
	addrs      []netip.Addr
	ports      []uint16
	lines      []string
	users      []string
	groups     []string
	attributes []authz.Attribute
	numbers    []string
	texts      []string
	ips        []string
}

func newWorld(list ...*policy.Deployment) *world {
	w := &world{ports: []uint16{1, 22, 80, 65535}, users: []string{"", "somebody", "dr-no", "dr-yes"}, numbers: []string{"-1", "0", "1"}, texts: []string{"other"}, ips: []string{"127.0.0.1", "::1", "192.0.2.1"}}
	methods := []string{"GET", "POST", "PUT", "DELETE"}
	for _, d := range list {
		p := d.Policy
		for _, e := range p.Endpoints {
			for _, c := range e.CIDRs {
				last := c.Addr().AsSlice()
				for i := c.Bits(); i < len(last)*8; i++ {
					last[i/8] |= 0x80 >> (i % 8)
				}
				end, _ := netip.AddrFromSlice(last)
				for _, a := range []netip.Addr{c.Addr(), c.Addr().Prev(), end, end.Next()} {
					if a.IsValid() {
						w.addrs = append(w.addrs, a)
					}
				}
			}
		}
		for _, x := range p.Network.Ingress {
			for _, port := range x.Ports {
				w.ports = append(w.ports, port.Lo, port.Lo-1, port.Hi+1)
			}
		}
		for _, x := range p.Routes {
			path := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(x.Path, "7")
			for _, m := range methods {
				w.lines = append(w.lines, m+" "+path)
			}
		}
		cedar := p.Authorization.Cedar.Value + p.Authorization.Entities.Value
		for _, m := range regexp.MustCompile(`Group::"(\w+)"|"Group", "id": "(\w+)"`).FindAllStringSubmatch(cedar, -1) {
			w.groups = append(w.groups, m[1]+m[2])
		}
		for _, m := range regexp.MustCompile(`[ (](-?\d+)\b`).FindAllStringSubmatch(cedar, -1) {
			var v int
			_, _ = fmt.Sscan(m[1], &v)
			w.numbers = append(w.numbers, fmt.Sprint(v), fmt.Sprint(v+1), fmt.Sprint(v-1))
		}
		for _, m := range regexp.MustCompile(`[=\[,] "(\w+)"`).FindAllStringSubmatch(cedar, -1) {
			w.texts = append(w.texts, m[1])
		}
		for _, m := range regexp.MustCompile(`ip\("([^/"]+)`).FindAllStringSubmatch(cedar, -1) {
			a := netip.MustParseAddr(m[1])
			w.ips = append(w.ips, a.String(), a.Next().String(), a.Prev().String())
		}
		w.attributes = d.Authorization.Attributes
	}
	slices.Sort(w.groups)
	w.groups = slices.Compact(w.groups)
	return w
}

func one[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (w *world) packet(r *rand.Rand) api.Packet {
	k := api.Packet{From: one(r, w.addrs), Protocol: []string{"TCP", "TCP", "TCP", "UDP", api.ICMP}[r.IntN(5)]}
	if k.Protocol != api.ICMP {
		k.Port = max(1, one(r, w.ports))
	}
	return k
}

func (w *world) request(r *rand.Rand) policy.Query {
	q := policy.Query{Request: one(r, w.lines), User: one(r, w.users), Set: map[string]string{}}
	for range 1 + r.IntN(2) {
		if g := one(r, w.groups); q.User != "" && !slices.Contains(q.Groups, g) {
			q.Groups = append(q.Groups, g)
		}
	}
	for _, a := range w.attributes {
		always := true
		value := ""
		switch a.Source.Kind {
		case authz.SourceLevel, authz.SourceMethod, authz.SourceRoute, authz.SourceQuery:
			continue
		case authz.SourceHour:
			value = fmt.Sprint(r.IntN(24))
		case authz.SourceMinute:
			value = fmt.Sprint(r.IntN(1440))
		case authz.SourceWeekday:
			value = fmt.Sprint(1 + r.IntN(7))
		default:
			always = a.Source.Kind == authz.SourcePeer
			switch a.Type {
			case authz.TypeBool:
				value = []string{"true", "false"}[r.IntN(2)]
			case authz.TypeLong:
				value = one(r, w.numbers)
			case authz.TypeIP:
				value = one(r, w.ips)
			default:
				value = one(r, w.texts)
			}
		}
		if always || r.IntN(5) > 0 && (q.User != "" || a.Source.Kind == authz.SourceBody) {
			q.Set[a.Name] = value
		}
	}
	return q
}
