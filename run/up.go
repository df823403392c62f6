package run

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog/lock"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// Kinds of events.
const (
	EventStep     = "step"     // progress of a build
	EventReady    = "ready"    // an instance serves
	EventUp       = "up"       // everything serves; once
	EventNotice   = "notice"   // what a deployment is tried with on this machine
	EventApplied  = "applied"  // a change of the documents is in force
	EventRefused  = "refused"  // a change was refused; what ran still runs
	EventDied     = "died"     // a tender is gone, or could not be started again; it is tried again
	EventFailed   = "failed"   // an instance could not be ended in order
	EventDecision = "decision" //
	EventLevel    = "level"    // another level is in force
	EventDrained  = "drained"  // an instance has ended in order
)

// An Event is something that happened while Up runs.
type Event struct {
	Time       time.Time           `json:"time"`
	Kind       string              `json:"event"`
	Deployment string              `json:"deployment,omitempty"`
	Text       string              `json:"text,omitempty"`
	Change     Change              `json:"change,omitempty"`
	TookMillis float64             `json:"tookMillis,omitempty"`
	Status     *tender.Status      `json:"status,omitempty"`
	Errors     policy.Errors       `json:"errors,omitempty"`
	Decision   *tender.Decision    `json:"decision,omitempty"`
	Level      *tender.LevelChange `json:"level,omitempty"`
}

// UpOptions say what Up brings up.
type UpOptions struct {
	Path    string
	Level   string // "": the initial level of each policy
	Target  string // "": that of each workload
	Network string // "": that of each workload
}

// up is one run of Up: the deployments it holds up.
type up struct {
	*Machine
	options UpOptions
	sink    func(Event)

	mu    sync.Mutex // around sink
	held  map[string]*held
	died  chan *held // its tender ended
	stood chan stood // another level is in force
	wrong bool       // the last change was refused

	docs   map[string]*policy.Deployment // as they are in force: a change may be refused in part
	locks  map[string]*os.File           // of the deployments that were held
	dead   map[string]*held              // by folder, which is still there
	again  chan string                   // a deployment whose pause is over
	pause  map[string]time.Duration      // the last one of each that died
	builds sync.WaitGroup                // ahead of the levels that need them
}

// held is one deployment that Up holds up.
type held struct {
	*Instance
	lease   *tender.Lease
	secrets [sha256.Size]byte
	stop    context.CancelFunc // of the stream of decisions
	ended   chan struct{}      // closed when that stream has ended
	from    atomic.Uint64      // the next decision to show
	since   time.Time
	plan    *Plan // the last one
}

// stood is a level that an instance came to.
type stood struct {
	*held
	now tender.LevelChange
}

// load reads the documents.
func (u *up) load() (*policy.Bundle, error) {
	b, err := policy.Load(u.options.Path)
	if err == nil {
		err = b.Retarget(u.options.Target, u.options.Network)
	}
	return b, err
}

// A change that came as what runs died is tried again after a while, but not for ever: it
// may be what it died of.
const (
	againAfter = 2 * time.Second
	againMost  = 3
)

