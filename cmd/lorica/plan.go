package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog/lock"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/solver"
)

// planned is one level of one deployment, as plan shows it.
type planned struct {
	Deployment string         `json:"deployment"`
	Policy     string         `json:"policy"`
	Level      string         `json:"level"`
	Initial    bool           `json:"initial"`
	DryRun     bool           `json:"dryRun,omitempty"` // the whole policy is tried, and not enforced
	Plan       string         `json:"plan"`
	Image      string         `json:"image,omitempty"` // digest; empty: will be built
	Modules    []chosen       `json:"modules"`
	Surface    int            `json:"surface"` // attack surface of all modules, in points
	Proven     bool           `json:"proven"`  // no set is better
	Bound      int            `json:"bound"`   // no set has less surface
	LeftOut    []string       `json:"leftOut"`
	Ports      []openPort     `json:"ports"`
	Interface  string         `json:"interface,omitempty"` // that the image is on, and its addresses there
	Egress     []string       `json:"egress,omitempty"`    // connections out; without it there are none
	Target     string         `json:"target"`
	Syscalls   []string       `json:"syscalls,omitempty"` // of a process
	Devices    []string       `json:"devices,omitempty"`  // of a microVM
	Rules      []enforcedRule `json:"rules"`
	Routes     []routeFacts   `json:"routes,omitempty"`
	Change     run.Change     `json:"change"`
	Catalog    string         `json:"catalog"`              // digest of the manifests of Lorica's own modules
	Own        []ownModule    `json:"ownModules,omitempty"` // modules of the user's own in the image
	Added      []string       `json:"added,omitempty"`      // modules that what runs lacks
	Removed    []string       `json:"removed,omitempty"`    // modules that only what runs has
}

// chosen is a module and why it is there: the lines and modules that ask for it, and
// whether anything else would do.
type chosen struct {
	Module    string   `json:"module"`
	Summary   string   `json:"summary"`
	Surface   int      `json:"surface"`
	Because   []string `json:"because"`
	Necessary bool     `json:"necessary"`
	Chain     []string `json:"chain,omitempty"` // from a line of the policy down to it, where there is one way
	Story     []string `json:"story,omitempty"` // why it is necessary, fact by fact
	Without   *price   `json:"without,omitempty"`
	Why       string   `json:"why"` // in words
}

// price is what the best set without a module costs more.
type price struct {
	Surface int      `json:"surface"`
	Modules int      `json:"modules"`
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Over    bool     `json:"aboveLimit,omitempty"`
	Proven  bool     `json:"proven"`
}

// ownModule is a module of the user's own.
type ownModule struct {
	lock.Module
	Calls []string `json:"calls,omitempty"` // that the image would not make without it
}

type openPort struct {
	Name    string   `json:"name"`
	Address string   `json:"address"`
	Rules   []string `json:"rules"`
}

// routeFacts is what the Cedar rules of one route read.
type routeFacts struct {
	Route      string   `json:"route"`
	Attributes []string `json:"attributes"`
}

type enforcedRule struct {
	Rule  string `json:"rule"`
	Line  string `json:"line"`
	Stage string `json:"stage"`
	Where string `json:"where"`

	DryRun bool `json:"dryRun,omitempty"` // tried there, and not enforced
}

