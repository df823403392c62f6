package tender

import (
	"errors"
	"fmt"
	"os"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/tender/qemu"
)

const (
	askEvery  = 5 * time.Second // whether QEMU is alive
	askWithin = 10 * time.Second
	// clockEvery bounds how far a machine's clock strays: the rate that it measures at
	// its start can be wrong by one in a thousand.
	clockEvery = 20 * time.Second
)

// A machineTarget launches images as microVMs.
type machineTarget struct {
	base
	host  *qemu.Host
	accel string
}

func (m *machineTarget) open(t *tender) (string, error) {
	var err error
	if m.host, err = qemu.Find(""); err != nil {
		return "", fmt.Errorf("tender: %w", err)
	}
	if err = m.prepare(t, t.cfg.Memory+windowSize+qemu.Overhead); err != nil {
		return "", err
	}
	var why error
	if m.accel, why = m.host.Accel(m.launcher, m.confine); why != nil {
		t.log(FromTender, "QEMU %s translates code, which is slow, since KVM cannot be used: %v", m.host.Version, why)
	}
	m.net, err = newNetwork(t, false)
	return m.confine.Tier().String(), err
}

// launch starts a machine with memory of its own and a link of its own.
func (m *machineTarget) launch(t *tender) (_ *instance, err error) {
	var u undo
	defer func() { u.unless(&err) }()
	plan, err := program.ParsePlanID(t.cfg.Plan)
	if err != nil {
		return nil, err
	}
	ram, err := qemu.NewRAM(t.cfg.Memory, windowSize)
	if err != nil {
		return nil, err
	}
	u.add(ram.Close)
	ch, err := newChannels()
	if err != nil {
		return nil, err
	}
	defer ch.handOver()
	u.add(ch.close)
	joint, err := m.net.join(t)
	if err != nil {
		return nil, err
	}
	u.add(joint.drop)
	vm, err := m.host.Launch(m.launcher, qemu.Spec{Image: m.image, RAM: ram, Devices: t.cfg.Devices, Control: ch.theirs, Net: joint.File(),
		Network: joint.card(), MTU: int(joint.Link().MTU), MAC: joint.Link().MAC, Output: ch.sink, Accel: m.accel, Group: m.group, Confinement: m.confine})
	if err != nil {
		return nil, err
	}
	ch.handOver()
	memory := memoryIn(ram.Window())
	t.memory = memory
	inst := newInstance(vm, ch.conn, ch.output, t, plan, t.cfg.Patience)
	inst.target = hooks{
		verify: vm.Verify,
		intact: memory.intact,
		code: func() error {
			if err := ram.Holds(m.image); !errors.Is(err, os.ErrClosed) { // it has ended
				return err
			}
			return nil
		},
		params: func(p *launch.Params) error {
			joint.params(p)
			p.Now = time.Now().UnixNano()
			return nil
		},
		serve: func() error {
			go inst.keepTime()
			return joint.serve(t)
		},
		stop: joint.stop,
		end: func() {
			joint.end(inst.inOrder())
			memory.forget()
			ram.Close()
		},
	}
	joint.attend(inst)
	go func() {
		if err := vm.Watch(min(askEvery, t.cfg.Patience), min(askWithin, t.cfg.Patience)); err != nil {
			inst.fail(err)
		}
	}()
	t.mu.Lock()
	t.status.Accel = m.accel
	t.mu.Unlock()
	t.launched(vm.Process)
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
