package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run"
)

// tested is what test answers in JSON.
type tested struct {
	OK       bool           `json:"ok"`
	Policies []testedPolicy `json:"policies,omitempty"`
	Errors   policy.Errors  `json:"errors,omitempty"` // of the documents: nothing was run
}

type testedPolicy struct {
	Policy           string       `json:"policy"`
	Failed           int          `json:"failed"`
	LeftOut          int          `json:"leftOut,omitempty"` // by --run
	Tests            []testedCase `json:"tests"`
	Coverage         *covered     `json:"coverage,omitempty"`
	CoverageRequired bool         `json:"coverageRequired,omitempty"`
	NotAsked         []string     `json:"notAsked,omitempty"` // modules of the user's own, which may deny more
}

func (p *testedPolicy) ok() bool {
	return p.Failed == 0 && (!p.CoverageRequired || p.Coverage == nil || len(p.Coverage.Uncovered) == 0)
}

type testedCase struct {
	Name     string   `json:"name"`
	Position api.Pos  `json:"position"`
	OK       bool     `json:"ok"`
	Decision string   `json:"decision,omitempty"` // "Allow" or "Deny"; empty: it could not be asked
	Rule     string   `json:"rule,omitempty"`
	Line     string   `json:"line,omitempty"`
	Problem  string   `json:"problem,omitempty"`
	Missing  []string `json:"missing,omitempty"`
}

type covered struct {
	Share     float64       `json:"share"` // of the rules that a test can reach, from 0 to 1
	Covered   []coveredRule `json:"covered,omitempty"`
	Uncovered []coveredRule `json:"uncovered,omitempty"`
	Beyond    []coveredRule `json:"beyond,omitempty"` // no test can reach them
}

type coveredRule struct {
	Rule  string `json:"rule"`
	Line  string `json:"line"`
	Tests int    `json:"tests,omitempty"`
}

// testRun is one invocation of test.
type testRun struct {
	*cli
	path, junit, pattern      string
	verbose, coverage, follow bool
}

func (c *cli) testCommand() *cobra.Command {
	t := testRun{cli: c}
	cmd := &cobra.Command{
		Use:     "test",
		GroupID: "write",
		Short:   "Run the tests in the policies",
		Long: `Runs the tests that travel with the policies and shows those that fail: what was
expected, what decided instead and where that is written, and for a denial what was
missing. It asks the reference evaluator: nothing needs to run. Modules of your own are
not asked, and are named where an image may have some: they may deny more.

With --coverage it lists the rules that decide no test. A policy with
'coverage: Required' is held to that here and by every check, plan, build and up.
Exit code 1 where a test fails.`,
		Example: `  lorica test -f examples/payments --coverage
  lorica test -f examples/payments --run 'lockdown|ssh' -v
  lorica test -f examples/payments --junit report.xml`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pattern, err := regexp.Compile(t.pattern)
			if err != nil {
				return usageError{fmt.Errorf("--run: %w", err)}
			}
			if t.follow {
				return t.watch(cmd.Context(), pattern)
			}
			return t.once(pattern)
		},
	}
	fileFlag(cmd, &t.path)
	cmd.Flags().BoolVarP(&t.verbose, "verbose", "v", false, "a line for each test, also where it holds")
	cmd.Flags().BoolVar(&t.coverage, "coverage", false, "say which rules decide no test")
	cmd.Flags().StringVar(&t.pattern, "run", "", "only the tests with a name that this regular expression matches")
	cmd.Flags().StringVar(&t.junit, "junit", "", "write a report for CI systems (JUnit XML) to this file")
	cmd.Flags().BoolVar(&t.follow, "watch", false, "run them again whenever the documents change, until interrupted")
	_ = cmd.MarkFlagFilename("junit", "xml")
	return cmd
}

