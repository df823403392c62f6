package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A machine is one boot of one kernel.
type machine struct {
	counted                        bool // time is counted in instructions
	accel, kernel, initrd, options string
	console                        string // file that the kernel's messages go to
}

// command is the machine; its standard output is what the guest says.
func (m *machine) command(ctx context.Context) *exec.Cmd {
	args := []string{"-accel", m.accel, "-cpu", "max", "-m", "2048", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel, "-append", "console=ttyS0 panic=-1 mitigations=off " + m.options, "-serial", "file:" + m.console, "-serial", "stdio"}
	if m.counted {
		// Two nanoseconds for each instruction, and none of waiting. One processor: a
		// second one would be waited for by counting instructions.
		args = append(args, "-icount", "shift=1,sleep=off")
	} else {
		args = append(args, "-smp", "2")
	}
	if m.initrd != "" {
		args = append(args, "-initrd", m.initrd)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // Ctrl-C is for us
	cmd.WaitDelay = time.Second
	return cmd
}

// accelerator tries KVM with a kernel that finds no root and panics: a device that
// can be opened is not yet one that runs a machine.
func accelerator(ctx context.Context, kernel, dir string) (name, why string) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", err.Error()
	}
	f.Close()
	const patience = 20 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m := machine{accel: "kvm", kernel: kernel, console: dir + "/probe"}
	_, err = m.command(ctx).Output() // its error has what QEMU wrote
	said, _ := os.ReadFile(m.console)
	var exit *exec.ExitError
	switch {
	case strings.Contains(string(said), "Kernel panic"):
		return "kvm", "it boots"
	case ctx.Err() != nil:
		return "tcg", fmt.Sprintf("with KVM nothing boots within %s", patience)
	case errors.As(err, &exit):
		wrote := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
		return "tcg", fmt.Sprintf("with KVM nothing boots: %v: %s", err, wrote[len(wrote)-1])
	}
	return "tcg", fmt.Sprintf("with KVM nothing boots: %v", err)
}

// run boots the machine and reads what its guest says until it is off.
func (m *machine) run(ctx context.Context, limit time.Duration) ([]*row, error) {
	timeout, release := context.WithTimeout(ctx, limit)
	defer release()
	ctx, cancel := context.WithCancel(timeout)
	defer cancel()
	cmd := m.command(ctx)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	rows, err := listen(out)
	if err != nil {
		cancel()
	}
	ended := cmd.Wait()
	switch {
	case timeout.Err() != nil:
		return rows, fmt.Errorf("not done within %s", limit)
	case err == nil:
		err = ended
	}
	return rows, err
}

// lastWords returns the end of the kernel's messages.
func (m *machine) lastWords() string {
	b, _ := os.ReadFile(m.console)
	return string(b[max(0, len(b)-3000):])
}
