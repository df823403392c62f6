package conform

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/compiler/forest"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/test/conform/packets"
)

// planted returns the bytes of a section whose lists have trees.
func planted(s *flow.Section) []byte {
	p := flow.Section{}
	for _, l := range s.Lists {
		forest.Plant(&l)
		p.Lists = append(p.Lists, l)
	}
	return p.Encode()
}

// sameFlows holds the firewall to the definition, on n flows that the rules are about.
func sameFlows(t testing.TB, seed uint64, n int, s *flow.Section) (allowed int) {
	t.Helper()
	st, err := firewall.New().Prepare(&pep.Input{Section: planted(s)})
	if err != nil {
		t.Fatal(err)
	}
	const workers = 2
	var wg sync.WaitGroup
	sums := [workers]int{}
	for w := range sums {
		wg.Go(func() {
			next := packets.Flows(seed+uint64(w)<<32, s)
			for range n / workers {
				f := next()
				want, got := s.Decide(f), st.Admit(f)
				if got.Verdict != want.Verdict || got.Rule != want.Rule || got.Record != want.Audit {
					t.Errorf("seed %d: %+v: the forest says %+v, the definition %+v", seed, f, got, want)
					return
				}
				if got.Verdict == abi.Allow {
					sums[w]++
				}
			}
		})
	}
	wg.Wait()
	return sums[0] + sums[1]
}

func TestTheForestFindsWhatTheDefinitionFinds(t *testing.T) {
	for seed := range uint64(60) {
		sameFlows(t, seed, 4000, packets.Rules(seed, int(40+seed*12), target.V4, target.V6))
	}
	for i, kind := range packets.Kinds {
		n := 1000
		if kind == "cloud" {
			n = 300
		}
		if allowed := sameFlows(t, uint64(i), 100_000, packets.Like(kind, uint64(i), n)); allowed < 1000 || allowed > 99_000 {
			t.Errorf("%s: %d flows are allowed", kind, allowed)
		}
	}
}

// classBench reads the filter sets of the folder that LORICA_CLASSBENCH names.
func classBench(t testing.TB) map[string][]flow.Rule {
	t.Helper()
	dir := os.Getenv("LORICA_CLASSBENCH")
	if dir == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.rules"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no *.rules (%v)", dir, err)
	}
	sets := map[string][]flow.Rule{}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := packets.ClassBench(file)
		file.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sets[filepath.Base(name)] = rules
	}
	return sets
}

// TestTheForestUnderClassBench asks about a million flows for each filter set, of all five
// fields.
func TestTheForestUnderClassBench(t *testing.T) {
	sets := classBench(t)
	if sets == nil {
		notrun.Say(t, "a million flows under each ClassBench filter set", "LORICA_CLASSBENCH names no folder of them; rule sets of their forms were asked about")
		return
	}
	for name, rules := range sets {
		t.Run(name, func(t *testing.T) {
			s := &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: rules}}}
			allowed := sameFlows(t, 1, 1_000_000, s)
			t.Logf("%d rules, %d bytes; a million flows, %d of them allowed", len(rules), len(planted(s)), allowed)
		})
	}
}

// BenchmarkForest measures the judgement of one flow: by rule, and by the forest; and
// what the forest takes to grow, and in bytes.
func BenchmarkForest(b *testing.B) {
	run := func(name string, s *flow.Section) {
		next := packets.Flows(1, s)
		list := make([]flow.Flow, 0, 1<<14)
		for len(list) < cap(list) {
			if f := next(); f.Src.IsValid() {
				list = append(list, f.Plain())
			}
		}
		section := planted(s)
		v := must(flow.Open(section))
		b.Run(name+"/linear", func(b *testing.B) {
			linear := must(flow.Open(s.Encode()))
			for i := 0; b.Loop(); i++ {
				p := flow.At(list[i%len(list)])
				linear.Match(&linear.Lists[0], &p)
			}
		})
		b.Run(name+"/forest", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p := flow.At(list[i%len(list)])
				v.Match(&v.Lists[0], &p)
			}
			rules := float64(v.Lists[0].Rules)
			b.ReportMetric(float64(len(section))/rules, "bytes/rule")
			b.ReportMetric(float64(len(section)-len(s.Encode()))/rules, "forest-bytes/rule")
		})
		b.Run(name+"/grow", func(b *testing.B) {
			for b.Loop() {
				l := s.Lists[0]
				forest.Plant(&l)
			}
		})
		b.Run(name+"/open", func(b *testing.B) {
			for b.Loop() {
				must(flow.Open(section))
			}
		})
	}
	for name, rules := range classBench(b) {
		run(name, &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: rules}}})
	}
	for _, n := range []int{1000, 10_000, 100_000} {
		for _, kind := range packets.Kinds {
			run(fmt.Sprintf("%s/rules=%d", kind, n), packets.Like(kind, 1, n))
		}
	}
}
