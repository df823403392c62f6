package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

// explained is what why answers in JSON.
type explained struct {
	Deployment string        `json:"deployment"`
	Decision   string        `json:"decision"` // "Allow" or "Deny"
	Stage      string        `json:"stage"`
	Rule       string        `json:"rule"`
	Line       string        `json:"line,omitempty"`
	Level      string        `json:"level"`
	Route      string        `json:"route,omitempty"`
	Reason     string        `json:"reason,omitempty"`
	Missing    []string      `json:"missing,omitempty"`
	Nearest    []near        `json:"nearest,omitempty"`
	Considered []outcome     `json:"considered,omitempty"`
	DryRun     *audit.DryRun `json:"dryRun,omitempty"` // what it would be if what is tried were enforced
	Smallest   *smallest     `json:"smallestChange,omitempty"`
	NotAsked   []string      `json:"notAsked,omitempty"` // modules of the user's own, which may deny more
}

// A smallest is the least that would have to be otherwise for a denied call to be allowed.
type smallest struct {
	Status  string   `json:"status"` // "found", "none", or "not analysed"
	Changes []string `json:"changes,omitempty"`
	Why     string   `json:"why,omitempty"` // it was not analysed
}

type near struct {
	Rule   string   `json:"rule"`
	Line   string   `json:"line,omitempty"`
	Failed []string `json:"failed"`
}

type outcome struct {
	Rule    string `json:"rule"`
	Line    string `json:"line,omitempty"`
	Outcome string `json:"outcome"`
}

func explanation(ctx context.Context, d *policy.Deployment, a *policy.Answer) explained {
	x := explained{d.Name(), a.Verdict.String(), a.Stage, a.Rule.ID, a.Rule.Line, a.Level, a.Route, a.Reason, a.Missing, nil, nil, nil, nil, ownNames(d)}
	if t := a.DryRun; t != nil {
		x.DryRun = &audit.DryRun{Decision: t.Verdict.String(), Stage: t.Stage, Rule: t.Rule.ID, Line: t.Rule.Line, Reason: t.Reason}
	}
	for _, n := range a.Nearest {
		x.Nearest = append(x.Nearest, near{n.Rule.ID, n.Rule.Line, n.Failed})
	}
	for _, o := range a.Considered {
		x.Considered = append(x.Considered, outcome{o.Rule.ID, o.Rule.Line, o.Text})
	}
	if a.Call != nil && a.Verdict == abi.Deny {
		facts, _, status, why := space.Allowing(space.NewBudget(ctx, space.DefaultSteps), d.Enforced(), *a.Call)
		x.Smallest = &smallest{Status: status.String(), Why: why}
		for _, f := range facts {
			x.Smallest.Changes = append(x.Smallest.Changes, f.String())
		}
	}
	return x
}