func (c *cli) planCommand() *cobra.Command {
	var path, target, network string
	var o run.LockOptions
	var proof bool
	cmd := &cobra.Command{
		Use:     "plan",
		GroupID: "run",
		Short:   "Show what would be generated, and what would change",
		Long: `Shows for each workload and security level: the modules, the lines that each is there
for and whether it is necessary or what it would cost to do without, what was left out,
open ports, the system calls that will be allowed (of a microVM, its devices), where each
rule is enforced, whether the image exists, and what changes against what runs. It builds
nothing, and changes nothing that runs.

Where workloads name modules of your own, it writes lorica.lock beside them, which pins
each module by a digest of its files, and Lorica's own modules by one of their
manifests. build and up refuse what is not in it, or differs. A module that changed is
an error here as well, until --update accepts it; look at what changed before that.

--prove shows of each image that all of it is needed and that nothing else is in it. The
image is built without one module after the other, with nothing else changed, and started
for a moment on an address of loopback taken by chance: it does not build, does not start,
or answers a request otherwise than the policy says. Other users of the machine could find
and reach it while it lasts, and it lacks what would keep them out: ask where nobody else
is. Where a module has a section of the program, that is left out as well then, to see
what would come in. What is linked is read from the image, and held to what its modules
and its application import. Nothing is kept, what runs is not touched, and the images may
connect to nothing. Exit code 1 where nothing breaks without a module, or where anything
else is linked; 3 where of some module neither is shown: where no image can be started
here, or the policy enforces nothing.`,
		Example: `  lorica plan -f examples/payments
  lorica plan -f examples/module --locked
  lorica plan --prove -f examples/payments`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := machine()
			if err != nil {
				return err
			}
			if o.Update && o.Locked {
				return usageError{errors.New("--update and --locked exclude each other")}
			}
			if info, err := os.Stat(path); err == nil {
				o.Whole = info.IsDir()
			}
			if proof {
				return c.prove(cmd.Context(), m, path, target, network)
			}
			list, err := c.plans(cmd.Context(), m, path, target, network, &o)
			if err != nil {
				return err
			}
			return c.print(list, func(w io.Writer) { printPlans(w, list) })
		},
	}
	fileFlag(cmd, &path)
	targetFlag(cmd, &target)
	netFlag(cmd, &network)
	cmd.Flags().BoolVar(&o.Update, "update", false, "accept modules of your own, and Lorica's, as they are now")
	cmd.Flags().BoolVar(&o.Locked, "locked", false, "write no lorica.lock: fail where it is not what it would be")
	cmd.Flags().BoolVar(&proof, "prove", false, "build and start each image without one module after the other, and look at what is linked")
	return cmd
}

// plans plans all workloads, and writes their locks where that is asked for; else what is
// there must be as they have it.
func (c *cli) plans(ctx context.Context, m *run.Machine, path, target, network string, locks *run.LockOptions) ([]planned, error) {
	bundle, err := c.loadFor(path, target, network)
	if err != nil {
		return nil, err
	}
	if c.format != "json" {
		printErrors(c.err, "warning", bundle.Warnings)
	}
	propose := m.Plan
	if locks != nil {
		propose = m.Propose
	}
	var list []planned
	var plans []*run.Plan
	for _, d := range bundle.Deployments {
		p, err := propose(ctx, d)
		if err != nil {
			return nil, c.explain(err)
		}
		plans = append(plans, p)
		for _, l := range p.Levels {
			reasons, err := m.Reasons(ctx, l)
			if err != nil {
				return nil, err
			}
			list = append(list, describe(p, l, reasons))
		}
	}
	if locks == nil {
		return list, nil
	}
	written, err := run.WriteLocks(plans, *locks)
	for _, w := range written {
		c.wrote(w)
	}
	return list, err
}

// wrote says what a lock has now, on the way of messages: what is asked for is the plan.
func (c *cli) wrote(w run.Written) {
	fmt.Fprintf(c.err, "%s: written; keep it with the workload\n", w.File)
	for _, m := range w.New {
		fmt.Fprintf(c.err, "  accepted  %s %s from %s, %s\n", m.ID, m.Version, m.Source, m.Digest)
	}
	for _, text := range w.Changed {
		fmt.Fprintf(c.err, "  accepted  %s\n", text)
	}
	for _, m := range w.Gone {
		fmt.Fprintf(c.err, "  forgotten %s from %s\n", m.ID, m.Source)
	}
}

