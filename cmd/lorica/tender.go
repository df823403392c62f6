package main

import (
	"github.com/spf13/cobra"

	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/process"
)

// tenderCommand is what 'up' starts for each instance. Its configuration, which
// holds secrets, comes on standard input.
func (c *cli) tenderCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "tender",
		Short:  "Own one instance (started by lorica itself)",
		Hidden: true,
		Args:   args(cobra.NoArgs),
		RunE:   func(*cobra.Command, []string) error { return tender.Main() },
	}
}

// stageCommand is what a tender runs in new namespaces and what becomes the image.
func (c *cli) stageCommand() *cobra.Command {
	return &cobra.Command{
		Use:    process.StageCommand,
		Short:  "Confine and execute an image (started by lorica itself)",
		Hidden: true,
		Args:   args(cobra.NoArgs),
		RunE:   func(*cobra.Command, []string) error { return tender.Stage() },
	}
}
