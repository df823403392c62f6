package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
)

// lived is what why --live answers in JSON.
type lived struct {
	Record    tender.Decision `json:"record"`
	Workload  string          `json:"workload"` // "tenant/workload"
	Running   bool            `json:"running"`
	Documents string          `json:"documents,omitempty"` // where the documents are that Why is of
	Same      bool            `json:"same"`                // the program then was compiled from them
	Why       *explained      `json:"why,omitempty"`       // what they decide about what was recorded
	Agrees    *bool           `json:"agrees,omitempty"`    // Why is what was decided
	Note      string          `json:"note,omitempty"`      // why there is no Why, or why it is of other documents
}

// whyLive explains a decision that was recorded.
func (c *cli) whyLive(ctx context.Context, instance []string, id, path string, asked bool) error {
	m, err := machine()
	if err != nil {
		return err
	}
	found, err := m.Decision(ctx, first(instance), strings.ToLower(id))
	if err != nil {
		return err
	}
	x := &lived{Record: found.Decision, Workload: found.Deployment, Running: found.Running}
	if err := c.replay(ctx, m, x, path, asked); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.print(x, func(w io.Writer) { printLived(w, x) })
}

// replay has the documents explain the record of x. Documents that nobody has named may
// be missing, wrong, or others.
func (c *cli) replay(ctx context.Context, m *run.Machine, x *lived, path string, asked bool) error {
	bundle, err := policy.LoadUntested(path)
	var mistakes policy.Errors
	switch {
	case err != nil && asked:
		return c.explain(err)
	case errors.As(err, &mistakes) && mistakes[0].Pos.Line > 0:
		x.Note = "not explained: the documents here have mistakes (lorica check shows them)"
		return nil
	case err != nil:
		x.Note = "name its documents with -f to have it explained: there are none here"
		return nil
	}
	i := slices.IndexFunc(bundle.Deployments, func(d *policy.Deployment) bool { return d.Name() == x.Workload })
	if i < 0 && asked {
		return fmt.Errorf("%s has no workload %s, whose decision it is", path, x.Workload)
	}
	if i < 0 {
		x.Note = "name its documents with -f to have it explained: those here have no workload " + x.Workload
		return nil
	}
	d := bundle.Deployments[i]
	x.Documents = path
	if x.Same, err = compiledFrom(ctx, m, path, x); err != nil {
		return err
	}
	answer, err := record.Explain(d, x.Record)
	if err != nil {
		x.Note = "not explained: " + err.Error()
		return nil
	}
	why := explanation(ctx, d, &answer)
	agrees := why.Decision == x.Record.Decision && why.Rule == x.Record.Rule && (why.Line == x.Record.Line || !x.Same)
	x.Why, x.Agrees = &why, &agrees
	switch {
	case !x.Same:
		x.Note = "the documents in " + path + " are not those that the program then was compiled from"
	case settings.OfUser(x.Record.Stage):
		x.Note, agrees = "a module of your own decided, "+x.Record.Stage+"; without it the policy decides:", true
	case !agrees:
		x.Note = "the reference decides otherwise than the instance did: that is a defect of Lorica, please report it"
	}
	return nil
}

// compiledFrom reports whether the program of x was compiled from the documents, for the
// workload's network or for another that 'up' was told.
func compiledFrom(ctx context.Context, m *run.Machine, path string, x *lived) (bool, error) {
	for _, network := range append([]string{""}, api.Networks()...) {
		bundle, err := policy.LoadUntested(path)
		if err != nil {
			return false, err
		}
		if bundle.Retarget("", network) != nil {
			continue // the workload cannot be on it
		}
		for _, d := range bundle.Deployments {
			if d.Name() != x.Workload {
				continue
			}
			if same, err := m.Compiled(ctx, d, &x.Record); same || err != nil {
				return same, err
			}
		}
	}
	return false, nil
}

func printLived(w io.Writer, x *lived) {
	r := &x.Record
	what := "connection"
	if r.Method != "" {
		what = strings.TrimSpace(r.Method + " " + r.Path)
	}
	line := ""
	if r.Line != "" {
		line = " at " + r.Line
	}
	fmt.Fprintf(w, "%s  %s  decided by %s%s (%s, level %s)\n", r.Decision, plain(what), plain(r.Rule), plain(line), plain(r.Stage), plain(r.Level))
	if r.Reason != "" {
		fmt.Fprintf(w, "  %s\n", plain(r.Reason))
	}
	printDryRun(w, r.DryRun)
	table(w, "", recorded(x))
	if x.Note != "" {
		fmt.Fprintln(w, plain(x.Note))
	}
	if x.Why == nil {
		return
	}
	if !*x.Agrees || !x.Same || settings.OfUser(x.Record.Stage) {
		fmt.Fprintf(w, "they decide: %s by %s at %s\n", x.Why.Decision, x.Why.Rule, x.Why.Line)
	}
	printReasons(w, x.Why)
}

// recorded is what a record says beside the decision, as rows.
func recorded(x *lived) [][]string {
	r := &x.Record
	who := r.Principal
	if who == "" {
		who = "nobody who was known"
	}
	if r.Source != "" {
		who += " from " + r.Source
	}
	end := ""
	if !x.Running {
		end = ", which has died"
	}
	rows := [][]string{
		{"  decision", r.ID + ", number " + fmt.Sprint(r.Seq) + " of " + r.Instance + end},
		{"  when", r.Time.Local().Format("2006-01-02 15:04:05.000")},
		{"  who", who},
	}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{"  " + name, value})
		}
	}
	add("groups", strings.Join(r.Groups, ", "))
	add("route", r.Route)
	if r.Method == "" && r.Protocol != "" {
		add("to", fmt.Sprintf("%s port %d", r.Protocol, r.Port))
	}
	label := "facts"
	for _, name := range slices.Sorted(maps.Keys(r.Facts)) {
		if v := r.Facts[name]; v != nil {
			add(label, name+" = "+*v)
		} else {
			add(label, name+" has no value")
		}
		label = ""
	}
	add("partial", strings.Join(r.Partial, ", "))
	if r.Status != 0 {
		add("answer", fmt.Sprint(r.Status))
	}
	add("program", fmt.Sprintf("%s, revision %d", short(r.Program), r.Revision))
	return rows
}
