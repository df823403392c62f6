package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/catalog/check"
	"lorica.dev/lorica/compiler"
)

func (c *cli) catalogCheckCommand(dir *string) *cobra.Command {
	var all bool
	var budget int
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Show what is wrong with the catalog as a whole",
		Long: `Looks for modules that no image can hold, with the facts that leave no way out;
requirements that nothing provides; words that nothing is called; capabilities that no
module requires and no policy or workload asks for; and modules that require each other.
Then it finds what no manifest says and every image obeys: the modules that always come
with another (strong dependencies), and those that can each be in an image and never
both (strong conflicts), for each target. --all lists those as well that manifests say
themselves.

Exit code 1 where there is an error: a manifest that cannot be read, a module that is in
no image, a requirement that nothing provides; 3 where there is none, and something was
not decided within the budget.`,
		Example: `  lorica catalog check
  lorica catalog check --catalog ./modules -o json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBudget(budget); err != nil {
				return err
			}
			modules, err := c.modules(cmd.Context(), *dir)
			if err != nil {
				return err
			}
			report, err := check.Check(cmd.Context(), modules, compiler.Capabilities(), budget)
			if err != nil {
				return err
			}
			if err := c.print(report, func(w io.Writer) { printCatalogReport(w, report, all, budget) }); err != nil {
				return err
			}
			switch {
			case report.Count(check.Wrong) > 0:
				return errSilent
			case report.Open():
				return undecided{errSilent}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also list dependencies and conflicts that manifests say themselves")
	budgetFlag(cmd, &budget)
	return cmd
}

func printCatalogReport(w io.Writer, r *check.Report, all bool, budget int) {
	for _, f := range r.Findings {
		place := f.File
		if place == "" {
			place = f.Module
		}
		fmt.Fprintf(w, "%s: %s %s: %s %s\n", plain(place), f.Severity, f.Kind, f.Module, plain(f.Message))
		for _, b := range f.Because {
			fmt.Fprintf(w, "  > %s\n", plain(b))
		}
	}
	if r.NotLooked != "" {
		fmt.Fprintln(w, r.NotLooked)
	} else {
		printStrong(w, r, all)
	}
	for _, target := range r.Undecided {
		fmt.Fprintf(w, "which modules can never be together for %s was not decided within %s: raise --budget\n", target, count(budget, "conflict"))
	}
	fmt.Fprintf(w, "%s: %s, %s, %s\n", count(r.Modules, "module"), count(r.Count(check.Wrong), "error"), count(r.Count(check.Warning), "warning"), count(r.Count(check.Note), "note"))
}

func printStrong(w io.Writer, r *check.Report, all bool) {
	var rows [][]string
	for _, s := range r.Strong {
		on := s.Implied
		if all {
			on = s.On
		}
		if len(on) > 0 {
			rows = append(rows, []string{"  " + s.Module, s.Target, strings.Join(on, ", ")})
		}
	}
	if len(rows) > 0 {
		title := "always together, though no requirements lead there"
		if all {
			title = "always together"
		}
		fmt.Fprintf(w, "%s (%d)\n", title, len(rows))
		table(w, "  MODULE|TARGET|WITH", rows)
	}
	var pairs [][]string
	for _, p := range r.Conflicts {
		if all || !p.Written {
			pairs = append(pairs, []string{"  " + p.A, p.Target, p.B})
		}
	}
	slices.SortStableFunc(pairs, slices.Compare)
	if len(pairs) > 0 {
		title := "never together, though no manifest says so"
		if all {
			title = "never together"
		}
		fmt.Fprintf(w, "%s (%d)\n", title, len(pairs))
		table(w, "  MODULE|TARGET|AND", pairs)
	}
}
