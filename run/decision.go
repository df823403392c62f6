package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// MinID is how much of a decision's id finds it.
const MinID = 8

// A Found is a recorded decision, and whose it is.
type Found struct {
	tender.Decision
	Deployment string // "tenant/workload"
	Running    bool   // the instance runs
}

// A trail is what one instance recorded, or left when it died.
type trail struct {
	deployment string
	running    bool
	read       func(emit func(tender.Decision) error) error
}

// Decision finds the decision whose id begins with the text, in what an instance or the
// instances of a workload recorded and still hold, dead ones included; "" stands for the
// only workload.
func (m *Machine) Decision(ctx context.Context, name, id string) (*Found, error) {
	if len(id) < MinID {
		return nil, fmt.Errorf("%q is too short: write at least %d characters of the id, as Lorica-Decision has it", id, MinID)
	}
	trails, err := m.trails(ctx, name)
	if err != nil {
		return nil, err
	}
	var found *Found
	var oldest *tender.Decision
	several := errors.New("several")
	var damaged error // a trail that could not be read to its end
	for _, t := range trails {
		first := true
		err := t.read(func(d tender.Decision) error {
			if first && d.Seq > 1 && (oldest == nil || d.Time.Before(oldest.Time)) {
				oldest = &d
			}
			first = false
			switch {
			case !strings.HasPrefix(d.ID, id):
			case found != nil && found.ID != d.ID:
				return several
			default:
				found = &Found{d, t.deployment, t.running}
			}
			return ctx.Err()
		})
		switch {
		case err == several:
			return nil, fmt.Errorf("several decisions begin with %s: write more of the id", id)
		case err != nil:
			damaged = err
		}
	}
	switch {
	case found != nil:
		return found, nil
	case damaged != nil:
		return nil, damaged
	case oldest != nil:
		return nil, fmt.Errorf("no decision that is kept has the id %s: the oldest one is number %d, of %s, and what came before was rotated out of the spool",
			id, oldest.Seq, oldest.Time.Local().Format(time.DateTime))
	}
	return nil, fmt.Errorf("no decision has the id %s: another instance may have made it, or one that was allowed was not recorded (audit.decisions, audit.sampleAllowed)", id)
}

// Recorded calls each with everything that an instance, or the instances of a workload,
// recorded and still hold, dead ones included. An error of each ends that.
func (m *Machine) Recorded(ctx context.Context, name string, each func(tender.Decision) error) error {
	trails, err := m.trails(ctx, name)
	if err != nil {
		return err
	}
	for _, t := range trails {
		err := t.read(func(d tender.Decision) error {
			if err := each(d); err != nil {
				return err
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// trails returns those that a name stands for.
func (m *Machine) trails(ctx context.Context, name string) (list []trail, err error) {
	wanted := called(name)
	all, err := m.instances(ctx, wanted)
	if err != nil {
		return nil, err
	}
	live := map[string]bool{}
	var elsewhere error
	for _, i := range all {
		live[i.Dir] = true
		if err := i.Kept(); err != nil {
			elsewhere = err
			continue
		}
		list = append(list, trail{i.Deployment(), true, func(emit func(tender.Decision) error) error { return i.Decisions(ctx, 0, false, emit) }})
	}
	entries, err := os.ReadDir(m.paths.Runtime)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir := filepath.Join(m.paths.Runtime, e.Name())
		if deployment, instance := ownerOf(e.Name()); deployment != "" && !live[dir] && wanted(deployment, instance) {
			list = append(list, trail{deployment, false, func(emit func(tender.Decision) error) error { return tender.Left(dir, 0, emit) }})
		}
	}
	several := slices.ContainsFunc(list, func(t trail) bool { return t.deployment != list[0].deployment })
	switch {
	case len(list) == 0 && elsewhere != nil:
		return nil, elsewhere
	case len(list) == 0 && name == "":
		return nil, errors.New("nothing runs, and no instance that died has left decisions")
	case len(list) == 0:
		return nil, fmt.Errorf("%w, and none of this name that died has left decisions: %q (lorica ps lists what runs)", ErrNone, name)
	case several && name == "":
		return nil, errors.New("several workloads run, or have left decisions: name one of them (lorica ps lists what runs)")
	}
	return list, nil
}

// Compiled reports whether the program under which a decision was made is the one that
// the deployment compiles to. Programs are signed the same way every time, so that the
// digest tells, given the plan of an image that is in the store.
func (m *Machine) Compiled(ctx context.Context, d *policy.Deployment, r *tender.Decision) (bool, error) {
	levels, err := m.programs(ctx, d)
	if err != nil {
		return false, err
	}
	images, err := m.store.Images()
	if err != nil {
		return false, err
	}
	for _, l := range levels {
		if l.Name != r.Level {
			continue
		}
		tried := map[string]bool{}
		for _, img := range images {
			plan, err := program.ParsePlanID(strings.TrimPrefix(img.Plan, "plan:"))
			if err != nil || tried[img.Plan] {
				continue
			}
			tried[img.Plan] = true
			signed, err := program.Sign(l.Program(d, plan, r.Revision), m.key)
			if err != nil {
				return false, err
			}
			if program.Sum(signed).String() == r.Program {
				return true, nil
			}
		}
	}
	return false, nil
}

// programs compiles a deployment, with the sections of modules of the user's own that are
// part of its images. One that is there no more is part of none that can be made.
func (m *Machine) programs(ctx context.Context, d *policy.Deployment) (levels []*compiler.Level, err error) {
	out, err := compiler.Compile(d)
	if err != nil {
		return nil, err
	}
	for i := range out.Levels {
		levels = append(levels, &out.Levels[i])
	}
	if configured, err := policy.ConfigModules(m.paths.Config); err == nil && len(configured)+len(d.Workload.Modules) == 0 {
		return levels, nil
	}
	p, err := m.Propose(ctx, d)
	if err != nil {
		return levels, ctx.Err()
	}
	for i, l := range p.Levels {
		levels[i] = l.Level
	}
	return levels, nil
}
