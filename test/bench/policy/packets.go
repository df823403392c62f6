package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/compiler/forest"
	"lorica.dev/lorica/test/conform/packets"
)

const manyFlows = 1 << 14

// packets measures the judgement of one flow: rule by rule, and by the forest.
func (m *run) packets(string) error {
	sets := map[string]*flow.Section{}
	for _, kind := range packets.Kinds {
		sets["like-"+kind+"/10000"] = packets.Like(kind, 1, 10_000)
		sets["like-"+kind+"/100000"] = packets.Like(kind, 1, 100_000)
	}
	if m.classBench != "" {
		files, err := filepath.Glob(filepath.Join(m.classBench, "*.rules"))
		if err != nil {
			return err
		}
		for _, name := range files {
			file, err := os.Open(name)
			if err != nil {
				return err
			}
			rules, err := packets.ClassBench(file)
			file.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			set := strings.TrimSuffix(filepath.Base(name), ".rules")
			sets[fmt.Sprintf("%s/%d", set, len(rules))] = &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: rules}}}
		}
	}
	for name, s := range sets {
		if err := m.classify("packets/"+name, s); err != nil {
			return err
		}
	}
	return nil
}

// classify measures one set of rules. What reads a section without trees goes rule by rule,
// and is faster at it than the definition.
func (m *run) classify(name string, s *flow.Section) error {
	planted := flow.Section{Lists: []flow.List{s.Lists[0]}}
	began := used()
	forest.Plant(&planted.Lists[0])
	measured(name+"/grow-ms", float64((used()-began).Microseconds())/1000)
	plain, grown := s.Encode(), planted.Encode()
	linear, err := flow.Open(plain)
	if err != nil {
		return err
	}
	trees, err := flow.Open(grown)
	if err != nil {
		return err
	}
	rules := float64(len(s.Lists[0].Rules))
	measured(name+"/bytes-each", float64(len(grown))/rules)
	next := packets.Flows(1, s)
	var list []flow.Flow
	for len(list) < manyFlows {
		if f := next(); f.Src.IsValid() {
			list = append(list, f.Plain())
		}
	}
	judge := func(v *flow.View) func(f flow.Flow) int {
		return func(f flow.Flow) int {
			p := flow.At(f)
			return v.Match(&v.Lists[0], &p)
		}
	}
	byRule, byForest := judge(linear), judge(trees)
	for _, f := range list[:min(len(list), 50_000_000/len(s.Lists[0].Rules))] {
		want, got := byRule(f), byForest(f)
		if want != got {
			return fmt.Errorf("%s: rule by rule %+v meets %d, and by the forest %d", name, f, want, got)
		}
		d := s.Decide(f)
		if verdict := verdictOf(trees, got); d.Verdict != verdict {
			return fmt.Errorf("%s: %+v: the definition says %v, and the forest %v", name, f, d.Verdict, verdict)
		}
	}
	for range m.rounds {
		for _, k := range []struct {
			name  string
			judge func(flow.Flow) int
		}{{"linear", byRule}, {"forest", byForest}} {
			i := 0
			c := costs(m.each, func() {
				k.judge(list[i])
				i = (i + 1) % len(list)
			})
			measured(name+"/"+k.name+"/ns", c.nanos)
			measured(name+"/"+k.name+"/allocs", c.allocs)
		}
	}
	return nil
}

func verdictOf(v *flow.View, rule int) abi.Verdict {
	if rule == flow.None {
		return v.Lists[0].Default
	}
	verdict, _ := v.Verdict(rule)
	return verdict
}
