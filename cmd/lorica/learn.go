package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/learn"
	"lorica.dev/lorica/policy/record"
	"lorica.dev/lorica/policy/space"
)

func (c *cli) learnCommand() *cobra.Command {
	var path, workload, from, since, until, write string
	var damaged, force bool
	var o learn.Options
	cmd := &cobra.Command{
		Use:     "learn [RECORDS.jsonl...]",
		GroupID: "write",
		Short:   "Propose the least policy that would have allowed what was recorded",
		Long: `Reads recorded decisions, of lorica logs --decisions -o json or of an instance, and
proposes rules that allow what was allowed then: the present rules narrowed to the
sources, users, groups, routes and facts that were seen. Rules that deny are kept.

What was seen is generalised a little, and each time that is told: users to the groups
that they were in, numbers to intervals, addresses to prefixes, routes to their group;
--exact generalises nothing. A rule that would allow more than the present policy asks
what the present rule asks as well.

Before anything is printed, the proposal is loaded, the reference evaluator is asked
about everything that was learnt from, and it is compared with the present policy: what
is taken away, and what is newly allowed, each with a witness.`,
		Example: `  lorica logs payments --decisions -o json > week.jsonl
  lorica learn -f examples/payments week.jsonl
  lorica learn -f examples/payments --from payments --write least.yaml`,
		RunE: func(cmd *cobra.Command, list []string) error {
			if len(list) == 0 && from == "" {
				return usageError{errors.New("learn: name a file of recorded decisions (lorica logs --decisions -o json), or an instance with --from")}
			}
			if o.Users < 0 || o.Values < 1 || o.Prefixes < 1 || o.Steps < 1 {
				return usageError{errors.New("learn: --max-users counts from 0, --max-values, --max-prefixes and --budget from 1")}
			}
			for _, f := range []struct {
				flag, value string
				to          *time.Time
			}{{"--since", since, &o.Since}, {"--until", until, &o.Until}} {
				if err := moment(f.value, f.to); err != nil {
					return usageError{fmt.Errorf("%s %s: %w", f.flag, f.value, err)}
				}
			}
			if write != "" && !force {
				if _, err := os.Lstat(write); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s exists: --force overwrites it", write)
				}
			}
			files, folder, err := policy.Files(path)
			if err != nil {
				return c.explain(err)
			}
			bundle, err := c.load(path)
			if err != nil {
				return err
			}
			d, err := pick(bundle, workload)
			if err != nil {
				return err
			}
			l := learn.New(d, o)
			for _, file := range list {
				if err := c.learnFile(cmd.Context(), l, file, damaged); err != nil {
					return err
				}
			}
			if from != "" {
				if err := learnFrom(cmd.Context(), l, from); err != nil {
					return err
				}
			}
			p, err := l.Propose(cmd.Context(), learn.Source{Files: files, Folder: folder})
			if err != nil {
				return c.unlearnt(l, err)
			}
			if write != "" {
				if err := writeNew(write, p.Document, force); err != nil {
					return err
				}
			}
			return c.print(p, func(w io.Writer) { printProposal(w, p, write) })
		},
	}
	fileFlag(cmd, &path)
	cmd.Flags().StringVar(&workload, "workload", "", "which workload, where the documents have several")
	cmd.Flags().StringVar(&from, "from", "", "learn from what this instance or workload recorded and still holds, dead instances included")
	cmd.Flags().StringVar(&since, "since", "", "leave out what was before: 2026-01-31, or 2026-01-31T08:00:00Z")
	cmd.Flags().StringVar(&until, "until", "", "leave out what was after")
	cmd.Flags().BoolVar(&o.Denied, "denied", false, "learn from what was denied because nothing matched, too")
	cmd.Flags().BoolVar(&o.Exact, "exact", false, "generalise nothing")
	cmd.Flags().BoolVar(&o.Fresh, "fresh", false, "keep no rule of the present policy, not even those that deny")
	cmd.Flags().IntVar(&o.Users, "max-users", learn.DefaultUsers, "users without a common group that a rule may name; 0: anybody instead")
	cmd.Flags().IntVar(&o.Values, "max-values", learn.DefaultValues, "texts that a condition may list; more become any value")
	cmd.Flags().IntVar(&o.Prefixes, "max-prefixes", learn.DefaultPrefixes, "prefixes of either family for the sources of a rule, or the addresses of a condition")
	cmd.Flags().BoolVar(&damaged, "skip-damaged", false, "pass over lines of the files that are no records, and count them")
	cmd.Flags().Int64Var(&o.Steps, "budget", space.DefaultSteps, "steps that the comparison with the present policy may take")
	cmd.Flags().StringVar(&write, "write", "", "write the document of the policy, with the proposal in it, to this file")
	cmd.Flags().BoolVar(&force, "force", false, "let --write overwrite a file")
	_ = cmd.MarkFlagFilename("write", "yaml", "yml")
	_ = cmd.RegisterFlagCompletionFunc("from", c.completeInstances)
	return cmd
}

