package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"lorica.dev/lorica/prove"
	"lorica.dev/lorica/run"
)

// proven is the image of one plan, as plan --prove shows it.
type proven struct {
	Deployment string   `json:"deployment"`
	Levels     []string `json:"levels"` // that it is the image of
	Target     string   `json:"target"`
	Plan       string   `json:"plan"`
	*prove.Report
	Verdict prove.Verdict `json:"verdict"`
	OK      bool          `json:"ok"` // it is proven
}

// prove shows of each image that it holds what is needed and nothing else.
func (c *cli) prove(ctx context.Context, m *run.Machine, path, target, network string) error {
	bundle, err := c.loadFor(path, target, network)
	if err != nil {
		return err
	}
	var list []proven
	found := map[prove.Verdict]bool{}
	for _, d := range bundle.Deployments {
		p, err := m.Plan(ctx, d)
		if err != nil {
			return c.explain(err)
		}
		at := map[string]int{} // in list, by plan
		for _, l := range p.Levels {
			id := l.Build.ID.String()
			if i, same := at[id]; same {
				list[i].Levels = append(list[i].Levels, l.Name)
				continue
			}
			show := c.progress(d.Name())
			r, err := prove.Run(ctx, m, d, l, prove.Options{Identities: identities{m.Development(), d}, Progress: show.text})
			show.end()
			if ctx.Err() != nil {
				return errors.New("interrupted: nothing is shown")
			}
			if err != nil {
				return c.explain(err)
			}
			at[id] = len(list)
			v := r.Verdict()
			list = append(list, proven{d.Name(), []string{l.Name}, l.Build.Target, id, r, v, v == prove.Proven})
			found[v] = true
		}
	}
	if err := c.print(list, func(w io.Writer) { printProofs(w, list) }); err != nil {
		return err
	}
	switch {
	case found[prove.Refuted]:
		return errSilent
	case found[prove.Unproven]:
		return undecided{errSilent}
	}
	return nil
}

func printProofs(w io.Writer, list []proven) {
	for i, p := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s  image %s  for %s, level %s\n", p.Deployment, short(p.Image), p.Target, strings.Join(p.Levels, ", "))
		var rows [][]string
		for _, m := range p.Modules {
			name := m.ID
			row := func(what, text string) {
				rows = append(rows, []string{"  " + name, what, text})
				name = ""
			}
			row(map[prove.State]string{prove.Needed: "needed", prove.Needless: "NEEDLESS", prove.NotShown: "not shown"}[m.State], m.Order)
			if m.Build != "" {
				row("", "without it: the image does not build: "+m.Build)
			}
			if m.Start != "" {
				row("", "without it: the image does not start: "+m.Start)
			}
			without := "without it: "
			if m.Start != "" {
				without = "without it and its section: "
			}
			if x := m.Case; x != nil {
				row("", fmt.Sprintf("%s%s (%s): expected %s, got %s", without, x.Witness, written(x), x.Expected, x.Got))
			}
			if m.Bare != "" {
				row("", without+"the image does not start: "+m.Bare)
			}
			if m.Unshown != "" && m.Unshown != p.Untried {
				row("", without+m.Unshown)
			}
			if m.State == prove.Needless {
				row("", "nothing breaks without it")
			}
		}
		table(w, "", rows)
		if p.Untried != "" {
			fmt.Fprintf(w, "  no image was started: %s\n", plain(p.Untried))
		}
		for _, x := range p.Outside {
			fmt.Fprintf(w, "  OUTSIDE of what the modules import: %s\n", plain(x))
		}
		if len(p.Outside) == 0 {
			fmt.Fprintf(w, "  %d packages are linked, all of which the modules or the application import\n", p.Packages)
		}
		printVerdict(w, &p)
	}
}

// printVerdict ends what is said of an image with what it comes to.
func printVerdict(w io.Writer, p *proven) {
	of := map[prove.State][]string{}
	for _, m := range p.Modules {
		of[m.State] = append(of[m.State], m.ID)
	}
	all := count(len(p.Modules), "module")
	switch p.Verdict {
	case prove.Proven:
		fmt.Fprintf(w, "  proven: each of %s is needed, and nothing else is in it\n", all)
	case prove.Refuted:
		fmt.Fprintf(w, "  REFUTED: %d of %s needless, %d outside, %d not shown\n", len(of[prove.Needless]), all, len(p.Outside), len(of[prove.NotShown]))
	default:
		fmt.Fprintf(w, "  NOT PROVEN: of %d of %s it is not shown that they are needed: %s\n", len(of[prove.NotShown]), all, strings.Join(of[prove.NotShown], ", "))
	}
}

func written(x *prove.Case) string {
	if x.Line == "" {
		return x.Rule
	}
	return x.Rule + ", " + x.Line
}