// watch runs the tests now and after every change. What fails is shown, and is no reason to end.
func (t *testRun) watch(ctx context.Context, pattern *regexp.Regexp) error {
	changes := run.WatchDocuments(ctx, t.path)
	for {
		if err := t.once(pattern); err != nil && !errors.Is(err, errSilent) {
			t.report(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, more := <-changes:
			if !more {
				return nil
			}
			if t.format != "json" {
				fmt.Fprintln(t.out, "\n--- the documents have changed")
			}
		}
	}
}

// once runs the tests and shows what came of them.
func (t *testRun) once(pattern *regexp.Regexp) error {
	var report tested
	bundle, err := policy.LoadUntested(t.path)
	if err != nil {
		if !errors.As(err, &report.Errors) {
			return err
		}
	} else if report, err = t.results(bundle, pattern); err != nil {
		return err
	}
	if t.junit != "" {
		if err := writeJUnit(t.junit, &report); err != nil {
			return err
		}
	}
	switch {
	case t.format == "json" && t.follow:
		err = t.printLine(report)
	case t.format != "json" && len(report.Errors) > 0:
		return t.explain(report.Errors)
	default:
		err = t.print(report, func(w io.Writer) { t.show(w, &report) })
	}
	if err == nil && !report.OK {
		err = errSilent
	}
	return err
}

// results runs the tests whose names match.
func (t *testRun) results(b *policy.Bundle, pattern *regexp.Regexp) (tested, error) {
	report := tested{OK: true}
	all, ran := 0, 0
	for _, d := range b.Policies() {
		p := testedPolicy{Policy: d.Policy.Metadata.Tenant + "/" + d.Policy.Metadata.Name, Tests: []testedCase{}}
		results := d.RunSome(func(x *api.Test) bool { return pattern.MatchString(x.Name) })
		for _, r := range results {
			x := testedCase{r.Test.Name, r.Test.Pos, r.Problem == "", "", r.Decision.Rule.ID, r.Decision.Rule.Line, r.Problem, r.Missing}
			if x.Rule != "" {
				x.Decision = r.Decision.Verdict.String()
			}
			if !x.OK {
				p.Failed++
			}
			p.Tests = append(p.Tests, x)
		}
		all, ran = all+len(d.Policy.Tests), ran+len(results)
		p.LeftOut = len(d.Policy.Tests) - len(results)
		p.NotAsked = ownNames(slices.DeleteFunc(slices.Clone(b.Deployments), func(o *policy.Deployment) bool { return o.Policy != d.Policy })...)
		p.CoverageRequired = d.Policy.CoverageRequired && p.LeftOut == 0
		if t.coverage || p.CoverageRequired {
			p.Coverage = coverageOf(d, results)
		}
		report.OK = report.OK && p.ok()
		report.Policies = append(report.Policies, p)
	}
	switch {
	case all == 0:
		return report, errors.New("the policies have no tests: write tests: [{name: ..., call: ROUTE, expect: Deny}] under spec")
	case ran == 0:
		return report, fmt.Errorf("--run %s: none of %d tests has such a name", t.pattern, all)
	}
	return report, nil
}

func coverageOf(d *policy.Deployment, results []policy.TestResult) *covered {
	c := d.Coverage(results)
	list := func(rules []policy.CoverageRule) (out []coveredRule) {
		for _, r := range rules {
			out = append(out, coveredRule{r.ID, r.Line, r.Tests})
		}
		return out
	}
	return &covered{c.Share(), list(c.Covered), list(c.Uncovered), list(c.Beyond)}
}

func (t *testRun) show(w io.Writer, report *tested) {
	for i := range report.Policies {
		p := &report.Policies[i]
		var rows [][]string
		flush := func() {
			table(w, "", rows)
			rows = nil
		}
		for _, x := range p.Tests {
			if x.OK {
				if t.verbose {
					rows = append(rows, []string{"ok", x.Name, x.Decision + " by " + cited(x.Rule, x.Line)})
				}
				continue
			}
			flush()
			fmt.Fprintf(w, "FAIL  %s  at %s\n      %s\n", plain(x.Name), x.Position, plain(x.Problem))
			for _, m := range x.Missing {
				fmt.Fprintf(w, "      missing: %s\n", plain(m))
			}
		}
		flush()
		p.summary(w, t.coverage)
	}
}

// summary is the end of what is shown of a policy.
func (p *testedPolicy) summary(w io.Writer, coverage bool) {
	fmt.Fprintf(w, "%s: ", p.Policy)
	if p.Failed == 0 {
		fmt.Fprintf(w, "%s passed", count(len(p.Tests), "test"))
	} else {
		fmt.Fprintf(w, "%d of %s failed", p.Failed, count(len(p.Tests), "test"))
	}
	if p.LeftOut > 0 {
		fmt.Fprintf(w, "; %d left out", p.LeftOut)
	}
	fmt.Fprintln(w)
	printNotAsked(w, p.NotAsked)
	c := p.Coverage
	if c == nil || !coverage && p.ok() {
		return
	}
	n := len(c.Covered) + len(c.Uncovered)
	fmt.Fprintf(w, "%s: %d of %s decide a test, %d %%", p.Policy, len(c.Covered), count(n, "rule"), int(100*c.Share))
	if len(c.Uncovered) == 0 {
		fmt.Fprintln(w)
	} else {
		if p.CoverageRequired {
			fmt.Fprint(w, "; coverage is Required")
		}
		fmt.Fprintln(w, "; these decide none:")
		var rows [][]string
		for _, r := range c.Uncovered {
			rows = append(rows, []string{"  " + r.Rule, r.Line})
		}
		table(w, "", rows)
	}
	if coverage && len(c.Beyond) > 0 {
		var list []string
		for _, r := range c.Beyond {
			list = append(list, cited(r.Rule, r.Line))
		}
		fmt.Fprintf(w, "out of a test's reach, and not counted: %s\n", strings.Join(list, ", "))
	}
}

// cited is a rule with its place.
func cited(rule, line string) string {
	if line == "" {
		return rule
	}
	return rule + " (" + line + ")"
}
