package builder

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/solver"
)

// A Planner makes plans one after another and asks the Go tool again only when
// what it would be asked about has changed: a policy is saved far more often than
// an application. It is safe for concurrent use; the zero Planner is ready.
type Planner struct {
	mu    sync.Mutex
	tools *toolchain
	found string // stamp of the toolchain
	apps  map[api.HandlerApp]readApp
	small packer
}

type readApp struct {
	stamp Stamp
	app   *application
}

// Plan reads the application of w and plans its image with the modules of sel. It
// runs the Go tool to learn its version and which files of a handler module are
// compiled, and changes nothing. An error about the application is a *SourceError.
// Those of own that are in sel become part of the image.
func (p *Planner) Plan(ctx context.Context, sel *solver.Selection, w *api.Workload, own ...*Own) (*Plan, error) {
	tools, app, err := p.read(ctx, w)
	if err != nil {
		return nil, err
	}
	if has(sel.Modules, compresses) {
		if app, err = p.pack(app); err != nil {
			return nil, err
		}
	}
	return newPlan(tools, sel, app, lorica.Source(), own...)
}

func (p *Planner) pack(app *application) (*application, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.small.pack(app)
}

func (p *Planner) read(ctx context.Context, w *api.Workload) (*toolchain, *application, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.find(ctx); err != nil {
		return nil, nil, err
	}
	h := w.App.Handler
	if h == nil {
		app, err := readApplication(p.tools, w)
		return p.tools, app, err
	}
	key := *h
	key.Module = resolve(w.Dir, h.Module)
	before, ok := StampOf(key.Module)
	if known, hit := p.apps[key]; hit && ok && known.stamp == before {
		return p.tools, known.app, nil
	}
	app, err := readApplication(p.tools, w)
	if err != nil {
		return nil, nil, err
	}
	delete(p.apps, key)
	if after, still := StampOf(key.Module); ok && still && before == after { // nothing was saved meanwhile
		p.apps[key] = readApp{before, app}
	}
	return p.tools, app, nil
}

// find asks for the toolchain where it may have changed.
func (p *Planner) find(ctx context.Context) error {
	stamp := toolchainStamp()
	if p.tools != nil && stamp == p.found && stamp != "" {
		return nil
	}
	tools, err := findToolchain(ctx)
	if err != nil {
		return err
	}
	p.tools, p.found, p.apps = tools, stamp, map[api.HandlerApp]readApp{}
	return nil
}

// toolchainStamp tells one installation of Go in PATH from another; empty where
// there is none.
func toolchainStamp() string {
	bin, err := exec.LookPath("go")
	if err != nil {
		return ""
	}
	if bin, err = filepath.EvalSymlinks(bin); err != nil {
		return ""
	}
	stamp, whole := StampOf(bin)
	if !whole {
		return ""
	}
	return fmt.Sprintf("%s %x %s", bin, stamp, wanted())
}
