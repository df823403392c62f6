package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/solver/debian"
	"lorica.dev/lorica/solver/repo"
)

// A solving is what solve is asked.
type solving struct {
	files           []string
	arch            string
	check           []string
	minimise        string
	ignoreEssential bool
	explain, budget int
}

func (c *cli) solveCommand() *cobra.Command {
	var q solving
	cmd := &cobra.Command{
		Use:     "solve --debian FILE [--check all|NAME,...] | solve --debian FILE NAME...",
		GroupID: "write",
		Short:   "Ask the solver that chooses modules about packages of Debian",
		Long: `Asks the solver that chooses the modules of images about a Packages file of Debian, so
that it can be compared with others. Without names it checks which packages cannot be
installed, and says why: the facts that contradict each other, none of which could be
left out. With names it shows the least set of packages that installs them, or why
there is none. A name may be a whole relation: 'perl (>= 5.36)', 'vim | nano', perl=5.36.

Packages mean what they mean to dose-debcheck: essential packages are installed with
everything, versions of a package exclude each other, and what is provided without a
version satisfies none that is asked for. -o dose prints what is broken as
dose-debcheck --failures --explain does. A file is plain or compressed by gzip; - is
the standard input.

An answer, about all packages as about one, ends after some --budget conflicts. Exit code
0: everything asked about can be installed; 1: something cannot; 3: nothing is known that
cannot, and of something it was not decided within the budget.`,
		Example: `  lorica solve --debian Packages
  lorica solve --debian Packages.gz --check nginx,postgresql-15
  lorica solve --debian Packages --minimise size nginx
  xz -dc Packages.xz | lorica solve --debian - -o dose`,
		Annotations: map[string]string{moreFormats: "dose"},
		RunE: func(cmd *cobra.Command, names []string) error {
			switch {
			case len(q.files) == 0:
				return usageError{errors.New("solve: name a Packages file with --debian FILE")}
			case q.minimise != string(debian.Count) && q.minimise != string(debian.Size):
				return usageError{fmt.Errorf("--minimise %s: write count or size", q.minimise)}
			}
			if err := checkBudget(q.budget); err != nil {
				return err
			}
			asked, err := parseAsked(slices.Concat(q.check, names)) // --check a b
			if err != nil {
				return err
			}
			var checked []debian.Clause
			if len(q.check) > 0 {
				checked, asked = asked, nil
			}
			if len(asked) > 0 && c.format == "dose" {
				return usageError{errors.New("solve: -o dose shows what is broken: use --check with the names")}
			}
			u, err := c.debianUniverse(cmd.Context(), &q)
			if err != nil {
				return err
			}
			if len(asked) > 0 {
				return c.solveInstall(cmd.Context(), u, &q, asked)
			}
			return c.solveCheck(cmd.Context(), u, &q, checked)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&q.files, "debian", nil, "a Packages file, - for the standard input; may be repeated")
	_ = cmd.MarkFlagFilename("debian")
	f.StringSliceVar(&q.check, "check", nil, "check these packages, separated by commas; all of them is what is done without names")
	f.StringVar(&q.arch, "arch", "", "architecture of the machine (that of the packages, where all have one)")
	f.StringVar(&q.minimise, "minimise", string(debian.Count), "what is least of a set: the count of packages, or the size that they have installed")
	_ = cmd.RegisterFlagCompletionFunc("minimise", cobra.FixedCompletions([]string{string(debian.Count), string(debian.Size)}, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVar(&q.ignoreEssential, "ignore-essential", false, "take essential packages for others: they are installed where something needs them")
	f.IntVar(&q.explain, "explain", 20, "say of so many broken packages why they are; -1: of all")
	budgetFlag(cmd, &q.budget)
	return cmd
}

// budgetFlag adds --budget to a command that asks the solver.
func budgetFlag(cmd *cobra.Command, budget *int) {
	cmd.Flags().IntVar(budget, "budget", repo.DefaultBudget, "conflicts that the search for an answer may take")
}

func checkBudget(budget int) error {
	if budget < 1 {
		return usageError{fmt.Errorf("--budget: write a number of conflicts, such as %d", repo.DefaultBudget)}
	}
	return nil
}

// parseAsked reads names of packages; "all" is none in particular.
func parseAsked(names []string) ([]debian.Clause, error) {
	var list []debian.Clause
	for _, n := range names {
		if n == "all" {
			if len(names) > 1 {
				return nil, usageError{errors.New("solve: all stands alone")}
			}
			return nil, nil
		}
		asked, err := debian.ParseAsked(n)
		if err != nil {
			return nil, usageError{fmt.Errorf("solve: %w", err)}
		}
		list = append(list, asked)
	}
	return list, nil
}

// debianUniverse reads the files.
func (c *cli) debianUniverse(ctx context.Context, q *solving) (*debian.Universe, error) {
	var r debian.Repository
	for _, name := range q.files {
		err := c.addFile(ctx, &r, name)
		var s *debian.SyntaxError
		if errors.As(err, &s) {
			return nil, c.explain(policy.Errors{{Pos: s.Pos, Text: s.Text, Message: s.Message, Fix: s.Fix}})
		}
		if err != nil {
			return nil, err
		}
	}
	if len(r.Packages) == 0 {
		return nil, fmt.Errorf("%s: no package in it", strings.Join(q.files, ", "))
	}
	ix, err := r.Index(ctx, q.arch)
	if err != nil {
		return nil, err
	}
	u, err := ix.Universe(ctx)
	if err != nil {
		return nil, err
	}
	if q.ignoreEssential {
		u.Base = nil
	}
	return u, nil
}

func (c *cli) addFile(ctx context.Context, r *debian.Repository, name string) error {
	if name == "-" {
		return r.Add(ctx, interruptible(ctx, c.in), "standard input")
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Mode().IsRegular():
		r.Grow(info.Size())
		return r.Add(ctx, f, name)
	}
	return r.Add(ctx, interruptible(ctx, f), name)
}

// interruptible returns a reader that ends with its context, whatever the one that it
// reads from waits for. That one is read until it ends, or the process does.
func interruptible(ctx context.Context, from io.Reader) io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { r.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(w, from)
		w.CloseWithError(err)
	}()
	return r
}

// solveCheck answers which packages cannot be installed.
func (c *cli) solveCheck(ctx context.Context, u *debian.Universe, q *solving, names []debian.Clause) error {
	var list []repo.Package
	for i := range names {
		named := u.Named(&names[i])
		if len(named) == 0 {
			return fmt.Errorf("%s: no such package in %s", names[i].Text, strings.Join(q.files, ", "))
		}
		list = append(list, named...)
	}
	slices.Sort(list)
	list = slices.Compact(list)
	check, err := u.Check(ctx, list, q.budget)
	if err != nil {
		return err
	}
	u.Sort(check.Broken)
	u.Sort(check.Undecided)
	answer := solveChecked{Packages: len(u.Packages), Broken: []solveBroken{}}
	if list != nil {
		answer.Packages = len(list)
	}
	var failures []debian.Failure
	for i, p := range check.Broken {
		f := debian.Failure{Package: p}
		b := solveBroken{solvePackage: packageOf(u, p)}
		if q.explain < 0 || i < q.explain {
			x, err := u.Repo.Explain(ctx, u.Broken(p, q.budget))
			if err != nil && !errors.Is(err, repo.ErrBudget) {
				return err
			}
			if x != nil {
				f.Facts = x.Facts
			}
			b.Because, b.Minimal = told(u, x, nil)
		}
		failures = append(failures, f)
		answer.Broken = append(answer.Broken, b)
	}
	for _, p := range check.Undecided {
		answer.Undecided = append(answer.Undecided, packageOf(u, p))
		answer.Budget = q.budget
	}
	if c.format == "dose" {
		err = u.WriteDose(c.out, failures, answer.Packages)
		if n := len(answer.Undecided); n > 0 { // its form has no word for them
			fmt.Fprintf(c.err, "%s not decided within %s: raise --budget\n", count(n, "package"), count(q.budget, "conflict"))
		}
	} else {
		err = c.print(&answer, func(w io.Writer) { printSolveChecked(w, &answer) })
	}
	switch {
	case err != nil:
		return err
	case len(check.Broken) > 0:
		return errSilent
	case len(check.Undecided) > 0:
		return undecided{errSilent}
	}
	return nil
}

// told returns why something cannot be installed, in sentences, and whether none of the
// facts could be left out.
func told(u *debian.Universe, x *repo.Explanation, asked []debian.Clause) (because []string, minimal bool) {
	if x == nil {
		return []string{"why is not found within the budget: raise --budget"}, false
	}
	because = u.Sentences(x.Facts, asked)
	if !x.Minimal {
		because = append(because, "(not all of this may be needed: the budget ended)")
	}
	return because, x.Minimal
}

// solveInstall answers which set installs what is asked for.
func (c *cli) solveInstall(ctx context.Context, u *debian.Universe, q *solving, asked []debian.Clause) error {
	r := u.Request(asked, debian.Minimum(q.minimise), q.budget)
	set, err := u.Repo.Install(ctx, r)
	if errors.As(err, new(*repo.Unsatisfiable)) {
		x, err := u.Repo.Explain(ctx, r)
		if err != nil && !errors.Is(err, repo.ErrBudget) {
			return err
		}
		var answer solveInstalled
		answer.Because, answer.Minimal = told(u, x, asked)
		if err := c.print(&answer, func(w io.Writer) { printSolveInstalled(w, &answer, q.minimise) }); err != nil {
			return err
		}
		return errSilent
	}
	if errors.Is(err, repo.ErrBudget) {
		return undecided{fmt.Errorf("no set was found, and none was ruled out, within %s: raise --budget", count(q.budget, "conflict"))}
	}
	if err != nil {
		return err
	}
	answer := solveInstalled{OK: true, Proven: set.Proven, Cost: set.Cost[0], Bound: set.Bound[0]}
	for _, p := range set.Packages {
		x := packageOf(u, p)
		x.Installed, x.Size = u.Packages[p].Installed, u.Packages[p].Size
		answer.Installed += x.Installed
		answer.Size += x.Size
		answer.Packages = append(answer.Packages, x)
	}
	return c.print(&answer, func(w io.Writer) { printSolveInstalled(w, &answer, q.minimise) })
}
