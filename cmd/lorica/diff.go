package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/diff"
	"lorica.dev/lorica/policy/record"
	"lorica.dev/lorica/policy/space"
)

// What --fail-on takes.
var failures = []string{"newly-allowed", "newly-denied", "any", "not-analysed"}

func (c *cli) diffCommand() *cobra.Command {
	var workload string
	var failOn, logs []string
	var damaged bool
	var budget int64
	cmd := &cobra.Command{
		Use:     "diff OLD NEW",
		GroupID: "write",
		Short:   "Show what a change means: what is newly allowed and newly denied, by which rules",
		Long: `Compares two files or folders, by what they decide and not by how they are written: which
packets, requests and connections are newly allowed (+) and newly denied (-), the rule
that decided before and the one that decides now, and one of them as a witness. Both
policies were asked about each witness; lorica why says more of it.

What is no rule is compared as it is written, and loosens (+), tightens (-) or changes (~).
What takes more than --budget steps, or computes with values, is listed as not analysed;
that nothing differs is said only where all was looked at. The tests of the policies are not
run.`,
		Example: `  lorica diff main/policy examples/payments
  lorica diff main/policy examples/payments --fail-on newly-allowed,not-analysed`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			for _, f := range failOn {
				if !slices.Contains(failures, f) {
					return usageError{fmt.Errorf("--fail-on %s: write %s", f, strings.Join(failures, ", "))}
				}
			}
			if budget < 1 {
				return usageError{errors.New("--budget: write a number of steps, such as 20000000")}
			}
			var sides [2]*policy.Bundle
			for i, path := range list {
				b, err := c.loadUntested(path)
				if err == nil && workload != "" {
					b, err = only(b, workload)
				}
				if err != nil {
					return err
				}
				sides[i] = b
			}
			report, err := diff.Bundles(cmd.Context(), sides[0], sides[1], budget)
			if err != nil {
				return err
			}
			if len(logs) > 0 {
				replayer := diff.NewReplayer(report, sides[0], sides[1])
				for _, path := range logs {
					if err := c.replayFile(cmd.Context(), replayer, path, damaged); err != nil {
						return err
					}
				}
			}
			if err := c.print(report, func(w io.Writer) { printDiff(w, report) }); err != nil {
				return err
			}
			if fails(report, failOn) {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&workload, "workload", "", "only this workload")
	cmd.Flags().StringSliceVar(&failOn, "fail-on", nil, "exit code 1 for newly-allowed, newly-denied, any (difference), not-analysed; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions(failures, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringArrayVar(&logs, "replay", nil, "ask both about recorded decisions, too: a file of lorica logs --decisions -o json; may be repeated")
	_ = cmd.MarkFlagFilename("replay")
	cmd.Flags().BoolVar(&damaged, "skip-damaged", false, "pass over lines of these files that are no records, and count them")
	cmd.Flags().Int64Var(&budget, "budget", space.DefaultSteps, "steps that the comparison of network rules, and that of Cedar policies, may take")
	return cmd
}

// replayFile asks both policies about every record of a file.
func (c *cli) replayFile(ctx context.Context, r *diff.Replayer, path string, damaged bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	passed, err := record.Read(f, path, damaged, func(d record.Decision) error {
		r.Add(d)
		return ctx.Err()
	})
	r.Damaged += passed.Lines
	var wrong *policy.Error
	if errors.As(err, &wrong) {
		wrong.Fix += "; --skip-damaged passes over others"
		return c.explain(policy.Errors{wrong})
	}
	return err
}

// only returns a bundle with one workload.
func only(b *policy.Bundle, workload string) (*policy.Bundle, error) {
	d, err := pick(b, workload)
	if err != nil {
		return nil, err
	}
	return &policy.Bundle{Deployments: []*policy.Deployment{d}}, nil
}

// fails reports whether there is something of what --fail-on names.
func fails(r *diff.Report, failOn []string) bool {
	found := map[string]bool{"any": len(r.Added)+len(r.Removed) > 0}
	for _, d := range r.Deployments {
		found["newly-allowed"] = found["newly-allowed"] || len(d.Allowed) > 0
		found["newly-denied"] = found["newly-denied"] || len(d.Denied) > 0
		if d.Replay != nil {
			found["newly-allowed"] = found["newly-allowed"] || len(d.Replay.Allowed) > 0
			found["newly-denied"] = found["newly-denied"] || len(d.Replay.Denied) > 0
			found["any"] = found["any"] || len(d.Replay.Allowed)+len(d.Replay.Denied) > 0
		}
		found["any"] = found["any"] || len(d.Allowed)+len(d.Denied)+len(d.Differences) > 0
		found["not-analysed"] = found["not-analysed"] || len(d.NotAnalysed) > 0
	}
	return slices.ContainsFunc(failOn, func(f string) bool { return found[f] })
}

func printDiff(w io.Writer, r *diff.Report) {
	for _, name := range r.Removed {
		fmt.Fprintf(w, "%s: removed\n", name)
	}
	for _, name := range r.Added {
		fmt.Fprintf(w, "%s: added\n", name)
	}
	for _, d := range r.Deployments {
		if d.Same() {
			fmt.Fprintf(w, "%s: no difference: every packet and call is decided alike\n", d.Name)
			printReplay(w, d.Replay)
			continue
		}
		fmt.Fprintf(w, "%s: %d newly allowed, %d newly denied, %s, %d not analysed\n", d.Name, len(d.Allowed), len(d.Denied), count(len(d.Differences), "other difference"), len(d.NotAnalysed))
		printChanges(w, "newly allowed", "+", d.Allowed)
		printChanges(w, "newly denied", "-", d.Denied)
		printDifferences(w, d.Differences)
		for i, x := range d.NotAnalysed {
			if i == 0 {
				fmt.Fprintln(w, "not analysed:")
			}
			fmt.Fprintf(w, "  ? %s: %s\n", x.What, plain(x.Why))
		}
		printReplay(w, d.Replay)
	}
	if p := r.Replayer; p != nil && p.Foreign > 0 {
		fmt.Fprintf(w, "%s of other workloads, such as %s\n", count(p.Foreign, "record"), plain(p.First))
	}
	if p := r.Replayer; p != nil && p.Damaged > 0 {
		fmt.Fprintf(w, "%s passed over: no records\n", count(p.Damaged, "line"))
	}
}

func printReplay(w io.Writer, r *diff.Replay) {
	if r == nil {
		return
	}
	allowed, denied, not := 0, 0, 0
	for _, x := range r.Allowed {
		allowed += x.Count
	}
	for _, x := range r.Denied {
		denied += x.Count
	}
	for _, x := range r.Not {
		not += x.Count
	}
	fmt.Fprintf(w, "replay: %s: %d decided alike, %d newly allowed, %d newly denied, %d not replayed\n", count(r.Records, "record"), r.Unchanged, allowed, denied, not)
	for _, list := range []struct {
		mark string
		of   []diff.Replayed
	}{{"+", r.Allowed}, {"-", r.Denied}} {
		for _, x := range list.of {
			fmt.Fprintf(w, "  %s %d: %s -> %s\n      > %s %s\n", list.mark, x.Count, sideText(x.Old), sideText(x.New), plain(x.Example.ID), plain(x.Example.What))
		}
	}
	for _, x := range r.Not {
		fmt.Fprintf(w, "  ? %d: %s\n      > %s %s\n", x.Count, plain(x.Why), plain(x.Example.ID), plain(x.Example.What))
	}
}

func printChanges(w io.Writer, title, mark string, list []diff.Change) {
	for i := range list {
		if i == 0 {
			fmt.Fprintf(w, "%s:\n", title)
		}
		c := &list[i]
		fmt.Fprintf(w, "  %s %s: %s -> %s", mark, c.Kind, sideText(c.Old), sideText(c.New))
		if len(c.Routes) > 0 {
			fmt.Fprintf(w, "; %s", strings.Join(c.Routes, ", "))
		}
		if len(c.Levels) > 0 {
			fmt.Fprintf(w, "; at %s", strings.Join(c.Levels, ", "))
		}
		fmt.Fprintln(w)
		switch {
		case len(c.WhyNew) == 0:
			fmt.Fprintf(w, "      > %s\n", plain(c.Witness))
		case slices.Equal(c.WhyOld, c.WhyNew):
			fmt.Fprintf(w, "      > lorica why %s\n", plain(shell(c.WhyNew)))
		default:
			fmt.Fprintf(w, "      > old: lorica why %s\n", plain(shell(c.WhyOld)))
			fmt.Fprintf(w, "      > new: lorica why %s\n", plain(shell(c.WhyNew)))
		}
	}
}

func sideText(s diff.Side) string {
	if s.Line == "" {
		return s.Rule
	}
	return s.Rule + " (" + s.Line + ")"
}

func printDifferences(w io.Writer, list []diff.Difference) {
	marks := map[string]string{diff.Loosens: "+", diff.Tightens: "-", diff.Changes: "~"}
	var rows [][]string
	for _, d := range list {
		line := d.NewLine
		switch {
		case line == "":
			line = d.OldLine
		case d.OldLine != "" && d.OldLine != line:
			line = d.OldLine + " -> " + line
		}
		rows = append(rows, []string{"  " + marks[d.Effect] + " " + d.Field, change(d), d.Effect, line})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "other differences:")
		table(w, "", rows)
	}
}

func change(d diff.Difference) string {
	switch {
	case d.OldLine == "":
		return "added"
	case d.NewLine == "":
		return "removed"
	}
	return orNone(d.Old) + " -> " + orNone(d.New)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

var safe = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]+$`)

// shell writes arguments so that a shell reads them back.
func shell(args []string) string {
	var out []string
	for _, a := range args {
		if !safe.MatchString(a) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}
