package sat

import (
	"cmp"
	"slices"
)

// A learnt clause is forgotten the sooner the more levels it speaks of.
type learnt struct {
	ref    int32
	levels int32
}

// Marks in seen.
const (
	inClause uint8 = 1 + iota
	redundant
	needed
)

// learn derives the clause of the first unique implication point from one that is
// false, goes back to where the new one has an open literal, and makes that true.
func (s *Solver) learn(conflict int32) {
	back := s.analyze(conflict)
	levels := s.countLevels()
	s.backtrack(back)
	ref := int32(len(s.arena))
	s.arena = append(s.arena, int32(len(s.lits))<<sizeShift|learntBit, int32(len(s.proofs)))
	for _, l := range s.lits {
		s.arena = append(s.arena, int32(l))
	}
	s.attached = int32(len(s.arena))
	if s.opt.Trace {
		s.proofs = append(s.proofs, slices.Clone(s.ante))
	}
	if len(s.lits) > 1 {
		s.watch(ref, s.literals(ref))
		s.learnts = append(s.learnts, learnt{ref, levels})
	}
	s.stats.Learnt++
	s.enqueue(s.lits[0], ref)
	s.increment /= 0.95
}

func (s *Solver) analyze(conflict int32) (back int) {
	s.lits, s.ante = append(s.lits[:0], 0), s.ante[:0]
	current := int32(len(s.limits))
	open, at, ref := 0, len(s.trail), conflict
	p := Lit(-1)
	for {
		s.note(ref)
		for _, q := range s.literals(ref) {
			v := q >> 1
			if Lit(q) == p || s.seen[v] != 0 || s.level[v] == 0 {
				continue
			}
			s.mark(v, inClause)
			s.bump(v)
			if s.level[v] == current {
				open++
			} else {
				s.lits = append(s.lits, Lit(q))
			}
		}
		for at--; s.seen[s.trail[at].Var()] == 0 || s.level[s.trail[at].Var()] != current; at-- {
		}
		p = s.trail[at]
		ref = s.reason[p.Var()]
		if open--; open == 0 {
			break
		}
	}
	s.lits[0] = p.Not()
	s.minimise()
	for _, v := range s.touched {
		s.seen[v] = 0
	}
	s.touched = s.touched[:0]
	if len(s.lits) == 1 {
		return 0
	}
	top := 1
	for i := 2; i < len(s.lits); i++ {
		if s.level[s.lits[i].Var()] > s.level[s.lits[top].Var()] {
			top = i
		}
	}
	s.lits[1], s.lits[top] = s.lits[top], s.lits[1]
	return int(s.level[s.lits[1].Var()])
}

// note remembers a clause as a ground of what is learnt. Literals of it that are false
// at level 0 stay so, and Labels finds out why.
func (s *Solver) note(ref int32) {
	if s.opt.Trace {
		s.ante = append(s.ante, ref)
	}
}

func (s *Solver) mark(v int32, as uint8) {
	if s.seen[v] == 0 {
		s.touched = append(s.touched, v)
	}
	s.seen[v] = as
}

// minimise leaves out the literals that follow from the others.
func (s *Solver) minimise() {
	kept := s.lits[:1]
	for _, l := range s.lits[1:] {
		if s.reason[l.Var()] == 0 || !s.implied(int32(l.Var())) {
			kept = append(kept, l)
		}
	}
	s.lits = kept
}

// implied reports whether every way from v back to decisions meets the clause. What
// it finds out about the variables on the way is kept in seen.
func (s *Solver) implied(v int32) bool {
	marked, noted := len(s.touched), len(s.ante)
	s.stack = append(s.stack[:0], v)
	for len(s.stack) > 0 {
		u := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		s.note(s.reason[u])
		for _, q := range s.literals(s.reason[u]) {
			w := q >> 1
			if w == u || s.level[w] == 0 || s.seen[w] == inClause || s.seen[w] == redundant {
				continue
			}
			if s.seen[w] == needed || s.reason[w] == 0 {
				for _, x := range s.touched[marked:] {
					s.seen[x] = needed
				}
				s.ante = s.ante[:noted]
				return false
			}
			s.mark(w, redundant)
			s.stack = append(s.stack, w)
		}
	}
	return true
}

func (s *Solver) countLevels() int32 {
	s.stamp++
	n := int32(0)
	for _, l := range s.lits {
		level := s.level[l.Var()]
		for int(level) >= len(s.stamps) {
			s.stamps = append(s.stamps, 0)
		}
		if s.stamps[level] != s.stamp {
			s.stamps[level] = s.stamp
			n++
		}
	}
	return n
}

