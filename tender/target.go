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

// A processTarget launches images as confined processes.
type processTarget struct {
	confine  process.Confinement
	launcher *process.Launcher
	group    *process.Group // nil: RLIMIT_DATA alone limits images
	image    *os.File
	memory   *memory
	net      *network // nil: images have sockets
}

func (p *processTarget) open(t *tender) (string, error) {
	var err error
	if p.confine, err = confinement(&t.cfg); err != nil {
		return "", err
	}
	if p.launcher, err = process.NewLauncher(); err != nil {
		return "", err
	}
	if p.image, err = process.Measure(t.cfg.Image, t.cfg.ImageDigest); err != nil {
		return "", err
	}
	if p.memory, err = newMemory(); err != nil {
		return "", err
	}
	if p.group, err = process.OpenGroup(t.cfg.Instance, t.cfg.Memory); err != nil {
		t.log(FromTender, "memory is limited by RLIMIT_DATA alone: %v", err)
	}
	if t.cfg.Net == api.NetDirect {
		if p.net, err = newNetwork(true); err != nil {
			return "", err
		}
	}
	return p.confine.Tier().String(), nil
}

func (p *processTarget) close() {
	if p.net != nil {
		p.net.close()
	}
	if p.image != nil {
		p.image.Close()
	}
	if p.group != nil {
		p.group.Close()
	}
	if p.memory != nil {
		p.memory.close()
	}
}

func (p *processTarget) launch(t *tender) (_ *instance, err error) {
	var open []func() // what to close if this comes to nothing
	defer func() {
		if err != nil {
			for _, f := range open {
				f()
			}
		}
	}()
	p.memory.reset()
	t.memory = p.memory
	plan, err := program.ParsePlanID(t.cfg.Plan)
	if err != nil {
		return nil, err
	}
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
	spec := process.Spec{Image: p.image, Control: theirs, Program: p.memory.file, Output: sink, Syscalls: t.cfg.Syscalls,
		Memory: t.cfg.Memory, Group: p.group, Confinement: p.confine}
	var joint *joint
	var sock *net.UnixConn
	switch {
	case p.net != nil:
		if joint, err = p.net.join(t); err != nil {
			return nil, err
		}
		open = append(open, joint.drop)
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
		open = append(open, func() { sock.Close() })
	}
	proc, err := p.launcher.Launch(spec)
	if err != nil {
		return nil, err
	}
	// Or this end would keep the channels open when the image has ended.
	theirs.Close()
	sink.Close()
	inst := newInstance(proc, conn, output, t, plan, t.cfg.Patience)
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
	t.mu.Lock()
	t.status.PID, t.status.Limits = proc.PID(), proc.Limits()
	t.mu.Unlock()
	if err := proc.NotInGroup(); err != nil {
		t.log(FromTender, "memory is limited by RLIMIT_DATA alone: %v", err)
	}
	return inst, nil
}