// Up brings every deployment of the documents up and keeps it so: it takes over
// what already runs, follows changes of the files, starts again what dies, and
// reports everything to sink, which is called by one goroutine at a time. When
// ctx ends it drains all and returns nil, or ErrLeft; it also returns nil when all that it
// holds was taken down by somebody else. It returns an error, with nothing left
// running, when the documents cannot be brought up at first.
func (m *Machine) Up(ctx context.Context, o UpOptions, sink func(Event)) (err error) {
	u := &up{Machine: m, options: o, sink: sink, held: map[string]*held{}, died: make(chan *held, 16), stood: make(chan stood, 16),
		again: make(chan string, 16), pause: map[string]time.Duration{}, docs: map[string]*policy.Deployment{}, locks: map[string]*os.File{}, dead: map[string]*held{}}
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); err = cmp.Or(err, u.end()) }()
	// The first load says what to watch; what is used is read after the first
	// look, so that no change falls in between.
	bundle, err := u.load()
	if err != nil {
		return err
	}
	var watched atomic.Pointer[[]string]
	look := func(list []string) { watched.Store(&list) }
	paths := func() []string { return append(documents(o.Path), *watched.Load()...) }
	look(inputs(bundle))
	taken := stampOf(paths())
	if bundle, err = u.load(); err != nil {
		return err
	}
	if err := u.apply(ctx, bundle); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	u.emit(Event{Kind: EventUp})
	changes := watch(ctx, taken, paths)
	refresh := time.NewTicker(refreshInterval)
	defer refresh.Stop()
	var refused builder.Stamp  // of what was wrong, from before it was read
	var again <-chan time.Time // the last change was not refused for good
	tries := 0
	// follow brings what runs to the documents as they are now.
	follow := func() {
		again = nil
		refused = stampOf(paths())
		next, err := u.load()
		for range 3 { // it may name other files, and what mends it be one that nothing named before
			var names []string
			if err == nil {
				names = inputs(next)
			} else {
				names = append(inputs(bundle), named(policy.Decoded(o.Path))...)
			}
			if slices.Equal(names, *watched.Load()) {
				break
			}
			look(names)
			refused = stampOf(paths())
			next, err = u.load()
		}
		if err == nil {
			err = u.apply(ctx, next)
		}
		if err == nil {
			bundle = next
		}
		if u.wrong = err != nil; !u.wrong || ctx.Err() != nil {
			return
		}
		if tries++; errors.Is(err, tender.ErrNotReady) && tries < againMost {
			again = time.After(againAfter)
			err = fmt.Errorf("%w. It is tried again in %s", err, againAfter)
		}
		u.refused(err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			if u.wrong && stampOf(paths()) == refused {
				continue // other files are watched, and nothing changed
			}
			tries = 0
			follow()
		case <-again:
			follow()
		case <-refresh.C:
			u.refresh(ctx)
		case h := <-u.died:
			// A predecessor that was replaced ends as well; that is no death.
			name := h.Deployment()
			switch {
			case u.held[name] != h:
			case h.inOrder(ctx):
				if u.succeeded(ctx, name) {
					h.release()
					delete(u.held, name)
					u.restart(ctx, name)
					continue
				}
				u.let(name)
				if len(u.held)+len(u.pause) == 0 {
					return nil
				}
			default:
				if time.Since(h.since) > tender.GoodLife {
					delete(u.pause, name)
				}
				h.release()
				delete(u.held, name)
				u.dead[h.Dir] = h
				h.abandoned()
				u.retry(ctx, name, "its tender is gone")
			}
		case s := <-u.stood:
			if u.held[s.Deployment()] == s.held {
				u.level(ctx, s)
			}
		case name := <-u.again:
			u.restart(ctx, name)
		}
	}
}

func (u *up) emit(e Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	e.Time = time.Now()
	u.sink(e)
}

func (u *up) refused(err error) {
	e := Event{Kind: EventRefused, Text: err.Error()}
	errors.As(err, &e.Errors)
	u.emit(e)
}

// documents are the files that policy.Load reads, or path where there is none.
// Whatever else lies in the folder, such as a log of up itself, is no change.
func documents(path string) []string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return []string{path}
	}
	var list []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".yaml" || ext == ".yml" {
			list = append(list, filepath.Join(path, e.Name()))
		}
	}
	return list
}

// inputs are the files and folders beside the documents that decide what runs.
func inputs(b *policy.Bundle) []string {
	var workloads []*api.Workload
	var policies []*api.SecurityPolicy
	for _, d := range b.Deployments {
		workloads, policies = append(workloads, d.Workload), append(policies, d.Policy)
	}
	return named(workloads, policies)
}

// named lists the files and folders that documents name.
func named(workloads []*api.Workload, policies []*api.SecurityPolicy) []string {
	var list []string
	add := func(dir, p string) {
		if p == "" { // it is not written yet
			return
		}
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		list = append(list, p)
	}
	for _, w := range workloads {
		switch {
		case w.App.Static != nil:
			add(w.Dir, w.App.Static.Dir)
		case w.App.Handler != nil:
			add(w.Dir, w.App.Handler.Module)
		case w.App.Proxy != nil && w.App.Proxy.Trust != "":
			add(w.Dir, w.App.Proxy.Trust)
		}
		for i := range w.Modules {
			if m := &w.Modules[i]; m.Path != "" {
				add(m.Dir, m.Path)
			}
		}
		if len(w.Modules) > 0 {
			add(w.Dir, lock.Name)
		}
	}
	for _, p := range policies {
		for _, s := range p.Secrets {
			if s.File != "" {
				add(p.Dir, s.File)
			}
		}
	}
	return list
}

