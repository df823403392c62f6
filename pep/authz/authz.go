// Package authz decides requests with the Cedar policies of the program, as the
// compiler laid them out in section authz. It is the point where a policy's
// permits and forbids are enforced.
//
// The semantics are Cedar's (forbid wins; evaluation stops where && and || do;
// overflow is an error), with one difference on the safe side: a policy that
// fails to evaluate denies, where Cedar would skip it, and with it a forbid.
// The reference is cedar-go; test/conform holds this package to it.
//
// Where a policy reads the security level, the request must be allowed at every
// level up to the one in force. The rule that a decision names is the first, in
// file order, that denies: a forbid that matches or a rule that fails; else the
// first permit that matches; else the default.
package authz

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authz/cedar"
)

// A Module holds nothing between generations: what was decided under one
// program says nothing about the next.
type Module struct{}

// New returns the module.
func New() *Module { return &Module{} }

// Prepare opens the section in place. Without a section the state denies; with
// a malformed one there is no state.
func (m *Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	if in.Section == nil {
		return denyAll{}, nil
	}
	v, err := authz.Open(in.Section)
	if err != nil {
		return nil, err
	}
	s := &state{view: v, levels: slices.Clone(in.Levels), seed: maphash.MakeSeed()}
	for i, a := range v.Attributes {
		if err := s.attribute(i, a); err != nil {
			return nil, fmt.Errorf("authz: attribute %q: %w", a.Name, err)
		}
	}
	if len(s.levels) == 0 {
		return nil, fmt.Errorf("authz: the program names no level")
	}
	if v.PrincipalType() == authz.None || v.Action == authz.None {
		return nil, fmt.Errorf("authz: the program has no type of principals, or no action")
	}
	s.kind = string(v.String(v.PrincipalType()))
	s.pool.New = func() any { return &workspace{eval: cedar.New(v)} }
	return s, nil
}

// denyAll is the state of a program without the section.
type denyAll struct{}

func (denyAll) Judge(*pep.Exchange) pep.Decision {
	return deny(abi.Rule{ID: abi.RuleAuthz}, "the program has no authorization section")
}

func deny(rule abi.Rule, reason string) pep.Decision {
	return pep.Decision{Verdict: abi.Deny, Stage: abi.StageAuthz, Rule: rule, Reason: reason}
}

// A state is one generation, safe for concurrent use.
type state struct {
	view     *authz.View
	kind     string // of principals
	levels   []string
	bodies   uint64 // set of the attributes that come from a body
	clocks   uint64 // of those that come from the clock
	tokens   uint64 // and of those that come from a token
	pointers [authz.MaxAttributes]strictjson.Pointer
	seed     maphash.Seed
	memo     memo
	pool     sync.Pool // of *workspace
}

// A workspace is what one decision needs, reused by the next.
type workspace struct {
	key      []byte // everything that was gathered: values alias it
	eval     *cedar.Evaluation
	elements []cedar.Value
	want     []strictjson.Pointer
	found    []strictjson.Value
}

// attribute checks that a source gives the type that the policies expect.
func (s *state) attribute(i int, a authz.Attribute) error {
	want := a.Type
	switch a.Source.Kind {
	case authz.SourceLevel, authz.SourceMethod, authz.SourceSPIFFE, authz.SourceDNS, authz.SourceSubject:
		want = authz.TypeString
	case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday:
		want = authz.TypeLong
		s.clocks |= 1 << i
	case authz.SourcePeer:
		want = authz.TypeIP
	case authz.SourceBody, authz.SourceClaim, authz.SourceClaimHas:
		p, err := strictjson.ParsePointer(a.Source.Arg)
		if err != nil {
			return err
		}
		s.pointers[i] = p
		if a.Source.Kind == authz.SourceBody {
			s.bodies |= 1 << i
		} else {
			s.tokens |= 1 << i
		}
		if a.Source.Kind == authz.SourceClaimHas {
			want = authz.TypeBool
		}
	}
	if a.Type != want || a.Set && a.Source.Kind != authz.SourceBody && a.Source.Kind != authz.SourceClaim {
		return fmt.Errorf("source %s does not give type %d", origin(a.Source), a.Type)
	}
	return nil
}

