package main

import (
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/qemu"
)

// health is what doctor answers in JSON.
type health struct {
	process.Report
	Targets []target `json:"targets"`
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
in it. KVM counts only where a guest has really run under it. Exit code 1 where no
image can run at all.`,
		Example: "  lorica doctor\n  lorica doctor -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			h := health{Report: process.Probe()}
			h.Findings = append(h.Findings, probeGo())
			vm, findings := probeMicroVM(&h.Report)
			h.Findings = append(h.Findings, findings...)
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
		rows = append(rows, []string{mark(f.OK), f.Name, f.Detail})
		if !f.OK && f.Fix != "" {
			rows = append(rows, []string{"", "", "fix: " + f.Fix})
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
		return process.Finding{Name: "go", Detail: "not found; images that are in the store still run", Fix: "install Go 1.26 and add it to PATH (https://go.dev/dl)"}
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
