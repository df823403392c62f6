package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// legendOfSolver says what is measured, and against what.
const legendOfSolver = `
Packages files are those of Debian bookworm, main, amd64: the size and the digest of the one that was measured are above. Times are processor time in user mode, of whole processes
where others are measured beside us, since machines are shared; of single answers, by the clock, the median of the rounds.

| figure | what is measured |
|---|---|
| debian-differences | packages that ` + "`lorica solve --debian`" + ` and dose-debcheck do not both find broken; -broken and -packages say of how many |
| debian-over-dose | user time of dose-debcheck over ours: read the file, check every package, print; -seconds and -dose-seconds are the times themselves |
| debian-memory | the most memory that ours had; -dose-memory, dose-debcheck |
| dropped-, conflicts-, versions-differences | the same in three mutated repositories: one package of 300 dropped; 20 conflicts more between packages that others depend on; second versions of one package of forty, and dependencies on versions that are hardly there |
| catalogue-set, catalogue-explanation | the least set of modules for a policy of the examples, and the minimal reasons why there is none for one that asks for what it forbids |
| roots | the least set, by count, of each of 200 packages chosen by chance, essential packages left out: the median over packages. -p95, -most: of the slowest; -packages: how many may come with one (median) |
| roots-worse | how many of these sets are larger than one of another solver's. Each set is held against dependencies and conflicts besides; -not-proven: of which it could not be told that none is smaller |
| roots-unlike | how many other solvers call larger sets the least |
| roots-gophersat, -aspcud, -mccs | how many of them that solver answered within five seconds; -ms: the median of its answers, the start of its process included |
`

// solving are the groups of what is measured of the solver.
func (b *bench) solving() []group {
	return []group{{"debian", b.debian}, {"mutated", b.mutated}, {"catalogue", b.catalogue}, {"roots", b.minimalSets}}
}

// A checking is one check of a Packages file by a command.
type checking struct {
	broken   []string // "package version architecture"
	packages int
	seconds  float64 // of the processor, in user mode
	megabyte float64 // of memory, at most
}

// patience is how long a check may take, by the clock: some of mutated repositories take
// dose-debcheck hours.
const patience = 20 * time.Minute

// checks runs a command that prints as dose-debcheck does.
func checks(name string, args ...string) (*checking, error) {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s did not finish in %v", name, patience)
	}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: something is broken
		if exit != nil {
			err = fmt.Errorf("%w: %s", err, tail(exit.Stderr))
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	c := &checking{seconds: cmd.ProcessState.UserTime().Seconds(), megabyte: float64(used.Maxrss) / 1000}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "  package":
			c.broken = append(c.broken, value)
		case "  version", "  architecture":
			c.broken[len(c.broken)-1] += " " + value
		case "total-packages":
			if _, err := fmt.Sscan(value, &c.packages); err != nil {
				return nil, err
			}
		}
	}
	if c.packages == 0 {
		return nil, fmt.Errorf("%s checked nothing", name)
	}
	slices.Sort(c.broken)
	return c, nil
}

func (b *bench) oursOf(file string) (*checking, error) {
	return checks(b.lorica, "solve", "--debian", file, "-o", "dose", "--explain", "0")
}

func doseOf(file string) (*checking, error) { return checks("dose-debcheck", "--failures", file) }

// differences counts what one of two checks finds broken alone.
func differences(a, b *checking) (n float64) {
	for _, pair := range [][2]*checking{{a, b}, {b, a}} {
		for _, p := range pair[0].broken {
			if _, ok := slices.BinarySearch(pair[1].broken, p); !ok {
				n++
			}
		}
	}
	if a.packages != b.packages {
		n++
	}
	return n
}

