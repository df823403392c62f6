package run

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/qemu"
	"lorica.dev/lorica/tender/way"
)

// Drain order of a replacement: see docs/architecture.md.
const (
	drainGrace = time.Second
	drainLimit = 30 * time.Second
)

// Applied is what Apply did.
type Applied struct {
	Change   Change
	Instance *Instance     // what runs now
	Lease    *tender.Lease // on a new instance, where Options.Leased
	Left     error         // why the instance before it did not end in order
	Gap      bool          // the instance before it ended first, and nobody was served meanwhile
	Took     time.Duration // from the decision to change until the change was in force
	At       time.Time     // when it was
	Plan     *Plan
}

// Options of Apply.
type Options struct {
	Level  string // "": the policy's initial level
	Leased bool   // take a lease on a new instance: it ends when nobody holds one
	// Leaving are instances of other deployments that will be ended after this:
	// what they listen on is handed over.
	Leaving []*Instance
	// Held is the instance that the caller holds. Where it was taken down meanwhile
	// nothing is started in its place.
	Held *Instance
	// Plan is one that was made for the same documents, where they have not changed: it is
	// not made again.
	Plan *Plan
	// Last is called with the folder of an instance that has ended, before it is
	// removed: tender.Left reads what is in it.
	Last     func(dir string)
	Refresh  bool // replace the program even if it is the same: a secret changed
	Progress func(builder.Step)
}