// apply brings what runs to the documents: first everything that is in them,
// then the end of what no longer is.
func (u *up) apply(ctx context.Context, b *policy.Bundle) error {
	wanted := map[string]bool{}
	for _, d := range b.Deployments {
		wanted[d.Name()] = true
	}
	var leaving []*Instance
	for name, h := range u.held {
		if !wanted[name] {
			leaving = append(leaving, h.Instance)
		}
	}
	var err error
	var applied []string
	for _, d := range b.Deployments {
		if err = u.one(ctx, d, leaving, nil); err != nil {
			break
		}
		applied = append(applied, d.Name())
	}
	for name, h := range u.held {
		// After a refusal what leaves goes on, but never beside a successor that
		// serves the same address.
		took := slices.ContainsFunc(applied, func(a string) bool {
			return slices.ContainsFunc(u.held[a].Status.Listen, func(l tender.Listener) bool { return listens(h.Instance, l) >= 0 })
		})
		if !wanted[name] && (err == nil || took) {
			u.drop(name, h)
			delete(u.held, name)
			u.forget(name)
		}
	}
	for name := range u.locks {
		if wanted[name] || u.held[name] != nil || err != nil {
			continue
		}
		if _, died := u.pause[name]; died {
			u.drop(name, nil)
		}
		u.forget(name)
	}
	return err
}

// forget lets a deployment go that is not to run any more.
func (u *up) forget(name string) {
	delete(u.docs, name)
	delete(u.pause, name)
	u.unlock(name)
}

// refresh renews what this machine has made for development.
func (u *up) refresh(ctx context.Context) {
	for _, d := range u.docs {
		if !developed(d.Policy) {
			continue
		}
		if err := u.one(ctx, d, nil, nil); err != nil && ctx.Err() == nil {
			u.refused(err)
		}
	}
}

// one applies one deployment and follows its instance. known is a plan of the same
// documents, where there is one.
func (u *up) one(ctx context.Context, d *policy.Deployment, leaving []*Instance, known *Plan) error {
	secrets, err := u.secrets(d)
	if err != nil {
		return err
	}
	sum := sha256.New()
	for _, s := range secrets {
		sum.Write(s.Value)
		sum.Write([]byte{0})
	}
	if u.locks[d.Name()] == nil {
		lock, err := lockUp(u.paths.Data, d.Name(), "up")
		if err != nil {
			return err
		}
		u.locks[d.Name()] = lock
	}
	h := u.held[d.Name()]
	digest := [sha256.Size]byte(sum.Sum(nil))
	var now *Instance
	if h != nil {
		now = h.Instance
	}
	applied, err := u.Apply(ctx, d, Options{
		Level: u.options.Level, Leased: true, Leaving: leaving, Held: now, Last: func(dir string) { u.last(h, d.Name(), dir) },
		// An instance that was found running may hold older secrets.
		Refresh:  len(secrets) > 0 && (h == nil || h.secrets != digest),
		Progress: func(s builder.Step) { u.emit(Event{Kind: EventStep, Deployment: d.Name(), Text: stepText(s)}) },
		Plan:     known,
	})
	if errors.Is(err, errTakenDown) {
		return nil // and is let go of as any that ends in order
	}
	if err != nil {
		return err
	}
	u.docs[d.Name()] = d
	for dir, x := range u.dead {
		if x.Deployment() == d.Name() {
			delete(u.dead, dir)
		}
	}
	status := applied.Instance.Status
	same := h != nil && h.Dir == applied.Instance.Dir
	if same {
		h.secrets, h.Status = digest, status
	} else {
		if h != nil {
			h.release()
		}
		if h, err = u.hold(ctx, applied, digest); err != nil {
			delete(u.held, d.Name())
			return err
		}
	}
	h.plan = applied.Plan
	kind := EventApplied
	if u.held[d.Name()] == nil {
		kind = EventReady
	}
	u.held[d.Name()] = h
	// That nothing changes is said where it takes back a refusal only: what is
	// said may be written to a file among those that are watched.
	if same && applied.Change == ChangeNone && !u.wrong {
		return nil
	}
	u.emit(Event{Kind: kind, Deployment: d.Name(), Change: applied.Change, Status: &status, Text: gapText(applied, d),
		TookMillis: float64(applied.Took.Microseconds()) / 1000})
	u.ahead(ctx, applied.Plan)
	if notice := u.developmentNotice(d); notice != "" && kind == EventReady {
		u.emit(Event{Kind: EventNotice, Deployment: d.Name(), Text: notice})
	}
	if applied.Left != nil && ctx.Err() == nil {
		u.emit(Event{Kind: EventFailed, Deployment: d.Name(), Text: "the instance before it did not end in order: " + applied.Left.Error()})
	}
	return nil
}