func (c *cli) whyCommand() *cobra.Command {
	var path, workload string
	var live bool
	var q policy.Query
	var set []string
	var body, at, from string
	cmd := &cobra.Command{
		Use:     "why ['METHOD /path'] | why --live [INSTANCE] DECISION-ID",
		GroupID: "write",
		Short:   "Explain a decision: what decides, where it is written, what was missing",
		Long: `Says what the policy decides about a request or a packet, by which rule and line; for
a denial, what would have to be otherwise; for a default denial, that nothing matched.
It asks the reference evaluator: nothing needs to run. Modules of your own are not asked,
and are named where the image may have some: they may deny more. The exit code says
whether the question could be answered, not what the answer is.

With --live it explains a decision that an instance made: its id is in the header
Lorica-Decision of every response, and in every record; the first 8 characters are
enough. An instance that died is asked as long as its folder is there. What was
recorded is shown; with the documents that the program then was compiled from, all
that is said of a question, too.`,
		Example: `  lorica why 'GET /accounts/7' --as staff-3 --groups staff
  lorica why 'POST /accounts/7/transfers' --as teller-7 --groups tellers --set amount=500 --level elevated
  lorica why 'POST /accounts/7/transfers' --as teller-7 --groups tellers --body '{"amount": 500}' --at 2026-03-02T09:30:00Z
  lorica why --packet 'tcp 10.20.1.1 -> :22'
  lorica why --live payments 3f29c80e`,
		Args: args(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if live {
				for _, f := range []string{"as", "groups", "level", "set", "packet", "workload", "body", "at", "from"} {
					if cmd.Flags().Changed(f) {
						return usageError{fmt.Errorf("why --live: --%s is recorded: leave it out", f)}
					}
				}
				if len(list) == 0 {
					return usageError{errors.New("why --live: name a decision by its id, as Lorica-Decision has it")}
				}
				return c.whyLive(cmd.Context(), list[:len(list)-1], list[len(list)-1], path, cmd.Flags().Changed("file"))
			}
			if len(list) > 1 {
				return usageError{errors.New("why: ask about one request, in quotes: 'GET /accounts/7'")}
			}
			q.Request = first(list)
			if (q.Request == "") == (q.Packet == "") {
				return usageError{errors.New("why: ask about a request ('GET /accounts/7') or about a --packet ('tcp 10.20.1.1 -> :22')")}
			}
			q.Set = map[string]string{}
			for _, s := range set {
				name, value, ok := strings.Cut(s, "=")
				if !ok || name == "" {
					return usageError{fmt.Errorf("--set %s: write NAME=VALUE", s)}
				}
				q.Set[name] = value
			}
			if err := shown(&q, body, at, from); err != nil {
				return err
			}
			bundle, err := c.loadUntested(path)
			if err != nil {
				return err
			}
			d, err := pick(bundle, workload)
			if err != nil {
				return err
			}
			answer, err := d.Why(q)
			if err != nil {
				return err
			}
			x := explanation(cmd.Context(), d, &answer)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			return c.print(x, func(w io.Writer) { printAnswer(w, &x) })
		},
	}
	fileFlag(cmd, &path)
	cmd.Flags().BoolVar(&live, "live", false, "explain a decision that an instance made")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, list []string, word string) ([]string, cobra.ShellCompDirective) {
		if !live || len(list) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completeInstances(cmd, list, word)
	}
	cmd.Flags().StringVar(&workload, "workload", "", "which workload, where the documents have several")
	cmd.Flags().StringVar(&q.User, "as", "", "the user who asks (none: without credentials)")
	cmd.Flags().StringSliceVar(&q.Groups, "groups", nil, "the groups of the user, separated by commas")
	cmd.Flags().StringVar(&q.Level, "level", "", "security level (the initial one where none is given)")
	cmd.Flags().StringArrayVar(&set, "set", nil, "the value of an attribute, NAME=VALUE; may be repeated")
	cmd.Flags().StringVar(&body, "body", "", "the JSON that the request carries, or @FILE")
	cmd.Flags().StringVar(&at, "at", "", "the time of the request, as 2026-03-02T09:30:00Z")
	cmd.Flags().StringVar(&from, "from", "", "the address of the client")
	cmd.Flags().StringVar(&q.Packet, "packet", "", "a connection instead of a request: 'tcp 10.20.1.1 -> :22', or 'icmp 10.20.1.1'")
	return cmd
}

// shown reads what the request itself shows: its body, its time, its client.
func shown(q *policy.Query, body, at, from string) (err error) {
	if q.Packet != "" && body+at+from != "" {
		return usageError{errors.New("why: --body, --at and --from are of a request; a packet has its address itself")}
	}
	if file, ok := strings.CutPrefix(body, "@"); ok {
		if q.Body, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("--body: %w", err)
		}
	} else if body != "" {
		q.Body = []byte(body)
	}
	if q.Body != nil && !json.Valid(q.Body) {
		return usageError{errors.New("--body: not JSON; write '{\"amount\": 500}', or @FILE")}
	}
	if at != "" {
		if q.At, err = time.Parse(time.RFC3339, at); err != nil {
			return usageError{fmt.Errorf("--at %s: write a time, such as 2026-03-02T09:30:00Z", at)}
		}
	}
	if from != "" {
		if q.From, err = netip.ParseAddr(from); err != nil {
			return usageError{fmt.Errorf("--from %s: write an address, such as 10.20.1.1", from)}
		}
	}
	return nil
}

