package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/compiler/forest"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/test/conform/packets"
)

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
	for seed := range uint64(40) {
		sameFlows(t, seed, 4000, packets.Rules(seed, int(40+seed*10), target.V4, target.V6))
	}
	for i, kind := range packets.Kinds {
		const n = 500
		if allowed := sameFlows(t, uint64(i), 60_000, packets.Like(kind, uint64(i), n)); allowed < 1000 || allowed > 59_000 {
			t.Errorf("%s: %d flows are allowed", kind, allowed)
		}
	}
}

// filterSets reads the filter sets of the folder that LORICA_CLASSBENCH names.
func filterSets(t testing.TB) map[string][]flow.Rule {
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
		set, err := filterSet(name)
		if err != nil {
			t.Fatal(err)
		}
		sets[filepath.Base(name)] = set.Lists[0].Rules
	}
	return sets
}

// TestTheForestUnderClassBench asks about a million flows for each filter set, of all five
// fields.
func TestTheForestUnderClassBench(t *testing.T) {
	sets := filterSets(t)
	if sets == nil {
		notrun.Say(t, "a million flows under each ClassBench filter set", "LORICA_CLASSBENCH names no folder of them; rule sets of their forms were asked about")
		return
	}
	for name, rules := range sets {
		t.Run(name, func(t *testing.T) {
			s := &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: rules}}}
			section := planted(s)
			v := must(flow.Open(section))
			sources := make([][2]uint32, len(rules))
			for i := range rules {
				first := rules[i].Src.Addr().As4()
				sources[i][0] = binary.BigEndian.Uint32(first[:])
				sources[i][1] = sources[i][0] | uint32(uint64(1)<<(32-rules[i].Src.Bits())-1)
			}
			var wg sync.WaitGroup
			var found [2]int
			for w := range found {
				wg.Go(func() {
					next := packets.Flows(uint64(w), s)
					for n := 0; n < 500_000; {
						f := next().Plain()
						if !f.Src.IsValid() {
							continue
						}
						n++
						p := flow.At(f)
						want, got := earliest(rules, sources, f), v.Match(&v.Lists[0], &p)
						if got != want {
							t.Errorf("%+v: the forest says rule %d, the definition %d", f, got, want)
							return
						}
						if got != flow.None {
							found[w]++
						}
					}
				})
			}
			wg.Wait()
			t.Logf("%d rules, %d bytes; a million flows, %d of which found a rule", len(rules), len(section), found[0]+found[1])
			if all := found[0] + found[1]; all < 100_000 || all > 990_000 {
				t.Errorf("%d flows found a rule", all)
			}
		})
	}
}

// earliest is the first rule that matches by the definition, which takes long: the
// sources of rules, all of IPv4, which lie side by side here, are looked at first.
func earliest(rules []flow.Rule, sources [][2]uint32, f flow.Flow) int {
	if !f.Src.Is4() {
		return flow.None
	}
	a := f.Src.As4()
	src := binary.BigEndian.Uint32(a[:])
	for i, s := range sources {
		if s[0] <= src && src <= s[1] && rules[i].Matches(f) {
			return i
		}
	}
	return flow.None
}

// FuzzForest has trees made for whatever rules a section has.
func FuzzForest(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(packets.Rules(seed, 6*int(seed), target.V4, target.V6).Encode(), seed)
	}
	f.Fuzz(func(t *testing.T, section []byte, seed uint64) {
		s, err := flow.Decode(section)
		if err != nil || len(s.Lists) == 0 {
			return
		}
		for i := range s.Lists { // fewer are asked one by one
			for l := &s.Lists[i]; len(l.Rules) > 0 && len(l.Rules) < 64; {
				l.Rules = append(l.Rules, l.Rules...)
			}
		}
		sameFlows(t, seed, 200, &s)
	})
}

// A program of so many rules is one that an image takes.
func TestAHundredThousandRulesFit(t *testing.T) {
	s := packets.Like("fw", 1, 100_000)
	b := planted(s)
	if len(b) > program.MaxSize*3/4 {
		t.Errorf("%d bytes", len(b))
	}
	sameFlows(t, 1, 200, s)
}

func TestManyRulesAreAskedWithoutAllocating(t *testing.T) {
	s := packets.Like("cloud", 1, 5000)
	m := firewall.New()
	m.Packets(pep.PacketPlace{})
	st := must(m.Prepare(&pep.Input{Section: planted(s)}))
	next := packets.Flows(1, s)
	if n := testing.AllocsPerRun(1000, func() { st.Admit(next()) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkAdmit measures a connection against more and more rules.
func BenchmarkAdmit(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000, 100_000} {
		s := packets.Like("cloud", 7, n)
		st := must(firewall.New().Prepare(&pep.Input{Section: planted(s)}))
		next := packets.Flows(7, s)
		list := make([]flow.Flow, 1<<12)
		for i := range list {
			list[i] = next()
		}
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				st.Admit(list[i%len(list)])
			}
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
	for name, rules := range filterSets(b) {
		run(name, &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: rules}}})
	}
	for _, n := range []int{1000, 10_000, 100_000} {
		for _, kind := range packets.Kinds {
			run(fmt.Sprintf("%s/rules=%d", kind, n), packets.Like(kind, 1, n))
		}
	}
}
