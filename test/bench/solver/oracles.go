package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	gophersat "github.com/crillab/gophersat/solver"
)

// An oracle answers the same questions.
type oracle struct {
	name string
	// cost returns the size of the least set; not ok where it did not finish in time.
	cost func(q *question, patience time.Duration) (cost int, ok bool, err error)
}

// available are the oracles that this machine has.
func available() []oracle {
	list := []oracle{{"gophersat", byGophersat}}
	for name, args := range map[string][]string{
		"aspcud": {"-c", "-count(new)"},
		"mccs":   {"-lexicographic[-new]"},
	} {
		if path, err := exec.LookPath(name); err == nil {
			list = append(list, oracle{name, byCUDF(name, path, args)})
		}
	}
	return list
}

// gophersatCommand is this program as a process that solves one question: the library
// takes no limit, and its solvers share a buffer, so that each has a process to itself.
const gophersatCommand = "-gophersat"

// A formula is a question as gophersat takes it: clauses over variables from 1.
type formula struct {
	Variables int
	Clauses   [][]int
}

func byGophersat(q *question, patience time.Duration) (int, bool, error) {
	f := formula{Variables: len(q.packages), Clauses: [][]int{{1}}}
	for _, n := range q.needs {
		c := []int{-n[0] - 1}
		for _, k := range n[1:] {
			c = append(c, k+1)
		}
		f.Clauses = append(f.Clauses, c)
	}
	for _, a := range q.apart {
		f.Clauses = append(f.Clauses, []int{-a[0] - 1, -a[1] - 1})
	}
	in, err := json.Marshal(f)
	if err != nil {
		return 0, false, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	out, ok, err := within(patience, in, self, gophersatCommand)
	if !ok || err != nil {
		return 0, false, err
	}
	var cost int
	if _, err := fmt.Sscan(string(out), &cost); err != nil || cost < 1 {
		return 0, false, fmt.Errorf("gophersat says %q", out)
	}
	return cost, true, nil
}

// gophersatMain answers a formula with the least number of true variables.
func gophersatMain(in io.Reader, out io.Writer) error {
	var f formula
	if err := json.NewDecoder(in).Decode(&f); err != nil {
		return err
	}
	p := gophersat.ParseSliceNb(f.Clauses, f.Variables)
	lits, weights := make([]gophersat.Lit, f.Variables), make([]int, f.Variables)
	for i := range lits {
		lits[i], weights[i] = gophersat.IntToLit(int32(i+1)), 1
	}
	p.SetCostFunc(lits, weights)
	_, err := fmt.Fprintln(out, gophersat.New(p).Minimize())
	return err
}

// within runs a command that may take so long. It is not ok if that ended it.
func within(patience time.Duration, in []byte, name string, args ...string) ([]byte, bool, error) {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(in)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, false, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return out, err == nil, err
}

// byCUDF asks a solver of the Mancoosi competitions.
func byCUDF(name, path string, args []string) func(*question, time.Duration) (int, bool, error) {
	return func(q *question, patience time.Duration) (int, bool, error) {
		dir, err := os.MkdirTemp("", "lorica-cudf-")
		if err != nil {
			return 0, false, err
		}
		defer os.RemoveAll(dir)
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
		if err := os.WriteFile(in, q.cudf(), 0o600); err != nil {
			return 0, false, err
		}
		all := append(args[:len(args):len(args)], in, out)
		if name == "mccs" {
			all = append([]string{"-i", in, "-o", out}, args...)
		}
		if _, ok, err := within(patience, nil, path, all...); !ok || err != nil {
			return 0, false, err
		}
		text, err := os.ReadFile(out)
		if err != nil {
			return 0, false, err
		}
		cost := strings.Count(string(text), "\ninstalled: true")
		if cost == 0 {
			return 0, false, fmt.Errorf("%q", text[:min(len(text), 200)])
		}
		return cost, true, nil
	}
}

// cudf is the question in the Common Upgradeability Description Format. Every package
// has a name of its own; alternatives and conflicts are written out.
func (q *question) cudf() []byte {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	depends, conflicts := make([][]string, len(q.packages)), make([][]string, len(q.packages))
	for _, n := range q.needs {
		var any []string
		for _, k := range n[1:] {
			any = append(any, fmt.Sprint("p", k))
		}
		if len(any) == 0 {
			any = []string{"false!"}
		}
		depends[n[0]] = append(depends[n[0]], strings.Join(any, " | "))
	}
	for _, a := range q.apart {
		conflicts[a[0]] = append(conflicts[a[0]], fmt.Sprint("p", a[1]))
	}
	for i := range q.packages {
		fmt.Fprintf(w, "package: p%d\nversion: 1\n", i)
		if len(depends[i]) > 0 {
			fmt.Fprintf(w, "depends: %s\n", strings.Join(depends[i], ", "))
		}
		if len(conflicts[i]) > 0 {
			fmt.Fprintf(w, "conflicts: %s\n", strings.Join(conflicts[i], ", "))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "request: \ninstall: p0\n")
	w.Flush()
	return b.Bytes()
}
