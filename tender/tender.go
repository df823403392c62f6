package tender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/seccomp"
)

// Sizes of the series of files in the runtime folder.
const (
	decisionFile, decisionFiles = 4 << 20, 4
	logFile, logFiles           = 1 << 20, 2
)

// Restarts wait longer each time, up to a bound, and from the beginning again
// once an image has lived for a while.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 30 * time.Second
	goodLife   = time.Minute
)

// A tender is one instance and everything around it.
//
// Lock order: change, then mu. Neither is held while the image is waited for,
// except change, which makes changes of the program happen one at a time.
type tender struct {
	cfg       Config
	tier      api.Tier
	confine   process.Confinement
	launcher  *process.Launcher
	image     *os.File
	memory    *memory
	decisions *spool
	logs      *spool
	listeners []*os.File
	lines     throttle
	records   throttle
	orders    chan order

	change chan struct{} // a lock with room for one that a context can give up on
	txn    uint64

	mu      sync.Mutex
	inst    *instance
	status  Status
	program []byte // in force, signed
	secrets []control.Secret
	leases  int
	kept    bool // a lease was released: the instance lives on without one
}

// An order ends the instance: at once, or after draining.
type order struct {
	drain        bool
	grace, limit time.Duration
}

// Run owns the instance of cfg until it is stopped, and returns nil then. It
// calls ready once, when the image serves for the first time; an image that
// does not get there is an error, one that dies later is started again.
// A cancelled ctx drains. The listeners are those of cfg.Listen where
// cfg.Inherit is set; Run closes them.
func Run(ctx context.Context, cfg Config, listeners []*os.File, ready func()) error {
	defer closeAll(listeners)
	if err := cfg.validate(); err != nil {
		return err
	}
	t := &tender{cfg: cfg, program: cfg.Program, secrets: cfg.Secrets, orders: make(chan order, 1), change: make(chan struct{}, 1),
		lines: throttle{limit: linesPerSecond}, records: throttle{limit: recordsPerSecond}}
	t.cfg.Program, t.cfg.Secrets = nil, nil
	defer t.close()
	if err := t.open(listeners); err != nil {
		return err
	}
	srv, err := t.serve()
	if err != nil {
		return err
	}
	defer srv.close()
	stop := context.AfterFunc(ctx, func() { t.order(order{drain: true, grace: time.Second, limit: 10 * time.Second}) })
	defer stop()
	return t.supervise(ready)
}