// gapText says that nobody was served while a change was made.
func gapText(a *Applied, d *policy.Deployment) string {
	if !a.Gap {
		return ""
	}
	return "the one before it ended first, and nobody was served meanwhile: one instance at a time has the interface " + d.Workload.Interface.Name
}

// hold takes the lease of an instance and follows its decisions: all of one
// that was started, those from now on of one that was found running.
func (u *up) hold(ctx context.Context, a *Applied, secrets [sha256.Size]byte) (*held, error) {
	i, lease := a.Instance, a.Lease
	h := &held{Instance: i, secrets: secrets, ended: make(chan struct{}), since: a.At}
	if lease == nil {
		h.from.Store(i.Status.Decisions + 1)
		var err error
		if lease, err = i.Lease(ctx); err != nil {
			return nil, err
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	h.lease, h.stop = lease, stop
	name, level := i.Deployment(), i.Status.Level // a later change writes the status
	go u.watchLevel(ctx, h, level)
	go func() {
		// A tender breaks off a stream that is not read, as on a terminal that
		// stands still: then it goes on where it was.
		for {
			err := i.Decisions(ctx, h.from.Load(), true, func(d tender.Decision) error {
				if ctx.Err() != nil { // last has taken over
					return ctx.Err()
				}
				return u.show(name, &h.from, &d)
			})
			if err == nil || ctx.Err() != nil {
				break
			}
			if _, err := i.Client.Status(ctx); err != nil && i.gone() {
				break // and is not just stopped
			}
			time.Sleep(100 * time.Millisecond)
		}
		close(h.ended)
		select {
		case u.died <- h:
		case <-ctx.Done():
		}
	}()
	return h, nil
}

// watchLevel tells of every level that the instance of h comes to from the last one on.
func (u *up) watchLevel(ctx context.Context, h *held, last string) {
	plan := ""
	for ctx.Err() == nil {
		err := h.Levels(ctx, func(now tender.LevelChange) error {
			if now.Level == last && now.Standing.Plan == plan {
				return nil
			}
			now.Before, last, plan = last, now.Level, now.Standing.Plan
			select {
			case u.stood <- stood{h, now}:
			case <-ctx.Done():
			}
			return ctx.Err()
		})
		if err == nil || h.gone() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// level reports a level that an instance came to, and where that has an image of its own
// has it take over. Until then, and where it cannot, the program in force denies what the
// image that runs cannot enforce.
func (u *up) level(ctx context.Context, s stood) {
	s.Status.Level, s.Status.Standing = s.now.Level, s.now.Standing
	name, now := s.Deployment(), s.now
	if now.Before != now.Level {
		u.emit(Event{Kind: EventLevel, Deployment: name, Level: &now, TookMillis: now.Standing.TookMillis})
	}
	if now.Standing.Plan == "" {
		return
	}
	if err := u.one(ctx, u.docs[name], nil, s.plan); err != nil {
		if ctx.Err() == nil {
			u.refused(fmt.Errorf("level %s keeps the image that runs, which denies what it cannot enforce: %w", now.Level, err))
		}
		return
	}
	h := u.held[name]
	if h == nil || h == s.held || h.Status.Level != now.Level {
		return
	}
	asked := now.Standing.Since.Add(-time.Duration(now.Standing.TookMillis * float64(time.Millisecond)))
	u.emit(Event{Kind: EventLevel, Deployment: name, Text: "its own image took over", TookMillis: float64(h.since.Sub(asked).Microseconds()) / 1000,
		Level: &tender.LevelChange{Level: now.Level, Before: now.Before, Revision: h.Status.Revision, Standing: h.Status.Standing}})
}

// ahead builds the images of the other levels, so that none is built when it is needed.
func (u *up) ahead(ctx context.Context, p *Plan) {
	if p.Deployment.Policy.Levels.Pool != api.PoolProactive {
		return
	}
	name := p.Deployment.Name()
	u.builds.Go(func() {
		for _, l := range p.Levels {
			if l.Image != nil {
				continue
			}
			_, err := u.store.Build(ctx, l.Build, func(s builder.Step) {
				u.emit(Event{Kind: EventStep, Deployment: name, Text: "level " + l.Name + ": " + stepText(s)})
			})
			if err != nil && ctx.Err() == nil {
				u.emit(Event{Kind: EventFailed, Deployment: name, Text: "the image of level " + l.Name + ": " + err.Error()})
			}
		}
	})
}

// show reports a decision and counts it.
func (u *up) show(deployment string, from *atomic.Uint64, d *tender.Decision) error {
	from.Store(d.Seq + 1)
	u.emit(Event{Kind: EventDecision, Deployment: deployment, Decision: d})
	return nil
}

// last reports what an instance that has ended decided and nobody saw, before its
// folder goes: what h did not show of its own, as its tender was killed or this
// process did not keep up, and all of one that an earlier up left behind.
func (u *up) last(h *held, deployment, dir string) {
	from := &atomic.Uint64{}
	if died := u.dead[dir]; died != nil {
		h = died
	}
	if h != nil && h.Dir == dir {
		h.release()
		from = &h.from
	}
	err := tender.Left(dir, from.Load(), func(d tender.Decision) error { return u.show(deployment, from, &d) })
	if err != nil {
		u.emit(Event{Kind: EventFailed, Deployment: deployment, Text: err.Error()})
	}
}

// lastDecisions bounds the wait for what an instance that has ended decided last:
// its tender has handed all of it over, and it is on its way to the sink.
const lastDecisions = 10 * time.Second

// release lets go of an instance that has ended, once its last decisions came.
func (h *held) release() {
	select {
	case <-h.ended:
	case <-time.After(lastDecisions):
	}
	h.stop()
	h.lease.Close()
}

// inOrder reports whether a tender that is gone was asked to end, for example
// by 'lorica down'.
func (h *held) inOrder(ctx context.Context) bool {
	return !h.killed && h.Wait(ctx) == nil && h.InOrder()
}

// succeeded reports whether another process had a new instance take over.
func (u *up) succeeded(ctx context.Context, name string) bool {
	next, err := u.newest(ctx, name)
	return err == nil && next != nil && !leaves(&next.Status)
}

// let forgets a deployment that somebody else took down.
func (u *up) let(name string) {
	u.held[name].release()
	delete(u.held, name)
	u.forget(name)
	u.emit(Event{Kind: EventDrained, Deployment: name})
}

// retry has a deployment started again after a pause, longer each time.
func (u *up) retry(ctx context.Context, name, why string) {
	pause := tender.NextPause(u.pause[name])
	u.pause[name] = pause
	u.emit(Event{Kind: EventDied, Deployment: name, Text: why + "; starting it again in " + pause.String()})
	time.AfterFunc(pause, func() {
		select {
		case u.again <- name:
		case <-ctx.Done():
		}
	})
}

// restart brings a deployment up again whose tender is gone, as it was, unless a change did
// so meanwhile or took it out of the documents.
func (u *up) restart(ctx context.Context, name string) {
	d := u.docs[name]
	if d == nil || u.held[name] != nil {
		return
	}
	if err := u.one(ctx, d, nil, nil); err != nil && ctx.Err() == nil {
		u.retry(ctx, name, err.Error())
	}
}

// ErrLeft says that not all that ran has ended; events say why.
var ErrLeft = errors.New("not all that ran has ended")

// drop drains one deployment, whose tender h, if there is one, may be dead.
func (u *up) drop(name string, h *held) error {
	if h != nil {
		defer h.release()
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainGrace+drainLimit+10*time.Second)
	defer cancel()
	if err := u.down(ctx, name, func(dir string) { u.last(h, name, dir) }); err != nil {
		u.emit(Event{Kind: EventFailed, Deployment: name, Text: err.Error()})
		return ErrLeft
	}
	u.emit(Event{Kind: EventDrained, Deployment: name})
	return nil
}

// end drains everything that is held, side by side, and removes what is left of
// that which died and was to be started again.
func (u *up) end() error {
	var wg sync.WaitGroup
	var left atomic.Bool
	drop := func(name string, h *held) {
		if u.drop(name, h) != nil {
			left.Store(true)
		}
	}
	for name, h := range u.held {
		wg.Go(func() { drop(name, h) })
	}
	for name := range u.pause {
		if u.held[name] == nil {
			wg.Go(func() { drop(name, nil) })
		}
	}
	wg.Wait()
	u.builds.Wait()
	for name := range u.locks {
		u.unlock(name)
	}
	if left.Load() {
		return ErrLeft
	}
	return nil
}

// unlock lets others hold a deployment up.
func (u *up) unlock(name string) {
	u.locks[name].Close()
	delete(u.locks, name)
}

func stepText(s builder.Step) string {
	if s.Detail == "" {
		return string(s.Name)
	}
	return string(s.Name) + ": " + s.Detail
}