// refute ends for good: a clause is false without any assumption.
func (s *Solver) refute(conflict int32) Status {
	s.refuted = true
	s.labels = append(s.labels[:0], conflict)
	return Unsatisfiable
}

// conclude finds the assumptions that made a false, and the clauses.
func (s *Solver) conclude(a Lit) {
	s.labels = s.labels[:0]
	s.core = append(s.core[:0], a)
	ground := func(g int32) {
		if s.opt.Trace {
			s.labels = append(s.labels, g)
		}
	}
	if s.level[a.Var()] == 0 {
		ground(^int32(a.Var()))
		return
	}
	s.mark(int32(a.Var()), inClause)
	for i := len(s.trail) - 1; i >= int(s.limits[0]); i-- {
		v := int32(s.trail[i].Var())
		if s.seen[v] == 0 {
			continue
		}
		if s.reason[v] == 0 {
			s.core = append(s.core, s.trail[i])
			continue
		}
		ground(s.reason[v])
		for _, q := range s.literals(s.reason[v]) {
			if s.level[q>>1] != 0 {
				s.mark(q>>1, inClause)
			}
		}
	}
	for _, v := range s.touched {
		s.seen[v] = 0
	}
	s.touched = s.touched[:0]
}

// Labels returns the labels of added clauses that the last refutation rests on, each
// once and in order. Together with Core they are unsatisfiable. The Solver must have
// been made with Trace.
func (s *Solver) Labels() []int32 {
	clauses, units := map[int32]bool{}, map[int32]bool{}
	var labels []int32
	stack := slices.Clone(s.labels)
	for len(stack) > 0 {
		g := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if g < 0 {
			if v := ^g; !units[v] {
				units[v] = true
				stack = append(stack, s.reason[v])
			}
			continue
		}
		if clauses[g] {
			continue
		}
		clauses[g] = true
		for _, q := range s.literals(g) { // those that level 0 made false
			if s.values[q] < 0 && s.level[q>>1] == 0 {
				stack = append(stack, ^(q >> 1))
			}
		}
		if s.arena[g]&learntBit != 0 {
			stack = append(stack, s.proofs[s.arena[g+1]]...)
		} else {
			labels = append(labels, s.arena[g+1])
		}
	}
	slices.Sort(labels)
	return slices.Compact(labels)
}

// reduce forgets half of the learnt clauses, those of many levels first, and moves
// the others together. The trail is at level 0, whose reasons nobody asks for.
func (s *Solver) reduce() {
	slices.SortStableFunc(s.learnts, func(a, b learnt) int {
		return cmp.Or(cmp.Compare(a.levels, b.levels), cmp.Compare(s.size(a.ref), s.size(b.ref)))
	})
	keep := len(s.learnts) / 2
	for keep < len(s.learnts) && s.learnts[keep].levels <= 2 {
		keep++
	}
	s.stats.Deleted += int64(len(s.learnts) - keep)
	kept := make(map[int32]bool, keep)
	for _, l := range s.learnts[:keep] {
		kept[l.ref] = true
	}
	for _, l := range s.trail {
		s.reason[l.Var()] = 0
	}
	// Each clause that stays leaves its new place behind, in the word of its label.
	moved := make([]int32, 1, len(s.arena))
	for ref, next := int32(1), int32(0); ref < int32(len(s.arena)); ref = next {
		next = ref + header + s.size(ref)
		if s.arena[ref]&learntBit != 0 && !kept[ref] {
			s.arena[ref+1] = 0
			continue
		}
		to := int32(len(moved))
		moved = append(moved, s.arena[ref:next]...)
		s.arena[ref+1] = to
	}
	for l, list := range s.watches {
		n := 0
		for _, w := range list {
			if w.ref < 0 {
				w.ref = ^s.arena[^w.ref+1]
				if w.ref == ^0 {
					continue
				}
			} else if w.ref = s.arena[w.ref+1]; w.ref == 0 {
				continue
			}
			list[n] = w
			n++
		}
		s.watches[l] = list[:n]
	}
	for _, list := range append(s.needs, s.always) {
		for i := range list {
			list[i] = s.arena[list[i]+1]
		}
	}
	s.learnts = s.learnts[:keep]
	for i := range s.learnts {
		s.learnts[i].ref = s.arena[s.learnts[i].ref+1]
	}
	s.arena, s.attached = moved, int32(len(moved))
	s.maxLearnt += 200
}
