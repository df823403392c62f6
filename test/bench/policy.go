package main

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/test/freeport"
)

// legendOfPolicy says what is measured, and against what.
const legendOfPolicy = `
Times of decisions are processor time of the whole process, what collects garbage included: machines are shared. Each set of rules is put to all engines in one process, in
turn; all of them have given the same decisions on the requests that are measured before anything is. Requests come from 4,096 users, each of whom is another than the one
before, and a part of them is denied: no engine remembers any. Allocations are those of Go's heap.

| figure | what is measured |
|---|---|
| scoped, wildcard, hierarchy | one decision of Lorica's engine, from the names in a request to allow or deny. Scoped: each policy names a group or a user, a folder, and actions; nearly all are about others. Wildcard: about everybody and everything, under conditions that ask for a tenant, or for a project if there is one. Hierarchy: users in teams in departments in divisions in organizations, documents in folders in projects in areas in roots, policies about each height. The number is that of policies |
| -over-cedar-go, -opa, -cel, -casbin | time of that engine over ours, round by round; -each is its time itself |
| packets-over-linear | time of the same rules one by one over the forest, in the set of 10,000 rules where that is least: sets of ClassBench where LORICA_CLASSBENCH names a folder of them, and sets of their forms; -set is of each set |
| packets | one judgement by the forest, in the set of 100,000 rules where that is slowest |
| compile | a deployment of 1,000 policies and 10,000 network rules, from what was read to programs for images; -load reads and checks its documents |
| bytes-a-policy, -rule | size of the sections of that program, over how many there are |
| swap | that program in the place of another in a running image, signed and sent, to its being in force |
| judge | the guard of an image under those 1,000 policies: facts gathered from a request of HTTP, and nothing remembered |

How the others are given the same rules:

- cedar-go 1.9 has the same policies and entities. It goes through all of them.
- OPA has rules as data, found by who and where (or by tenant and project) in as many steps as a request has groups and folders, with all that something is in written
  out before; conditions are functions with names. The query is prepared, inputs and data are values of OPA already.
- CEL has a program for each policy, compiled and optimized, over values of its own; those that forbid come first, and the first that holds ends the search. What somebody
  and something are in is a list in the request.
- Casbin has roles for who and where, or attributes, as its models have them; conditions are a function in Go. It stops at nothing: what forbids could be last.
`

// policies are the groups of what is measured in test/bench/policy.
func (b *bench) policies() []group {
	return []group{{"scoped", b.mix("scoped", 1)}, {"wildcard", b.mix("wildcard", 5)}, {"hierarchy", b.mix("hierarchy", 1)},
		{"packets", b.classified}, {"compile", b.compiled}, {"swap", b.swapped}, {"judge", b.judged}}
}

