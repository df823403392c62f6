package tender

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/seccomp"
)

// A target launches images of one kind. Its methods are called one at a time.
type target interface {
	// open takes what launches need, and returns the tier that they reach.
	open(t *tender) (tier string, err error)
	// launch starts the image, which is told nothing yet, and has t.memory be the one
	// that its programs are written to.
	launch(t *tender) (*instance, error)
	close()
}

func targetOf(cfg *Config) target {
	if cfg.Target == api.TargetMicroVM {
		return &machineTarget{}
	}
	return &processTarget{}
}

// confinement returns what this machine can confine with, which must be what the
// workload asks for.
func confinement(cfg *Config) (process.Confinement, error) {
	report := process.Probe()
	if !report.Supported {
		return process.Confinement{}, fmt.Errorf("tender: this machine cannot confine an image: seccomp: %s", report.Findings[0].Detail)
	}
	c := report.Confinement.Weakened(cfg.Weaken)
	if tier := c.Tier(); tier > cfg.Minimum {
		return c, fmt.Errorf("tender: this machine confines images at tier %q, the workload asks for %q at least: see `lorica doctor`", tier, cfg.Minimum)
	}
	return c, nil
}

// A base is what targets of both kinds launch with.
type base struct {
	confine  process.Confinement
	launcher *process.Launcher
	group    *process.Group // nil: RLIMIT_DATA alone limits what is launched
	image    *os.File
	net      *network // nil: images have sockets
}

// prepare takes what the host gives; what is launched may take memory bytes.
func (b *base) prepare(t *tender, memory uint64) (err error) {
	if b.confine, err = confinement(&t.cfg); err != nil {
		return err
	}
	if b.launcher, err = process.NewLauncher(); err != nil {
		return err
	}
	if b.image, err = process.Measure(t.cfg.Image, t.cfg.ImageDigest); err != nil {
		return err
	}
	if b.group, err = process.OpenGroup(t.cfg.Instance, memory); err != nil {
		t.log(FromTender, "memory is limited by RLIMIT_DATA alone: %v", err)
	}
	return nil
}

func (b *base) close() {
	if b.net != nil {
		b.net.close()
	}
	if b.image != nil {
		b.image.Close()
	}
	if b.group != nil {
		b.group.Close()
	}
}

// An undo is what to close where a launch comes to nothing.
type undo []func()

func (u *undo) add(f func()) { *u = append(*u, f) }

func (u undo) unless(err *error) {
	if *err != nil {
		for _, f := range u {
			f()
		}
	}
}

// Channels are what an image and its tender have between them, both ends.
type channels struct {
	conn         *net.UnixConn // the control channel
	theirs       *os.File
	output, sink *os.File // what the image writes
}

func newChannels() (*channels, error) {
	var c channels
	var err error
	if c.conn, c.theirs, err = process.Pair(unix.SOCK_STREAM, "tender: control channel"); err != nil {
		return nil, err
	}
	if c.output, c.sink, err = os.Pipe(); err != nil {
		c.conn.Close()
		c.theirs.Close()
		return nil, fmt.Errorf("tender: %w", err)
	}
	return &c, nil
}

// handOver closes the image's ends. The channels would else stay open when it has ended.
func (c *channels) handOver() {
	c.theirs.Close()
	c.sink.Close()
}

func (c *channels) close() {
	c.conn.Close()
	c.output.Close()
}

// launched shows what runs now.
func (t *tender) launched(p *process.Process) {
	t.mu.Lock()
	t.status.PID, t.status.Limits = p.PID(), p.Limits()
	t.mu.Unlock()
	if err := p.NotInGroup(); err != nil {
		t.log(FromTender, "memory is limited by RLIMIT_DATA alone: %v", err)
	}
}

// A processTarget launches images as confined processes.
type processTarget struct {
	base
	memory *memory
}

func (p *processTarget) open(t *tender) (string, error) {
	err := p.prepare(t, t.cfg.Memory)
	if err != nil {
		return "", err
	}
	if p.memory, err = newMemory(); err != nil {
		return "", err
	}
	if t.cfg.Net == api.NetDirect {
		if p.net, err = newNetwork(t, true); err != nil {
			return "", err
		}
	}
	return p.confine.Tier().String(), nil
}

func (p *processTarget) close() {
	p.base.close()
	if p.memory != nil {
		p.memory.close()
	}
}

func (p *processTarget) launch(t *tender) (_ *instance, err error) {
	var u undo
	defer func() { u.unless(&err) }()
	p.memory.reset()
	t.memory = p.memory
	plan, err := program.ParsePlanID(t.cfg.Plan)
	if err != nil {
		return nil, err
	}
	ch, err := newChannels()
	if err != nil {
		return nil, err
	}
	defer ch.handOver()
	u.add(ch.close)
	spec := process.Spec{Image: p.image, Control: ch.theirs, Program: p.memory.file, Output: ch.sink, Syscalls: t.cfg.Syscalls,
		Memory: t.cfg.Memory, Group: p.group, Confinement: p.confine}
	var joint *joint
	var sock *net.UnixConn
	switch {
	case p.net != nil:
		if joint, err = p.net.join(t); err != nil {
			return nil, err
		}
		u.add(joint.drop)
		spec.Net = joint.File()
	default:
		spec.Listeners = t.listeners
		if t.egress == nil {
			break
		}
		if sock, spec.Dial, err = process.Pair(unix.SOCK_SEQPACKET, "tender: dial socket"); err != nil {
			return nil, err
		}
		defer spec.Dial.Close()
		u.add(func() { sock.Close() })
	}
	proc, err := p.launcher.Launch(spec)
	if err != nil {
		return nil, err
	}
	ch.handOver()
	inst := newInstance(proc, ch.conn, ch.output, t, plan, t.cfg.Patience)
	inst.target = hooks{verify: proc.Verify, params: func(l *launch.Params) (err error) {
		if joint != nil {
			joint.params(l)
		}
		l.Seal, err = seccomp.Seal(t.cfg.Syscalls, proc.Self())
		return err
	}}
	if joint != nil {
		joint.attend(inst)
		inst.target.serve = func() error { return joint.serve(t) }
		inst.target.stop = joint.stop
		inst.target.end = func() { joint.end(inst.inOrder()) }
	}
	if sock != nil {
		spec.Dial.Close()
		inst.outlet = newDialer(sock, *t.egress, t.cfg.Patience, inst.fail, func(format string, args ...any) { t.log(FromTender, format, args...) })
	}
	t.launched(proc)
	return inst, nil
}
