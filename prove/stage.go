package prove

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/verify"
)

// A stage is where images are tried, one at a time: they listen on the same addresses.
type stage struct {
	*prover
	closed string         // why none can be
	image  *builder.Image // that lacks nothing
	whole  *verify.Report // what is shown of the image that lacks nothing
	unlike string         // why there is nothing to compare with
	turn   sync.Mutex
}

// open tries the image that lacks nothing: what others do is compared with what it does.
func (p *prover) open(ctx context.Context, img *builder.Image) *stage {
	s := &stage{prover: p, image: img}
	p.say(func() string { return "the whole image: what it enforces" })
	t, err := p.machine.Try(ctx, p.deployment, p.level, img, "", filepath.Join(p.dir, "whole"))
	if err != nil {
		s.closed = "the whole image does not start here, beside what else runs: " + err.Error()
		if errors.Is(err, run.ErrInterface) {
			s.closed = err.Error()
		}
		return s
	}
	defer t.End(ctx)
	r, err := s.ask(ctx, t)
	switch {
	case p.deployment.Policy.DryRun:
		s.unlike = "the policy is a dry run, which enforces nothing"
	case err != nil:
		s.unlike = "the whole image could not be asked what it enforces: " + err.Error()
	case !r.OK():
		c := compare(nil, r)
		s.unlike = "the whole image itself does not do what is expected: " + c.Witness + ": " + c.Expected + ", got " + c.Got
	default:
		s.whole = r
	}
	return s
}

// ask sends witnesses of the rules to a trial.
func (s *stage) ask(ctx context.Context, t *run.Trial) (*verify.Report, error) {
	target := verify.Target{Deployment: s.deployment.Enforced(), Level: s.level.Level, Program: t.Program}
	for _, l := range t.Status.Listen {
		a, err := netip.ParseAddr(l.Address)
		if err != nil {
			return nil, err
		}
		target.Listeners = append(target.Listeners, netip.AddrPortFrom(a, l.Port))
	}
	from := t.Status.Decisions + 1
	target.Decisions = func(ctx context.Context, kept bool, emit func(tender.Decision) error) error {
		if kept {
			from = 0
		}
		return t.Decisions(ctx, from, true, emit)
	}
	return verify.Run(ctx, target, verify.Options{Identities: s.Identities, Brief: true})
}

// try starts an image without a module, and tells what is otherwise. Where the module has a
// section, the program that has it must be refused, and is then given without it.
func (s *stage) try(ctx context.Context, m *Module, of *catalog.Module, img *builder.Image, dir string) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	// It is confined as the whole image is: what it lacks is the module, not a call or a device.
	img.Syscalls, img.Devices = s.image.Syscalls, s.image.Devices
	if s.closed != "" {
		m.Unshown = s.closed
		return ctx.Err()
	}
	t, err := s.start(ctx, img, "", dir)
	if refused, ok := errors.AsType[*tender.ImageError](err); ok && of.Section != "" {
		m.Start = said(refused)
		t, err = s.start(ctx, img, of.Section, dir)
	}
	if refused, ok := errors.AsType[*tender.ImageError](err); ok && m.Start == "" {
		m.Start = said(refused)
	} else if ok {
		m.Bare = said(refused)
	} else if err != nil { // whatever it was, it was not the image
		return err
	} else if err = errors.Join(s.look(ctx, m, of, t), t.End(ctx)); err != nil {
		return err
	}
	m.conclude()
	return nil
}

func (s *stage) start(ctx context.Context, img *builder.Image, section, dir string) (*run.Trial, error) {
	t, err := s.machine.Try(ctx, s.deployment, s.level, img, section, dir)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return t, err
}

// look compares a trial with the whole image.
func (s *stage) look(ctx context.Context, m *Module, of *catalog.Module, t *run.Trial) error {
	if s.whole == nil {
		m.Unshown = s.unlike
		return nil
	}
	r, err := s.ask(ctx, t)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		m.Case = &Case{Witness: "witnesses of all rules", Expected: "records of what was decided", Got: err.Error()}
		return nil
	}
	if m.Case = compare(s.whole, r); m.Case == nil && of.Section != "" {
		m.Unshown = "no witness comes out otherwise"
		var why []string
		for _, x := range s.whole.Results {
			if x.Stage == of.Section && x.State == verify.NotShown && !slices.Contains(why, x.Why) {
				why = append(why, x.Why)
			}
		}
		if len(why) > 0 {
			m.Unshown += ": " + strings.TrimSuffix(strings.Join(why, "; "), " (--limits)")
		}
	}
	return nil
}

// compare returns a witness that was answered otherwise: the first that was let in, or was
// not, against what is expected; or else one that nothing is shown by any more, or that
// another rule decided. It is nil where there is none.
func compare(whole, r *verify.Report) *Case {
	var other *Case
	for i, x := range r.Results {
		for _, t := range x.Sent {
			c := &Case{x.Rule, x.Line, t.Witness, t.Expected, t.Got}
			switch {
			case t.Turned():
				return c
			case !t.OK && other == nil:
				other = c
			}
		}
		if x.State == verify.NotShown && whole != nil && whole.Results[i].State == verify.Shown && other == nil {
			w := whole.Results[i]
			other = &Case{w.Rule, w.Line, w.Witness, w.Expected, x.Why}
		}
	}
	return other
}

// said is what an image said last, or else how it ended.
func said(e *tender.ImageError) string {
	how, text, ok := strings.Cut(e.Text, "it said: ")
	if !ok {
		return strings.TrimPrefix(how, "tender: ")
	}
	text, _, _ = strings.Cut(text, "\n")
	return strings.TrimPrefix(text, "lorica image: ")
}
