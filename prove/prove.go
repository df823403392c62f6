// Package prove shows of an image that all of it is needed and that nothing else is in it:
// it builds the image without one module after the other and tells what breaks, and reads
// from the image itself what is linked into it.
//
// A module is shown to be needed by what really happens without it: the image does not
// build, does not start, or does not do what the policy says. That something in the catalog
// asks for it is told beside, and is no proof.
package prove

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/solver"
)

// Options of Run.
type Options struct {
	Identities try.Identities // issue what requests to trials show
	Progress   func(text string)
}

// A Report is what was found of an image.
type Report struct {
	Image    string   `json:"image"`             // digest
	Packages int      `json:"packages"`          // that are in it
	Outside  []string `json:"outside"`           // of what its modules and its application import
	Modules  []Module `json:"modules"`           // in chain order
	Untried  string   `json:"untried,omitempty"` // why no image was started
}

// A Module is what was found of one.
type Module struct {
	ID    string `json:"module"`
	Order string `json:"why"`             // what asks for it, or what it was chosen before, in words
	Build string `json:"build,omitempty"` // why the image does not build without it
	Start string `json:"start,omitempty"` // why it does not start
	Bare  string `json:"bare,omitempty"`  // why it does not start without the module's section either
	// Case is what comes out otherwise: in an image that starts without the module, with the
	// module's section left out as well where it has one.
	Case *Case `json:"case,omitempty"`
	// Unshown is why what would break was not, or not all of it, shown.
	Unshown string `json:"notShown,omitempty"`
	State   State  `json:"state"`
}

// A State is what is known of a module.
type State string

// States. A module that is not shown to be needed is asked for by the policy: it was not
// tried whether anything breaks.
const (
	Needed   State = "needed"
	Needless State = "needless"
	NotShown State = "not shown"
)

// A Case is a witness of a rule that another image answers otherwise.
type Case struct {
	Rule     string `json:"rule"`
	Line     string `json:"line,omitempty"`
	Witness  string `json:"witness"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
}

// A Verdict is what all of a report comes to.
type Verdict string

// Verdicts.
const (
	Proven   Verdict = "proven"   // each module is needed, and nothing is outside
	Refuted  Verdict = "refuted"  // one is needless, or something is outside
	Unproven Verdict = "unproven" // neither: of some modules it was not shown
)

// Verdict returns what all of it comes to.
func (r *Report) Verdict() Verdict {
	verdict := Proven
	for _, m := range r.Modules {
		switch m.State {
		case Needless:
			return Refuted
		case NotShown:
			verdict = Unproven
		}
	}
	if len(r.Outside) > 0 {
		return Refuted
	}
	return verdict
}

// A prover is one run.
type prover struct {
	machine    *run.Machine
	deployment *policy.Deployment
	level      *run.Level
	Options
	dir   string
	stage *stage // where images are tried

	mu   sync.Mutex // of Progress
	done int
}

// mostBuilds bounds the memory that linkers take at once.
const mostBuilds = 4

// Run proves the image of a level. Its error is the context's, or why nothing could be found
// out. It changes nothing: what it builds goes to a folder that it removes.
func Run(ctx context.Context, m *run.Machine, d *policy.Deployment, l *run.Level, o Options) (*Report, error) {
	reasons, err := m.Reasons(ctx, l)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lorica-prove-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	p := &prover{machine: m, deployment: d, level: l, Options: o, dir: dir}
	r, img, err := p.whole(ctx)
	if err != nil {
		return nil, err
	}
	p.stage = p.open(ctx, img)
	r.Untried = p.stage.closed
	r.Modules = make([]Module, len(reasons))
	errs := make([]error, len(reasons))
	places := make(chan struct{}, min(runtime.GOMAXPROCS(0), mostBuilds))
	var wg sync.WaitGroup
	for i, w := range reasons {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			r.Modules[i], errs[i] = p.without(ctx, w, strconv.Itoa(i))
			p.say(func() string {
				p.done++
				return fmt.Sprintf("%d of %d modules: %s is %s", p.done, len(reasons), w.Module.ID, r.Modules[i].State)
			})
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return r, errors.Join(errs...)
}

func (p *prover) say(text func() string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := text(); p.Progress != nil {
		p.Progress(s)
	}
}

// whole builds the image with all of its modules, which must be the one in the store if
// there is one, and reads what is in it.
func (p *prover) whole(ctx context.Context) (*Report, *builder.Image, error) {
	dir := filepath.Join(p.dir, "whole")
	plan := p.level.Build
	img, err := plan.BuildIn(ctx, dir, func(s builder.Step) {
		p.say(func() string { return "the whole image: " + string(s.Name) })
	})
	if err != nil {
		return nil, nil, err
	}
	if s := p.level.Image; s != nil && s.Digest != img.Digest {
		return nil, nil, fmt.Errorf("the image in the store is not what its plan builds: %s is %s", s.Path, s.Digest)
	}
	r := &Report{Image: img.Digest}
	r.Packages, r.Outside, err = outside(ctx, plan, img, dir)
	return r, img, err
}

// outside returns how many packages are in an image that was built in dir, and what is not
// in the closure of its modules.
func outside(ctx context.Context, plan *builder.Plan, img *builder.Image, dir string) (int, []string, error) {
	closure, err := plan.Closure(ctx, dir)
	if err != nil {
		return 0, nil, err
	}
	is, err := builder.ReadLinked(img.Path)
	if err != nil {
		return 0, nil, err
	}
	twin, err := builder.ReadLinked(img.Debug) // knows of variables, too
	if err != nil {
		return 0, nil, err
	}
	for pkg, from := range twin.Packages {
		if is.Packages[pkg] == "" {
			is.Packages[pkg] = from
		}
	}
	return len(is.Packages), closure.Outside(is), nil
}

// without builds the image without a module, starts what it builds, and tells what breaks.
func (p *prover) without(ctx context.Context, w solver.Why, name string) (m Module, err error) {
	m = Module{ID: w.Module.ID, Order: w.String(), State: NotShown}
	plan, err := p.level.Build.Without(w.Module)
	if err != nil {
		return m, err
	}
	dir := filepath.Join(p.dir, name)
	defer os.RemoveAll(dir)
	img, err := plan.BuildIn(ctx, dir, nil)
	if failed, ok := errors.AsType[*builder.SourceError](err); ok {
		m.Build, m.State = failed.Message, Needed
		return m, nil
	}
	if err != nil {
		return m, err
	}
	return m, p.stage.try(ctx, &m, w.Module, img, dir)
}

// conclude says what all of it comes to, where an image was tried.
func (m *Module) conclude() {
	switch {
	case m.Start != "" || m.Case != nil:
		m.State = Needed
	case m.Unshown == "":
		m.State = Needless
	}
}
