package tender

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/tender/process"
)

// Restarts wait longer each time, up to a bound, and from the beginning again
// once what died has lived for a while.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 30 * time.Second
	GoodLife   = time.Minute
)

// NextPause returns the wait before a restart after one that waited for last; 0: the first.
func NextPause(last time.Duration) time.Duration { return min(max(2*last, firstPause), lastPause) }

// How often an image that serves is asked whether it does, and its programs and its
// code are looked at where it could have written there.
const (
	pulseEvery = 5 * time.Second
	lookEvery  = time.Second
	codeEvery  = 5 * time.Second
)

// order asks for the end; one that is already asked for stands, except that
// stopping overtakes draining.
func (t *tender) order(o order) {
	select {
	case t.orders <- o:
	default:
	}
	if o.drain {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inst != nil {
		t.inst.proc.Kill()
	}
}

// addressWithin is how long an image looks for an address, before it says that there is
// none and ends.
const addressWithin = time.Minute

// supervise launches the image, again when it dies, until an order ends it.
func (t *tender) supervise(ready func()) error {
	served := false
	var pause time.Duration
	for {
		inst, err := t.launch()
		if err == nil {
			if !served {
				served = true
				ready()
				if t.cfg.Leased {
					time.AfterFunc(firstLease, func() { t.drainUnleased("nobody took a lease") })
				}
			}
			born := time.Now()
			var ended bool
			if ended, err = t.watch(inst); ended {
				return nil
			}
			if time.Since(born) > GoodLife {
				pause = 0
			}
		}
		if !served {
			return err
		}
		pause = NextPause(pause)
		t.log(FromTender, "%v; starting it again in %s", err, pause)
		t.died(err)
		select {
		case <-t.orders:
			t.setState(Stopped)
			return nil
		case <-time.After(pause):
		}
	}
}

// watch returns when the image has ended; ended reports that it was to.
func (t *tender) watch(inst *instance) (ended bool, err error) {
	died := make(chan error, 1)
	go func() { died <- inst.wait() }()
	select {
	case err := <-died:
		return false, err
	case o := <-t.orders:
		t.end(inst, o, died)
		return true, nil
	}
}

// end drains or kills an image, and reports what was not orderly to the log.
func (t *tender) end(inst *instance, o order, died <-chan error) {
	defer t.setState(Stopped)
	if !o.drain {
		inst.proc.Kill()
		<-died
		return
	}
	t.setState(Draining)
	inst.drain(o.grace, o.limit)
	late := time.NewTimer(o.grace + o.limit + t.cfg.Patience)
	defer late.Stop()
	for {
		select {
		case err := <-died:
			if !inst.drained {
				t.log(FromTender, "while draining: %v", err)
			}
			return
		case again := <-t.orders:
			if again.drain {
				continue
			}
			inst.proc.Kill()
		case <-late.C:
			inst.fail(errors.New("it did not drain in time"))
		}
	}
}

func (t *tender) setState(s State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.State = s
}

func (t *tender) died(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inst = nil
	t.status.State, t.status.PID, t.status.Stats = Starting, 0, Stats{}
	t.status.Restarts++
	t.status.LastError = printable(err.Error())
}

// launch starts the image with the program in force and returns once it serves.
func (t *tender) launch() (*instance, error) {
	t.change <- struct{}{}
	defer func() { <-t.change }()
	start := time.Now()
	inst, err := t.target.launch(t)
	if err != nil {
		return nil, err
	}
	slot, err := t.memory.offer(t.program)
	if err != nil {
		inst.fail(err)
		return nil, inst.wait()
	}
	t.mu.Lock()
	t.inst = inst
	t.mu.Unlock()
	if err := t.boot(inst, slot); err != nil {
		inst.fail(err)
		return nil, &ImageError{inst.wait().Error()}
	}
	t.memory.enforce(slot)
	t.mu.Lock()
	t.status.BootMillis = float64(time.Since(start).Microseconds()) / 1000
	t.mu.Unlock()
	inst.connect() // what it asked for before waits in its socket
	if inst.target.serve != nil {
		if err := inst.target.serve(); err != nil {
			inst.fail(err)
			return nil, inst.wait()
		}
	}
	t.setState(Ready)
	t.nudge()
	go inst.every(min(pulseEvery, t.cfg.Patience), inst.pulse)
	if inst.target.intact != nil {
		go inst.every(lookEvery, inst.target.intact)
	}
	if inst.target.code != nil {
		go inst.every(codeEvery, inst.target.code)
	}
	return inst, nil
}

// boot takes a fresh image to Ready and checks from outside what that claims.
func (t *tender) boot(inst *instance, slot uint8) error {
	t.txn++
	p := launch.Params{Version: abi.Version, Instance: t.cfg.Instance, Tenant: t.cfg.Tenant, Workload: t.cfg.Workload,
		Tier: t.tier, MinRevision: max(t.cfg.MinRevision, t.status.Revision), MaxProcs: uint32(t.cfg.MaxProcs),
		MemoryLimit: t.cfg.Memory, Dials: inst.outlet != nil, Slots: slots, SlotSize: program.MaxSize,
		First: control.Prepare{Txn: t.txn, Slot: slot, Length: uint32(len(t.program)), Secrets: t.secrets}}
	copy(p.Trust[:], t.cfg.Trust)
	for _, l := range t.cfg.Listen {
		p.Listeners = append(p.Listeners, launch.Listener{Name: l.Name, Port: l.Port})
	}
	if err := inst.target.params(&p); err != nil {
		return err
	}
	if err := inst.send(p.Frame()); err != nil {
		return err
	}
	for _, step := range []struct {
		done <-chan struct{}
		what string
	}{{inst.hello, "did not say hello"}, {inst.ready, "did not become ready"}} {
		patience := t.cfg.Patience
		if i := t.cfg.Interface; i != nil && len(i.Static) == 0 {
			patience += addressWithin
		}
		late := time.NewTimer(patience)
		select {
		case <-step.done:
		case <-inst.proc.Done():
			return fmt.Errorf("it %s: %s", step.what, inst.proc.Death())
		case <-late.C:
			return fmt.Errorf("it %s within %s", step.what, patience)
		}
		late.Stop()
	}
	err := inst.target.verify()
	if errors.Is(err, process.ErrDying) { // let it, and say of what
		select {
		case <-inst.proc.Done():
		case <-time.After(t.cfg.Patience):
		}
	}
	return err
}
