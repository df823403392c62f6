package unikernel

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
)

// memory is the program window: slots of equal size, read-only here.
type memory struct {
	bytes []byte
	slot  int
}

func (m memory) slots() int { return len(m.bytes) / m.slot }

func (m memory) program(slot uint8, length uint32) ([]byte, error) {
	if int(slot) >= m.slots() || int64(length) > int64(m.slot) {
		return nil, fmt.Errorf("%d bytes in slot %d: there are %d slots of %d bytes", length, slot, m.slots(), m.slot)
	}
	at := int(slot) * m.slot
	return m.bytes[at : at+int(length) : at+int(length)], nil
}

// A generation is one program, opened and prepared by every module. It is
// immutable; pins count who still uses it, being in force included.
type generation struct {
	slot     uint8
	serial   uint64 // no two of an image have the same: levels of one policy share a revision
	revision uint64
	level    string
	digest   program.Digest
	gates    []gate
	tls      pep.TransportState // nil: connections are plain
	guards   pep.Chain
	watch    []pep.Observer
	raise    []pep.Raiser
	tried    []pep.Observer // told of what would have been; what they say is recorded only
	dry      *abi.Rule      // lets through what is denied, since the whole policy is tried; nil: it is enforced
	audit    pep.AuditState
	sinks    []pep.SinkState   // those that demand a place first
	egress   pep.OutboundState // nil: the image makes no connections
	limits   route.Limits

	pins    atomic.Int64
	release func() // called once, when the last pin goes
}

type gate struct {
	stage string
	state pep.GateState
	tried pep.GateState // asked as well, of what is tried and not enforced; nil: nothing is
}