// prepareModule also builds what measures us beside others, in a module of its own below
// this folder.
func (b *bench) prepareModule(name string) func() error {
	return func() error {
		if err := b.prepare(); err != nil {
			return err
		}
		b.engines = filepath.Join(b.dir, "engines")
		cmd := exec.Command("go", "build", "-o", b.engines, ".")
		cmd.Dir = filepath.Join(b.root, "test", "bench", name)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

// measuredBy runs it, and returns what it measured by name, round by round.
func (b *bench) measuredBy(only string, args ...string) (map[string][]float64, error) {
	cmd := exec.Command(b.engines, append([]string{"-only", only, "-rounds", strconv.Itoa(b.rounds), "-each", (time.Duration(b.seconds) * 50 * time.Millisecond).String()}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	list := map[string][]float64{}
	for in := bufio.NewScanner(out); in.Scan(); {
		var name string
		var v float64
		if _, err := fmt.Sscanf(in.Text(), "measured %s %g", &name, &v); err == nil {
			list[name] = append(list[name], v)
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("nothing was measured")
	}
	return list, nil
}

// mix makes the figures of one mix of policies. Targets are for each decision, in
// microseconds, and for how much longer others take.
func (b *bench) mix(mix string, micros float64) func() error {
	return func() error {
		list, err := b.measuredBy(mix)
		if err != nil {
			return err
		}
		for _, n := range []string{"1", "100", "1000", "10000"} {
			at, name := mix+"/"+n+"/", mix+"-"+n
			ours := list[at+"lorica/ns"]
			if len(ours) == 0 {
				return fmt.Errorf("%s has no measurement", name)
			}
			// Of wildcards, the promise is about 1,000.
			b.add(&figure{Name: name, Unit: "us", Values: scaled(ours, 1e-3), Target: micros, AtMost: true, None: mix == "wildcard" && n != "1000"})
			b.add(&figure{Name: name + "-allocations", Values: rounded(list[at+"lorica/allocs"]), Target: 0, AtMost: true})
			for _, other := range []string{"cedar-go", "opa", "cel", "casbin"} {
				theirs := list[at+other+"/ns"]
				b.add(&figure{Name: name + "-" + other + "-each", Unit: "us", Values: scaled(theirs, 1e-3), None: true})
				least := map[string]float64{"opa": 10}[other]
				if mix == "scoped" && other == "cedar-go" {
					least = map[string]float64{"1000": 200, "10000": 5000}[n]
				}
				b.add(&figure{Name: name + "-over-" + other, Unit: "x", Values: ratios(theirs, ours), Target: least, None: least == 0})
			}
			b.add(&figure{Name: name + "-allowed", Values: list[at+"allowed"], None: true})
		}
		return nil
	}
}

// rounded takes away what is of the measurement itself: less than one in a hundred.
func rounded(values []float64) []float64 {
	out := slices.Clone(values)
	for i := range out {
		out[i] = float64(int(out[i]*100)) / 100
	}
	return out
}

// classified makes the figures of packets.
func (b *bench) classified() error {
	list, err := b.measuredBy("packets")
	if err != nil {
		return err
	}
	worst := &figure{Name: "packets-over-linear", Unit: "x", Target: 20}
	slowest := &figure{Name: "packets", Unit: "us", Target: 1, AtMost: true}
	for _, key := range slices.Sorted(maps.Keys(list)) {
		set, ok := strings.CutSuffix(key, "/forest/ns")
		if !ok {
			continue
		}
		_, size, _ := strings.Cut(strings.TrimPrefix(set, "packets/"), "/")
		rules, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("%s: %w", set, err)
		}
		ours, linear := list[set+"/forest/ns"], list[set+"/linear/ns"]
		name := strings.ReplaceAll(set, "/", "-")
		each := &figure{Name: name, Unit: "us", Values: scaled(ours, 1e-3), None: true}
		over := &figure{Name: name + "-over-linear", Unit: "x", Values: ratios(linear, ours), None: true}
		b.add(each)
		b.add(over)
		b.add(&figure{Name: name + "-bytes-a-rule", Values: list[set+"/bytes-each"], None: true})
		// Sets of ClassBench of 10,000 rules have a few less.
		if rules >= 9_000 && rules <= 10_000 && (worst.Values == nil || over.median() < worst.median()) {
			worst.Values = over.Values
		}
		if rules == 100_000 && (slowest.Values == nil || each.median() > slowest.median()) {
			slowest.Values = each.Values
		}
	}
	if worst.Values == nil || slowest.Values == nil {
		return errors.New("there are no sets of 10,000 rules, or none of 100,000")
	}
	b.add(worst)
	b.add(slowest)
	return nil
}

// large is the deployment that is compiled.
func (b *bench) large() (dir string, err error) {
	return b.project("large", workload("large", b.app(), 8080), fullPolicy(8080, size{10_000, 1000}))
}

// compiled makes the figures of the compiler.
func (b *bench) compiled() error {
	dir, err := b.large()
	if err != nil {
		return err
	}
	list, err := b.measuredBy("compile", "-deployment", dir)
	if err != nil {
		return err
	}
	b.add(&figure{Name: "compile", Unit: "ms", Values: list["compile/clock-ms"], Target: 250, AtMost: true})
	b.add(&figure{Name: "compile-cpu", Unit: "ms", Values: list["compile/cpu-ms"], None: true})
	b.add(&figure{Name: "compile-load", Unit: "ms", Values: list["compile/load-ms"], None: true})
	b.add(&figure{Name: "bytes-a-policy", Values: list["compile/bytes-a-policy"], None: true})
	b.add(&figure{Name: "bytes-a-rule", Values: list["compile/bytes-a-rule"], None: true})
	return nil
}

// swapped changes one policy of a thousand in a running image, and asks how long the
// image took to have the new program in force.
func (b *bench) swapped() error {
	port, err := freeport.Find()
	if err != nil {
		return err
	}
	text := fullPolicy(port, size{10_000, 1000})
	dir, err := b.project("swap", workload("swap", b.app(), port), text)
	if err != nil {
		return err
	}
	x, err := b.up(dir)
	if err != nil {
		return err
	}
	defer x.stop()
	var took []float64
	for i := range b.rounds + 1 {
		changed := strings.Replace(text, "context.amount > 100000 ", fmt.Sprintf("context.amount > %d ", 90_000+i), 1)
		if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(changed), 0o644); err != nil {
			return err
		}
		e, err := x.wait("applied")
		if err != nil {
			return err
		}
		if e.Change == "image" {
			return errors.New("a changed policy made another image")
		}
		if i > 0 { // the first is warm-up
			took = append(took, e.TookMillis)
		}
	}
	b.add(&figure{Name: "swap", Unit: "ms", Values: took, Target: 20, AtMost: true})
	return nil
}

// judged makes the figures of the guard.
func (b *bench) judged() error {
	dir, err := b.large()
	if err != nil {
		return err
	}
	list, err := b.measuredBy("judge", "-deployment", dir)
	if err != nil {
		return err
	}
	b.add(&figure{Name: "judge", Unit: "us", Values: scaled(list["judge/ns"], 1e-3), None: true})
	b.add(&figure{Name: "judge-allocations", Values: rounded(list["judge/allocs"]), None: true})
	return nil
}
