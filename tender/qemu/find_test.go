package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
)

// fake puts a program in the place of QEMU and returns the folder it is in.
func fake(t *testing.T, script string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/usr/bin/bash\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // another user is to execute it
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	h, err := Find(os.Getenv("PATH"))
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(h.Path) || h.Version == "" {
		t.Errorf("found %q, version %q", h.Path, h.Version)
	}
	t.Logf("%s, version %s, reads %q", h.Path, h.Version, h.reads())
	if _, err := Find(t.TempDir() + ":relative"); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install qemu-system-x86") {
		t.Errorf("a machine without it: %v", err)
	}
	h, err = Find(t.TempDir() + ":" + fake(t, "echo QEMU emulator version 9.2.1 '(x)'"))
	if err != nil || h.Version != "9.2.1" || !slices.Contains(h.reads(), filepath.Dir(filepath.Dir(h.Path))) {
		t.Errorf("another: %+v, %v", h, err)
	}
	if link := filepath.Join(t.TempDir(), program); os.Symlink(h.Path, link) != nil {
		t.Error("no link")
	} else if again, err := Find(filepath.Dir(link)); err != nil || again.Path != h.Path {
		t.Errorf("by a link: %+v, %v", again, err)
	}
	for name, c := range map[string]struct{ script, want string }{
		"old":      {"echo QEMU emulator version 5.1.99", "5.2 or later"},
		"ancient":  {"echo QEMU emulator version 2.12.0", "5.2 or later"},
		"no words": {"echo hello", "does not say its version"},
		"broken":   {"echo 'no libfoo\x1b[2J' >&2; exit 127", "no libfoo?[2J"},
	} {
		if h, err := Find(fake(t, c.script)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestProbe(t *testing.T) {
	b := newBench(t)
	r := Probe(os.Getenv("PATH"), b.launch, b.confine)
	if !r.Supported || len(r.Findings) != 2 || !r.Findings[0].OK {
		t.Fatalf("report is %+v", r)
	}
	for _, f := range r.Findings {
		t.Logf("%-6s %v  %s (%s)", f.Name, f.OK, f.Detail, f.Fix)
	}
	if kvm := r.Findings[1]; kvm.OK != (r.Accel == KVM) || kvm.Detail == "" {
		t.Errorf("report is %+v", r)
	} else if !kvm.OK {
		notrun.Say(t, "microVMs under KVM", kvm.Detail)
	}
	r = Probe(t.TempDir(), b.launch, b.confine)
	if r.Supported || len(r.Findings) != 1 || r.Findings[0].OK || r.Findings[0].Fix == "" {
		t.Errorf("without QEMU: %+v", r)
	}
	r = Probe(fake(t, "[ $1 != --version ] || { echo QEMU emulator version 8.0; exit; }; echo no firmware >&2; exit 1"), b.launch, b.confine)
	if r.Supported || r.Findings[0].OK || !strings.Contains(r.Findings[0].Detail, "failed with exit status 1: no firmware") {
		t.Errorf("a QEMU that fails: %+v", r)
	}
}

// A guest that is tried is waited for so long, and what it ends with is looked at.
func TestGuestsThatDoNotEndAsTheyShould(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		code   []byte
		within time.Duration
		want   string
	}{
		{idle(), 300 * time.Millisecond, "did not end within 300ms"},
		{exitWith(7), patience, "the image exited with code 7"},
		{[]byte{0x0f, 0x0b}, patience, "triple fault"}, // ud2
	} {
		if err := b.host.boot(b.launch, b.confine, TCG, c.code, c.within); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
}

// What was found out about KVM is kept.
func TestTheAcceleratorIsFoundOutOnce(t *testing.T) {
	b := newBench(t)
	h, err := Find(os.Getenv("PATH"))
	if err != nil {
		t.Fatal(err)
	}
	accel, why := h.Accel(b.launch, b.confine)
	if (accel == KVM) != (why == nil) || accel != KVM && accel != TCG {
		t.Errorf("%q, %v", accel, why)
	}
	kept := errors.New("as it was found")
	h.kvm.err = kept
	if again, err := h.Accel(b.launch, b.confine); again != TCG || err != kept {
		t.Errorf("first %q, %v, then %q, %v", accel, why, again, err)
	}
}

func TestFixesOfKVM(t *testing.T) {
	for want, err := range map[string]error{
		"usermod -aG kvm": fmt.Errorf("x: %w", os.ErrPermission), "chgrp kvm": errRootAlone, "kvm && sudo usermod -aG kvm": errNoGroup,
	} {
		if got := kvmFix(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q", err, got)
		}
	}
	device := filepath.Join(t.TempDir(), "kvm")
	group := os.Getegid()
	if os.Geteuid() == 0 {
		group = 4242
	}
	for mode, mine := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o660: group} {
		err := os.WriteFile(device, nil, mode)
		if err = errors.Join(err, os.Chown(device, -1, group), os.Chmod(device, mode)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(device); err != nil || groupOf(info) != mine {
			t.Errorf("%o: group %d (%v)", mode, groupOf(info), err)
		}
	}
	if os.Geteuid() != 0 && len(kvmGroups(KVM)) > 0 || len(kvmGroups(TCG)) > 0 {
		t.Error("groups that are not to be entered")
	}
}
