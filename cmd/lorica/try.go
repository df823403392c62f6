package main

import (
	"fmt"
	"io"

	"lorica.dev/lorica/internal/try"
)

// printResults writes the table of the requests that were tried and returns
// whether all came out as expected.
func (c *cli) printResults(results []try.Result) (bool, error) {
	ok := true
	rows := make([][]string, 0, len(results))
	for _, r := range results {
		ok = ok && r.OK
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
	return ok, c.print(results, func(w io.Writer) {
		fmt.Fprintln(w)
		table(w, "WHAT|AS|REQUEST|EXPECTED|GOT|DECIDING RULE|WRITTEN AT|", rows)
	})
}
