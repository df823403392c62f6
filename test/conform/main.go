// Command conform holds what images decide to independent references: compiled Cedar
// policies to cedar-go and to the suites of the field, and the firewall to the definition
// of its rules. Its tests hold a whole compiled deployment to the evaluator of package
// policy. It is the only package that may import both halves of Lorica.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

const help = `usage: conform [-module] [-cedar PATH...] [-random REQUESTS [-seed N]] [-classbench FILE...] [-o json]

Judges suites of tests, and fails where an answer is not the one expected, where
policies do not compile, and where a suite is empty or cannot be read.

  -cedar PATH...       tests of Cedar: an archive (.tar.gz) or a folder, with tests in
                       JSON that name files of policies, entities and a schema, as
                       in cedar-integration-tests. The decision, the policies that
                       decide and those that fail are compared with what the test
                       says, and with cedar-go, which is run beside
  -module              the tests that the module of cedar-go carries
  -random REQUESTS     so many random requests, to random policies and entities of
                       the whole language, compared with cedar-go
  -seed N              where the random ones begin (default 0)
  -classbench FILE...  filter sets of ClassBench: for each, a million packets are
                       judged by the firewall and by the definition of its rules
  -packets N           instead of a million
  -o json              print JSON
`

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

func command(args []string, out, errs io.Writer) int {
	var tests, filters []string
	var last *[]string // what further arguments belong to
	list := func(to *[]string) func(string) error {
		return func(s string) error { *to, last = append(*to, s), to; return nil }
	}
	f := flag.NewFlagSet("conform", flag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() { fmt.Fprint(errs, help) }
	f.Func("cedar", "", list(&tests))
	f.Func("classbench", "", list(&filters))
	module, requests, seed := f.Bool("module", false, ""), f.Int("random", 0, ""), f.Uint64("seed", 0, "")
	count, format := f.Int("packets", 1_000_000, ""), f.String("o", "", "")
	for len(args) > 0 {
		if err := f.Parse(args); err != nil {
			return 2
		}
		if args = f.Args(); len(args) > 0 {
			if last == nil {
				fmt.Fprintf(errs, "conform: %s: say what it is: -cedar or -classbench\n", args[0])
				return 2
			}
			*last, args = append(*last, args[0]), args[1:]
		}
	}
	if *format != "" && *format != "json" {
		fmt.Fprintf(errs, "conform: -o %s: it prints a table, or json\n", *format)
		return 2
	}
	var all []*suite
	if *module {
		name, err := moduleCorpus()
		if err != nil {
			fmt.Fprintf(errs, "conform: %v\n", err)
			return 1
		}
		tests = append([]string{name}, tests...)
	}
	for _, name := range tests {
		all = append(all, suites(name)...)
	}
	if *requests > 0 {
		all = append(all, random(*seed, *requests))
	}
	for _, name := range filters {
		all = append(all, classBench(name, *count))
	}
	if len(all) == 0 {
		fmt.Fprint(errs, "conform: nothing to judge\n\n", help)
		return 2
	}
	if *format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(all); err != nil {
			fmt.Fprintf(errs, "conform: %v\n", err)
			return 1
		}
	} else {
		table(out, all)
	}
	if slices.ContainsFunc(all, (*suite).failed) {
		return 1
	}
	return 0
}

func table(out io.Writer, all []*suite) {
	for _, s := range all {
		for _, m := range s.Found {
			fmt.Fprintln(out, m)
		}
		for _, r := range s.Refusals {
			fmt.Fprintf(out, "refused: %s\n", r)
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SUITE\tTESTS\tNOT VALID\tREFUSED\tREQUESTS\tMISMATCHES\t")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n", s.Name, s.Tests, s.Invalid, s.Refused, s.Requests, s.Mismatches, s.Unreadable)
	}
	w.Flush()
}
