package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/policy"
)

func (c *cli) schemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "schema [workload|policy|all]",
		GroupID: "write",
		Short:   "Print the JSON Schema of the documents, for editors",
		Long: `Prints the JSON Schema (draft 2020-12) of workloads, of policies, or of both by their
kind, which is what is printed where nothing is asked for. An editor that reads it
completes fields, describes them, and marks what has the wrong form while you type.
What documents say together, only 'lorica check' knows.

For editors with yaml-language-server, put this on the first line of a document:

  # yaml-language-server: $schema=lorica.schema.json`,
		Example: `  lorica schema > lorica.schema.json`,
		Args:    args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, list []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(list) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return policy.SchemaKinds(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, list []string) error {
			kind := first(list)
			if kind == "" {
				kind = "all"
			}
			b, err := policy.Schema(kind)
			if err != nil {
				return usageError{fmt.Errorf("schema: %w", err)}
			}
			_, err = c.out.Write(b)
			return err
		},
	}
	return cmd
}
