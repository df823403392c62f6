// Package sat decides propositional formulas by conflict-driven clause learning:
// two watched literals, first-UIP learning with minimisation, restarts, deletion of
// clauses, assumptions and cores, and, where asked for, the clauses that a refutation
// rests on.
//
// Solving is bounded by a number of conflicts, by a context and by memory; what ends
// by one of them is Unknown and never a wrong answer.
//
// There is no package state. A Solver is for one goroutine at a time; many are
// independent of each other.
package sat

import "math"

// A Lit is a variable or its negation.
type Lit int32

// Pos returns the literal that is true when v is.
func Pos(v int) Lit { return Lit(v << 1) }

// Neg returns the literal that is true when v is false.
func Neg(v int) Lit { return Lit(v<<1 | 1) }

// Not returns the negation of l.
func (l Lit) Not() Lit { return l ^ 1 }

// Var returns the variable of l.
func (l Lit) Var() int { return int(l >> 1) }

// Negative reports whether l is the negation of its variable.
func (l Lit) Negative() bool { return l&1 == 1 }

// A Status is what Solve has found out.
type Status int8

// The zero Status is Unknown: the budget, the context or the memory ended first.
const (
	Unknown Status = iota
	Satisfiable
	Unsatisfiable
)

// Options are what a Solver is made for.
type Options struct {
	// Lazy decides only what a true literal asks for: the first clause that would be
	// false if every open variable were. It suits formulas of dependencies, whose models
	// are mostly false; what is left open at the end is false in the model. Without it
	// decisions go by activity (VSIDS).
	Lazy bool
	// Trace keeps what every learnt clause was derived from, for Labels. Nothing is
	// forgotten then, so that memory grows with conflicts.
	Trace bool
}

// Stats count the work of a Solver.
type Stats struct {
	Solves, Conflicts, Decisions, Propagations, Restarts, Learnt, Deleted int64
}

// Words before the literals of a clause in the arena: its size and whether it was
// learnt, and its label or the number of its derivation.
const (
	header    = 2
	learntBit = 1
	sizeShift = 1
)

// maxArena bounds the clauses of a Solver, in words of four bytes.
const maxArena = 1 << 28

// A watch is in the list of a literal that falsifies one of two watched literals of a
// clause. Of a clause with two literals all is here: other is the second one, and
// ref is complemented.
type watch struct {
	ref   int32
	other Lit // a literal of the clause; while it is true there is nothing to do
}

// A Solver holds clauses, and what it has learnt of them. Clauses and variables can
// be added between calls of Solve.
type Solver struct {
	opt   Options
	stats Stats

	arena    []int32 // clauses, one after the other; references are offsets, and none is 0
	attached int32   // clauses from here on are not watched yet
	clauses  int     // added and not watched yet
	watches  [][]watch

	values []int8  // by literal: 1 true, -1 false, 0 open
	level  []int32 // by variable, as what follows
	reason []int32 // clause that made it true or false; 0: decided
	saved  []bool  // last value, for decisions by activity
	seen   []uint8 // scratch

	trail  []Lit
	limits []int32 // length of the trail at the start of each level
	head   int     // trail up to here is propagated

	needs  [][]int32 // Lazy: clauses to look at once the variable is true
	always []int32   // Lazy: clauses without negation
	scan   int       // Lazy: always (0) and trail up to here ask for nothing more
	scans  []int32   // at the start of each level

	activity  []float64
	increment float64
	heap      []int32
	place     []int32 // in the heap; -1: not in it

	learnts   []learnt
	maxLearnt int
	stamps    []int64 // by level, for LBD
	stamp     int64

	lits    []Lit // scratch: the clause that is learnt
	touched []int32
	stack   []int32
	ante    []int32 // Trace: what the clause that is learnt rests on
	proofs  [][]int32

	refuted bool // without any assumption
	full    bool
	core    []Lit
	labels  []int32 // Trace: where the last refutation ended
}

// New returns a Solver without clauses.
func New(o Options) *Solver {
	return &Solver{opt: o, increment: 1, maxLearnt: 4000, arena: make([]int32, 1), attached: 1}
}

// Grow makes room for variables and for literals in clauses that will be added.
func (s *Solver) Grow(variables, clauses, literals int) {
	s.values = grown(s.values, 2*variables)
	s.level = grown(s.level, variables)
	s.reason = grown(s.reason, variables)
	s.saved = grown(s.saved, variables)
	s.seen = grown(s.seen, variables)
	s.watches = grown(s.watches, 2*variables)
	s.needs = grown(s.needs, variables)
	s.activity = grown(s.activity, variables)
	s.place = grown(s.place, variables)
	s.arena = grown(s.arena, min(literals+header*clauses, maxArena))
}

func grown[T any](list []T, more int) []T {
	if cap(list)-len(list) >= more {
		return list
	}
	return append(make([]T, 0, len(list)+more), list...)
}

// NewVar returns the next variable, from 0.
func (s *Solver) NewVar() int {
	v := len(s.level)
	s.values = append(s.values, 0, 0)
	s.level = append(s.level, 0)
	s.reason = append(s.reason, 0)
	s.saved = append(s.saved, false)
	s.seen = append(s.seen, 0)
	s.watches = append(s.watches, nil, nil)
	s.needs = append(s.needs, nil)
	s.activity = append(s.activity, 0)
	s.place = append(s.place, -1)
	if !s.opt.Lazy {
		s.push(int32(v))
	}
	return v
}

// Stats returns what was done so far.
func (s *Solver) Stats() Stats { return s.stats }

