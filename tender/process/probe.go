package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/api"
)

// A Finding is one thing that was looked for.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`        // what was found, or why not
	Fix    string `json:"fix,omitempty"` // the line that changes it
}

// A Report is what this machine gives to the confinement of images.
type Report struct {
	Tier        api.Tier    `json:"-"`
	TierName    string      `json:"tier"`
	Supported   bool        `json:"supported"` // false: no image can run here at all
	Confinement Confinement `json:"-"`
	Findings    []Finding   `json:"findings"`
}

// Probe looks at the kernel by trying: namespaces by mounting in one. The
// running program must act as the stage (see StageCommand).
func Probe() Report {
	var r Report
	r.add(probeSeccomp())
	r.Supported = r.Findings[0].OK
	ns := probeNamespaces()
	r.Confinement.Namespaces = ns.OK
	r.add(ns)
	abi, err := landlockABI()
	r.Confinement.Landlock = abi
	r.add(landlockFinding(abi, err))
	r.add(probeMseal())
	r.add(probeCgroup())
	r.add(probeFiles())
	r.Tier = r.Confinement.Tier()
	r.TierName = r.Tier.String()
	return r
}

func (r *Report) add(f Finding) { r.Findings = append(r.Findings, f) }

func probeSeccomp() Finding {
	f := Finding{Name: "seccomp"}
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	switch {
	case err != nil:
		f.Detail, f.Fix = err.Error(), "a kernel with CONFIG_SECCOMP_FILTER (Linux 4.14 or later)"
	case !strings.Contains(string(b), "kill_process"):
		f.Detail, f.Fix = "the kernel cannot kill a process from a filter", "Linux 4.14 or later"
	default:
		f.OK, f.Detail = true, "filters that kill the process"
	}
	return f
}

// probeNamespaces has a child make its namespaces and leave the file system:
// on some systems making them succeeds and only the mount is refused.
func probeNamespaces() Finding {
	f := Finding{Name: "namespaces"}
	ctx, cancel := context.WithTimeout(context.Background(), stageDeadline)
	defer cancel()
	in, err := json.Marshal(order{Probe: true})
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	cmd := stageCommand(true, nil)
	cmd.Stdin = strings.NewReader(string(in))
	var said strings.Builder
	cmd.Stderr = &said
	stop := context.AfterFunc(ctx, func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	defer stop()
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		f.OK, f.Detail = true, "user, mount, pid, network, ipc, uts and cgroup namespaces, tried with a mount"
	case errors.As(err, &exit):
		f.Detail = fmt.Sprintf("namespaces can be made but not used: %s", firstLine(said.String(), err))
	default:
		f.Detail = fmt.Sprintf("cannot be made: %v", err)
	}
	if !f.OK {
		f.Fix = namespaceFix()
	}
	return f
}

func firstLine(s string, err error) string {
	if line, _, _ := strings.Cut(strings.TrimSpace(s), "\n"); line != "" {
		return line
	}
	return err.Error()
}

// namespaceFix names the setting that most likely forbids user namespaces.
func namespaceFix() string {
	for _, s := range []struct{ file, bad, fix string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=10000"},
	} {
		if b, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(b)) == s.bad {
			return s.fix
		}
	}
	return "run outside a container or chroot, or give the container permission to make user namespaces"
}

func landlockFinding(abi int, err error) Finding {
	f := Finding{Name: "landlock"}
	switch {
	case err == nil:
		f.OK, f.Detail = true, fmt.Sprintf("ABI %d", abi)
	case errors.Is(err, syscall.EOPNOTSUPP):
		f.Detail, f.Fix = "built in but turned off at boot", "add landlock to the kernel's command line: lsm=landlock,..."
	default:
		f.Detail, f.Fix = err.Error(), "Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK"
	}
	return f
}

func probeMseal() Finding {
	_, _, e := unix.Syscall(unix.SYS_MSEAL, 0, 0, 0)
	if e == 0 {
		return Finding{Name: "mseal", OK: true, Detail: "program memory is sealed by the kernel as well"}
	}
	return Finding{Name: "mseal", Detail: "not in this kernel; the system call filter protects program memory", Fix: "Linux 6.10 or later"}
}

// probeCgroup reports where images get groups of their own. It is asked from
// the group that tenders are started in.
func probeCgroup() Finding {
	p, err := findPlace()
	if err != nil {
		return Finding{Name: "cgroup", Detail: err.Error() + "; memory is limited by RLIMIT_DATA",
			Fix: "run it as a systemd service with Delegate=memory pids and DelegateSubgroup=lorica"}
	}
	return Finding{Name: "cgroup", OK: true, Detail: "memory and threads are limited in groups below " + p.dir}
}

func probeFiles() Finding {
	var l unix.Rlimit
	f := Finding{Name: "open files"}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		f.Detail = err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("up to %d per image", min(l.Max, maxFiles))
	if f.OK = l.Max >= 4096; !f.OK {
		f.Fix = "ulimit -Hn 65536"
	}
	return f
}