// moment reads a day or a time, both in UTC where nothing else is written.
func moment(s string, to *time.Time) error {
	if s == "" {
		return nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, s); err == nil {
			*to = t
			return nil
		}
	}
	return errors.New("write 2026-01-31, or 2026-01-31T08:00:00Z")
}

func (c *cli) learnFile(ctx context.Context, l *learn.Learner, path string, damaged bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	passed, err := record.Read(f, path, damaged, func(d record.Decision) error {
		if err := l.Add(d); err != nil {
			return err
		}
		return ctx.Err()
	})
	l.Damaged += passed.Lines
	var wrong *policy.Error
	if errors.As(err, &wrong) {
		wrong.Fix += "; --skip-damaged passes over others"
		return c.explain(policy.Errors{wrong})
	}
	return err
}

// learnFrom takes in what instances of this machine recorded.
func learnFrom(ctx context.Context, l *learn.Learner, name string) error {
	m, err := machine()
	if err != nil {
		return err
	}
	return m.Recorded(ctx, name, l.Add)
}

// unlearnt adds to an error what became of the records.
func (c *cli) unlearnt(l *learn.Learner, err error) error {
	if l.Learnt > 0 {
		return err
	}
	var b strings.Builder
	printCounts(&b, &l.Counts)
	return fmt.Errorf("%w\n%s", err, strings.TrimRight(b.String(), "\n"))
}

// writeNew writes a file whole or not at all.
func writeNew(path string, data []byte, force bool) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".learn-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	if force {
		return os.Rename(tmp.Name(), path)
	}
	if err := os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: --force overwrites it", path)
	} else {
		return err
	}
}

func printCounts(w io.Writer, n *learn.Counts) {
	for _, x := range []struct {
		n    int
		text string
	}{{n.Denied, "denied (--denied learns from those that nothing matched)"}, {n.Outside, "outside --since and --until"},
		{n.Foreign, "of other workloads, such as " + plain(n.First)}} {
		if x.n > 0 {
			fmt.Fprintf(w, "  - %s %s\n", count(x.n, "record"), x.text)
		}
	}
	for _, x := range n.LeftOut {
		fmt.Fprintf(w, "  - %s: %s\n      > %s %s\n", count(x.Count, "record"), plain(x.Why), plain(x.Example.ID), plain(x.Example.What))
	}
	if n.Damaged > 0 {
		fmt.Fprintf(w, "  - %s that are no records\n", count(n.Damaged, "line"))
	}
}

func printProposal(w io.Writer, p *learn.Proposal, written string) {
	fmt.Fprintf(w, "%s: learnt from %d of %s\n", p.Deployment, p.Learnt, count(p.Records, "record"))
	printCounts(w, &p.Counts)
	for _, n := range p.Notes {
		fmt.Fprintf(w, "  - %s\n", plain(n))
	}
	if p.FromThen > 0 {
		fmt.Fprintf(w, "  - %d programs decided: levels, revisions or other policies; all was asked of the present one again\n", p.FromThen+1)
	}
	for _, s := range p.Sections {
		fmt.Fprintf(w, "\n# spec.%s\n%s", s.Name, s.Text)
	}
	printGeneralised(w, p.Generalised)
	if a := p.Against; len(a.Denied) > 0 || len(a.Allowed) > 0 || len(a.NotAnalysed) > 0 {
		fmt.Fprintln(w)
		printChanges(w, "taken away from the present policy", "-", a.Denied)
		printChanges(w, "newly allowed", "+", a.Allowed)
		for i, x := range a.NotAnalysed {
			if i == 0 {
				fmt.Fprintln(w, "not analysed:")
			}
			fmt.Fprintf(w, "  ? %s: %s\n", x.What, plain(x.Why))
		}
	}
	if len(p.Against.Allowed)+len(p.Against.NotAnalysed) == 0 {
		fmt.Fprintln(w, "\nnothing is newly allowed")
	}
	if len(p.Unused) > 0 {
		fmt.Fprintf(w, "routes that no record is about, which could go: %s\n", strings.Join(p.Unused, ", "))
	}
	for i, t := range p.Tests {
		if i == 0 {
			fmt.Fprintln(w, "tests that no longer hold:")
		}
		fmt.Fprintf(w, "  %s (%s): %s\n", plain(t.Name), t.Line, plain(t.Problem))
	}
	if written == "" {
		return
	}
	fmt.Fprintf(w, "wrote %s", written)
	var notes []string
	if len(p.Tests) > 0 {
		notes = append(notes, "without these tests")
	}
	if !p.Straight {
		notes = append(notes, "in another layout: its comments may be lost")
	}
	if len(notes) > 0 {
		fmt.Fprintf(w, " (%s)", strings.Join(notes, "; "))
	}
	fmt.Fprintln(w)
}

func printGeneralised(w io.Writer, list []learn.Generalised) {
	if len(list) == 0 {
		fmt.Fprintln(w, "\nnothing is generalised")
		return
	}
	fmt.Fprintln(w, "\ngeneralised:")
	var rows [][]string
	for _, g := range list {
		rows = append(rows, []string{"  " + g.Rule, g.What, fmt.Sprintf("%d in %s", g.Distinct, count(g.Records, "record")), "-> " + g.To})
	}
	table(w, "", rows)
}
