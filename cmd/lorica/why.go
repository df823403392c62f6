package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
)

// explained is what why answers in JSON.
type explained struct {
	Deployment string    `json:"deployment"`
	Decision   string    `json:"decision"` // "Allow" or "Deny"
	Stage      string    `json:"stage"`
	Rule       string    `json:"rule"`
	Line       string    `json:"line,omitempty"`
	Level      string    `json:"level"`
	Route      string    `json:"route,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Missing    []string  `json:"missing,omitempty"`
	Considered []outcome `json:"considered,omitempty"`
}

type outcome struct {
	Rule    string `json:"rule"`
	Line    string `json:"line,omitempty"`
	Outcome string `json:"outcome"`
}

func explanation(d *policy.Deployment, a *policy.Answer) explained {
	x := explained{d.Name(), a.Verdict.String(), a.Stage, a.Rule.ID, a.Rule.Line, a.Level, a.Route, a.Reason, a.Missing, nil}
	for _, o := range a.Considered {
		x.Considered = append(x.Considered, outcome{o.Rule.ID, o.Rule.Line, o.Text})
	}
	return x
}

func (c *cli) whyCommand() *cobra.Command {
	var path, workload string
	var q policy.Query
	var set []string
	cmd := &cobra.Command{
		Use:     "why ['METHOD /path']",
		GroupID: "write",
		Short:   "Explain a decision: what decides, where it is written, what was missing",
		Long: `Says what the policy decides about a request or a packet, by which rule and line; for
a denial, what would have to be otherwise; for a default denial, that nothing matched.
It asks the reference evaluator: nothing needs to run. The exit code says whether the
question could be answered, not what the answer is.`,
		Example: `  lorica why 'GET /accounts/7' --as staff-3 --groups staff
  lorica why 'POST /accounts/7/transfers' --as teller-7 --groups tellers --set amount=500 --level elevated
  lorica why --packet 'tcp 10.20.1.1 -> :22'`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
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
			bundle, err := c.load(path)
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
			return c.print(explanation(d, &answer), func(w io.Writer) { printAnswer(w, &answer) })
		},
	}
	fileFlag(cmd, &path)
	cmd.Flags().StringVar(&workload, "workload", "", "which workload, where the documents have several")
	cmd.Flags().StringVar(&q.User, "as", "", "the user who asks (none: without credentials)")
	cmd.Flags().StringSliceVar(&q.Groups, "groups", nil, "the groups of the user, separated by commas")
	cmd.Flags().StringVar(&q.Level, "level", "", "security level (the initial one where none is given)")
	cmd.Flags().StringArrayVar(&set, "set", nil, "the value of an attribute, NAME=VALUE; may be repeated")
	cmd.Flags().StringVar(&q.Packet, "packet", "", "a connection instead of a request: 'tcp 10.20.1.1 -> :22', or 'icmp 10.20.1.1'")
	return cmd
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

func printAnswer(w io.Writer, a *policy.Answer) {
	line := ""
	if a.Rule.Line != "" {
		line = " at " + a.Rule.Line
	}
	fmt.Fprintf(w, "%s  decided by %s%s (%s, level %s)\n", a.Verdict, a.Rule.ID, line, a.Stage, a.Level)
	if a.Reason != "" {
		fmt.Fprintf(w, "  %s\n", plain(a.Reason))
	}
	for i, m := range a.Missing {
		if i == 0 {
			fmt.Fprintln(w, "what was missing:")
		}
		fmt.Fprintf(w, "  %s\n", plain(m))
	}
	if len(a.Considered) > 0 {
		fmt.Fprintln(w, "rules that were considered:")
		var rows [][]string
		for _, o := range a.Considered {
			rows = append(rows, []string{"  " + o.Rule.ID, o.Rule.Line, o.Text})
		}
		table(w, "", rows)
	}
}
