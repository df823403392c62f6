package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
)

// levelled is what the commands about levels answer in JSON.
type levelled struct {
	Instance   string `json:"instance"`
	Deployment string `json:"deployment"`
	tender.LevelChange
}

func (c *cli) levelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "level",
		GroupID: "run",
		Short:   "Show, set or release the security level of what runs",
		Long: `The programs of all levels of a policy are signed together, and the tender of an
instance keeps them: a level is selected, and no policy is made. The image decides by
it within milliseconds, and no request is lost.`,
		Example: `  lorica level show payments
  lorica level set elevated --for 30m
  lorica level release`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.levelShowCommand(), c.levelSetCommand(), c.levelReleaseCommand())
	return cmd
}

func (c *cli) levelShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show [INSTANCE|WORKLOAD]",
		Short:   "Show the level, since when, why, and until when",
		Example: "  lorica level show\n  lorica level show payments -o json",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			i, err := find(cmd.Context(), list)
			if err != nil {
				return err
			}
			s := i.Status
			return c.printLevel(i, tender.LevelChange{Level: s.Level, Revision: s.Revision, Standing: s.Standing})
		},
		ValidArgsFunction: c.completeInstances,
	}
}

func (c *cli) levelSetCommand() *cobra.Command {
	var name string
	var d time.Duration
	var hold bool
	cmd := &cobra.Command{
		Use:   "set LEVEL",
		Short: "Have another level in force",
		Long: `Sets the level until it is set again, or for a time. A trigger of the policy may raise
it above that; with --hold none does. It returns when the image decides by the level.`,
		Example: `  lorica level set elevated
  lorica level set lockdown --for 10m --instance payments
  lorica level set normal --hold`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if cmd.Flags().Changed("for") && d <= 0 {
				return usageError{fmt.Errorf("--for %s: write a time such as 10m", d)}
			}
			i, err := awake(cmd.Context(), name)
			if err != nil {
				return err
			}
			if names := i.Status.Standing.Levels; !slices.Contains(names, list[0]) {
				return fmt.Errorf("%s has no level %q: %s", i.Deployment(), list[0], policy.DidYouMean(list[0], names))
			}
			l, err := i.SetLevel(cmd.Context(), list[0], d, hold)
			if err != nil {
				return err
			}
			return c.printLevel(i, l)
		},
		ValidArgsFunction: func(cmd *cobra.Command, list []string, _ string) ([]string, cobra.ShellCompDirective) {
			i, err := awake(cmd.Context(), name)
			if err != nil || len(list) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return i.Status.Standing.Levels, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().DurationVar(&d, "for", 0, "for this long; then the level before is in force again")
	cmd.Flags().BoolVar(&hold, "hold", false, "let no trigger raise it, until it is set again or released")
	c.instanceFlag(cmd, &name)
	return cmd
}

func (c *cli) levelReleaseCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "release",
		Short: "End what holds the level",
		Long: `Ends what triggers raised, and what was set with --for or --hold. The level that was
set without either, or that the documents have, is in force then.`,
		Example: "  lorica level release --instance payments",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := awake(cmd.Context(), name)
			if err != nil {
				return err
			}
			l, err := i.ReleaseLevel(cmd.Context())
			if err != nil {
				return err
			}
			return c.printLevel(i, l)
		},
	}
	c.instanceFlag(cmd, &name)
	return cmd
}

// instanceFlag adds --instance, for the only one that runs where it is not given.
func (c *cli) instanceFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "instance", "", "an instance or a workload (the only one that runs, where none is named)")
	_ = cmd.RegisterFlagCompletionFunc("instance", c.completeInstances)
}

// awake finds an instance, and waits where its image is just starting.
func awake(ctx context.Context, name string) (*run.Instance, error) {
	m, err := machine()
	if err != nil {
		return nil, err
	}
	return m.FindAwake(ctx, name)
}

func (c *cli) printLevel(i *run.Instance, l tender.LevelChange) error {
	return c.print(levelled{i.Status.Instance, i.Deployment(), l}, func(w io.Writer) {
		s := l.Standing
		rows := [][]string{{"level", l.Level}, {"instance", i.Status.Instance}, {"since", s.Since.Local().Format("2006-01-02 15:04:05")}, {"why", why(&s)}}
		if l.Before != "" && l.Before != l.Level {
			rows = append(rows, []string{"before", l.Before}, []string{"took", fmt.Sprintf("%.1f ms", s.TookMillis)})
		}
		if b := bridge(&s); b != "" {
			rows = append(rows, []string{"image", b})
		}
		table(w, "", append(rows, []string{"levels", strings.Join(s.Levels, " < ")}))
	})
}

// why says in words why a level is in force, and until when.
func why(s *tender.Standing) string {
	text := "as the documents say"
	switch s.Why {
	case tender.WhyHand:
		text = "set by hand"
	case tender.WhyTrigger:
		text = fmt.Sprintf("raised by trigger %s (%s)", s.Trigger, s.Line)
	}
	switch {
	case !s.Until.IsZero():
		text += ", until " + s.Until.Local().Format("15:04:05")
	case s.Why == tender.WhyTrigger:
		text += ", until 'lorica level release'"
	}
	if s.Held {
		text += "; no trigger raises it"
	}
	return text
}

// bridge says what becomes of what the image that runs cannot enforce.
func bridge(s *tender.Standing) string {
	switch {
	case s.Plan == "":
		return ""
	case len(s.Lacks) == 0:
		return "not the one that this level has of its own; it enforces all of it"
	}
	return "not the one that this level has of its own; it denies what it cannot enforce: " + strings.Join(s.Lacks, ", ")
}
