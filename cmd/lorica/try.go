package main

import (
	"fmt"

	"lorica.dev/lorica/internal/try"
)

// passed reports whether all requests came out as expected.
func passed(results []try.Result) bool {
	for _, r := range results {
		if !r.OK {
			return false
		}
	}
	return true
}

// printResults writes the table of the requests that were tried.
func (c *cli) printResults(results []try.Result) {
	rows := make([][]string, 0, len(results))
	for _, r := range results {
		mark := "ok"
		if !r.OK {
			mark = "MISMATCH"
		}
		rule := r.Rule
		if rule == "" {
			rule = "(no record)"
		}
		if r.By != "" && r.By != r.Rule {
			rule += " (expected " + r.By + ")"
		}
		who := r.As
		if who == "" {
			who = "-"
		}
		rows = append(rows, []string{r.Name, who, r.Send, r.Expect, r.Got, rule, r.Line, mark})
	}
	fmt.Fprintln(c.out)
	table(c.out, "WHAT|AS|REQUEST|EXPECTED|GOT|DECIDING RULE|WRITTEN AT|", rows)
}
