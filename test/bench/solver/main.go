// Command solver measures how fast sets of packages are chosen, beside solvers of the
// field that are asked the same. It is a module of its own: nothing else needs those.
//
// What it measures it writes in lines for whoever makes figures of them:
//
//	measured NAME VALUE
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"lorica.dev/lorica/solver/debian"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == gophersatCommand {
		if err := gophersatMain(os.Stdin, os.Stdout); err != nil {
			fail(err)
		}
		return
	}
	m := &run{}
	flag.IntVar(&m.rounds, "rounds", 5, "rounds of each measurement")
	flag.StringVar(&m.root, "root", ".", "the repository")
	flag.StringVar(&m.packages, "packages", "", "a Packages file of Debian")
	flag.StringVar(&m.out, "out", "", "folder to write mutated repositories to")
	flag.IntVar(&m.roots, "roots", 200, "packages of which the least set is asked")
	flag.DurationVar(&m.patience, "patience", 5*time.Second, "how long another solver may take for one answer")
	only := flag.String("only", "", "measure this alone: mutate, roots, catalogue")
	flag.Duration("each", 0, "not used: the other commands of this kind have it")
	flag.Parse()
	for _, g := range []struct {
		name string
		run  func() error
	}{{"mutate", m.mutate}, {"catalogue", m.catalogue}, {"roots", m.minimalSets}} {
		if *only != "" && *only != g.name {
			continue
		}
		if err := g.run(); err != nil {
			fail(fmt.Errorf("%s: %w", g.name, err))
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "solver:", err)
	os.Exit(1)
}

// A run is one run of this command.
type run struct {
	rounds, roots int
	root          string
	packages, out string
	patience      time.Duration
}

func measured(name string, value float64) { fmt.Printf("measured %s %g\n", name, value) }

// universe reads the packages.
func (m *run) universe() (*debian.Universe, error) {
	f, err := os.Open(m.packages)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r debian.Repository
	if err := r.Add(context.Background(), f, m.packages); err != nil {
		return nil, err
	}
	ix, err := r.Index(context.Background(), "")
	if err != nil {
		return nil, err
	}
	return ix.Universe(context.Background())
}

// middle returns the median of times, in milliseconds.
func middle(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)/2].Nanoseconds()) / 1e6
}
