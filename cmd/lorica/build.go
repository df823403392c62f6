package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lorica.dev/lorica/builder"
)

// built is one image and program, as build shows them.
type built struct {
	Deployment string `json:"deployment"`
	Level      string `json:"level"`
	Image      string `json:"image"`
	Program    string `json:"program"`
	Plan       string `json:"plan"`
	Path       string `json:"path"`
	Size       int64  `json:"size"`
}

func (c *cli) buildCommand() *cobra.Command {
	var path, target, network string
	cmd := &cobra.Command{
		Use:     "build",
		GroupID: "run",
		Short:   "Put image and program into the local store",
		Long: `Generates and compiles the image of each workload and level, signs the programs,
and puts both into the store under their digests. The digest of an image depends on
its plan alone: anybody who builds the same plan gets the same bytes. That of a
program depends on its revision and the key, too.`,
		Example: "  lorica build -f examples/payments",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := machine()
			if err != nil {
				return err
			}
			bundle, err := c.loadFor(path, target, network)
			if err != nil {
				return err
			}
			var list []built
			var rows [][]string
			for _, d := range bundle.Deployments {
				show := c.progress(d.Name())
				results, err := m.Build(cmd.Context(), d, show.step)
				show.end()
				if err != nil {
					return c.explain(err)
				}
				for _, r := range results {
					b := built{d.Name(), r.Level, r.Image.Digest, r.Program.String(), r.Image.Plan, r.Image.Path, r.Image.Size}
					list = append(list, b)
					rows = append(rows, []string{b.Deployment, b.Level, b.Image, b.Program})
				}
			}
			return c.print(list, func(w io.Writer) { table(w, "WORKLOAD|LEVEL|IMAGE|PROGRAM", rows) })
		},
	}
	fileFlag(cmd, &path)
	targetFlag(cmd, &target)
	netFlag(cmd, &network)
	return cmd
}

// A progress shows the steps of one build: on a terminal one line that changes,
// elsewhere a line for each.
type progress struct {
	to    io.Writer
	what  string
	fancy bool
	shown bool
	start time.Time
}

func (c *cli) progress(what string) *progress {
	p := &progress{to: c.err, what: what, start: time.Now()}
	if f, ok := c.err.(*os.File); ok {
		p.fancy = term.IsTerminal(int(f.Fd()))
	}
	return p
}

func (p *progress) step(s builder.Step) {
	text := string(s.Name)
	if s.Detail != "" {
		text += ": " + s.Detail
	}
	p.text(text)
}

func (p *progress) text(text string) {
	line := fmt.Sprintf("%s  %5.1fs  %s", p.what, time.Since(p.start).Seconds(), plain(text))
	if p.fancy {
		fmt.Fprintf(p.to, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.to, line)
	}
	p.shown = true
}

// end leaves the terminal at the start of an empty line.
func (p *progress) end() {
	if p.fancy && p.shown {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