func describe(p *run.Plan, l *run.Level, reasons []solver.Why) planned {
	out := planned{Deployment: p.Deployment.Name(), Policy: p.Deployment.Policy.Metadata.Name, Level: l.Name,
		Initial: l.Name == p.Deployment.Policy.Levels.Initial, DryRun: l.DryRun, Target: l.Build.Target, Devices: l.Devices(), Plan: l.Build.ID.String(), Change: p.Change(l)}
	if l.Image != nil {
		out.Image = l.Image.Digest
	}
	out.Surface, out.Proven, out.Bound = l.Selection.Surface, l.Selection.Proven, l.Selection.Bound
	for i, m := range l.Selection.Modules {
		w := reasons[i]
		x := chosen{Module: m.ID, Summary: m.Summary, Surface: m.Surface, Necessary: w.Story != nil, Chain: w.Chain, Story: w.Story, Why: w.String()}
		if o := w.Without; o != nil {
			x.Without = &price{o.Surface, o.Modules, o.Added, o.Removed, o.Over, o.Proven}
		}
		for _, r := range l.Selection.Because[m.ID] {
			x.Because = append(x.Because, because(r))
		}
		out.Modules = append(out.Modules, x)
	}
	for _, m := range l.Selection.LeftOut {
		out.LeftOut = append(out.LeftOut, m.ID)
	}
	if i := p.Deployment.Workload.Interface; i != nil {
		out.Interface = i.String()
	}
	for _, port := range l.Ports {
		x := openPort{Name: port.Name, Address: fmt.Sprintf("%s:%d", port.Address, port.Port)}
		for _, r := range append(port.Rules, port.Default) {
			x.Rules = append(x.Rules, reach(r))
		}
		out.Ports = append(out.Ports, x)
	}
	for _, r := range l.Egress {
		out.Egress = append(out.Egress, r.String())
	}
	out.Catalog = l.Build.Catalog
	for _, o := range l.Own {
		out.Own = append(out.Own, ownModule{o.Lock(), l.Widens(o)})
	}
	for _, s := range l.Syscalls() {
		out.Syscalls = append(out.Syscalls, s.String())
	}
	for _, e := range l.Enforced {
		out.Rules = append(out.Rules, enforcedRule{e.ID, e.Line, e.Stage, e.Where, e.DryRun})
	}
	for _, r := range l.Routes {
		out.Routes = append(out.Routes, routeFacts{r.Route, r.Attributes})
	}
	out.Added, out.Removed = p.Modules(l)
	return out
}

func because(r solver.Reason) string {
	if r.Requirement != nil {
		return fmt.Sprintf("%s (%s)", r.Requirement.Why, r.Requirement.Pos.Short())
	}
	return "required by " + r.Module
}

func reach(r compiler.Reach) string {
	from := strings.Join(r.From, ", ")
	if from == "" {
		from = "any"
	}
	word := "deny"
	if r.Verdict == abi.Allow {
		word = "allow"
	}
	return fmt.Sprintf("%s from %s by %s (%s)", word, from, r.ID, r.Line)
}

