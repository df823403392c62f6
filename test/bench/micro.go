package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

var benchLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op(?:\s+([0-9]+) B/op\s+([0-9]+) allocs/op)?`)

// A timed is a Go benchmark, once.
type timed struct{ nanos, allocs float64 }

// gobench runs Go benchmarks of a package and returns them by name.
func (b *bench) gobench(pkg, pattern string, count int) (map[string][]timed, error) {
	cmd := exec.Command("go", "test", pkg, "-run", "^$", "-bench", pattern, "-benchmem", "-benchtime", "200ms", "-count", strconv.Itoa(count))
	cmd.Dir = b.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	list := map[string][]timed{}
	for _, m := range benchLine.FindAllSubmatch(out, -1) {
		nanos, _ := strconv.ParseFloat(string(m[2]), 64)
		allocs, _ := strconv.ParseFloat(string(m[4]), 64)
		list[string(m[1])] = append(list[string(m[1])], timed{nanos, allocs})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no benchmark %s", pkg, pattern)
	}
	return list, nil
}

// micro measures the chain alone, without connections.
func (b *bench) micro() error {
	list, err := b.gobench("./test/conform", "^BenchmarkChain$", b.rounds)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, bench string
		target      float64
	}{{"chain-remembered", "Chain/remembered", 300}, {"chain-new", "Chain/new", 2000}} {
		var nanos, allocs []float64
		for _, t := range list[c.bench] {
			nanos, allocs = append(nanos, t.nanos), append(allocs, t.allocs)
		}
		if len(nanos) == 0 {
			b.cannot(c.name, fmt.Errorf("there is no benchmark %s", c.bench))
			continue
		}
		b.add(&figure{Name: c.name, Unit: "ns", Values: nanos, Target: c.target, AtMost: true})
		b.add(&figure{Name: c.name + "-allocations", Values: allocs, Target: 1, AtMost: true, None: c.bench == "Chain/new"})
	}
	return nil
}
