package tender

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/program"
)

// Names and sizes of the series of files in the runtime folder.
const (
	decisionSpool, logSpool     = "decisions", "log"
	decisionFile, decisionFiles = 4 << 20, 4
	logFile, logFiles           = 1 << 20, 2
)

// A tender is one instance and everything around it.
//
// Lock order: change, then mu. Neither is held while the image is waited for,
// except change, which makes changes of the program happen one at a time.
type tender struct {
	cfg       Config
	target    target
	tier      string // what the target's confinement amounts to
	memory    *memory
	decisions *spool
	logs      *spool
	listeners []*os.File
	lines     throttle
	records   throttle
	fires     throttle // under mu
	orders    chan order

	change chan struct{} // a lock with room for one that a context can give up on
	txn    uint64
	stir   chan struct{} // wakes govern; with room for one

	mu      sync.Mutex
	inst    *instance
	status  Status
	program []byte          // in force, signed
	batch   program.Batch   // that it is of
	levels  []*levelled     // all programs of it, from the lowest level up
	stance  Stance          // which of them are asked for
	began   []Raised        // of the stance that it was started with
	asked   time.Time       // when something else was; zero: now
	before  string          // the level before the one in force
	changed chan struct{}   // closed when the level changes, or why it is in force
	egress  *egress.Section // of it; nil: images make no connections
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
// A cancelled ctx drains. The listeners, where there are any, are those of
// cfg.Listen, nil for one that is not handed over; Run closes them.
func Run(ctx context.Context, cfg Config, listeners []*os.File, ready func()) error {
	defer closeAll(listeners)
	if err := cfg.validate(); err != nil {
		return err
	}
	t := &tender{cfg: cfg, target: targetOf(&cfg), program: cfg.Program, secrets: cfg.Secrets, orders: make(chan order, 1), change: make(chan struct{}, 1),
		stir: make(chan struct{}, 1), changed: make(chan struct{}),
		lines: throttle{limit: linesPerSecond}, records: throttle{limit: recordsPerSecond}, fires: throttle{limit: firesPerSecond}}
	t.cfg.Program, t.cfg.Secrets = nil, nil
	if err := t.open(listeners); err != nil {
		t.close()
		return err
	}
	closeAll(listeners) // it has duplicates
	srv, err := t.serve()
	if err != nil {
		t.close()
		return err
	}
	defer t.leave(srv)
	governed, end := context.WithCancel(context.Background())
	defer end()
	go t.govern(governed)
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
	var err error
	if t.decisions, err = openSpool(t.cfg.Dir, decisionSpool, decisionFile, decisionFiles); err != nil {
		return err
	}
	if t.logs, err = openSpool(t.cfg.Dir, logSpool, logFile, logFiles); err != nil {
		return err
	}
	if t.tier, err = t.target.open(t); err != nil {
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

// leave gives up all that the tender has: last the lock of the folder, for which others wait
// who need what it had, such as its addresses or its interface.
func (t *tender) leave(srv *server) {
	srv.close()
	t.close()
	srv.lock.Close()
}

func (t *tender) close() {
	closeAll(t.listeners)
	t.target.close()
	for _, s := range []*spool{t.decisions, t.logs} {
		if s != nil {
			s.close()
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// describe fills the parts of the status that are known before the launch.
func (t *tender) describe() error {
	t.status = Status{Instance: t.cfg.Instance, Tenant: t.cfg.Tenant, Workload: t.cfg.Workload, State: Starting, Target: t.cfg.Target, Net: t.cfg.Net, Interface: t.cfg.Interface,
		TenderPID: os.Getpid(), Tier: t.tier, ImageDigest: t.cfg.ImageDigest, Plan: t.cfg.Plan, Listen: t.cfg.Listen, Memory: t.cfg.Memory,
		Started: time.Now().UTC()}
	levels, begin, err := orderPrograms(t.program, t.cfg.Others)
	if err != nil {
		return err
	}
	t.cfg.Others = nil
	if err := t.verify(levels); err != nil {
		return err
	}
	l := levels[slices.IndexFunc(levels, func(l *levelled) bool { return l.name == begin })]
	t.levels, t.stance = levels, Stance{Initial: begin}
	if s := t.cfg.Stance; s != nil {
		t.stance = *s
		t.stance.keep(namesOf(levels))
		if !slices.Contains(namesOf(levels), s.Initial) {
			return fmt.Errorf("tender: there is no program for level %q, the initial one", s.Initial)
		}
	}
	t.began = slices.Clone(t.stance.Raised)
	if err := t.describeProgram(&l.reading); err != nil {
		return err
	}
	// What has ended since the stance was taken ends once the image is ready.
	_, why := t.stance.decide(namesOf(levels))
	t.status.Standing.Since = t.status.Started
	t.stands(l, why, begin)
	return nil
}

// A reading is what a signed program says of itself.
type reading struct {
	*program.Program
	sum, content program.Digest
	err          error
}

func (t *tender) read(signed []byte, sum program.Digest) (r reading) {
	r.sum = sum
	if r.Program, r.err = program.Open(signed, t.cfg.Trust); r.err != nil {
		r.err = fmt.Errorf("tender: %w", r.err)
		return r
	}
	r.content = r.Content()
	return r
}

// describeProgram has the status tell of a program.
func (t *tender) describeProgram(r *reading) (err error) {
	if r.err != nil {
		return r.err
	}
	t.status.Program, t.status.Content = r.sum.String(), r.content.String()
	t.status.Policy, t.status.Level, t.status.Revision = r.Policy, r.Level(), r.Revision
	t.batch.Enter(r.Revision, r.Level(), r.sum)
	t.status.DryRun, t.status.Records = dryRunOf(r.Program), recordsOf(r.Program)
	t.egress, err = egressOf(r.Program)
	return err
}

// egressOf returns the rules of a program for connections, nil where it has none.
func egressOf(p *program.Program) (*egress.Section, error) {
	b := p.Section(egress.Name)
	if b == nil {
		return nil, nil
	}
	s, err := egress.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	return &s, nil
}

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
