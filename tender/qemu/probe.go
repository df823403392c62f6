package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/tender/process"
)

const (
	kvmDevice = "/dev/kvm"
	// bootWithin is for a guest of a few instructions.
	bootWithin = 10 * time.Second
	probeCode  = 42
)

var (
	errRootAlone = errors.New(kvmDevice + " is for root alone, and QEMU does not run as root here")
	errNoGroup   = errors.New(kvmDevice + " is for root alone")
)

// Accel returns the accelerator to use: KVM where a guest really runs under it,
// and TCG with the reason why not. It is found out once.
func (h *Host) Accel(l *process.Launcher, c process.Confinement) (accel string, why error) {
	h.kvm.once.Do(func() {
		if h.kvm.err = kvmOpens(); h.kvm.err == nil {
			h.kvm.err = h.try(l, c, KVM)
		}
	})
	if h.kvm.err != nil {
		return TCG, h.kvm.err
	}
	return KVM, nil
}

// kvmOpens tells the usual reasons apart before QEMU is asked.
func kvmOpens() error {
	info, err := os.Stat(kvmDevice)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no " + kvmDevice)
	}
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 { // QEMU does not run as root
		if info.Mode()&0o006 != 0o006 && len(kvmGroups(KVM)) == 0 {
			return errRootAlone
		}
		return nil
	}
	if err := unix.Access(kvmDevice, unix.R_OK|unix.W_OK); err != nil {
		if groupOf(info) == 0 {
			return errNoGroup
		}
		return fmt.Errorf("%s: %w", kvmDevice, err)
	}
	return nil
}

// kvmGroups lists the group to be in for the use of KVM, where a tender that is
// root can enter it; others are in it or not.
func kvmGroups(accel string) []int {
	info, err := os.Stat(kvmDevice)
	if accel != KVM || os.Geteuid() != 0 || err != nil {
		return nil
	}
	if g := groupOf(info); g != 0 {
		return []int{g}
	}
	return nil
}

// groupOf returns the group whose members may use a device, 0 where none but root's may.
func groupOf(info fs.FileInfo) int {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&0o060 != 0o060 {
		return 0
	}
	return int(s.Gid)
}

// try boots a tiny guest.
func (h *Host) try(l *process.Launcher, c process.Confinement, accel string) error {
	return h.boot(l, c, accel, slices.Concat(vectors, exitWith(probeCode)), bootWithin)
}

// boot runs code as a guest, confined as others are, which is to end in time with probeCode.
func (h *Host) boot(l *process.Launcher, c process.Confinement, accel string, code []byte, within time.Duration) error {
	image, err := memory(tinyGuest(code))
	if err != nil {
		return err
	}
	defer image.Close()
	ram, err := NewRAM(leastRAM, 0)
	if err != nil {
		return err
	}
	defer ram.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	defer null.Close()
	v, err := h.Launch(l, Spec{Image: image, RAM: ram, Devices: []string{DeviceExit}, Output: null, Accel: accel, Confinement: c})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- v.Watch(within/100, within) }()
	select {
	case err = <-failed:
	case <-time.After(within):
		err = fmt.Errorf("it did not end within %s", within)
	}
	v.Kill()
	<-v.Done()
	if err != nil {
		return fmt.Errorf("qemu: a guest of a few instructions: %w", err)
	}
	if code, ok := v.Code(); !ok || code != probeCode {
		return fmt.Errorf("qemu: a guest of a few instructions: %s", v.Death())
	}
	return nil
}

// memory returns an anonymous file with b.
func memory(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("lorica-guest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	f := os.NewFile(uintptr(fd), "guest")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, fmt.Errorf("qemu: %w", err)
	}
	return f, nil
}

// A Report is what this machine gives to microVMs.
type Report struct {
	Supported bool
	Accel     string
	Findings  []process.Finding
}

// Probe looks for QEMU in path (see Find) and boots guests with it. The running program must act
// as the stage (see process.StageCommand).
func Probe(path string, l *process.Launcher, c process.Confinement) Report {
	r := Report{Accel: TCG}
	qemu := process.Finding{Name: "qemu"}
	h, err := Find(path)
	if err == nil {
		err = h.try(l, c, TCG)
	}
	if err != nil {
		qemu.Detail = err.Error()
		if errors.Is(err, ErrMissing) {
			qemu.Fix = "sudo apt-get install qemu-system-x86"
		}
		r.Findings = append(r.Findings, qemu)
		return r
	}
	qemu.OK, qemu.Detail = true, fmt.Sprintf("%s, version %s, tried with a guest", h.Path, h.Version)
	kvm := process.Finding{Name: "kvm"}
	r.Supported = true
	if r.Accel, err = h.Accel(l, c); err == nil {
		kvm.OK, kvm.Detail = true, "tried with a guest"
	} else {
		kvm.Detail = fmt.Sprintf("not used, QEMU translates code instead: %v", err)
		kvm.Fix = kvmFix(err)
	}
	r.Findings = append(r.Findings, qemu, kvm)
	return r
}

func kvmFix(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "sudo usermod -aG kvm $USER, and log in again"
	case errors.Is(err, errNoGroup): // to be in it would be no help as it is
		return "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && sudo usermod -aG kvm $USER, and log in again"
	case errors.Is(err, errRootAlone):
		return "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm"
	}
	return ""
}
