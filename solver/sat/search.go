package sat

import "context"

// Restarts come after a Luby sequence of this many conflicts, and the context is
// asked every so many steps.
const (
	restartUnit = 64
	askEvery    = 512
)

// Solve looks for a model of the clauses in which every assumption is true. A budget
// above 0 is a number of conflicts after which it gives up. The model stays until
// the next call; Core says what an Unsatisfiable came from.
func (s *Solver) Solve(ctx context.Context, assumptions []Lit, budget int) Status {
	s.stats.Solves++
	s.core = s.core[:0]
	s.backtrack(0)
	if s.full || ctx.Err() != nil { // of many short questions none would come to ask it
		return Unknown
	}
	s.attach()
	if s.refuted {
		return Unsatisfiable
	}
	spent, steps := 0, 0
	for round := 1; ; round++ {
		if len(s.learnts) > s.maxLearnt && !s.opt.Trace {
			if c := s.propagate(); c != 0 {
				return s.refute(c)
			}
			s.reduce()
		}
		status := s.search(ctx, assumptions, budget, luby(round)*restartUnit, &spent, &steps)
		if status != restart {
			return status
		}
		s.stats.Restarts++
		s.backtrack(0)
	}
}

// restart is what search returns when it is time for one.
const restart Status = -1

func (s *Solver) search(ctx context.Context, assumptions []Lit, budget, until int, spent, steps *int) Status {
	for conflicts := 0; ; {
		if *steps++; *steps%askEvery == 0 && ctx.Err() != nil {
			s.backtrack(0)
			return Unknown
		}
		if c := s.propagate(); c != 0 {
			s.stats.Conflicts++
			conflicts++
			*spent++
			if len(s.limits) == 0 {
				return s.refute(c)
			}
			s.learn(c)
			continue
		}
		switch {
		case budget > 0 && *spent >= budget, len(s.arena) > maxArena:
			s.backtrack(0)
			return Unknown
		case conflicts >= until:
			return restart
		case len(s.limits) < len(assumptions):
			a := assumptions[len(s.limits)]
			if s.values[a] < 0 {
				s.conclude(a)
				s.backtrack(0)
				return Unsatisfiable
			}
			open := s.values[a] == 0
			s.newLevel()
			if open {
				s.enqueue(a, 0)
			}
		default:
			l, ok := s.pick()
			if !ok {
				return Satisfiable
			}
			s.stats.Decisions++
			s.newLevel()
			s.enqueue(l, 0)
		}
	}
}

// Extend makes l true in the model that Solve left, with what l asks for, and reports
// whether it could. It does not search: the first conflict takes everything back. It
// is for lazy decisions only.
func (s *Solver) Extend(l Lit) bool {
	if s.values[l] != 0 {
		return s.values[l] > 0
	}
	base := len(s.limits)
	s.newLevel()
	s.enqueue(l, 0)
	for {
		if s.propagate() != 0 {
			s.stats.Conflicts++
			s.backtrack(base)
			return false
		}
		next, ok := s.pick()
		if !ok {
			return true
		}
		s.stats.Decisions++
		s.newLevel()
		s.enqueue(next, 0)
	}
}

// luby returns the i-th number of the sequence 1 1 2 1 1 2 4 ...
func luby(i int) int {
	for k := 1; ; k++ {
		switch {
		case i == 1<<k-1:
			return 1 << (k - 1)
		case i < 1<<k-1:
			i, k = i-(1<<(k-1)-1), 0
		}
	}
}

func (s *Solver) newLevel() {
	s.limits = append(s.limits, int32(len(s.trail)))
	s.scans = append(s.scans, int32(s.scan))
}

func (s *Solver) enqueue(l Lit, reason int32) {
	s.values[l], s.values[l^1] = 1, -1
	v := l.Var()
	s.level[v], s.reason[v] = int32(len(s.limits)), reason
	s.trail = append(s.trail, l)
}

func (s *Solver) backtrack(level int) {
	if len(s.limits) <= level {
		return
	}
	start := s.limits[level]
	for i := len(s.trail) - 1; i >= int(start); i-- {
		l := s.trail[i]
		s.values[l], s.values[l^1] = 0, 0
		if !s.opt.Lazy {
			s.saved[l.Var()] = !l.Negative()
			s.push(int32(l.Var()))
		}
	}
	s.trail = s.trail[:start]
	s.scan = int(s.scans[level])
	s.limits, s.scans = s.limits[:level], s.scans[:level]
	s.head = len(s.trail)
}

// propagate follows what is true until nothing follows, and returns a clause that is
// false, or 0.
func (s *Solver) propagate() int32 {
	for s.head < len(s.trail) {
		p := s.trail[s.head]
		s.head++
		s.stats.Propagations++
		list := s.watches[p]
		kept := 0
		for i, w := range list {
			value := s.values[w.other]
			if value > 0 {
				list[kept] = w
				kept++
				continue
			}
			ref := w.ref
			if ref < 0 {
				ref = ^ref
				list[kept] = w
				kept++
			} else {
				lits := s.literals(ref)
				if lits[0] == int32(p^1) {
					lits[0], lits[1] = lits[1], lits[0]
				}
				w.other = Lit(lits[0])
				if value = s.values[w.other]; value <= 0 && s.move(w, lits) {
					continue
				}
				list[kept] = w
				kept++
				if value > 0 {
					continue
				}
			}
			if value < 0 {
				kept += copy(list[kept:], list[i+1:])
				s.watches[p] = list[:kept]
				s.head = len(s.trail)
				return ref
			}
			s.enqueue(w.other, ref)
		}
		s.watches[p] = list[:kept]
	}
	return 0
}

// move watches another literal in place of lits[1], which has become false.
func (s *Solver) move(w watch, lits []int32) bool {
	for k := 2; k < len(lits); k++ {
		if l := lits[k]; s.values[l] >= 0 {
			lits[1], lits[k] = l, lits[1]
			s.watches[l^1] = append(s.watches[l^1], w)
			return true
		}
	}
	return false
}

// pick returns what to decide next, or false when there is nothing left to decide.
func (s *Solver) pick() (Lit, bool) {
	if s.opt.Lazy {
		return s.pickAsked()
	}
	for len(s.heap) > 0 {
		v := s.pop()
		if s.values[v<<1] == 0 {
			if s.saved[v] {
				return Pos(int(v)), true
			}
			return Neg(int(v)), true
		}
	}
	return 0, false
}

// pickAsked returns a literal of the first clause that would be false if all that is
// open were. Clauses were derived from what was added, so that only these are asked.
func (s *Solver) pickAsked() (Lit, bool) {
	for ; s.scan <= len(s.trail); s.scan++ {
		list := s.always
		if s.scan > 0 {
			l := s.trail[s.scan-1]
			if l.Negative() {
				continue
			}
			list = s.needs[l.Var()]
		}
		for _, ref := range list {
			if l, asked := s.choose(ref); asked {
				return l, true
			}
		}
	}
	return 0, false
}

func (s *Solver) choose(ref int32) (Lit, bool) {
	best := Lit(-1)
	for _, l := range s.literals(ref) {
		switch value := s.values[l]; {
		case value > 0, value == 0 && l&1 == 1:
			return 0, false
		case value == 0 && (best < 0 || s.activity[l>>1] > s.activity[best.Var()]):
			best = Lit(l)
		}
	}
	return best, best >= 0
}
