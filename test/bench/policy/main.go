// Command policy measures how fast policies decide, beside engines of the field that do the
// same with the same ones. It is a module of its own: nothing else needs those engines.
//
// What it measures it writes in lines for whoever makes figures of them:
//
//	measured NAME VALUE
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds of each comparison")
	each := flag.Duration("each", 100*time.Millisecond, "processor time of a measurement")
	deployment := flag.String("deployment", "", "folder of a large deployment to compile")
	classBench := flag.String("classbench", os.Getenv("LORICA_CLASSBENCH"), "folder of filter sets of ClassBench")
	only := flag.String("only", "", "measure this alone: scoped, wildcard, hierarchy, packets, compile, judge")
	flag.Parse()
	m := &run{rounds: *rounds, each: *each, deployment: *deployment, classBench: *classBench}
	for _, g := range []struct {
		name string
		run  func(name string) error
	}{
		{"scoped", m.engines}, {"wildcard", m.engines}, {"hierarchy", m.engines},
		{"packets", m.packets}, {"compile", m.compile}, {"judge", m.judge},
	} {
		if *only != "" && *only != g.name {
			continue
		}
		if err := g.run(g.name); err != nil {
			fail(fmt.Errorf("%s: %w", g.name, err))
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "policy:", err)
	os.Exit(1)
}

var sizes = []int{1, 100, 1000, 10_000}

// A run is one run of this command.
type run struct {
	rounds                 int
	each                   time.Duration
	deployment, classBench string // folders
}

// engines measures all engines under one mix, size by size, in turn.
func (m *run) engines(mix string) error {
	for _, n := range sizes {
		w := newWorld(mix, n)
		ours, l, err := ofLorica(w)
		if err != nil {
			return err
		}
		list := []*decider{ours}
		for _, of := range []func(*world) (*decider, error){ofCedarGo, ofOPA, ofCEL, ofCasbin} {
			d, err := of(w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			list = append(list, d)
		}
		if err := same(w, list); err != nil {
			return err
		}
		at := make([]int, len(list)) // where in the requests each is: the slow ones too come to see them
		for range m.rounds {
			for k, d := range list {
				c := costs(m.each, func() {
					d.decide(at[k])
					at[k] = (at[k] + 1) % len(w.requests)
				})
				measured(w.name+"/"+d.name+"/ns", c.nanos)
				measured(w.name+"/"+d.name+"/allocs", c.allocs)
			}
		}
		measured(w.name+"/bytes", float64(l.bytes))
	}
	return nil
}

// same holds all engines to the same decisions about the requests that are measured, as many
// as the slow ones can answer in a while.
func same(w *world, list []*decider) error {
	allowed, n := 0, min(len(w.requests), 1_000_000/len(w.rules))
	for i := range n {
		want := list[0].decide(i)
		if want {
			allowed++
		}
		for _, d := range list[1:] {
			if d.decide(i) != want {
				return fmt.Errorf("%s: %s and %s decide differently about %+v: %t", w.name, list[0].name, d.name, w.requests[i], want)
			}
		}
	}
	measured(w.name+"/allowed", float64(allowed)/float64(n))
	if allowed < n/10 || allowed > n-n/10 {
		return fmt.Errorf("%s: %d of %d requests are allowed", w.name, allowed, n)
	}
	return nil
}