// pin takes a use of g, unless the last one has gone already.
func (g *generation) pin() bool {
	for {
		n := g.pins.Load()
		if n == 0 {
			return false
		}
		if g.pins.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *generation) unpin() {
	if g.pins.Add(-1) == 0 {
		g.release()
	}
}

// admit asks every gate about f. An image without gates has a policy that takes
// every connection: the firewall would otherwise be part of it. A connection that
// is allowed carries the rule of the last gate that names one.
func (g *generation) admit(f flow.Flow) pep.Decision {
	last, record := pep.Decision{Verdict: abi.Allow, Stage: abi.StageFirewall}, false
	var trial pep.Trial
	for i, x := range g.gates {
		d := pep.Guarded(x.stage, x.state.Admit, f)
		if x.tried != nil {
			trial.Tried(d, pep.Guarded(x.stage, x.tried.Admit, f))
		}
		if d.Verdict != abi.Allow && g.dry != nil {
			d, _ = trial.Release(d)
		}
		if d.Verdict != abi.Allow {
			return trial.End(d, g.dry)
		}
		if i == 0 || d.Rule.ID != "" {
			last = d
		}
		record = record || d.Record
	}
	last.Record = record
	return trial.End(last, g.dry)
}

// remain asks whether a client may stay whom another generation let in, or whose
// certificate was valid once.
func (g *generation) remain(p *pep.Peer, now time.Time) pep.Decision {
	if g.tls == nil {
		return pep.Decision{Verdict: abi.Allow, Stage: abi.StageTLS}
	}
	return pep.Guarded(abi.StageTLS, func(p *pep.Peer) pep.Decision { return g.tls.Remain(p, now) }, p)
}

// An opener turns programs into generations.
type opener struct {
	img      *Image
	mem      memory
	plan     program.PlanID
	trust    ed25519.PublicKey
	tenant   string
	workload string
	opened   uint64 // programs so far
}

// open verifies the program that m names and lets every module prepare it. may
// says why one of its revision and level may not be.
func (o *opener) open(m control.Prepare, may func(revision uint64, level string, sum program.Digest) error) (g *generation, err error) {
	defer func() {
		if v := recover(); v != nil {
			g, err = nil, fmt.Errorf("panic: %v", v)
		}
	}()
	signed, err := o.mem.program(m.Slot, m.Length)
	if err != nil {
		return nil, err
	}
	p, err := program.Open(signed, o.trust)
	if err != nil {
		return nil, err
	}
	if p.Plan != o.plan {
		return nil, fmt.Errorf("the program is for %v; this image is %v", p.Plan, o.plan)
	}
	if p.Tenant != o.tenant || p.Workload != o.workload {
		return nil, fmt.Errorf("the program is for workload %s/%s; this is %s/%s", p.Tenant, p.Workload, o.tenant, o.workload)
	}
	sum := program.Sum(signed)
	if err := may(p.Revision, p.Level(), sum); err != nil {
		return nil, err
	}
	if err := o.covers(p); err != nil {
		return nil, err
	}
	o.opened++
	g = &generation{slot: m.Slot, serial: o.opened, revision: p.Revision, level: p.Level(), digest: sum}
	if err := o.prepare(g, p, m.Secrets); err != nil {
		return nil, err
	}
	return g, g.bound()
}

// covers checks that modules and sections match one to one: a section that no
// module enforces must not be taken for enforced, and a module without its
// section would decide on nothing.
func (o *opener) covers(p *program.Program) error {
	takes := make(map[string]bool)
	for _, name := range o.img.sections() {
		if p.Section(name) == nil {
			return fmt.Errorf("the program has no section %q, which a module of this image takes", name)
		}
		takes[name] = true
	}
	for _, s := range p.Sections {
		if beside, ok := dryrun.Beside(s.Name); s.Name == dryrun.Name || ok && takes[beside] {
			continue
		}
		if !takes[s.Name] {
			return fmt.Errorf("section %q has no module in this image", s.Name)
		}
	}
	return nil
}

func (o *opener) prepare(g *generation, p *program.Program, secrets []control.Secret) error {
	values := make(map[string][]byte, len(secrets))
	for _, s := range secrets {
		values[s.Name] = s.Value
	}
	dry, err := dryrun.Decode(p.Section(dryrun.Name))
	if err != nil {
		return err
	}
	g.dry = dry
	input := func(section string) *pep.Input {
		return &pep.Input{Level: p.Level(), Levels: p.Levels, Revision: p.Revision, Program: g.digest,
			Section: p.Section(section), Secrets: values, DryRun: dry}
	}
	for _, m := range o.img.Gates {
		s, err := m.Module.Prepare(input(m.Section))
		if err != nil {
			return fmt.Errorf("module %s: %w", m.Section, err)
		}
		tried, err := try(p, m.Section, m.Module.Prepare, input)
		if err != nil {
			return err
		}
		if t, ok := s.(pep.Trier); ok && tried != nil {
			t.Try(tried)
		}
		g.gates = append(g.gates, gate{m.Section, s, tried})
	}
	if m := o.img.TLS; m.Module != nil {
		s, err := m.Module.Prepare(input(m.Section))
		if err != nil {
			return fmt.Errorf("module %s: %w", m.Section, err)
		}
		g.tls = s
	}
	for _, m := range o.img.Guards {
		s, err := m.Module.Prepare(input(m.Section))
		if err != nil {
			return fmt.Errorf("module %s: %w", m.Section, err)
		}
		if l, ok := s.(pep.Limiter); ok && m.Section == route.Name { // no other module bounds the server
			g.limits = l.Limits()
		}
		tried, err := try(p, m.Section, m.Module.Prepare, input)
		if err != nil {
			return err
		}
		if a, ok := s.(pep.GateState); ok {
			beside, _ := tried.(pep.GateState)
			g.gates = append(g.gates, gate{m.Section, a, beside})
		}
		if o, ok := s.(pep.Observer); ok && dry == nil {
			g.watch = append(g.watch, o)
		} else if ok {
			g.tried = append(g.tried, o)
		}
		if r, ok := s.(pep.Raiser); ok {
			g.raise = append(g.raise, r)
		}
		if o, ok := tried.(pep.Observer); ok {
			g.tried = append(g.tried, o)
		}
		g.guards = append(g.guards, pep.Link{Stage: m.Section, Guard: s, Tried: tried, DryRun: dry})
	}
	s, err := o.img.Audit.Module.Prepare(input(o.img.Audit.Section))
	if err != nil {
		return fmt.Errorf("module %s: %w", o.img.Audit.Section, err)
	}
	g.audit = s
	if len(o.img.Audit.Sinks) == 0 {
		return errors.New("the image keeps no records; rebuild it")
	}
	for _, m := range o.img.Audit.Sinks {
		s, err := m.Module.Prepare(input(m.Section))
		if err != nil {
			return fmt.Errorf("module %s: %w", m.Section, err)
		}
		at := len(g.sinks)
		if s.Demands() {
			at = 0
		}
		g.sinks = slices.Insert(g.sinks, at, s)
	}
	if out := o.img.Egress; out.Module != nil {
		if g.egress, err = out.Module.Prepare(input(out.Section)); err != nil {
			return fmt.Errorf("module %s: %w", out.Section, err)
		}
	}
	return nil
}

// try prepares the section that is tried beside another; without one there is no state.
func try[T any](p *program.Program, section string, prepare func(*pep.Input) (T, error), input func(string) *pep.Input) (state T, err error) {
	name := dryrun.Of(section)
	if p.Section(name) == nil {
		return state, nil
	}
	in := input(name)
	if in.DryRun != nil {
		return state, fmt.Errorf("section %q is tried beside what is tried as a whole", name)
	}
	in.DryRun = &abi.Rule{ID: abi.RuleDryRun}
	if state, err = prepare(in); err != nil {
		return state, fmt.Errorf("module %s, section %s: %w", section, name, err)
	}
	return state, nil
}

// bound refuses limits that are none: an unbounded server is not protected.
func (g *generation) bound() error {
	l := &g.limits
	if l.MaxHeaderBytes == 0 || l.MaxConnections == 0 || l.HeaderTimeout <= 0 || l.BodyTimeout <= 0 ||
		l.WriteTimeout <= 0 || l.IdleTimeout <= 0 {
		return errors.New("no module bounds the server: the limits of header, connections and time must all be set")
	}
	if g.tls != nil && (l.HandshakeTimeout <= 0 || l.MaxStreams == 0) {
		return errors.New("no module bounds the server: the limits of handshakes and streams must be set")
	}
	return nil
}

// sections lists the sections that the image's modules take.
func (img *Image) sections() []string {
	var list []string
	add := func(name string) {
		if name != "" {
			list = append(list, name)
		}
	}
	for _, m := range img.Gates {
		add(m.Section)
	}
	add(img.TLS.Section)
	for _, m := range img.Guards {
		add(m.Section)
	}
	add(img.Audit.Section)
	for _, m := range img.Audit.Sinks {
		add(m.Section)
	}
	add(img.Egress.Section)
	return list
}
