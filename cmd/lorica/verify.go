package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/verify"
)

func (c *cli) verifyCommand() *cobra.Command {
	var path, users string
	var o verify.Options
	cmd := &cobra.Command{
		Use:     "verify [INSTANCE|WORKLOAD]",
		GroupID: "look",
		Short:   "Show from outside that what runs enforces what is written",
		Long: `For every rule of the policy, at the level in force, looks for a connection or a request
that the rule must decide, sends it to the instance, and holds answer and record of the
decision to what the documents say: verdict, rule, line, level and program. Then it sends
some three hundred requests that servers are known to read differently; all must be
refused. What cannot be shown from this machine is listed with its reason. The documents
must be what runs. Exit code 1 where anything differs.

Requests that are allowed reach the application: only GET and HEAD, unless --write says
that it may be asked to change something. All count against rate limits, denials against
obligations: it stops before one would block this machine, but one that alerts may do so.
An instance that does not enforce its policy may serve what must be refused: ask it where
that does no harm.

Users are those of 'lorica dev token' and 'lorica dev client' where the policy takes them,
and those of --users FILE, which has users as in a file for 'up --try':
  users: {ada: her password, bob: {bearer: eyJhbGciOi...}}`,
		Example: `  lorica verify -f examples/payments
  lorica verify clinic -f examples/clinic --write -o json
  lorica verify -f examples/site --users examples/site/requests.yaml`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if users != "" {
				var err error
				if o.Users, err = try.LoadUsers(users); err != nil {
					return err
				}
			}
			return c.verify(cmd.Context(), path, first(list), o)
		},
		ValidArgsFunction: c.completeInstances,
	}
	fileFlag(cmd, &path)
	cmd.Flags().StringVar(&users, "users", "", "a file with users whom the policy knows")
	cmd.Flags().BoolVar(&o.Write, "write", false, "send requests of all methods that the application then serves")
	cmd.Flags().BoolVar(&o.Limits, "limits", false, "use up rate limits, last of all")
	_ = cmd.MarkFlagFilename("users", "yaml", "yml")
	return cmd
}

func (c *cli) verify(ctx context.Context, path, name string, o verify.Options) error {
	m, err := machine()
	if err != nil {
		return err
	}
	i, err := m.Find(ctx, name)
	if err != nil {
		return err
	}
	t, err := c.target(ctx, m, i, path)
	if err != nil {
		return err
	}
	o.Identities = identities{m.Development(), t.Deployment}
	p := c.progress(i.Status.Instance)
	if p.fancy && c.format != "json" {
		o.Progress = p.text
	}
	report, err := verify.Run(ctx, t, o)
	p.end()
	if ctx.Err() != nil {
		return errors.New("interrupted: nothing is shown")
	}
	if err != nil {
		return err
	}
	if now, err := i.Client.Status(ctx); err != nil {
		return err
	} else if now.Program != t.Program || now.Restarts != i.Status.Restarts {
		return errors.New("the program was replaced, or the image started again, while it was verified: ask again")
	}
	if err := c.print(report, func(w io.Writer) { printReport(w, report) }); err != nil {
		return err
	}
	if !report.OK() {
		return errSilent
	}
	return nil
}

// target is an instance with its documents, which must be what runs.
func (c *cli) target(ctx context.Context, m *run.Machine, i *run.Instance, path string) (t verify.Target, err error) {
	b, err := c.load(path)
	if err != nil {
		return t, err
	}
	if err := i.Kept(); err != nil {
		return t, fmt.Errorf("nothing can be verified without records: %w", err)
	}
	s := &i.Status
	network := s.Net
	if network == "" && s.Target == api.TargetProcess {
		network = api.NetSocket
	}
	if err := b.Retarget(s.Target, network); err != nil {
		return t, err
	}
	d, err := pick(b, i.Deployment())
	if err != nil {
		return t, fmt.Errorf("%s runs, and %s has other workloads: name its documents with -f", i.Deployment(), path)
	}
	if d.Policy.DryRun {
		return t, fmt.Errorf("policy %s is a dry run: it enforces nothing that could be shown. 'lorica dryrun report' shows what it would", d.Policy.Metadata.Name)
	}
	plan, err := m.Plan(ctx, d)
	if err != nil {
		return t, err
	}
	plan.Running = s
	level, err := plan.Level(s.Level)
	if err != nil {
		return t, fmt.Errorf("the level in force is not in the documents: %w", err)
	}
	if what := plan.Differs(level); what != "" {
		return t, fmt.Errorf("%s does not run what is written in %s: %s. 'lorica up' takes over what is written, 'lorica plan' shows what that changes", s.Instance, path, what)
	}
	t = verify.Target{Deployment: d.Enforced(), Level: level.Level, Program: s.Program}
	for _, l := range s.Listen {
		for _, a := range reached(s, l) {
			if a.IsUnspecified() {
				a = netip.MustParseAddr(map[bool]string{true: "127.0.0.1", false: "::1"}[a.Is4()])
			}
			t.Listeners = append(t.Listeners, netip.AddrPortFrom(a, l.Port))
		}
	}
	if len(t.Listeners) == 0 {
		return t, errors.New("the instance listens nowhere")
	}
	t.Decisions = func(ctx context.Context, kept bool, emit func(tender.Decision) error) error {
		from := s.Decisions + 1
		if kept {
			from = 0
		}
		return i.Decisions(ctx, from, true, emit)
	}
	return t, nil
}

func printReport(w io.Writer, r *verify.Report) {
	var rows [][]string
	for _, x := range r.Results {
		what, got := x.Witness, strings.TrimSuffix(x.Got, " by "+x.Rule)
		if more := len(x.Sent) - 1; more > 0 && x.State == verify.Shown {
			what += fmt.Sprintf(" (and %d more)", more)
		}
		state := string(x.State)
		switch x.State {
		case verify.NotShown:
			what = x.Why
		case verify.Differs:
			state = "DIFFERS"
		}
		rows = append(rows, []string{x.Rule, x.Line, x.Where, state, what, dash(strings.TrimSuffix(x.Expected, " by "+x.Rule)), dash(got)})
	}
	table(w, "RULE|WRITTEN AT|ENFORCED AT||WITNESS, OR WHY NOTHING IS SHOWN|EXPECTED|GOT", rows)
	why := map[string]int{}
	var order []string
	rows = nil
	for _, b := range r.Bypasses {
		switch b.State {
		case verify.Differs:
			rows = append(rows, []string{b.Name, "DIFFERS", b.Want, b.Got})
		case verify.NotShown:
			if why[b.Why]++; why[b.Why] == 1 {
				order = append(order, b.Why)
			}
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(w)
		table(w, "BYPASS||EXPECTED|GOT", rows)
	}
	fmt.Fprintln(w)
	rules, bypasses := r.Count(verify.Shown)
	rulesDiffer, bypassesDiffer := r.Count(verify.Differs)
	rulesNot, bypassesNot := r.Count(verify.NotShown)
	fmt.Fprintf(w, "%s at level %s, program %s\n", r.Deployment, r.Level, short(r.Program))
	fmt.Fprintf(w, "rules:    %d shown, %d differ, %d not shown from here\n", rules, rulesDiffer, rulesNot)
	fmt.Fprintf(w, "bypasses: %d refused, %d differ, %d not sent\n", bypasses, bypassesDiffer, bypassesNot)
	for _, s := range order {
		fmt.Fprintf(w, "          %d not sent: %s\n", why[s], plain(s))
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
