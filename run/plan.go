package run

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/catalog/lock"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/solver"
	"lorica.dev/lorica/tender"
)

// A Plan says what one deployment needs at each of its levels, and what of it
// runs. Making a plan changes nothing.
type Plan struct {
	Deployment *policy.Deployment
	Levels     []*Level
	Running    *tender.Status // nil: nothing runs
	modules    []string       // of what runs, by id
	lock       *lock.File     // what of the images was to be accepted
}

// A Level is the plan of one security level. Levels with the same modules share
// an image.
type Level struct {
	*compiler.Level
	Request   solver.Request
	Selection *solver.Selection
	Build     *builder.Plan
	Image     *builder.Image // nil: not built yet
	Own       []*builder.Own // of the user's own, in chain order

	catalog *catalog.Catalog // that the selection is of
}

// Plan plans a deployment, of modules of the user's own that lorica.lock has as they are.
func (m *Machine) Plan(ctx context.Context, d *policy.Deployment) (*Plan, error) {
	p, err := m.Propose(ctx, d)
	if err != nil {
		return nil, err
	}
	return p, p.obey()
}

// Propose is Plan of what nobody may have accepted yet; WriteLocks accepts it.
func (m *Machine) Propose(ctx context.Context, d *policy.Deployment) (*Plan, error) {
	host, err := m.host(ctx, d)
	if err != nil {
		return nil, err
	}
	modules, err := m.catalog.With(host.manifests()...)
	if err != nil {
		return nil, err
	}
	out, err := compiler.Compile(d)
	if err != nil {
		return nil, err
	}
	if errs := compiler.Known(modules, d.Policy); len(errs) > 0 {
		return nil, errs
	}
	p := &Plan{Deployment: d}
	built := map[string]*Level{} // by module ids: levels with equal sets share an image
	for i := range out.Levels {
		l := &Level{Level: &out.Levels[i]}
		l.catalog = modules
		if err := l.choose(ctx, modules, d, host.required...); err != nil {
			return nil, err
		}
		if err := host.configure(l, l.Selection); err != nil {
			return nil, err
		}
		set := strings.Join(ids(l.Selection.Modules), " ")
		if same := built[set]; same != nil {
			l.Build, l.Image = same.Build, same.Image
		} else {
			if l.Build, err = m.planner.Plan(ctx, l.Selection, d.Workload, l.Own...); err != nil {
				return nil, err
			}
			if l.Image, err = m.store.Find(l.Build.ID); err != nil {
				return nil, err
			}
			built[set] = l
		}
		p.Levels = append(p.Levels, l)
	}
	p.lock = host.lock(len(d.Workload.Modules), m.digest, p.Levels)
	running, err := m.newest(ctx, d.Name())
	if err != nil {
		return nil, err
	}
	if running != nil {
		p.Running = &running.Status
		img, err := m.store.Open(running.Status.ImageDigest)
		if err != nil {
			return nil, err
		}
		for _, x := range img.Modules {
			p.modules = append(p.modules, x.ID)
		}
	}
	return p, nil
}

// choose chooses the modules of a level, of which the workload may require more than its
// policy does.
func (l *Level) choose(ctx context.Context, c *catalog.Catalog, d *policy.Deployment, more ...catalog.Requirement) (err error) {
	l.Request = solver.Request{Requirements: slices.Concat(l.Requirements, more), Prohibitions: l.Prohibitions, Target: d.Workload.Target, MaxSurface: l.MaxSurface, MaxSurfacePos: l.MaxSurfacePos}
	if l.Selection, err = solver.Solve(ctx, c, l.Request); err != nil {
		return err
	}
	if errs := l.Configured(d.Policy, l.Selection.Modules); len(errs) > 0 {
		return errs
	}
	return nil
}

// Plannable returns what would keep a deployment from being planned: what cannot be compiled,
// modules that there are not, and levels that no set of modules meets. It needs no machine.
func Plannable(ctx context.Context, c *catalog.Catalog, d *policy.Deployment, more ...catalog.Requirement) error {
	out, err := compiler.Compile(d)
	if err != nil {
		return err
	}
	if errs := compiler.Known(c, d.Policy); len(errs) > 0 {
		return errs
	}
	for i := range out.Levels {
		l := &Level{Level: &out.Levels[i]}
		if err := l.choose(ctx, c, d, more...); err != nil {
			return err
		}
	}
	return nil
}

// Reasons returns why each module of a level is in its set, in the order of the set.
func (m *Machine) Reasons(ctx context.Context, l *Level) ([]solver.Why, error) {
	return solver.Explain(ctx, l.catalog, l.Request, l.Selection)
}

func ids(modules []*catalog.Module) []string {
	list := make([]string, len(modules))
	for i, m := range modules {
		list[i] = m.ID
	}
	return list
}

