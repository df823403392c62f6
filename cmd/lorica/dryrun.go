package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
	"lorica.dev/lorica/tender"
)

func (c *cli) dryrunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dryrun",
		GroupID: "look",
		Short:   "See what a policy, or a rule, would do that is tried and not enforced",
		Long:    "With enforcement: DryRun a policy, or a rule of it, is evaluated and recorded, and not enforced (docs/policy.md).",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.dryrunReportCommand())
	return cmd
}

func (c *cli) dryrunReportCommand() *cobra.Command {
	var since time.Duration
	var file string
	cmd := &cobra.Command{
		Use:   "report [INSTANCE|WORKLOAD]",
		Short: "Count what would have been decided otherwise: by which rule, about whom",
		Long: `Reads the decisions that an instance keeps, or records in a file, and says for each
rule that is tried, or for those of a policy that is tried as a whole, what they would
have decided otherwise: how often, about whom, on which routes, when, and an example.`,
		Example: "  lorica dryrun report payments --since 1h\n  lorica logs payments --decisions -o json | lorica dryrun report -f -",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			switch {
			case since < 0:
				return usageError{fmt.Errorf("--since %v: write how long ago, such as 1h", since)}
			case file != "" && len(list) > 0:
				return usageError{errors.New("name an instance, or a file with -f, not both")}
			}
			trial := record.NewTrial()
			after := time.Time{}
			if since > 0 {
				after = time.Now().Add(-since)
			}
			each := func(d tender.Decision) error {
				if !d.Time.Before(after) {
					trial.Add(d)
				}
				return cmd.Context().Err()
			}
			what, err := c.recorded(cmd.Context(), list, file, each)
			if cmd.Context().Err() != nil {
				return errSilent // no half report
			}
			if err != nil {
				return err
			}
			trial.End()
			return c.print(trial, func(w io.Writer) { printTrial(w, what, trial) })
		},
		ValidArgsFunction: c.completeInstances,
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only what was decided since so long ago, such as 1h (all that is kept)")
	cmd.Flags().StringVarP(&file, "file", "f", "", "records in a file instead of those of an instance; - is standard input")
	return cmd
}

// recorded calls each for every decision of an instance, or of a file, and returns whose
// they are.
func (c *cli) recorded(ctx context.Context, instance []string, file string, each func(tender.Decision) error) (string, error) {
	if file == "" {
		i, err := find(ctx, instance)
		if err != nil {
			return "", err
		}
		if err := i.Kept(); err != nil {
			return "", err
		}
		return i.Status.Instance, i.Decisions(ctx, 0, false, each)
	}
	in, name := io.Reader(os.Stdin), "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in, name = f, file
	}
	_, err := record.Read(in, name, false, each)
	var wrong *policy.Error
	if errors.As(err, &wrong) {
		err = c.explain(policy.Errors{wrong})
	}
	return name, err
}

func printTrial(w io.Writer, what string, t *record.Trial) {
	if t.Decisions == 0 {
		fmt.Fprintf(w, "%s: no decision\n", plain(what))
		return
	}
	when := fmt.Sprintf("%s: %s, %s", plain(what), count(t.Decisions, "decision"), between(t.First, t.Last))
	if t.Otherwise == 0 {
		fmt.Fprintf(w, "%s\nNothing would have been otherwise.\n", when)
		return
	}
	fmt.Fprintf(w, "%s\n%d would have been otherwise, %d the same\n", when, t.Otherwise, t.Same)
	for _, x := range t.Rules {
		line := ""
		if x.Line != "" {
			line = " at " + x.Line
		}
		fmt.Fprintf(w, "\n%s by %s%s (%s): %s, %s\n", x.Decision, plain(x.Rule), plain(line), plain(x.Stage), count(x.Count, "decision"), between(x.First, x.Last))
		e := &x.Example
		var rows [][]string
		for _, r := range []struct {
			name string
			list []record.Counted
		}{{"who", x.Who}, {"from", x.From}, {"routes", x.Routes}} {
			if len(r.list) > 0 {
				rows = append(rows, []string{"  " + r.name, most(r.list)})
			}
		}
		about := "a connection"
		if e.Method != "" {
			about = strings.TrimSpace(e.Method + " " + e.Path)
		}
		text := fmt.Sprintf("%s  %s", e.ID, about)
		if e.DryRun.Reason != "" {
			text += ": " + e.DryRun.Reason
		}
		table(w, "", append(rows, []string{"  example", text}))
	}
	fmt.Fprintln(w, "\nlorica why --live explains an example that an instance still keeps.")
}

func between(first, last time.Time) string {
	const form = "2006-01-02 15:04:05"
	if first.Equal(last) {
		return "at " + first.UTC().Format(form) + " UTC"
	}
	return first.UTC().Format(form) + " to " + last.UTC().Format(form) + " UTC"
}

// most names those that came most often.
func most(list []record.Counted) string {
	const shown = 5
	var out []string
	for _, x := range list[:min(shown, len(list))] {
		out = append(out, fmt.Sprintf("%s (%d)", x.Name, x.Count))
	}
	if n := len(list) - shown; n > 0 {
		out = append(out, fmt.Sprintf("%d more", n))
	}
	return strings.Join(out, ", ")
}
