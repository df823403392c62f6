package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/catalog/graph"
)

func (c *cli) catalogGraphCommand(dir *string) *cobra.Command {
	var of string
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Draw which modules require and exclude which, as DOT or SVG",
		Long: `Draws the modules: lines lead from a module to those that meet what it requires, dashed
where others would do as well; red lines are conflicts. -o dot, which is what is written
where nothing is asked for, is for Graphviz and the like; -o svg is drawn by this command.
With --of MODULE only that one, all that may come with it, and all that may bring it.`,
		Example: `  lorica catalog graph -o svg > modules.svg
  lorica catalog graph --of pep/authn | dot -Tpdf > authn.pdf`,
		Args:        args(cobra.NoArgs),
		Annotations: map[string]string{moreFormats: "dot svg"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.format == "json" {
				return usageError{fmt.Errorf("%s -o json: write dot or svg; `lorica catalog list -o json` has the same as data", cmd.CommandPath())}
			}
			all, err := c.modules(cmd.Context(), *dir)
			if err != nil {
				return err
			}
			if all.Pairs() > graph.MostLines {
				return fmt.Errorf("the modules require and exclude each other in %d pairs, and a graph has at most %d", all.Pairs(), graph.MostLines)
			}
			var some []*catalog.Module
			if of != "" {
				m, err := module(all, of)
				if err != nil {
					return err
				}
				some = graph.Around(all, m)
			}
			g := graph.New(all, some)
			if c.format != "svg" {
				return g.DOT(c.out)
			}
			if g.Len() > graph.Drawable {
				return fmt.Errorf("%d modules are too many to draw; %d would do: take some with --of, or -o dot", g.Len(), graph.Drawable)
			}
			return g.SVG(c.out)
		},
	}
	cmd.Flags().StringVar(&of, "of", "", "only this module, what may come with it, and what may bring it")
	_ = cmd.RegisterFlagCompletionFunc("of", c.completeModules(dir))
	return cmd
}
