package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/api"
)

// cli is what every command shares: where it reads and writes, and in which form.
type cli struct {
	in       io.Reader
	out, err io.Writer
	format   string // "text" or "json", or what a command has besides
}

// moreFormats annotates a command with the forms of output that it alone has.
const moreFormats = "lorica/formats"

func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	c := &cli{in: in, out: out, err: errOut}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command") { // cobra's own
		err = usageError{err}
	}
	if ctx.Err() != nil && err != nil && !errors.Is(err, errSilent) && !strings.HasPrefix(err.Error(), "interrupted") {
		err = errors.New("interrupted") // and not how that cut off what was going on
	}
	c.report(err)
	return exitCode(err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lorica",
		Short: "Compile a security policy and a workload into one image that enforces the policy itself",
		Long: `Lorica compiles a security policy and a workload into one minimal image that
enforces the policy itself, runs it confined, explains its decisions, and follows
every change of the policy without losing a request.

Exit codes: 0 done; 1 failed, or what you wrote is wrong; 2 wrong usage; 3 undecided:
neither shown nor refuted with what the budget or this machine allows.`,
		Example: `  lorica init shop && lorica up -f shop
  lorica plan -f examples/payments
  lorica why -f examples/payments 'GET /accounts/7' --as staff-3 --groups staff`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			forms := append([]string{"text", "json"}, strings.Fields(cmd.Annotations[moreFormats])...)
			if !slices.Contains(forms, c.format) {
				last := len(forms) - 1
				return usageError{fmt.Errorf("-o %s: write %s or %s", c.format, strings.Join(forms[:last], ", "), forms[last])}
			}
			return nil
		},
	}
	root.PersistentFlags().StringVarP(&c.format, "output", "o", "text", "form of the output: text or json")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddGroup(
		&cobra.Group{ID: "write", Title: "Write and understand a policy:"},
		&cobra.Group{ID: "run", Title: "Generate and run:"},
		&cobra.Group{ID: "look", Title: "Look at what runs:"},
	)
	root.AddCommand(
		c.initCommand(), c.checkCommand(), c.lintCommand(), c.testCommand(), c.whyCommand(), c.diffCommand(), c.learnCommand(), c.catalogCommand(), c.solveCommand(), c.schemaCommand(), c.passwdCommand(), c.devCommand(),
		c.doctorCommand(), c.selftestCommand(), c.planCommand(), c.buildCommand(), c.upCommand(), c.levelCommand(), c.downCommand(),
		c.psCommand(), c.logsCommand(), c.inspectCommand(), c.verifyCommand(), c.dryrunCommand(), c.programCommand(),
		c.tenderCommand(), c.stageCommand(), c.wayCommand(),
	)
	return root
}

// args wraps a check of positional arguments so that a mistake is a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return usageError{fmt.Errorf("%s: %w", cmd.CommandPath(), err)}
		}
		return nil
	}
}

// targetFlag adds --target to a command that generates or runs.
func targetFlag(cmd *cobra.Command, target *string) {
	cmd.Flags().StringVar(target, "target", "", "run on this target instead of the workload's: process or microvm")
	_ = cmd.RegisterFlagCompletionFunc("target", cobra.FixedCompletions(api.Targets(), cobra.ShellCompDirectiveNoFileComp))
}

// netFlag adds --net to a command that generates or runs.
func netFlag(cmd *cobra.Command, network *string) {
	cmd.Flags().StringVar(network, "net", "", "with this network instead of the workload's: socket or direct")
	_ = cmd.RegisterFlagCompletionFunc("net", cobra.FixedCompletions(api.Networks(), cobra.ShellCompDirectiveNoFileComp))
}

// checkChosen refuses a target or a network that there is not.
func checkChosen(target, network string) error {
	for _, f := range []struct {
		flag, value string
		words       []string
	}{{"--target", target, api.Targets()}, {"--net", network, api.Networks()}} {
		if f.value != "" && !slices.Contains(f.words, f.value) {
			return usageError{fmt.Errorf("%s %s: write %s", f.flag, f.value, strings.Join(f.words, " or "))}
		}
	}
	return nil
}

// fileFlag adds -f PATH to a command that reads documents.
func fileFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "file", "f", ".", "a .yaml file, or a folder of them")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml")
}