// Judge decides the request with the facts that the rules of its route read.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	if x.Principal == "" {
		return deny(s.view.Rule, "nobody authenticated the request")
	}
	if x.Route == nil {
		return deny(s.view.Rule, "the request has no route")
	}
	route, ok := s.view.Route(x.Route.Name)
	if !ok {
		return deny(s.view.Rule, "no authorization is written for the route")
	}
	x.Witness = s
	w := s.pool.Get().(*workspace)
	defer s.pool.Put(w)
	w.start(route.Name, x)
	if p := s.gather(w, x, route.Reads); p != nil {
		return deny(abi.Rule{ID: p.rule, Line: s.view.Rule.Line}, p.reason)
	}
	hash := maphash.Bytes(s.seed, w.key)
	slot := s.memo.slot(hash)
	if d, ok := slot.get(w.key); ok {
		return d
	}
	d := s.decide(w, x, route)
	slot.put(hash, w.key, d)
	return d
}

// Steady implements pep.Steady: it is so where no rule of the route reads what a
// head does not say, the body or the clock.
func (s *state) Steady(x *pep.Exchange) bool {
	route, ok := s.view.Route(x.Route.Name)
	return ok && route.Reads&(s.bodies|s.clocks) == 0
}

// start begins the key with the route and who asks.
func (w *workspace) start(route uint32, x *pep.Exchange) {
	w.eval.Start()
	w.key = appendText(w.key[:0], x.Principal)
	w.key = append(w.key, byte(route), byte(route>>8), byte(route>>16), byte(route>>24))
	w.key = append(w.key, byte(len(x.Groups)), byte(len(x.Groups)>>8), byte(len(x.Groups)>>16))
	for _, g := range x.Groups {
		w.key = appendText(w.key, g)
	}
}

func appendText(b []byte, s string) []byte {
	b = append(b, byte(len(s)), byte(len(s)>>8), byte(len(s)>>16), byte(len(s)>>24))
	return append(b, s...)
}

// decide evaluates the rules that can concern the request, once for each level where one
// reads the level.
func (s *state) decide(w *workspace, x *pep.Exchange, route authz.Route) pep.Decision {
	e := w.eval
	if p := s.view.Principal(x.Principal); p != authz.None {
		e.Who(cedar.Known(p))
	} else {
		e.Who(e.Entity(s.kind, x.Principal))
	}
	for _, name := range x.Groups {
		if g := s.view.Parent(name); g != authz.None {
			e.Member(g)
		}
	}
	e.What(cedar.Known(s.view.Action))
	e.On(cedar.Known(route.Resource))
	levels := s.levels
	if route.Reads&s.view.Level == 0 {
		levels = levels[len(levels)-1:]
	}
	var d pep.Decision
	for _, level := range levels {
		for set := route.Reads & s.view.Level; set != 0; set &= set - 1 {
			e.Set(bits.TrailingZeros64(set), e.Text([]byte(level)))
		}
		if d = s.judge(e); d.Verdict != abi.Allow {
			if level != s.levels[len(s.levels)-1] {
				d.Reason += fmt.Sprintf(" (at level %q, which every higher level includes)", level)
			}
			break
		}
	}
	return d
}

// judge evaluates rules in file order, up to the first that denies.
func (s *state) judge(e *cedar.Evaluation) pep.Decision {
	permit := authz.None
	for _, rule := range e.Candidates() {
		forbid, sure := s.view.Effect(rule)
		if permit != authz.None && sure && !forbid {
			continue // it would change nothing
		}
		applies, fault := e.Applies(rule)
		switch {
		case fault != cedar.NoFault:
			return deny(s.view.Rules[rule], "the rule could not be evaluated: "+fault.String())
		case applies && forbid:
			return deny(s.view.Rules[rule], "forbidden by "+s.view.Rules[rule].ID)
		case applies:
			permit = min(permit, rule)
		}
	}
	switch {
	case permit != authz.None:
		return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthz, Rule: s.view.Rules[permit]}
	case s.view.Default == abi.Allow:
		return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthz, Rule: s.view.Rule}
	}
	return deny(s.view.Rule, "no rule matched")
}