// Add adds a clause: one of lits is true. The label comes back from Labels. Earlier
// literals are preferred to later ones where decisions are lazy. The model of the
// last Solve stays as it is.
func (s *Solver) Add(label int32, lits ...Lit) {
	if len(s.arena)+len(lits)+header > maxArena {
		s.full = true
		return
	}
	start := len(s.arena)
	s.arena = append(s.arena, 0, label)
	tautology := false
	for _, l := range lits {
		bit := uint8(1 << (l & 1))
		if s.seen[l.Var()]&bit != 0 {
			continue
		}
		s.seen[l.Var()] |= bit
		tautology = tautology || s.seen[l.Var()] == 3
		s.arena = append(s.arena, int32(l))
	}
	for _, l := range lits {
		s.seen[l.Var()] = 0
	}
	if tautology {
		s.arena = s.arena[:start]
		return
	}
	s.arena[start] = int32(len(s.arena)-start-header) << sizeShift
	s.clauses++
}

func (s *Solver) size(ref int32) int32 { return s.arena[ref] >> sizeShift }

// literals returns the literals of a clause, where they lie. A Lit is an int32.
func (s *Solver) literals(ref int32) []int32 {
	at := ref + header
	return s.arena[at : at+s.size(ref) : at+s.size(ref)]
}

// attach watches the clauses that were added since the last time. The trail is at
// level 0.
func (s *Solver) attach() {
	if s.clauses == 0 {
		return
	}
	end := int32(len(s.arena))
	first := s.attached == 1 && len(s.trail) == 0
	if first {
		s.reserve(end)
	}
	for ref := s.attached; ref < end; ref += header + s.size(ref) {
		lits := s.literals(ref)
		if !first && !s.order(ref, lits) {
			continue
		}
		if len(lits) >= 2 {
			s.watch(ref, lits)
			if s.opt.Lazy {
				s.ask(ref, lits)
			}
		}
	}
	if first {
		for ref := s.attached; ref < end && !s.refuted; ref += header + s.size(ref) {
			if s.size(ref) < 2 {
				s.order(ref, s.literals(ref))
			}
		}
	}
	s.attached, s.clauses, s.scan = end, 0, 0
}

// order brings two literals that are not false to the front, so that they can be
// watched. It reports whether to do so: what is true, or has one open literal, or
// none, at level 0 stays so.
func (s *Solver) order(ref int32, lits []int32) bool {
	k := 0
	for i, l := range lits {
		if s.values[l] > 0 {
			return false
		}
		if s.values[l] == 0 {
			if k < 2 {
				lits[i], lits[k] = lits[k], l
			}
			k++
		}
	}
	switch {
	case k == 0 && !s.refuted:
		s.refuted = true
		s.labels = append(s.labels[:0], ref)
	case k == 1:
		s.enqueue(Lit(lits[0]), ref)
	}
	return k >= 2
}

// reserve cuts the first watch lists out of one piece of memory.
func (s *Solver) reserve(end int32) {
	counts := make([]int32, len(s.watches))
	needs := make([]int32, len(s.needs))
	total, asked := 0, 0
	for ref := s.attached; ref < end; ref += header + s.size(ref) {
		lits := s.literals(ref)
		if len(lits) < 2 {
			continue
		}
		counts[lits[0]^1]++
		counts[lits[1]^1]++
		total += 2
		if s.opt.Lazy && choice(lits) {
			for _, l := range lits {
				if l&1 == 1 {
					needs[l>>1]++
					asked++
				}
			}
		}
	}
	watches, asks := make([]watch, total), make([]int32, asked)
	for l, n := range counts {
		s.watches[l], watches = watches[:0:n], watches[n:]
	}
	for v, n := range needs {
		s.needs[v], asks = asks[:0:n], asks[n:]
	}
}

// choice reports whether unit propagation alone may leave the clause open.
func choice(lits []int32) bool {
	n := 0
	for _, l := range lits {
		if l&1 == 0 {
			n++
		}
	}
	return n >= 2
}

func (s *Solver) watch(ref int32, lits []int32) {
	a, b := Lit(lits[0]), Lit(lits[1])
	if len(lits) == 2 {
		ref = ^ref
	}
	s.watches[a^1] = append(s.watches[a^1], watch{ref, b})
	s.watches[b^1] = append(s.watches[b^1], watch{ref, a})
}

// ask has lazy decisions look at a clause. They need not where at most one literal
// is positive: when the others are false it is propagated.
func (s *Solver) ask(ref int32, lits []int32) {
	if !choice(lits) {
		return
	}
	negative := false
	for _, l := range lits {
		if l&1 == 1 {
			negative = true
			s.needs[l>>1] = append(s.needs[l>>1], ref)
		}
	}
	if !negative {
		s.always = append(s.always, ref)
	}
}

// True reports whether v is true in the model that Solve left, or was extended to.
func (s *Solver) True(v int) bool { return s.values[Pos(v)] > 0 }

// Open reports whether the model says nothing of v, which counts as false.
func (s *Solver) Open(v int) bool { return s.values[Pos(v)] == 0 }

// Core returns the assumptions that the last Solve found to contradict each other and
// the clauses; none if the clauses contradict themselves. It is valid until the next
// call.
func (s *Solver) Core() []Lit { return s.core }

// Fixed returns 1 if l follows from the clauses by propagation alone, -1 if its
// negation does, and 0 otherwise.
func (s *Solver) Fixed(l Lit) int {
	if s.level[l.Var()] != 0 {
		return 0
	}
	return int(s.values[l])
}

func (s *Solver) bump(v int32) {
	s.activity[v] += s.increment
	if s.activity[v] > 1e100 {
		for i := range s.activity {
			s.activity[i] *= 1e-100
		}
		s.increment = math.Max(s.increment*1e-100, math.SmallestNonzeroFloat64)
	}
	if s.place[v] >= 0 {
		s.up(s.place[v])
	}
}
