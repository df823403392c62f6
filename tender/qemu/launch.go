package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/tender/process"
)

const (
	launchWithin = 20 * time.Second
	lastWords    = time.Second // what QEMU wrote before its end is waited for
)

// Overhead is what QEMU takes beside the memory of the guest, in bytes; a group
// is to have room for both.
const Overhead = (translated + 128) << 20

// dataLimit is the RLIMIT_DATA of QEMU (measured: 180 MiB, most of it address space
// for translated code). The memory of the guest does not count: it is shared.
const dataLimit = 2 * Overhead

// A VM is a running machine: a process of QEMU.
type VM struct {
	*process.Process
	monitor *monitor
	said    tail
	done    chan struct{}
	began   bool // the guest was let run

	mu      sync.Mutex
	stopped bool // by Stop
}

// Launch starts QEMU, checks from outside that it is confined, and lets the guest
// begin.
func (h *Host) Launch(l *process.Launcher, s Spec) (*VM, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if err := bootable(s.Image, s.RAM.at); err != nil {
		return nil, err
	}
	ours, theirs, err := process.Pair(unix.SOCK_STREAM, "qemu: monitor")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	errs, sink, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("qemu: %w", err)
	}
	defer sink.Close()
	c := s.command(theirs)
	p, err := l.LaunchTool(process.ToolSpec{Tool: h.tool(s.Accel, c.args), Files: c.files, Output: s.Output, Errors: sink,
		Data: dataLimit, Group: s.Group, Groups: kvmGroups(s.Accel), Confinement: s.Confinement})
	if err != nil {
		ours.Close()
		errs.Close()
		return nil, fmt.Errorf("qemu: %w", err)
	}
	theirs.Close()
	sink.Close()
	v := &VM{Process: p, done: make(chan struct{})}
	go v.wait(errs)
	if err := v.begin(ours, h.patience); err != nil {
		return v.failed(err, ours)
	}
	return v, nil
}

// failed ends a machine that did not begin, for a reason; where QEMU ended by
// itself that was the reason.
func (v *VM) failed(err error, conn net.Conn) (*VM, error) {
	if !errors.As(err, new(silence)) {
		select {
		case <-v.done:
			if v.began { // a guest whose life was short; Death has the word
				return v, nil
			}
			err = errors.New("qemu: " + v.Death())
		case <-time.After(lastWords):
		}
	}
	v.Kill()
	conn.Close()
	<-v.done
	return nil, err
}

// A silence is how long QEMU was waited for.
type silence time.Duration

func (s silence) Error() string { return fmt.Sprintf("nothing within %s", time.Duration(s)) }

// wait collects what QEMU says until its end.
func (v *VM) wait(errs *os.File) {
	defer close(v.done)
	defer errs.Close()
	said := make(chan struct{})
	go func() {
		defer close(said)
		v.said.readFrom(errs)
	}()
	<-v.Process.Done()
	errs.SetReadDeadline(time.Now().Add(lastWords))
	<-said
}

// begin takes QEMU, which waits, to a running guest.
func (v *VM) begin(conn net.Conn, patience time.Duration) (err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, silence(patience))
	defer cancel()
	if v.monitor, err = newMonitor(ctx, conn); err != nil {
		return err
	}
	if err := v.Verify(); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	v.began = true
	return v.Continue(ctx)
}

// Done is closed when QEMU has ended and what it said was read.
func (v *VM) Done() <-chan struct{} { return v.done }

// Stop suspends the guest.
func (v *VM) Stop(ctx context.Context) error {
	v.setStopped(true)
	return v.monitor.do(ctx, "stop", nil)
}

// Continue lets it run.
func (v *VM) Continue(ctx context.Context) error {
	err := v.monitor.do(ctx, "cont", nil)
	if err == nil {
		v.setStopped(false)
	}
	return err
}

// Quit ends QEMU in an orderly way; the guest is not asked.
func (v *VM) Quit(ctx context.Context) error { return v.monitor.do(ctx, "quit", nil) }

// Status returns the state of the machine in QEMU's words: "running" mostly.
func (v *VM) Status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := v.monitor.do(ctx, "query-status", &s)
	return printable([]byte(s.Status)), err
}

func (v *VM) setStopped(stopped bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stopped = stopped
}

// Watch asks QEMU from time to time whether it is alive, and returns why it is not,
// or nil when it has ended. It does not end it.
func (v *VM) Watch(every, patience time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-v.done:
			return nil
		case <-tick.C:
		}
		err := v.alive(patience)
		if err == nil {
			continue
		}
		select {
		case <-v.done: // it said no more because it ended
			return nil
		case <-time.After(lastWords):
			return err
		}
	}
}

func (v *VM) alive(patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, silence(patience))
	defer cancel()
	v.mu.Lock()
	stopped := v.stopped
	v.mu.Unlock()
	s, err := v.Status(ctx)
	if err != nil {
		return err
	}
	if s != "running" && !(stopped && s == "paused") {
		return errors.New("qemu: the machine is no longer running: " + s)
	}
	return nil
}