// open takes everything the instance needs, weakest link first.
func (t *tender) open(inherited []*os.File) error {
	if err := os.MkdirAll(t.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	if err := ownFolder(t.cfg.Dir); err != nil {
		return err
	}
	report := process.Probe()
	if !report.Supported {
		return fmt.Errorf("tender: this machine cannot confine an image: seccomp: %s", report.Findings[0].Detail)
	}
	t.confine = report.Confinement.Weakened(t.cfg.Weaken)
	t.tier = t.confine.Tier()
	if t.tier > t.cfg.Minimum {
		return fmt.Errorf("tender: this machine confines images at tier %q, the workload asks for %q at least: see `lorica doctor`", t.tier, t.cfg.Minimum)
	}
	var err error
	if t.launcher, err = process.NewLauncher(); err != nil {
		return err
	}
	if t.image, err = process.Measure(t.cfg.Image, t.cfg.ImageDigest); err != nil {
		return err
	}
	if t.memory, err = newMemory(); err != nil {
		return err
	}
	if t.decisions, err = openSpool(t.cfg.Dir, "decisions", decisionFile, decisionFiles); err != nil {
		return err
	}
	if t.logs, err = openSpool(t.cfg.Dir, "log", logFile, logFiles); err != nil {
		return err
	}
	if t.listeners, err = t.listen(inherited); err != nil {
		return err
	}
	return t.describe()
}

// ownFolder refuses a folder that somebody else could have prepared.
func ownFolder(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("tender: %s must be a folder that belongs to user %d", dir, os.Geteuid())
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	return nil
}

func (t *tender) close() {
	for _, f := range append(t.listeners, t.image) {
		if f != nil {
			f.Close()
		}
	}
	if t.memory != nil {
		t.memory.close()
	}
	for _, s := range []*spool{t.decisions, t.logs} {
		if s != nil {
			s.close()
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// listen makes the listeners, or takes duplicates of those handed over.
func (t *tender) listen(inherited []*os.File) ([]*os.File, error) {
	if t.cfg.Inherit && len(inherited) != len(t.cfg.Listen) {
		return nil, fmt.Errorf("tender: %d listeners were handed over, expected %d", len(inherited), len(t.cfg.Listen))
	}
	var files []*os.File
	for i, l := range t.cfg.Listen {
		f, err := t.listener(i, l, inherited)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("tender: listener %q on %s port %d: %w", l.Name, l.Address, l.Port, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func (t *tender) listener(i int, l Listener, inherited []*os.File) (*os.File, error) {
	var in net.Listener
	var err error
	if t.cfg.Inherit {
		in, err = net.FileListener(inherited[i])
	} else {
		in, err = net.Listen("tcp", net.JoinHostPort(l.Address, fmt.Sprint(l.Port)))
	}
	if err != nil {
		return nil, err
	}
	defer in.Close()
	tcp, ok := in.(*net.TCPListener)
	if !ok {
		return nil, errors.New("it is not a TCP listener")
	}
	if l.Port == 0 {
		t.cfg.Listen[i].Port = tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return duplicate(tcp)
}

// duplicate returns a file of the same socket. Unlike the one that File makes,
// it does not put the socket, which is shared with every image that was handed
// it, into blocking mode when its descriptor is passed on: an image would hang
// in accept and could not drain.
func duplicate(ln *net.TCPListener) (*os.File, error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	if err := raw.Control(func(s uintptr) { fd, failed = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("fcntl", failed)
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

// describe fills the parts of the status that are known before the launch.
func (t *tender) describe() error {
	t.status = Status{Instance: t.cfg.Instance, Tenant: t.cfg.Tenant, Workload: t.cfg.Workload, State: Starting, Target: "process",
		TenderPID: os.Getpid(), Tier: t.tier.String(), ImageDigest: t.cfg.ImageDigest, Plan: t.cfg.Plan, Listen: t.cfg.Listen, Memory: t.cfg.Memory,
		Started: time.Now().UTC()}
	return t.describeProgram(t.program)
}

// describeProgram reads what a signed program says of itself.
func (t *tender) describeProgram(signed []byte) error {
	p, err := program.Open(signed, t.cfg.Trust)
	if err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	t.status.Program, t.status.Content = program.Sum(signed).String(), p.Content().String()
	t.status.Policy, t.status.Level, t.status.Revision = p.Policy, p.Level(), p.Revision
	return nil
}

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

// supervise launches the image, again when it dies, until an order ends it.
func (t *tender) supervise(ready func()) error {
	served := false
	pause := firstPause
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
			if time.Since(born) > goodLife {
				pause = firstPause
			}
		}
		if !served {
			return err
		}
		t.log(FromTender, "%v; starting it again in %s", err, pause)
		t.died(err)
		select {
		case <-t.orders:
			t.setState(Stopped)
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
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
	t.memory.reset()
	slot, err := t.memory.offer(t.program)
	if err != nil {
		return nil, err
	}
	plan, err := program.ParsePlanID(t.cfg.Plan)
	if err != nil {
		return nil, err
	}
	conn, theirs, err := channel()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	output, sink, err := os.Pipe()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("tender: %w", err)
	}
	defer sink.Close()
	proc, err := t.launcher.Launch(process.Spec{Image: t.image, Control: theirs, Program: t.memory.file, Listeners: t.listeners,
		Output: sink, Syscalls: t.cfg.Syscalls, Memory: t.cfg.Memory, Confinement: t.confine})
	if err != nil {
		conn.Close()
		output.Close()
		return nil, err
	}
	theirs.Close()
	sink.Close()
	inst := newInstance(proc, conn, output, t, plan, t.cfg.Patience)
	t.mu.Lock()
	t.inst, t.status.PID = inst, proc.PID()
	t.mu.Unlock()
	if err := t.boot(inst, slot); err != nil {
		inst.fail(err)
		return nil, inst.wait()
	}
	t.memory.enforce(slot)
	t.setState(Ready)
	return inst, nil
}

// boot takes a fresh image to Ready and checks from outside what that claims.
func (t *tender) boot(inst *instance, slot uint8) error {
	seal, err := seccomp.Seal(t.cfg.Syscalls, inst.proc.Self())
	if err != nil {
		return err
	}
	t.txn++
	p := launch.Params{Version: abi.Version, Instance: t.cfg.Instance, Tenant: t.cfg.Tenant, Workload: t.cfg.Workload,
		Tier: t.tier.String(), MinRevision: max(t.cfg.MinRevision, t.status.Revision), MaxProcs: uint32(t.cfg.MaxProcs),
		MemoryLimit: t.cfg.Memory, Slots: slots, SlotSize: program.MaxSize, Seal: seal,
		First: control.Prepare{Txn: t.txn, Slot: slot, Length: uint32(len(t.program)), Secrets: t.secrets}}
	copy(p.Trust[:], t.cfg.Trust)
	for _, l := range t.cfg.Listen {
		p.Listeners = append(p.Listeners, launch.Listener{Name: l.Name, Port: l.Port})
	}
	if err := inst.send(p.Frame()); err != nil {
		return err
	}
	for _, step := range []struct {
		done <-chan struct{}
		what string
	}{{inst.hello, "did not say hello"}, {inst.ready, "did not become ready"}} {
		late := time.NewTimer(t.cfg.Patience)
		select {
		case <-step.done:
		case <-inst.proc.Done():
			return fmt.Errorf("it %s: %s", step.what, inst.proc.Death())
		case <-late.C:
			return fmt.Errorf("it %s within %s", step.what, t.cfg.Patience)
		}
		late.Stop()
	}
	err = inst.proc.Verify()
	if errors.Is(err, process.ErrDying) { // let it, and say of what
		select {
		case <-inst.proc.Done():
		case <-time.After(t.cfg.Patience):
		}
	}
	return err
}

// keep implements keeper. An image that sends more than a server could decide
// is read more slowly.
func (t *tender) keep(records []audit.Record) error {
	err := t.decisions.append(len(records), func(i int, seq uint64) ([]byte, error) { return t.decision(&records[i], seq) })
	if excess, rest, _ := t.records.add(time.Now(), len(records)); excess > 0 {
		time.Sleep(rest)
	}
	return err
}

// note implements keeper: a line of the image. One that writes too many loses
// some, and is read more slowly, though fast enough to die of a long trace.
func (t *tender) note(from, line string) {
	excess, _, past := t.lines.add(time.Now(), 1)
	if past > 0 {
		t.log(FromTender, "%d lines of the image were dropped: it writes more than %d a second", past, linesPerSecond)
	}
	if excess == 0 {
		t.log(from, "%s", line)
	} else if excess%64 == 0 {
		time.Sleep(time.Millisecond)
	}
}

// released implements keeper.
func (t *tender) released(slot uint8) error { return t.memory.release(slot) }

// enforced implements keeper.
func (t *tender) enforced(slot uint8) { t.memory.enforce(slot) }

// decodeConfig reads a Config from its JSON.
func decodeConfig(b []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, fmt.Errorf("tender: the configuration: %w", err)
	}
	return c, nil
}

// noCore keeps secrets out of core files.
func noCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("tender: RLIMIT_CORE: %w", err)
	}
	return nil
}

// socketPath is where the control socket of an instance lies.
func socketPath(dir string) string { return filepath.Join(dir, "control.sock") }

// lockPath is the file whose lock says that a tender owns the folder.
func lockPath(dir string) string { return filepath.Join(dir, "lock") }
