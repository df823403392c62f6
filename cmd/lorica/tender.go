package main

import (
	"github.com/spf13/cobra"

	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/way"
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

// wayCommand is what a tender runs that is no root's, to have a network for its image.
func (c *cli) wayCommand() *cobra.Command {
	return &cobra.Command{
		Use:    way.HelperCommand,
		Short:  "Make the sockets of an image's network (started by lorica itself)",
		Hidden: true,
		Args:   args(cobra.NoArgs),
		RunE:   func(*cobra.Command, []string) error { return tender.WayHelper() },
	}
}
