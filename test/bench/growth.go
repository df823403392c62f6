package main

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// growth measures how costs grow with what a policy holds.
func (b *bench) growth() error {
	for _, g := range []struct {
		file, title, x, pkg, bench string
		lines                      map[string]string // name in the benchmark to name in the plot
	}{
		{"growth-rules", "A connection against network rules", "rules", "./test/conform", "^BenchmarkAdmit$", map[string]string{"": "verdict"}},
		{"growth-policies", "A request against Cedar policies", "policies", "./test/conform", "^BenchmarkJudge$",
			map[string]string{"remembered": "remembered", "evaluated": "new", "cedar-go": "cedar-go"}},
	} {
		list, err := b.gobench(g.pkg, g.bench, 1)
		if err != nil {
			return err
		}
		p := plot{Title: g.title, X: g.x, Y: "ns"}
		for _, key := range slices.Sorted(maps.Keys(g.lines)) {
			p.Lines = append(p.Lines, curve{g.lines[key], points(list, g.x, key)})
		}
		b.plots = append(b.plots, named{g.file, p})
	}
	return b.imageSizes()
}

// points finds the benchmarks called .../x=N/key, or .../x=N where key is empty.
func points(list map[string][]timed, x, key string) [][2]float64 {
	var out [][2]float64
	for name, runs := range list {
		parts := strings.Split(name, "/")
		if len(parts) < 2 || (key != "") != (len(parts) > 2) || key != "" && parts[2] != key {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimPrefix(parts[1], x+"="), 64)
		if err == nil {
			out = append(out, [2]float64{n, runs[0].nanos})
		}
	}
	slices.SortFunc(out, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
	return out
}

// imageSizes builds images with more and more modules.
func (b *bench) imageSizes() error {
	p := plot{Title: "The size of an image", X: "modules", Y: "MB"}
	line := curve{Name: "image"}
	routes := "  routes: [{name: all, match: {method: GET, path: \"/{rest...}\"}}]\n"
	steps := []string{plainPolicy,
		plainPolicy + routes + "  rateLimits: [{name: l, key: source, requests: 9, per: 1s}]\n",
		fullPolicy(8080, size{10, 10}),
		fullPolicy(8080, size{10, 10}) + "  tls: {mode: SIMPLE}\n"}
	for i, text := range steps {
		dir, err := b.project(fmt.Sprintf("size-%d", i), workload(fmt.Sprintf("size-%d", i), b.app(), 8080), text)
		if err != nil {
			return err
		}
		out, err := b.command("build", "-f", dir, "-o", "json").Output()
		if err != nil {
			return fmt.Errorf("building an image of step %d: %w", i, err)
		}
		bytes, err := largestImage(filepath.Join(b.home(), ".local", "share", "lorica"), string(out))
		if err != nil {
			return err
		}
		plan, err := b.command("plan", "-f", dir, "-o", "json").Output()
		if err != nil {
			return err
		}
		line.Points = append(line.Points, [2]float64{float64(strings.Count(string(plan), `"module":`)), bytes / 1e6})
	}
	p.Lines = []curve{line}
	b.plots = append(b.plots, named{"growth-image", p})
	return nil
}

// A named is a plot and the file it goes to.
type named struct {
	file string
	plot plot
}