func pick(b *policy.Bundle, name string) (*policy.Deployment, error) {
	var names []string
	for _, d := range b.Deployments {
		if name == d.Workload.Metadata.Name || name == d.Name() || name == "" && len(b.Deployments) == 1 {
			return d, nil
		}
		names = append(names, d.Name())
	}
	return nil, fmt.Errorf("say which workload with --workload: %s", strings.Join(names, ", "))
}

func printAnswer(w io.Writer, x *explained) {
	line := ""
	if x.Line != "" {
		line = " at " + x.Line
	}
	fmt.Fprintf(w, "%s  decided by %s%s (%s, level %s)\n", x.Decision, x.Rule, line, x.Stage, x.Level)
	if x.Reason != "" {
		fmt.Fprintf(w, "  %s\n", plain(x.Reason))
	}
	printDryRun(w, x.DryRun)
	printNotAsked(w, x.NotAsked)
	printReasons(w, x)
}

// ownNames are the modules of the user's own, of which only a running image knows what they
// decide.
func ownNames(of ...*policy.Deployment) []string {
	var list []string
	for _, d := range of {
		for _, m := range d.Own() {
			if !slices.Contains(list, m.Name) {
				list = append(list, m.Name)
			}
		}
	}
	return list
}

func printNotAsked(w io.Writer, own []string) {
	if len(own) > 0 {
		fmt.Fprintf(w, "  modules of your own were not asked, and may deny more: %s\n", plain(strings.Join(own, ", ")))
	}
}

// printDryRun says what a decision would be if what is tried were enforced.
func printDryRun(w io.Writer, x *audit.DryRun) {
	if x == nil {
		return
	}
	by, reason := x.Rule, ""
	if x.Line != "" {
		by += " at " + x.Line
	}
	if x.Reason != "" {
		reason = ": " + x.Reason
	}
	fmt.Fprintf(w, "  dry run: %s by %s (%s)%s\n", x.Decision, plain(by), plain(x.Stage), plain(reason))
}

// printReasons says what was missing, and what each rule said.
func printReasons(w io.Writer, x *explained) {
	for i, n := range x.Nearest {
		if i == 0 {
			fmt.Fprintln(w, "permits that came nearest:")
		}
		fail := "clauses fail"
		if len(n.Failed) == 1 {
			fail = "clause fails"
		}
		fmt.Fprintf(w, "  %s (%s): %d %s\n", n.Rule, n.Line, len(n.Failed), fail)
		for _, f := range n.Failed {
			fmt.Fprintf(w, "    %s\n", plain(f))
		}
	}
	for i, m := range x.Missing {
		if len(x.Nearest) > 0 {
			break // it would say the same
		}
		if i == 0 {
			fmt.Fprintln(w, "what was missing:")
		}
		fmt.Fprintf(w, "  %s\n", plain(m))
	}
	if s := x.Smallest; s != nil {
		fmt.Fprint(w, "the smallest change that would be allowed: ")
		switch {
		case len(s.Changes) > 0:
			fmt.Fprintln(w, plain(strings.Join(s.Changes, ", ")))
		case s.Why != "":
			fmt.Fprintf(w, "%s: %s\n", s.Status, plain(s.Why))
		default:
			fmt.Fprintf(w, "%s on this route, at this level\n", s.Status)
		}
	}
	if len(x.Considered) > 0 {
		fmt.Fprintln(w, "rules that were considered:")
		var rows [][]string
		for _, o := range x.Considered {
			rows = append(rows, []string{"  " + o.Rule, o.Line, o.Outcome})
		}
		table(w, "", rows)
	}
}
