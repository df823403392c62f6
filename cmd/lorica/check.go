package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/lint"
	"lorica.dev/lorica/policy/space"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/solver"
)

// checked is what check answers in JSON.
type checked struct {
	OK          bool          `json:"ok"`
	Deployments []string      `json:"deployments,omitempty"`
	Tests       int           `json:"tests"`
	Errors      policy.Errors `json:"errors,omitempty"`
	Warnings    policy.Errors `json:"warnings,omitempty"`
	*lint.Report
}

func (c *cli) checkCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "check",
		GroupID: "write",
		Short:   "Show everything that is wrong with the documents",
		Long: `Reads workloads and policies strictly and shows all errors at once, each with its
place, the text, and what to write instead. The tests in the policies are run. What
is right and probably not meant is a warning; lint shows what is worth a note as well.
Exit code 1 where anything is wrong.`,
		Example: "  lorica check -f examples/payments",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			bundle, err := policy.Load(path)
			if err == nil {
				err = plannable(cmd.Context(), bundle)
			}
			if err == nil {
				err = settled(bundle)
			}
			var report checked
			if err != nil {
				if !errors.As(err, &report.Errors) {
					return err
				}
			} else {
				report = checked{OK: true, Warnings: bundle.Warnings}
				for _, d := range bundle.Deployments {
					report.Deployments = append(report.Deployments, d.Name())
					report.Tests += len(d.Policy.Tests)
				}
				if report.Report, err = lint.Lint(cmd.Context(), bundle, checkSteps); err != nil {
					return err
				}
			}
			if err := c.print(report, func(w io.Writer) { printChecked(w, &report) }); err != nil {
				return err
			}
			if !report.OK {
				return errSilent
			}
			return nil
		},
	}
	fileFlag(cmd, &path)
	return cmd
}

// checkSteps is the budget of what check warns of. Lint, which people wait for, looks longer.
const checkSteps = space.DefaultSteps / 10

// plannable reports what can be read and not be made an image of.
func plannable(ctx context.Context, b *policy.Bundle) error {
	c, err := catalog.Load(lorica.Source())
	if err != nil {
		return err
	}
	return unplannable(b, func(d *policy.Deployment) (whole bool, err error) {
		with, required, whole := withOwn(c, d)
		return whole, run.Plannable(ctx, with, d, required...)
	})
}

// unplannable collects what planning each deployment finds wrong. That one is undecided
// hides nothing that is wrong with another.
func unplannable(b *policy.Bundle, plan func(*policy.Deployment) (whole bool, err error)) error {
	var all policy.Errors
	var open error
	for _, d := range b.Deployments {
		whole, err := plan(d)
		var list policy.Errors
		var none *solver.Unsatisfiable
		switch {
		case errors.As(err, &list):
			all = append(all, list...)
		case errors.As(err, &none) && !whole: // plan, which knows all modules, may find a set
		case errors.As(err, &none):
			all = append(all, contradiction(d, none))
		case errors.As(err, new(*solver.Undecided)):
			open = cmp.Or(open, err)
		case err != nil:
			return err
		}
	}
	if len(all) == 0 {
		return open
	}
	for _, e := range all {
		if e.Text == "" {
			e.Text = b.Line(e.Pos)
		}
	}
	return all
}

// contradiction tells as an error in documents that no set of modules does.
func contradiction(d *policy.Deployment, u *solver.Unsatisfiable) *policy.Error {
	e := &policy.Error{Message: "no set of modules does all of this: " + strings.Join(u.Story, "; ")}
	for _, list := range [][]catalog.Requirement{u.Requirements, u.Prohibitions} { // what forbids is nearer to the mistake
		if len(list) > 0 {
			e.Pos = list[0].Pos
		}
		for _, n := range list {
			if d.Policy.Modules != nil && slices.ContainsFunc(d.Policy.Modules.Require, func(x api.ModuleName) bool { return x.Pos == n.Pos }) {
				e.Pos = n.Pos
			}
		}
	}
	var repairs []string
	for _, r := range u.Repairs {
		if r.LimitOnly() {
			e.Pos = d.Policy.Modules.MaxAttackSurfacePos
		}
		repairs = append(repairs, r.String())
	}
	if len(repairs) > 0 {
		e.Fix = "there is one " + strings.Join(repairs, ", or ")
	}
	return e
}

func printChecked(w io.Writer, r *checked) {
	printErrors(w, "error", r.Errors)
	printErrors(w, "warning", r.Warnings)
	if r.OK {
		printFindings(w, r.Report, lint.Warning)
		if n := r.Count(lint.Note); n+len(r.NotAnalysed) > 0 {
			more := ""
			if len(r.NotAnalysed) > 0 {
				more = ", and looks longer"
			}
			fmt.Fprintf(w, "%s, %d not analysed: `lorica lint` shows them%s\n", count(n, "note"), len(r.NotAnalysed), more)
		}
		fmt.Fprintf(w, "ok: %s; %d tests in the policies hold\n", strings.Join(r.Deployments, ", "), r.Tests)
		return
	}
	fmt.Fprintf(w, "%s\n", count(len(r.Errors), "error"))
}

// printErrors shows each error with the line it is about and a mark under it.
func printErrors(w io.Writer, kind string, list policy.Errors) {
	for _, e := range list {
		printError(w, kind, e, "")
	}
}

// printError shows one, and below it what shows that it is so.
func printError(w io.Writer, kind string, e *policy.Error, witness string) {
	place := e.Pos.File
	if e.Pos.Line > 0 {
		place = e.Pos.String()
	}
	if place != "" {
		place += ": "
	}
	fmt.Fprintf(w, "%s%s: %s\n", plain(place), kind, plain(e.Message))
	if e.Text != "" {
		text := strings.ReplaceAll(e.Text, "\t", " ")
		fmt.Fprintf(w, "  | %s\n", plain(text))
		// Columns count bytes; the mark counts characters.
		if at := e.Pos.Column - 1; at >= 0 && at < len(text) {
			fmt.Fprintf(w, "  | %s^\n", strings.Repeat(" ", utf8.RuneCountInString(text[:at])))
		}
	}
	if witness != "" {
		fmt.Fprintf(w, "  > %s\n", plain(witness))
	}
	if e.Fix != "" {
		fmt.Fprintf(w, "  = %s\n", plain(e.Fix))
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// load reads documents for a command that needs them right; what is wrong is
// shown as check shows it.
func (c *cli) load(path string) (*policy.Bundle, error) {
	bundle, err := policy.Load(path)
	return bundle, c.explain(err)
}

// loadUntested is load for a command that explains policies: the more so where their tests
// fail.
func (c *cli) loadUntested(path string) (*policy.Bundle, error) {
	bundle, err := policy.LoadUntested(path)
	return bundle, c.explain(err)
}

// loadFor is load for another target and network than those of the workloads, where
// they are given.
func (c *cli) loadFor(path, target, network string) (*policy.Bundle, error) {
	if err := checkChosen(target, network); err != nil {
		return nil, err
	}
	bundle, err := c.load(path)
	if err == nil {
		err = c.explain(bundle.Retarget(target, network))
	}
	return bundle, err
}

// explain shows errors in documents as check does, and returns what is left to
// report.
func (c *cli) explain(err error) error {
	var list policy.Errors
	if !errors.As(err, &list) {
		return err
	}
	if c.format == "json" {
		if err := c.print(checked{Errors: list}, nil); err != nil {
			return err
		}
		return errSilent
	}
	printErrors(c.err, "error", list)
	fmt.Fprintln(c.err, count(len(list), "error"))
	return errSilent
}