// Level returns the named level, or the policy's initial one for "".
func (p *Plan) Level(name string) (*Level, error) {
	if name == "" {
		name = p.Deployment.Policy.Levels.Initial
	}
	for _, l := range p.Levels {
		if l.Name == name {
			return l, nil
		}
	}
	return nil, fmt.Errorf("%s has no level %q: %s", p.Deployment.Name(), name, policy.DidYouMean(name, p.Deployment.Policy.Levels.Names))
}

// A Change is what applying a level would do to what runs.
type Change string

const (
	ChangeStart   Change = "start"   // nothing runs
	ChangeImage   Change = "image"   // other modules or another application: a new image takes over
	ChangeLaunch  Change = "launch"  // the same image with other ports, network, resources or confinement: a new instance takes over
	ChangeProgram Change = "program" // the same image: the program is replaced while it runs
	ChangeNone    Change = "none"
)

// Change compares a level with what runs.
func (p *Plan) Change(l *Level) Change {
	switch r := p.Running; {
	case r == nil:
		return ChangeStart
	case r.Plan != planText(l.Build.ID):
		return ChangeImage
	case !slices.Equal(r.Listen, listeners(p.Deployment.Workload)) || r.Memory != p.Deployment.Workload.Memory || r.Net != network(p.Deployment.Workload) ||
		!sameInterface(r.Interface, p.Deployment.Workload.Interface) ||
		leaves(r) || weaker(r.Tier, p.Deployment.Workload.Minimum):
		return ChangeLaunch
	case r.Content != l.content(p.Deployment) || r.Batch != p.contents(l):
		return ChangeProgram
	}
	return ChangeNone
}

// weaker reports whether a tier that was reached is less than the one asked for.
func weaker(reached string, minimum api.Tier) bool {
	tier, ok := api.ParseTier(reached)
	return !ok || tier > minimum
}

// names are the levels, from the lowest up.
func (p *Plan) names() []string { return p.Deployment.Policy.Levels.Names }

// contents names what the levels enforce in the image of one of them.
func (p *Plan) contents(image *Level) string {
	var list []program.Digest
	for _, l := range p.Levels {
		list = append(list, l.ProgramIn(p.Deployment, image.Level, program.PlanID{}, 0).Content())
	}
	return tender.BatchContent(list)
}

// content names what the level enforces, whatever plan and revision carry it.
func (l *Level) content(d *policy.Deployment) string {
	return l.Program(d, program.PlanID{}, 0).Content().String()
}

func planText(id program.PlanID) string { return hex.EncodeToString(id[:]) }

// listeners are the sockets that a workload asks for.
func listeners(w *api.Workload) []tender.Listener {
	var list []tender.Listener
	for _, l := range w.Listen {
		list = append(list, tender.Listener{Name: l.Name, Address: l.Address.String(), Port: l.Port})
	}
	return list
}

// network is what a tender is asked for: sockets need no word.
func network(w *api.Workload) string {
	if w.Network == api.NetDirect {
		return w.Network
	}
	return ""
}

// ipv4Alone reports whether the stack of the image, if it has one of its own, has no IPv6.
func ipv4Alone(l *Level, w *api.Workload) bool {
	return w.OwnStack() && !slices.ContainsFunc(l.Selection.Modules, func(m *catalog.Module) bool { return m.Offers("net/ipv6") })
}

func sameInterface(a, b *api.Interface) bool {
	return (a == nil) == (b == nil) && (a == nil || a.String() == b.String())
}

// Modules returns what the image of l has more and has less than the one that
// runs, by id; nothing where nothing runs.
func (p *Plan) Modules(l *Level) (added, removed []string) {
	if p.Running == nil {
		return nil, nil
	}
	want := ids(l.Selection.Modules)
	for _, id := range want {
		if !slices.Contains(p.modules, id) {
			added = append(added, id)
		}
	}
	for _, id := range p.modules {
		if !slices.Contains(want, id) {
			removed = append(removed, id)
		}
	}
	return added, removed
}

// Syscalls returns the calls that the level's image may make once it is sealed.
func (l *Level) Syscalls() []catalog.Syscall { return l.Build.Syscalls() }

// Devices returns the devices of the level's image, where that is a microVM.
func (l *Level) Devices() []string { return l.Build.Devices() }

// Differs says in what running what is written at a level would change what runs; empty:
// in nothing.
func (p *Plan) Differs(l *Level) string {
	switch p.Change(l) {
	case ChangeNone:
		return ""
	case ChangeStart:
		return "nothing runs"
	case ChangeProgram:
		return fmt.Sprintf("the policy at level %s is another: its content is %s, and %s is in force", l.Name, l.content(p.Deployment), p.Running.Content)
	case ChangeLaunch:
		return "ports, network, resources or confinement of the workload are others"
	}
	return "the modules or the application are others"
}
