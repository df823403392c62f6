package tender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/tender/forward"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/qemu"
	"lorica.dev/lorica/tender/usernet"
)

// The link between a tender and its microVM. There is nobody else on it, so that
// every machine can have the same addresses.
var theLink = launch.Link{Addr: netip.MustParsePrefix("10.76.0.2/30"), Host: netip.MustParseAddr("10.76.0.1")}

const (
	linkMTU   = usernet.MTU
	askEvery  = 5 * time.Second // whether QEMU is alive
	askWithin = 10 * time.Second
	stopAfter = 10 * time.Second
	// clockEvery bounds how far a machine's clock strays: the rate that it measures at
	// its start can be wrong by one in a thousand.
	clockEvery = 20 * time.Second
)

// A machineTarget launches images as microVMs.
type machineTarget struct {
	confine  process.Confinement
	launcher *process.Launcher
	group    *process.Group // nil: RLIMIT_DATA alone limits QEMU
	image    *os.File
	host     *qemu.Host
	accel    string
	most     int // connections at once
	waiting  []forward.Client
}

func (m *machineTarget) open(t *tender) (string, error) {
	var err error
	if m.confine, err = confinement(&t.cfg); err != nil {
		return "", err
	}
	if m.launcher, err = process.NewLauncher(); err != nil {
		return "", err
	}
	if m.host, err = qemu.Find(""); err != nil {
		return "", fmt.Errorf("tender: %w", err)
	}
	if m.image, err = process.Measure(t.cfg.Image, t.cfg.ImageDigest); err != nil {
		return "", err
	}
	var why error
	if m.accel, why = m.host.Accel(m.launcher, m.confine); why != nil {
		t.log(FromTender, "QEMU %s translates code, which is slow, since KVM cannot be used: %v", m.host.Version, why)
	}
	if m.group, err = process.OpenGroup(t.cfg.Instance, t.cfg.Memory+windowSize+qemu.Overhead); err != nil {
		t.log(FromTender, "memory is limited by RLIMIT_DATA alone: %v", err)
	}
	m.most, err = mostClients()
	return m.confine.Tier().String(), err
}

// mostClients leaves descriptors for what else the tender does: its files, a launch,
// and those who ask at its control socket.
func mostClients() (int, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("tender: RLIMIT_NOFILE: %w", err)
	}
	const kept, each = 32, 2 // a connection is one to the client, and may be one to the guest
	return int(min((max(l.Cur, kept+each)-kept)/each, 1<<16)), nil
}

func (m *machineTarget) close() {
	for _, c := range m.waiting {
		c.Close()
	}
	if m.image != nil {
		m.image.Close()
	}
	if m.group != nil {
		m.group.Close()
	}
}

