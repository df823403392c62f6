package main

import (
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/qemu"
	"lorica.dev/lorica/tender/way"
)

// health is what doctor answers in JSON.
type health struct {
	process.Report
	Networks []process.Finding `json:"networks"`        // ways of packets to images with a stack of their own, the best first
	Notes    []string          `json:"notes,omitempty"` // clients that a routed network does not reach
	Targets  []target          `json:"targets"`
}

type target struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		GroupID: "run",
		Short:   "Show what this machine can run, and how well confined",
		Long: `Tries what the confinement of images is made of and shows the tier that results, what
is missing, and the line that changes it. Tiers: full (namespaces, Landlock, system
call filter), no-userns, no-landlock; a microVM is confined like a process, with QEMU
in it. KVM counts only where a guest has really run under it. Networks are the ways of
clients' packets to an image with a TCP/IP stack of its own ('--net direct', and any
microVM): the first that works is taken, the routed one only where the network direct
is asked for. Exit code 1 where no image can run at all.`,
		Example: "  lorica doctor\n  lorica doctor -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			h := health{Report: process.Probe()}
			h.Findings = append(h.Findings, probeGo())
			vm, findings := probeMicroVM(&h.Report)
			h.Findings = append(h.Findings, findings...)
			h.Networks, h.Notes = networks(way.Probe())
			h.Targets = []target{{api.TargetProcess, h.Supported, "tier " + h.TierName}, vm}
			err := c.print(h, func(w io.Writer) { printHealth(w, &h) })
			if err == nil && !h.Supported {
				err = errSilent
			}
			return err
		},
	}
}

func printHealth(w io.Writer, h *health) {
	var rows [][]string
	for _, f := range h.Findings {
		rows = append(rows, finding(f)...)
	}
	table(w, "", rows)
	fmt.Fprintln(w)
	rows = nil
	for _, f := range h.Networks {
		named := f
		named.Name = "network " + f.Name
		rows = append(rows, finding(named)...)
		for _, n := range h.Notes {
			if f.Name == tender.WayRouted {
				rows = append(rows, []string{"", "", "note: " + n})
			}
		}
	}
	table(w, "", rows)
	fmt.Fprintln(w)
	rows = nil
	for _, t := range h.Targets {
		rows = append(rows, []string{mark(t.OK), "target " + t.Name, t.Detail})
	}
	table(w, "", rows)
}

func finding(f process.Finding) [][]string {
	rows := [][]string{{mark(f.OK), f.Name, strings.TrimPrefix(f.Detail, f.Name+": ")}}
	if !f.OK && f.Fix != "" {
		rows = append(rows, []string{"", "", "fix: " + f.Fix})
	}
	return rows
}

// networks names what was found as the status of an instance does, and adds the way
// that needs nothing of the machine.
func networks(r way.Report) ([]process.Finding, []string) {
	list := r.Findings()
	for i, name := range []string{tender.WayRouted, tender.WayPrivate, tender.WayNested} {
		list[i].Name = name
	}
	return append(list, process.Finding{Name: tender.WayOwnStack, OK: true, Detail: "a TCP stack of the tender's own"}), r.Notes
}

func mark(ok bool) string {
	if ok {
		return "ok"
	}
	return "--"
}

// probeGo looks for what images are compiled with.
func probeGo() process.Finding {
	path, err := exec.LookPath("go")
	if err != nil {
		return process.Finding{Name: "go", Detail: "not found: plan, build, up and selftest need it; what runs goes on", Fix: "install Go 1.26 and add it to PATH (https://go.dev/dl)"}
	}
	return process.Finding{Name: "go", OK: true, Detail: path}
}

// probeMicroVM boots guests of a few instructions, confined as images are here.
func probeMicroVM(r *process.Report) (target, []process.Finding) {
	vm := target{Name: api.TargetMicroVM, Detail: "images cannot be confined here"}
	if !r.Supported {
		return vm, nil
	}
	l, err := process.NewLauncher()
	if err != nil {
		vm.Detail = err.Error()
		return vm, nil
	}
	found := qemu.Probe("", l, r.Confinement)
	vm.OK, vm.Detail = found.Supported, "no QEMU that works"
	if vm.OK {
		vm.Detail = fmt.Sprintf("tier %s, with QEMU and %s", r.TierName, strings.ToUpper(found.Accel))
	}
	return vm, found.Findings
}