// debian checks all of a release beside dose-debcheck, in turn.
func (b *bench) debian() error {
	over := &figure{Name: "debian-over-dose", Unit: "x", Target: 30}
	unlike := &figure{Name: "debian-differences", AtMost: true}
	memory := &figure{Name: "debian-memory", Unit: "MB", Target: 200, AtMost: true}
	var all [5]figure
	for i, f := range []figure{{Name: "debian-packages"}, {Name: "debian-broken"}, {Name: "debian-seconds", Unit: "s"}, {Name: "debian-dose-seconds", Unit: "s"}, {Name: "debian-dose-memory", Unit: "MB"}} {
		all[i] = f
		all[i].None = true
	}
	for range b.rounds {
		ours, err := b.oursOf(b.packages)
		if err != nil {
			return err
		}
		dose, err := doseOf(b.packages)
		if err != nil {
			return err
		}
		over.Values = append(over.Values, dose.seconds/ours.seconds)
		unlike.Values = append(unlike.Values, differences(ours, dose))
		memory.Values = append(memory.Values, ours.megabyte)
		for i, v := range []float64{float64(ours.packages), float64(len(ours.broken)), ours.seconds, dose.seconds, dose.megabyte} {
			all[i].Values = append(all[i].Values, v)
		}
	}
	b.add(unlike)
	b.add(over)
	b.add(memory)
	for i := range all {
		b.add(&all[i])
	}
	return nil
}

// mutated checks repositories in which thousands are broken.
func (b *bench) mutated() error {
	if _, err := b.measuredBy("mutate", "-packages", b.packages, "-out", b.dir); err != nil {
		return err
	}
	for _, name := range []string{"dropped", "conflicts", "versions"} {
		file := filepath.Join(b.dir, name)
		ours, err := b.oursOf(file)
		if err != nil {
			return err
		}
		dose, err := doseOf(file)
		if err != nil {
			b.cannot(name, err)
			continue
		}
		b.add(&figure{Name: name + "-differences", Values: []float64{differences(ours, dose)}, AtMost: true})
		b.add(&figure{Name: name + "-broken", Values: []float64{float64(len(ours.broken))}, None: true})
		b.add(&figure{Name: name + "-over-dose", Unit: "x", Values: []float64{dose.seconds / ours.seconds}, None: true})
	}
	return nil
}

// catalogue asks for sets of modules.
func (b *bench) catalogue() error {
	list, err := b.measuredBy("catalogue", "-root", b.root)
	if err != nil {
		return err
	}
	b.add(&figure{Name: "catalogue-set", Unit: "ms", Values: list["catalogue/set/ms"], Target: 1, AtMost: true})
	b.add(&figure{Name: "catalogue-explanation", Unit: "ms", Values: list["catalogue/explanation/ms"], Target: 5, AtMost: true})
	return nil
}

// minimalSets asks for the least sets of packages beside other solvers.
func (b *bench) minimalSets() error {
	list, err := b.measuredBy("roots", "-packages", b.packages)
	if err != nil {
		return err
	}
	took := slices.Sorted(slices.Values(list["roots/ms"]))
	if len(took) < 200 {
		return fmt.Errorf("%d packages were asked about", len(took))
	}
	b.add(&figure{Name: "roots", Unit: "ms", Values: took, Target: 0.5, AtMost: true})
	b.add(&figure{Name: "roots-worse", Values: list["roots/worse"], AtMost: true})
	b.add(&figure{Name: "roots-unlike", Values: list["roots/unlike"], AtMost: true})
	b.add(&figure{Name: "roots-not-proven", Values: list["roots/unproven"], None: true})
	b.add(&figure{Name: "roots-p95", Unit: "ms", Values: []float64{took[len(took)*95/100]}, None: true})
	b.add(&figure{Name: "roots-most", Unit: "ms", Values: took[len(took)-1:], None: true})
	b.add(&figure{Name: "roots-packages", Values: list["roots/packages"], None: true})
	for _, name := range []string{"gophersat", "aspcud", "mccs"} {
		answered := list["roots/"+name+"/answered"]
		if answered == nil {
			b.cannot("roots-"+name, errors.New("it is not installed"))
			continue
		}
		b.add(&figure{Name: "roots-" + name, Values: answered, None: true})
		b.add(&figure{Name: "roots-" + name + "-ms", Unit: "ms", Values: list["roots/"+name+"/ms"], None: true})
	}
	return nil
}

// describePackages says which file is measured.
func describePackages(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return fmt.Sprintf("The Packages file has %d bytes; its SHA-256 is %s", n, hex.EncodeToString(h.Sum(nil))), err
}