// launch starts a machine with memory of its own and a link of its own.
func (m *machineTarget) launch(t *tender) (_ *instance, err error) {
	var open []func() // what to close if this comes to nothing
	defer func() {
		if err != nil {
			for _, f := range open {
				f()
			}
		}
	}()
	plan, err := program.ParsePlanID(t.cfg.Plan)
	if err != nil {
		return nil, err
	}
	ram, err := qemu.NewRAM(t.cfg.Memory, windowSize)
	if err != nil {
		return nil, err
	}
	open = append(open, ram.Close)
	conn, theirs, err := process.Pair(unix.SOCK_STREAM, "tender: control channel")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	open = append(open, func() { conn.Close() })
	output, sink, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	defer sink.Close()
	open = append(open, func() { output.Close() })
	logf := func(format string, args ...any) { t.log(FromTender, format, args...) }
	link, card, kind, err := openLink(logf)
	if err != nil {
		return nil, err
	}
	defer card.Close()
	open = append(open, func() { link.Close() })
	var dials *guestDials
	if t.egress != nil {
		if dials, err = newGuestDials(link, *t.egress, logf); err != nil {
			return nil, err
		}
		open = append(open, dials.end)
	}
	vm, err := m.host.Launch(m.launcher, qemu.Spec{Image: m.image, RAM: ram, Devices: t.cfg.Devices, Control: theirs, Net: card, Network: kind, MTU: linkMTU,
		Output: sink, Accel: m.accel, Group: m.group, Confinement: m.confine})
	if err != nil {
		return nil, err
	}
	// Or these ends would keep the channels open when the machine has ended.
	theirs.Close()
	sink.Close()
	card.Close()
	memory := memoryIn(ram.Window())
	t.memory = memory
	inst := newInstance(vm, conn, output, t, plan, t.cfg.Patience)
	if dials != nil {
		inst.outlet = dials
	}
	doors := forward.New(link, m.most, logf)
	inst.target = hooks{
		verify: vm.Verify,
		intact: memory.intact,
		code: func() error {
			if err := ram.Holds(m.image); !errors.Is(err, os.ErrClosed) { // it has ended
				return err
			}
			return nil
		},
		params: func(l *launch.Params) error {
			l.Link, l.Now = theLink, time.Now().UnixNano()
			return nil
		},
		serve: func() error {
			go inst.keepTime()
			doors.Resume(m.waiting)
			m.waiting = nil
			return t.letIn(doors)
		},
		stop: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), stopAfter)
			defer cancel()
			return doors.Stop(ctx)
		},
		end: func() {
			if inst.inOrder() {
				ctx, cancel := context.WithTimeout(context.Background(), stopAfter)
				defer cancel()
				if err := doors.Finish(ctx); err != nil {
					logf("%v", err)
				}
			}
			m.waiting = append(m.waiting, doors.Close()...)
			link.Close()
			memory.forget()
			ram.Close()
		},
	}
	go func() {
		if err := vm.Watch(min(askEvery, t.cfg.Patience), min(askWithin, t.cfg.Patience)); err != nil {
			inst.fail(err)
		}
	}()
	t.mu.Lock()
	t.status.PID, t.status.Limits, t.status.Accel = vm.PID(), vm.Limits(), m.accel
	t.mu.Unlock()
	if err := vm.NotInGroup(); err != nil {
		logf("memory is limited by RLIMIT_DATA alone: %v", err)
	}
	return inst, nil
}

// keepTime tells a ready image the time, again and again. What it was told at its
// launch is older by the time that it took to boot.
func (i *instance) keepTime() {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for i.send(control.Clock{Now: time.Now().UnixNano()}.Frame()) == nil {
		select {
		case <-i.proc.Done():
			return
		case <-tick.C:
		}
	}
}

// openLink returns the link to a machine, and its end. Who is root may have the
// kernel's TCP stack at this end, in a network namespace with nobody else; others
// have their own.
func openLink(log func(string, ...any)) (forward.Link, *os.File, qemu.Network, error) {
	if os.Geteuid() == 0 {
		tap, err := qemu.OpenTAP(theLink, linkMTU)
		if err == nil {
			return tap, tap.File(), qemu.Interface, nil
		}
		log("the network of the machine is the tender's own, since there can be no TAP device: %v", err)
	}
	wire, card, err := process.Pair(unix.SOCK_STREAM, "tender: network of the machine")
	if err != nil {
		return nil, nil, 0, err
	}
	l, err := usernet.New(wire, theLink.Addr, theLink.Host, linkMTU)
	if err != nil {
		wire.Close()
		card.Close()
		return nil, nil, 0, fmt.Errorf("tender: %w", err)
	}
	return l, card, qemu.Stream, nil
}

// letIn has clients of every listener forwarded to the image.
func (t *tender) letIn(doors *forward.Forwarder) error {
	for i, f := range t.listeners {
		ln, err := net.FileListener(f)
		if err != nil {
			return fmt.Errorf("tender: listener %q: %w", t.cfg.Listen[i].Name, err)
		}
		if err := doors.Serve(i, ln); err != nil {
			return fmt.Errorf("tender: listener %q: %w", t.cfg.Listen[i].Name, err)
		}
	}
	return nil
}
