package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/tender/process"
)

const (
	program     = "qemu-system-x86_64"
	defaultPath = "/usr/local/bin:/usr/bin:/bin" // a tender has no environment
	findWithin  = 10 * time.Second
)

// The oldest QEMU whose microvm can do without ACPI.
const oldestMajor, oldestMinor = 5, 2

// ErrMissing reports a machine without QEMU.
var ErrMissing = errors.New("qemu: there is no " + program + " in " + strings.ReplaceAll(defaultPath, ":", ", ") + " (Debian, Ubuntu: sudo apt-get install qemu-system-x86)")

// A Host is the QEMU of this machine, and what was found out about it. Safe for
// concurrent use.
type Host struct {
	Path    string
	Version string

	patience time.Duration // with QEMU, for its start
	kvm      struct {
		once sync.Once
		err  error
	}
}

// Find looks for QEMU in path, a list of folders as in $PATH; empty: where systems
// have their programs.
func Find(path string) (*Host, error) {
	if path == "" {
		path = defaultPath
	}
	for _, dir := range filepath.SplitList(path) {
		at := filepath.Join(dir, program)
		if !filepath.IsAbs(at) || unix.Access(at, unix.X_OK) != nil {
			continue
		}
		if info, err := os.Stat(at); err != nil || !info.Mode().IsRegular() {
			continue
		}
		at, err := filepath.EvalSymlinks(at)
		if err != nil {
			return nil, fmt.Errorf("qemu: %w", err)
		}
		h := &Host{Path: at, patience: launchWithin}
		return h, h.version()
	}
	return nil, ErrMissing
}

// version asks the program, which also shows that it can be run at all.
func (h *Host) version() error {
	ctx, cancel := context.WithTimeout(context.Background(), findWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Path, "--version")
	cmd.Env, cmd.WaitDelay = []string{}, time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu: %s --version: %w: %s", h.Path, err, printable(out))
	}
	_, v, _ := strings.Cut(string(out), "QEMU emulator version ")
	if f := strings.Fields(v); len(f) > 0 {
		h.Version = f[0]
	}
	var major, minor int
	if _, err := fmt.Sscanf(h.Version, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("qemu: %s does not say its version: %q", h.Path, printable(out))
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return fmt.Errorf("qemu: %s is version %s; %d.%d or later is needed", h.Path, h.Version, oldestMajor, oldestMinor)
	}
	return nil
}

// reads lists what QEMU needs of the file system: its libraries, and its firmware.
func (h *Host) reads() []string {
	var list []string
	for _, p := range []string{"/usr", "/lib", "/lib64", "/etc/ld.so.cache", filepath.Dir(filepath.Dir(h.Path)), "/nix/store", "/gnu/store"} {
		if _, err := os.Stat(p); err == nil && p != "/" && !within(p, list) {
			list = append(list, p)
		}
	}
	return list
}

// within reports whether path is one of list or below one.
func within(path string, list []string) bool {
	for _, l := range list {
		if path == l || strings.HasPrefix(path, l+"/") {
			return true
		}
	}
	return false
}

// tool returns what is confined where h runs under an accelerator.
func (h *Host) tool(accel string, args []string) process.Tool {
	t := process.Tool{Path: h.Path, Args: args, Reads: h.reads()}
	if accel == KVM {
		t.Devices = []string{kvmDevice}
	}
	return t
}
