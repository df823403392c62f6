package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/lint"
	"lorica.dev/lorica/policy/space"
)

func (c *cli) lintCommand() *cobra.Command {
	var path, failOn string
	var budget int64
	severities := []string{lint.Warning, lint.Note, "none"}
	cmd := &cobra.Command{
		Use:     "lint",
		GroupID: "write",
		Short:   "Show what is valid and probably not meant",
		Long: `Looks closer than check: network rules and Cedar policies that never decide, conditions
that always or never hold, routes that nobody may call, rules that the target cannot
enforce, secrets in documents. Each finding has a kind, its place, a packet or request
that shows it (>), and what to do (=). A warning is hardly meant; a note often is.

Findings are exact: that a rule never decides is said only where all packets or requests
were looked at. What takes more than --budget steps, or computes with values, is listed
as not analysed, and so are modules of your own, which may deny more. Steps are counted,
so that every machine gives the same answer.`,
		Example: `  lorica lint -f examples/payments
  lorica lint -f examples/payments --fail-on warning`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !slices.Contains(severities, failOn):
				return usageError{fmt.Errorf("--fail-on %s: write warning, note or none", failOn)}
			case budget < 1:
				return usageError{errors.New("--budget: write a number of steps, such as 20000000")}
			}
			bundle, err := c.loadUntested(path)
			if err != nil {
				return err
			}
			report, err := lint.Lint(cmd.Context(), bundle, budget)
			if err != nil {
				return err
			}
			if err := c.print(linted{bundle.Warnings, report}, func(w io.Writer) { printLinted(w, bundle.Warnings, report) }); err != nil {
				return err
			}
			warnings, notes := report.Count(lint.Warning)+len(bundle.Warnings), report.Count(lint.Note)
			if failOn == lint.Warning && warnings > 0 || failOn == lint.Note && warnings+notes > 0 {
				return errSilent
			}
			return nil
		},
	}
	fileFlag(cmd, &path)
	cmd.Flags().StringVar(&failOn, "fail-on", "none", "exit code 1 where there are findings: warning, note (either), or none")
	_ = cmd.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions(severities, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().Int64Var(&budget, "budget", space.DefaultSteps, "steps that the analysis of a policy's network rules, and that of its Cedar policies, may take")
	return cmd
}

// linted is what lint answers in JSON.
type linted struct {
	Warnings policy.Errors `json:"warnings,omitempty"` // of check
	*lint.Report
}

func printLinted(w io.Writer, warnings policy.Errors, r *lint.Report) {
	printErrors(w, "warning", warnings)
	printFindings(w, r, lint.Warning, lint.Note)
	printErrors(w, "not analysed", r.NotAnalysed)
	fmt.Fprintf(w, "%s, %s, %d not analysed\n", count(r.Count(lint.Warning)+len(warnings), "warning"), count(r.Count(lint.Note), "note"), len(r.NotAnalysed))
}

// printFindings shows those of some severities.
func printFindings(w io.Writer, r *lint.Report, severities ...string) {
	for i := range r.Findings {
		if f := &r.Findings[i]; slices.Contains(severities, f.Severity) {
			printError(w, f.Severity+" "+f.Kind, &f.Error, f.Witness)
		}
	}
}