// Apply brings what runs to the plan: it starts the instance, replaces its
// program, or has a new image take over, whichever the change needs. On an error
// what ran before still runs, unchanged.
func (m *Machine) Apply(ctx context.Context, d *policy.Deployment, o Options) (*Applied, error) {
	book, err := openLedger(ctx, m.paths.Data, ledgerName(d.Name()))
	if err != nil {
		return nil, err
	}
	defer book.close()
	plan, err := m.planned(ctx, d, o.Plan)
	if err != nil {
		return nil, err
	}
	initial, err := plan.Level(o.Level)
	if err != nil {
		return nil, err
	}
	// What ran when the plan was made may have died since, or another have come.
	old, err := m.settle(ctx, d.Name())
	if err != nil {
		return nil, err
	}
	if old != nil {
		if old, err = awake(ctx, old); err != nil {
			return nil, err
		}
	}
	if old == nil && o.Held != nil && o.Held.takenDown() {
		return nil, errTakenDown
	}
	plan.Running = nil
	at := standing{level: initial, stance: tender.Stance{Initial: initial.Name}}
	if old != nil {
		plan.Running = &old.Status
		// What was set by hand, and what triggers raised, outlives a change of the documents.
		var name string
		at.stance, name = old.Status.Standing.Stance.Carry(initial.Name, plan.names())
		if at.level, err = plan.Level(name); err != nil {
			return nil, err
		}
	}
	a := &Applied{Change: plan.Change(at.level), Instance: old, At: time.Now(), Plan: plan}
	if a.Change == ChangeNone && (o.Refresh || old.Status.Standing.Stance.Initial != initial.Name) {
		a.Change = ChangeProgram
	}
	switch a.Change {
	case ChangeNone:
		return a, nil
	case ChangeProgram:
		err = m.replace(ctx, a, book, plan, at)
	default:
		err = m.takeOver(ctx, a, book, plan, at, o)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// planned returns the plan of a deployment: last, where that is of the same documents.
func (m *Machine) planned(ctx context.Context, d *policy.Deployment, last *Plan) (*Plan, error) {
	if last == nil || last.Deployment != d {
		if _, err := m.settle(ctx, d.Name()); err != nil {
			return nil, err
		}
		return m.Plan(ctx, d)
	}
	p := &Plan{Deployment: d}
	for _, l := range last.Levels {
		l := *l
		p.Levels = append(p.Levels, &l)
	}
	return p, nil
}

// A standing is a level that an instance is to be at, and why.
type standing struct {
	level  *Level
	stance tender.Stance
}

// errTakenDown says that somebody took the instance down that was to be changed.
var errTakenDown = errors.New("it was taken down")

// takenDown reports whether the tender is gone and was asked to end.
func (i *Instance) takenDown() bool { return !i.killed && i.gone() && i.InOrder() }

// gone reports whether the tender has ended.
func (i *Instance) gone() bool { return tender.Ended(i.Dir) }

// abandoned has the clients of an instance whose tender was killed answered, where the
// kernel still sends on to it what they say: when its image has followed the tender.
func (i *Instance) abandoned() {
	if i.Status.Way != tender.WayRouted {
		return
	}
	go func() {
		for range 100 {
			if err := syscall.Kill(i.Status.PID, 0); err != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		_ = way.Sweep() // else the next tender does
	}()
}

// settle ends all but one instance of a deployment, and returns that one, if any. Two are left where whoever had
// one take over from the other was killed in between: then clients are judged by
// this policy and by the one before it, as it happens. The newest stays if it
// serves; else the one before it, which does.
func (m *Machine) settle(ctx context.Context, deployment string) (*Instance, error) {
	list, err := m.of(ctx, deployment)
	if err != nil {
		return nil, err
	}
	for len(list) > 1 {
		first, last := list[0], list[len(list)-1]
		switch {
		case last.Status.State != tender.Ready && first.Status.State == tender.Ready:
			kill(last) // nobody was served by it
			list = list[:len(list)-1]
			continue
		case !leaves(&first.Status):
			if err := retire(ctx, first, nil); err != nil {
				return nil, err
			}
		}
		list = list[1:]
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list[0], nil
}

// replace puts a new program in force on the instance that runs.
func (m *Machine) replace(ctx context.Context, a *Applied, book *ledger, p *Plan, at standing) error {
	initial, err := p.Level(at.stance.Initial)
	if err != nil {
		return err
	}
	in, err := m.sign(book, p, initial, at.level)
	if err != nil {
		return err
	}
	start := time.Now()
	now, err := a.Instance.Replace(ctx, tender.Batch{Program: in.program, Others: in.others, Secrets: in.secrets})
	a.Took = time.Since(start)
	if err != nil {
		return err
	}
	s, err := a.Instance.Client.Status(ctx)
	if err != nil { // it is in force all the same
		s = a.Instance.Status
		s.Program, s.Content, s.Level, s.Revision = now.Program, now.Content, now.Level, now.Revision
	}
	a.Instance.Status = s
	return nil
}

// startsWithin bounds the wait for an instance whose image has died and is started
// again: it takes a program when it is ready.
const startsWithin = 30 * time.Second

// awake waits while an instance starts, and returns it as it is then: nil where it is
// gone.
func awake(ctx context.Context, i *Instance) (*Instance, error) {
	late := time.Now().Add(startsWithin)
	for {
		s, err := i.Client.Status(ctx)
		if err != nil && ctx.Err() == nil && i.gone() {
			return nil, nil
		}
		if i.Status = s; err != nil || s.State != tender.Starting || time.Now().After(late) {
			return i, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// takeOver starts a new instance, from a new image where the plan has none yet,
// and ends the one before it, if any.
func (m *Machine) takeOver(ctx context.Context, a *Applied, book *ledger, p *Plan, at standing, o Options) error {
	var err error
	d, l := p.Deployment, at.level
	if l.Image == nil { // or built since the plan was made
		if l.Image, err = m.store.Find(l.Build.ID); err != nil {
			return err
		}
	}
	if l.Image == nil {
		if d.Workload.Target == api.TargetMicroVM {
			if _, err = qemu.Find(""); err != nil { // else it is built for nothing
				return err
			}
		}
		if a.Instance != nil && o.Leased && o.Held == nil {
			// A build may take longer than an instance waits for the next up.
			if lease, err := a.Instance.Lease(ctx); err == nil {
				defer lease.Close()
			}
		}
		if l.Image, err = m.store.Build(ctx, l.Build, o.Progress); err != nil {
			return err
		}
		// It may have died meanwhile.
		if a.Instance, err = m.newest(ctx, d.Name()); err != nil {
			return err
		}
	}
	in, err := m.sign(book, p, l, l)
	if err != nil {
		return err
	}
	old := a.Instance
	last := o.Last
	if old != nil && (o.Held == nil || o.Held.Dir != old.Dir) {
		last = nil // whoever held it has shown what it decided
	}
	if old != nil { // what was asked of it while an image was built
		if s, err := old.Client.Status(ctx); err == nil {
			at.stance, _ = s.Standing.Stance.Carry(at.stance.Initial, p.names())
		}
	}
	start := time.Now()
	if old != nil && contend(&old.Status, d.Workload) {
		a.Gap = true
		if o.Held != nil && o.Held.Dir == old.Dir {
			o.Held.killed = true // and is started again where nothing takes its place
		}
		a.Left = retire(ctx, old, last)
		old = nil
	}
	if a.Instance, err = m.launch(ctx, d, at, in, old, o); err != nil {
		if a.Gap {
			err = fmt.Errorf("%w; what ran was ended before, since one instance at a time has the interface %s", err, d.Workload.Interface.Name)
		}
		return err
	}
	a.At = time.Now()
	a.Took = a.At.Sub(start)
	if old != nil {
		m.adopt(ctx, a.Instance, old, p, at)
	}
	// The end of the one before may take longer than a new one waits for a lease.
	if a.Instance.Status, err = a.Instance.Client.Status(ctx); err == nil && o.Leased {
		a.Lease, err = a.Instance.Lease(ctx)
	}
	if err != nil {
		kill(a.Instance)
		return err
	}
	if old != nil {
		if a.Instance.Status.Way == tender.WayRouted && old.Status.Way != tender.WayRouted {
			// Who had connected when the kernel began to route is for the old one to accept, which
			// it does until it drains: its successor accepts nobody at their socket.
			select {
			case <-ctx.Done():
			case <-time.After(drainGrace):
			}
		}
		a.Left = retire(ctx, old, last)
	}
	return nil
}

// adopt has a new instance ask for the levels that were asked of the one before it while
// it was started.
func (m *Machine) adopt(ctx context.Context, now, old *Instance, p *Plan, at standing) {
	s, err := old.Client.Status(ctx)
	if err != nil {
		return // it is gone, and nobody can ask it any more
	}
	stance, _ := s.Standing.Stance.Carry(at.stance.Initial, p.names())
	if !stance.Same(&at.stance) {
		_, _ = now.Adopt(ctx, stance) // it is tried again, where it cannot be yet
	}
}

// contend reports whether an instance has the interface that a workload is to be on: it
// must end before the next one can start.
func contend(s *tender.Status, w *api.Workload) bool {
	return s.Interface != nil && w.Interface != nil && s.Interface.Name == w.Interface.Name
}

// kill ends an instance that nobody will use.
func kill(i *Instance) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = i.Stop(ctx)
	if i.Wait(ctx) == nil {
		os.RemoveAll(i.Dir)
	}
}

// An input is what an instance is given: the signed program of the level to begin with,
// those of the others, their revision, and the secrets that they refer to.
type input struct {
	program  []byte
	others   []tender.Signed
	revision uint64
	secrets  []control.Secret
}

// sign makes the programs of all levels for the image of one of them, under a revision
// of their own: who selects a level later makes no policy.
func (m *Machine) sign(book *ledger, p *Plan, first, image *Level) (input, error) {
	secrets, err := m.secrets(p.Deployment)
	if err != nil {
		return input{}, err
	}
	revision, err := book.next()
	if err != nil {
		return input{}, err
	}
	in := input{revision: revision, secrets: secrets}
	for _, l := range p.Levels {
		signed, err := program.Sign(l.ProgramIn(p.Deployment, image.Level, image.Build.ID, revision), m.key)
		if err != nil {
			return input{}, err
		}
		if l == first {
			in.program = signed
		} else {
			s := tender.Signed{Program: signed}
			if l.Build.ID != image.Build.ID {
				s.Plan = planText(l.Build.ID)
				for _, r := range l.Lacks(image.Level) {
					s.Lacks = append(s.Lacks, fmt.Sprintf("%s (%s)", r.ID, r.Line))
				}
			}
			in.others = append(in.others, s)
		}
	}
	return in, nil
}

// newest returns the newest instance of a deployment, or nil.
func (m *Machine) newest(ctx context.Context, deployment string) (*Instance, error) {
	list, err := m.of(ctx, deployment)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[len(list)-1], nil
}

// launch starts a tender and waits until its image answers requests. What older
// instances listen on is handed over, so that no connection is refused in between.
func (m *Machine) launch(ctx context.Context, d *policy.Deployment, at standing, in input, old *Instance, o Options) (*Instance, error) {
	if old == nil {
		if o.Held != nil && !o.Held.takenDown() {
			o.Held.killed = true
		}
		if err := m.sweep(ctx, d.Name(), o.Last); err != nil {
			return nil, err
		}
	}
	l := at.level
	var suffix [4]byte
	rand.Read(suffix[:])
	name := d.Workload.Metadata.Name + "-" + hex.EncodeToString(suffix[:])
	cfg := tender.Config{
		Instance: name, Tenant: d.Workload.Metadata.Tenant, Workload: d.Workload.Metadata.Name,
		Dir:   filepath.Join(m.paths.Runtime, folderPrefix(d.Name())+hex.EncodeToString(suffix[:])),
		Image: l.Image.Path, ImageDigest: l.Image.Digest, Plan: planText(l.Build.ID), Target: d.Workload.Target, Net: network(d.Workload), IPv4: ipv4Alone(l, d.Workload), Interface: d.Workload.Interface,
		Syscalls: l.Image.Syscalls, Devices: l.Image.Devices, Trust: m.Trust(),
		MinRevision: in.revision, Program: in.program, Others: in.others, Stance: &at.stance, Secrets: in.secrets,
		Memory: d.Workload.Memory, Minimum: d.Workload.Minimum, Leased: o.Leased,
		Listen: listeners(d.Workload),
	}
	before := o.Leaving
	if old != nil {
		before = append(slices.Clone(before), old)
	}
	var files []*os.File
	var err error
	if cfg.Interface == nil {
		files, err = handOver(ctx, cfg.Listen, before)
	}
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	client, err := tender.Start(ctx, []string{m.exe, "tender"}, cfg, files)
	if err != nil {
		os.RemoveAll(cfg.Dir) // the error has its last words
		return nil, err
	}
	return &Instance{Client: client, Dir: cfg.Dir}, nil
}

// handOver returns the sockets that instances listen on for a list of listeners,
// nil where none of them does.
func handOver(ctx context.Context, list []tender.Listener, from []*Instance) ([]*os.File, error) {
	files := make([]*os.File, len(list))
	for _, i := range from {
		if i.Status.Interface != nil { // its image listens, on another network
			continue
		}
		if !slices.ContainsFunc(list, func(l tender.Listener) bool { return listens(i, l) >= 0 }) {
			continue
		}
		theirs, err := i.Listeners(ctx)
		if err == nil && len(theirs) != len(i.Status.Listen) {
			err = fmt.Errorf("%d for %d listeners", len(theirs), len(i.Status.Listen))
		}
		if err != nil {
			// One that ends by itself needs none any more when it has ended.
			if leaves(&i.Status) && i.Wait(ctx) == nil {
				continue
			}
			return files, fmt.Errorf("handing over the listening sockets of %s: %w", i.Status.Instance, err)
		}
		for n, l := range list {
			if at := listens(i, l); at >= 0 && files[n] == nil {
				files[n], theirs[at] = theirs[at], nil
			}
		}
		for _, f := range theirs {
			if f != nil {
				f.Close()
			}
		}
	}
	return files, nil
}

// listens returns where in its list an instance has the address of l, or -1.
func listens(i *Instance, l tender.Listener) int {
	return slices.IndexFunc(i.Status.Listen, func(x tender.Listener) bool { return x.Address == l.Address && x.Port == l.Port })
}

// leaves reports whether an instance is ending.
func leaves(s *tender.Status) bool { return s.State == tender.Draining || s.State == tender.Stopped }

// retire ends an instance and removes its folder, which last, where it is given, is
// told before. It drains; a tender that cannot be asked is gone already, or is killed
// with its image.
func retire(ctx context.Context, old *Instance, last func(dir string)) error {
	if err := old.Drain(ctx, drainGrace, drainLimit); err != nil {
		_ = old.Stop(ctx)
	}
	if err := old.Wait(ctx); err != nil {
		return err
	}
	if !old.InOrder() {
		old.abandoned()
	}
	if last != nil {
		last(old.Dir)
	}
	return os.RemoveAll(old.Dir)
}

// Down drains the instances of a deployment and removes what they left. It waits for
// a change that is under way, which would start one more. Its error tells of those that
// do not answer, or did not end.
func (m *Machine) Down(ctx context.Context, deployment string) error {
	return m.down(ctx, deployment, nil)
}

// down calls last with the folder of an instance that has ended before it goes.
func (m *Machine) down(ctx context.Context, deployment string, last func(dir string)) error {
	book, err := openLedger(ctx, m.paths.Data, ledgerName(deployment))
	if err != nil {
		return err
	}
	defer book.close()
	list, err := m.of(ctx, deployment) // who does not answer keeps no other from its end
	for _, i := range list {
		err = errors.Join(err, retire(ctx, i, last))
	}
	if err != nil {
		return err
	}
	return m.sweep(ctx, deployment, last)
}
