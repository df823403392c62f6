package run

import (
	"context"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// Kinds of events.
const (
	EventStep     = "step"     // progress of a build
	EventReady    = "ready"    // an instance serves
	EventUp       = "up"       // everything serves; once
	EventApplied  = "applied"  // a change of the documents is in force
	EventRefused  = "refused"  // a change was refused; what ran still runs
	EventDied     = "died"     // a tender is gone; it is started again
	EventDecision = "decision" //
	EventDrained  = "drained"  // an instance has ended in order
)

// An Event is something that happened while Up runs.
type Event struct {
	Time       time.Time        `json:"time"`
	Kind       string           `json:"event"`
	Deployment string           `json:"deployment,omitempty"`
	Text       string           `json:"text,omitempty"`
	Change     Change           `json:"change,omitempty"`
	TookMillis float64          `json:"tookMillis,omitempty"`
	Status     *tender.Status   `json:"status,omitempty"`
	Errors     policy.Errors    `json:"errors,omitempty"`
	Decision   *tender.Decision `json:"decision,omitempty"`
}

// UpOptions say what Up brings up.
type UpOptions struct {
	Path  string
	Level string // "": the initial level of each policy
}

// up is one run of Up: the deployments it holds up.
type up struct {
	*Machine
	options UpOptions
	sink    func(Event)

	mu   sync.Mutex // around sink
	held map[string]*held
	died chan *held // its tender ended
}

// held is one deployment that Up holds up.
type held struct {
	*Instance
	lease   *tender.Lease
	secrets [sha256.Size]byte
	stop    context.CancelFunc // of the streams
	pause   time.Duration      // before the next start after a death
}

// Up brings every deployment of the documents up and keeps it so: it takes over
// what already runs, follows changes of the files, starts again what dies, and
// reports everything to sink, which is called by one goroutine at a time. When
// ctx ends it drains all and returns nil; it also returns nil when all that it
// holds was taken down by somebody else. It returns an error, with nothing left
// running, when the documents cannot be brought up at first.
func (m *Machine) Up(ctx context.Context, o UpOptions, sink func(Event)) error {
	u := &up{Machine: m, options: o, sink: sink, held: map[string]*held{}, died: make(chan *held, 16)}
	defer u.end()
	// The first load says what to watch; what is used is read after the first
	// look, so that no change falls in between.
	bundle, err := policy.Load(o.Path)
	if err != nil {
		return err
	}
	var watched atomic.Pointer[[]string]
	look := func(b *policy.Bundle) []string {
		list := inputs(o.Path, b)
		watched.Store(&list)
		return list
	}
	taken := stampOf(look(bundle))
	if bundle, err = policy.Load(o.Path); err != nil {
		return err
	}
	if err := u.apply(ctx, bundle); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	u.emit(Event{Kind: EventUp})
	changes := watch(ctx, taken, func() []string { return *watched.Load() })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			next, err := policy.Load(o.Path)
			if err == nil {
				bundle = next
				look(next) // watched even if it cannot be applied
				err = u.apply(ctx, next)
			}
			if err != nil && ctx.Err() == nil {
				u.refused(err)
			}
		case h := <-u.died:
			// A predecessor that was replaced ends as well; that is no death.
			name := h.Deployment()
			switch {
			case u.held[name] != h:
			case h.inOrder(ctx):
				u.let(name)
				if len(u.held) == 0 {
					return nil
				}
			default:
				u.restart(ctx, bundle, name)
			}
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

// inputs are the files and folders that decide what runs.
func inputs(path string, b *policy.Bundle) []string {
	list := []string{path}
	at := func(dir, p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	for _, d := range b.Deployments {
		switch app := d.Workload.App; {
		case app.Static != nil:
			list = append(list, at(d.Workload.Dir, app.Static.Dir))
		case app.Handler != nil:
			list = append(list, at(d.Workload.Dir, app.Handler.Module))
		}
		for _, s := range d.Policy.Secrets {
			list = append(list, at(d.Policy.Dir, s.File))
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
		if err := u.one(ctx, d); err != nil {
			return err
		}
	}
	for name, h := range u.held {
		if !wanted[name] {
			u.drop(h)
			delete(u.held, name)
		}
	}
	return nil
}

// one applies one deployment and follows its instance.
func (u *up) one(ctx context.Context, d *policy.Deployment) error {
	secrets, err := readSecrets(d)
	if err != nil {
		return err
	}
	sum := sha256.New()
	for _, s := range secrets {
		sum.Write(s.Value)
		sum.Write([]byte{0})
	}
	h := u.held[d.Name()]
	digest := [sha256.Size]byte(sum.Sum(nil))
	applied, err := u.Apply(ctx, d, Options{
		Level: u.options.Level, Leased: true,
		// An instance that was found running may hold older secrets.
		Refresh:  len(secrets) > 0 && (h == nil || h.secrets != digest),
		Progress: func(s builder.Step) { u.emit(Event{Kind: EventStep, Deployment: d.Name(), Text: stepText(s)}) },
	})
	if err != nil {
		return err
	}
	status := applied.Instance.Status
	if h != nil && h.Dir == applied.Instance.Dir {
		h.secrets, h.Status = digest, status
	} else {
		if h != nil {
			h.release()
		}
		if h, err = u.hold(ctx, applied.Instance, digest); err != nil {
			return err
		}
	}
	kind := EventApplied
	if u.held[d.Name()] == nil {
		kind = EventReady
	}
	u.held[d.Name()] = h
	u.emit(Event{Kind: kind, Deployment: d.Name(), Change: applied.Change, Status: &status,
		TookMillis: float64(applied.Took.Microseconds()) / 1000})
	return nil
}

// hold takes the lease of an instance and follows its decisions.
func (u *up) hold(ctx context.Context, i *Instance, secrets [sha256.Size]byte) (*held, error) {
	lease, err := i.Lease(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	h := &held{Instance: i, lease: lease, secrets: secrets, stop: stop, pause: firstPause}
	go func() {
		err := i.Decisions(ctx, 0, true, func(d tender.Decision) error {
			u.emit(Event{Kind: EventDecision, Deployment: h.Deployment(), Decision: &d})
			return nil
		})
		if err != nil && ctx.Err() == nil {
			u.died <- h
		}
	}()
	return h, nil
}

// release lets go of an instance that has a successor, or none.
func (h *held) release() {
	h.stop()
	h.lease.Close()
}

// inOrder reports whether a tender that is gone was asked to end, for example
// by 'lorica down'.
func (h *held) inOrder(ctx context.Context) bool {
	return h.Wait(ctx) == nil && h.InOrder()
}

// let forgets a deployment that somebody else took down.
func (u *up) let(name string) {
	u.held[name].release()
	delete(u.held, name)
	u.emit(Event{Kind: EventDrained, Deployment: name})
}

// Pauses before a tender that died is started again.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 30 * time.Second
)

// restart brings a deployment up again whose tender is gone.
func (u *up) restart(ctx context.Context, b *policy.Bundle, name string) {
	h := u.held[name]
	if h == nil {
		return
	}
	u.emit(Event{Kind: EventDied, Deployment: name, Text: "its tender is gone; starting it again in " + h.pause.String()})
	h.release()
	delete(u.held, name)
	pause := h.pause
	select {
	case <-ctx.Done():
		return
	case <-time.After(pause):
	}
	for _, d := range b.Deployments {
		if d.Name() != name {
			continue
		}
		if err := u.one(ctx, d); err != nil {
			u.refused(err)
			return
		}
		u.held[name].pause = min(2*pause, lastPause)
	}
}

// drop drains one deployment.
func (u *up) drop(h *held) {
	defer h.release()
	name := h.Deployment()
	ctx, cancel := context.WithTimeout(context.Background(), drainGrace+drainLimit+10*time.Second)
	defer cancel()
	if err := u.Down(ctx, name); err != nil {
		u.emit(Event{Kind: EventRefused, Deployment: name, Text: err.Error()})
		return
	}
	u.emit(Event{Kind: EventDrained, Deployment: name})
}

// end drains everything that is held, side by side.
func (u *up) end() {
	var wg sync.WaitGroup
	for _, h := range u.held {
		wg.Go(func() { u.drop(h) })
	}
	wg.Wait()
}

func stepText(s builder.Step) string {
	if s.Detail == "" {
		return string(s.Name)
	}
	return string(s.Name) + ": " + s.Detail
}
