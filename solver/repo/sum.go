package repo

import "lorica.dev/lorica/solver/sat"

// A sum counts literals: out(k) is true if at least k of them are. It is a totalizer
// (Bailleux, Boufkhad 2003) whose outputs are made as they are asked for (Martins et
// al. 2014).
type sum struct {
	left, right *sum
	inputs      int
	outs        []sat.Lit // outs[i]: at least i+1
}

func newSum(in []sat.Lit) *sum {
	if len(in) == 1 {
		return &sum{inputs: 1, outs: in[:1:1]}
	}
	half := len(in) / 2
	return &sum{left: newSum(in[:half]), right: newSum(in[half:]), inputs: len(in)}
}

// reach makes outputs up to k.
func (t *sum) reach(s *sat.Solver, k int) {
	k = min(k, t.inputs)
	before := len(t.outs)
	if k <= before {
		return
	}
	t.left.reach(s, k)
	t.right.reach(s, k)
	for len(t.outs) < k {
		t.outs = append(t.outs, sat.Pos(s.NewVar()))
	}
	a, b := t.left.outs, t.right.outs
	for i := 0; i <= len(a) && i <= k; i++ {
		for j := max(0, before+1-i); j <= len(b) && i+j <= k; j++ {
			if i+j == 0 {
				continue
			}
			clause := []sat.Lit{t.outs[i+j-1]}
			if i > 0 {
				clause = append(clause, a[i-1].Not())
			}
			if j > 0 {
				clause = append(clause, b[j-1].Not())
			}
			s.Add(noFact, clause...)
		}
	}
}

// out returns the literal of at least k, or false if there are fewer.
func (t *sum) out(s *sat.Solver, k int) (sat.Lit, bool) {
	if k > t.inputs {
		return 0, false
	}
	t.reach(s, k)
	return t.outs[k-1], true
}

// noFact labels what follows from nothing that a caller said.
const noFact = -1
