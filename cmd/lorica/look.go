package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
)

// machine opens this machine for this user.
func machine() (*run.Machine, error) {
	paths, err := run.DefaultPaths()
	if err != nil {
		return nil, err
	}
	return run.Open(paths)
}

func (c *cli) psCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ps",
		GroupID: "look",
		Short:   "List what runs",
		Example: "  lorica ps\n  lorica ps -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := machine()
			if err != nil {
				return err
			}
			list, silent := m.Instances(cmd.Context())
			states := make([]tender.Status, 0, len(list))
			var rows [][]string
			for _, i := range list {
				s := i.Status
				states = append(states, s)
				rows = append(rows, []string{s.Instance, i.Deployment(), state(&s), runsOn(&s), s.Tier, levelWord(&s), strconv.FormatUint(s.Revision, 10),
					short(s.Program), short(s.ImageDigest), addresses(&s), age(s.Started), fmt.Sprintf("%d/%d", s.Stats.Allowed, s.Stats.Denied)})
			}
			err = c.print(states, func(w io.Writer) {
				table(w, "INSTANCE|WORKLOAD|STATE|TARGET|TIER|LEVEL|REVISION|PROGRAM|IMAGE|LISTENS|AGE|ALLOWED/DENIED", rows)
			})
			return errors.Join(err, silent)
		},
	}
}

// runsOn is the target of an instance, and what carries a microVM.
func runsOn(s *tender.Status) string {
	if s.Accel == "" {
		return s.Target
	}
	return s.Target + " (" + strings.ToUpper(s.Accel) + ")"
}

// levelWord is the level, and who put it in force where that is not the documents.
func levelWord(s *tender.Status) string {
	switch x := s.Standing; x.Why {
	case tender.WhyHand:
		return s.Level + " (by hand)"
	case tender.WhyTrigger:
		return s.Level + " (" + x.Trigger + ")"
	}
	return s.Level
}

// dryRunText stands wherever a policy is shown that denies nothing.
const dryRunText = "DRY RUN"

// state says how an instance is, and that it enforces nothing where that is so.
func state(s *tender.Status) string {
	if s.DryRun == tender.DryRunPolicy {
		return string(s.State) + ", " + dryRunText
	}
	return string(s.State)
}

// enforcement says what of the policy of an instance is enforced.
func enforcement(s *tender.Status) string {
	switch s.DryRun {
	case tender.DryRunPolicy:
		return dryRunText + ": what the policy denies is recorded and let through"
	case tender.DryRunRules:
		return "but for the rules that are a dry run"
	}
	return ""
}

func addresses(s *tender.Status) string {
	var list []string
	for _, l := range s.Listen {
		for _, a := range reached(s, l) {
			list = append(list, netip.AddrPortFrom(a, l.Port).String())
		}
	}
	return strings.Join(list, ",")
}

// address is the first of addresses: one that a client can be pointed to.
func address(s *tender.Status) string {
	first, _, _ := strings.Cut(addresses(s), ",")
	return first
}

// reached returns where clients find a listener: that of an image on an interface at each
// address that the image has by now.
func reached(s *tender.Status, l tender.Listener) (list []netip.Addr) {
	for _, a := range s.Stats.Addresses {
		if p, err := netip.ParsePrefix(a); err == nil && !p.Addr().IsLinkLocalUnicast() {
			list = append(list, p.Addr())
		}
	}
	if a, err := netip.ParseAddr(l.Address); err == nil && len(list) == 0 {
		list = append(list, a)
	}
	return list
}

func age(t time.Time) string { return time.Since(t).Round(time.Second).String() }

func (c *cli) logsCommand() *cobra.Command {
	var follow, decisions bool
	cmd := &cobra.Command{
		Use:     "logs [INSTANCE|WORKLOAD]",
		GroupID: "look",
		Short:   "Show what an instance and its tender said, or what it decided",
		Long: `Shows the log of an instance: lines of the image, what its application wrote, and
what its tender noted. With --decisions it shows the audit records instead, where the
policy has the tender keep them (spec.audit.sinks).`,
		Example: "  lorica logs payments --follow\n  lorica logs --decisions -o json",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			i, err := find(cmd.Context(), list)
			if err != nil {
				return err
			}
			if decisions {
				if err := i.Kept(); err != nil {
					return err
				}
				err = i.Decisions(cmd.Context(), 0, follow, func(d tender.Decision) error { return c.printDecision(&d) })
			} else {
				err = i.Logs(cmd.Context(), 0, follow, func(l tender.LogLine) error {
					if c.format == "json" {
						return c.printLine(l)
					}
					_, err := fmt.Fprintf(c.out, "%s %-6s %s\n", clock(l.Time), l.From, plain(l.Line))
					return err
				})
			}
			if cmd.Context().Err() != nil {
				return nil // Ctrl-C ends --follow
			}
			return err
		},
		ValidArgsFunction: c.completeInstances,
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on until Ctrl-C")
	cmd.Flags().BoolVar(&decisions, "decisions", false, "show decisions instead of log lines")
	return cmd
}

func clock(t time.Time) string { return t.Local().Format("15:04:05.000") }

// printDecision writes one decision on one line.
func (c *cli) printDecision(d *tender.Decision) error {
	if c.format == "json" {
		return c.printLine(d)
	}
	_, err := fmt.Fprintln(c.out, decisionText(d))
	return err
}

func decisionText(d *tender.Decision) string {
	what := "connection"
	if d.Method != "" {
		what = strings.TrimSpace(d.Method + " " + d.Path)
	}
	who := d.Principal
	if who == "" {
		who = "-"
	}
	line := fmt.Sprintf("%s %-5s %s  %s from %s  by %s", clock(d.Time), d.Decision, what, who, d.Source, d.Rule)
	if d.Line != "" {
		line += " (" + d.Line + ")"
	}
	if d.Reason != "" {
		line += ": " + d.Reason
	}
	if w := d.DryRun; w != nil {
		line += fmt.Sprintf("  (dry run: %s by %s", w.Decision, w.Rule)
		if w.Line != "" {
			line += " at " + w.Line
		}
		line += ")"
	}
	return plain(line)
}

func find(ctx context.Context, args []string) (*run.Instance, error) {
	m, err := machine()
	if err != nil {
		return nil, err
	}
	return m.Find(ctx, first(args))
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func (c *cli) completeInstances(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	m, err := machine()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, _ := m.Instances(cmd.Context()) // ps tells of the others
	var names []string
	for _, i := range list {
		names = append(names, i.Status.Instance, i.Status.Workload)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "down [INSTANCE|WORKLOAD]",
		GroupID: "run",
		Short:   "Drain and end what runs",
		Long: `Drains a workload (the only one that runs, where none is named): it stops accepting,
finishes what is open, and ends. An 'up' that holds nothing else ends as well.`,
		Example: "  lorica down payments",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			m, err := machine()
			if err != nil {
				return err
			}
			name, err := m.Owner(first(list))
			if err != nil {
				return err
			}
			if err := m.Down(cmd.Context(), name); err != nil {
				return err
			}
			return c.print(map[string]string{"down": name}, func(w io.Writer) { fmt.Fprintf(w, "%s has ended\n", name) })
		},
		ValidArgsFunction: c.completeInstances,
	}
}