// printPlans shows levels that need the same image once, and then what differs.
func printPlans(w io.Writer, list []planned) {
	for i := range list {
		p := &list[i]
		shared := ""
		for _, q := range list[:i] {
			if q.Deployment == p.Deployment && q.Plan == p.Plan {
				shared = q.Level
				break
			}
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		initial := ""
		if p.Initial {
			initial = " (initial)"
		}
		if p.DryRun {
			initial += "  " + dryRunText
		}
		fmt.Fprintf(w, "%s  policy %s  level %s%s\n", p.Deployment, p.Policy, p.Level, initial)
		if shared != "" {
			fmt.Fprintf(w, "  image     the same as at level %s; another program\n", shared)
			printPorts(w, p)
			printChange(w, p)
			continue
		}
		image := "will be built"
		if p.Image != "" {
			image = p.Image + " (in the store)"
		}
		fmt.Fprintf(w, "  plan      %s\n  image     %s\n", p.Plan, image)
		var rows [][]string
		for _, m := range p.Modules {
			for k, why := range m.Because {
				name := ""
				if k == 0 {
					name = m.Module
				}
				rows = append(rows, []string{"    " + name, why})
			}
			why := m.Why
			if len(m.Chain) == 2 { // a line above asks for it
				why = "necessary"
			}
			rows = append(rows, []string{"", why})
		}
		fmt.Fprintf(w, "  modules (attack surface %d points, %s)\n", p.Surface, proof(p))
		table(w, "", rows)
		printOwn(w, p)
		if len(p.LeftOut) > 0 {
			fmt.Fprintf(w, "  left out  %s\n", strings.Join(p.LeftOut, ", "))
		}
		printPorts(w, p)
		printRules(w, p)
		printFacts(w, p)
		printSurface(w, p)
		printChange(w, p)
	}
}

// proof says how good the set is.
func proof(p *planned) string {
	if p.Proven {
		return "proven minimal"
	}
	return fmt.Sprintf("not proven minimal: bound %d", p.Bound)
}

// printOwn shows the modules of the user's own, which nobody else has looked at.
func printOwn(w io.Writer, p *planned) {
	if len(p.Own) == 0 {
		return
	}
	fmt.Fprintln(w, "  modules of your own (trusted as Lorica's are; pinned in lorica.lock)")
	for _, o := range p.Own {
		fmt.Fprintf(w, "    %s %s from %s\n      %s\n", o.ID, o.Version, o.Source, o.Digest)
		if len(o.Calls) > 0 {
			fmt.Fprintf(w, "      widens the seal: %s\n", strings.Join(o.Calls, " "))
		}
	}
}

// printSurface shows what the image has of the host.
func printSurface(w io.Writer, p *planned) {
	if p.Target == api.TargetMicroVM {
		fmt.Fprintf(w, "  devices of the machine (there are no others, and no operating system)\n    %s\n", strings.Join(p.Devices, " "))
		return
	}
	fmt.Fprintf(w, "  system calls after the seal (%d; any other kills the image)\n", len(names(p.Syscalls)))
	fmt.Fprintf(w, "    %s\n", strings.Join(names(p.Syscalls), " "))
}

func printPorts(w io.Writer, p *planned) {
	if p.Interface != "" {
		fmt.Fprintf(w, "  interface %s\n", p.Interface)
	}
	fmt.Fprintln(w, "  open ports")
	for _, port := range p.Ports {
		fmt.Fprintf(w, "    %s %s\n", port.Name, port.Address)
		for _, r := range port.Rules {
			fmt.Fprintf(w, "      %s\n", r)
		}
	}
	if len(p.Egress) > 0 {
		fmt.Fprintln(w, "  connections out")
		for _, r := range p.Egress {
			fmt.Fprintf(w, "    %s\n", r)
		}
	}
}

func printRules(w io.Writer, p *planned) {
	var rows [][]string
	said := map[string]bool{}
	for _, r := range p.Rules {
		where := place(r.Where)
		if r.DryRun {
			where += ", " + dryRunText
		}
		rows = append(rows, []string{"    " + r.Rule, r.Line, r.Stage, where})
		said[r.Where] = true
	}
	fmt.Fprintln(w, "  rules, and where each is enforced")
	table(w, "", rows)
	for _, n := range []struct{ where, text string }{
		{compiler.WherePacket, compiler.PacketNote}, {compiler.WhereAccept, compiler.AcceptNote},
		{compiler.WhereNowhere, compiler.NowhereNote}, {compiler.WhereTender, compiler.TenderNote},
	} {
		if said[n.where] {
			fmt.Fprintf(w, "    %s\n", n.text)
		}
	}
}

func place(where string) string {
	switch where {
	case compiler.WhereTender:
		return "by the tender"
	case compiler.WhereNowhere:
		return "not here"
	}
	return "on " + where
}

func printFacts(w io.Writer, p *planned) {
	if len(p.Routes) == 0 {
		return
	}
	var rows [][]string
	for _, r := range p.Routes {
		facts := strings.Join(r.Attributes, ", ")
		if facts == "" {
			facts = "nothing but who is calling"
		}
		rows = append(rows, []string{"    " + r.Route, facts})
	}
	fmt.Fprintln(w, "  facts that the rules of each route read")
	table(w, "", rows)
}

func printChange(w io.Writer, p *planned) {
	text := map[run.Change]string{
		run.ChangeStart:   "nothing runs: an instance will be started",
		run.ChangeImage:   "a new image takes over from what runs",
		run.ChangeLaunch:  "the same image, with other ports or resources: a new instance takes over from what runs",
		run.ChangeProgram: "the same image: the program is replaced while it runs",
		run.ChangeNone:    "none: this is what runs",
	}[p.Change]
	for _, m := range p.Added {
		text += " +" + m
	}
	for _, m := range p.Removed {
		text += " -" + m
	}
	fmt.Fprintf(w, "  change    %s\n", text)
}

// names returns each call once, without its conditions.
func names(calls []string) []string {
	var list []string
	for _, s := range calls {
		name, _, _ := strings.Cut(s, " ")
		if len(list) == 0 || list[len(list)-1] != name {
			list = append(list, name)
		}
	}
	return list
}
