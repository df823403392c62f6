package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/run"
)

func (c *cli) selftestCommand() *cobra.Command {
	var target, network string
	cmd := &cobra.Command{
		Use:     "selftest",
		GroupID: "run",
		Short:   "Show that images really run on this machine",
		Long: `Builds images and runs them as any other, and shows for each check what came of it.
Of a microVM, the Go runtime is tested from inside first (memory, the collector,
timers, preemption with floating point intact), and that the protections of its kernel
kill. Then, of either target: 256 connections at once, 20 MB up and down with hashes, panics
and wild accesses of the application, and its end. GOTOOLCHAIN=go1.27.3 and the like choose
the Go to build with. Exit code 1 where a check failed.`,
		Example: "  lorica selftest --target microvm",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkChosen(target, network); err != nil {
				return err
			}
			m, err := machine()
			if err != nil {
				return err
			}
			var list []run.Check
			failed := 0
			show := c.progress("selftest")
			err = m.Selftest(cmd.Context(), target, network, show.step, func(x run.Check) {
				show.end()
				list = append(list, x)
				if !x.OK {
					failed++
				}
				if c.format != "json" {
					printCheck(c.out, x)
				}
			})
			show.end()
			if err != nil {
				return err
			}
			if c.format == "json" {
				err = c.print(list, nil)
			} else {
				fmt.Fprintf(c.out, "\n%s, %d failed\n", count(len(list), "check"), failed)
			}
			if err == nil && failed > 0 {
				err = errSilent
			}
			return err
		},
	}
	targetFlag(cmd, &target)
	netFlag(cmd, &network)
	cmd.Flags().Lookup("target").Usage = "what to test: process (where none is given) or microvm"
	cmd.Flags().Lookup("net").Usage = "with which network: socket (of processes, where none is given) or direct"
	return cmd
}

func printCheck(w io.Writer, x run.Check) {
	mark := "ok  "
	if !x.OK {
		mark = "FAIL"
	}
	fmt.Fprintf(w, "%s %-18s %10s  %s\n", mark, plain(x.Name), x.Took, plain(x.Detail))
}
