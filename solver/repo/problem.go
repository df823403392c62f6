package repo

import (
	"cmp"
	"slices"

	"lorica.dev/lorica/solver/sat"
)

// A problem is the part of a repository that a request can reach, and all that is
// said about it, in an order of its own: by id, newest first.
type problem struct {
	repo    *Repo
	members []Package
	at      []int32 // place of each package among members, plus one; 0: not reached
	facts   []Fact
}

func (r *Repo) problem(q *Request) *problem {
	p := &problem{repo: r, at: make([]int32, len(r.ids))}
	p.reach(q.Roots)
	slices.SortFunc(p.members, r.order)
	for i, m := range p.members {
		p.at[m] = int32(i) + 1
	}
	p.wishes(q)
	for _, m := range p.members {
		p.needs(m)
	}
	for _, m := range p.members {
		p.conflicts(m)
	}
	p.versions()
	return p
}

// reach collects the packages that could be of any use.
func (p *problem) reach(roots []Root) {
	add := func(any []Package) {
		for _, q := range any {
			if p.at[q] == 0 {
				p.at[q] = 1
				p.members = append(p.members, q)
			}
		}
	}
	for _, root := range roots {
		add(root.Any)
	}
	for i := 0; i < len(p.members); i++ {
		for _, d := range p.repo.depends(p.members[i]) {
			add(p.repo.providers(d))
		}
	}
}

// compare orders packages of the problem as members are.
func (p *problem) compare(a, b Package) int { return cmp.Compare(p.at[a], p.at[b]) }

func (p *problem) sorted(any []Package) []Package {
	if slices.IsSortedFunc(any, p.compare) && !repeats(any) {
		return any
	}
	any = slices.Clone(any)
	slices.SortFunc(any, p.compare)
	return slices.Compact(any)
}

func repeats(sorted []Package) bool {
	for i := 1; i < len(sorted); i++ {
		if sorted[i-1] == sorted[i] {
			return true
		}
	}
	return false
}

// arrange sorts facts that were added since start, so that the order in which the
// caller came with them is lost.
func (p *problem) arrange(start int) {
	facts := p.facts[start:]
	if len(facts) < 2 {
		return
	}
	slices.SortStableFunc(facts, func(a, b Fact) int {
		if c := cmp.Or(cmp.Compare(len(a.Any), len(b.Any)), slices.CompareFunc(a.Any, b.Any, p.compare)); c != 0 {
			return c
		}
		return cmp.Or(p.order(a.Package, b.Package), p.order(a.Other, b.Other))
	})
}

// order is compare, with None first.
func (p *problem) order(a, b Package) int {
	if a == None || b == None {
		return cmp.Compare(a, b)
	}
	return p.compare(a, b)
}

func (p *problem) wishes(q *Request) {
	for _, root := range q.Roots {
		p.facts = append(p.facts, Fact{Kind: Wanted, Label: root.Label, Package: None, Other: None, Any: p.sorted(root.Any)})
	}
	p.arrange(0)
	start := len(p.facts)
	for _, ban := range q.Bans {
		if p.at[ban.Package] != 0 {
			p.facts = append(p.facts, Fact{Kind: Banned, Label: ban.Label, Package: ban.Package, Other: None})
		}
	}
	p.arrange(start)
}

func (p *problem) needs(m Package) {
	start := len(p.facts)
	for _, d := range p.repo.depends(m) {
		if any := p.repo.providers(d); !slices.Contains(any, m) {
			p.facts = append(p.facts, Fact{Kind: Needs, Label: int(d.label), Package: m, Other: None, Any: p.sorted(any)})
		}
	}
	p.arrange(start)
}

func (p *problem) conflicts(m Package) {
	start := len(p.facts)
	for _, c := range p.repo.excludes(m) {
		if p.at[c.with] != 0 {
			p.facts = append(p.facts, Fact{Kind: Excludes, Label: int(c.label), Package: m, Other: c.with})
		}
	}
	p.arrange(start)
}

// versions stand beside each other among members.
func (p *problem) versions() {
	for i := 0; i < len(p.members); {
		j := i + 1
		for j < len(p.members) && p.repo.ids[p.members[j]] == p.repo.ids[p.members[i]] {
			j++
		}
		group := p.members[i:j]
		if len(group) > pairwise {
			p.facts = append(p.facts, Fact{Kind: Versions, Package: group[0], Other: None, Any: group})
		} else {
			for a := range group {
				for _, b := range group[:a] {
					p.facts = append(p.facts, Fact{Kind: Versions, Package: b, Other: group[a]})
				}
			}
		}
		i = j
	}
}

func (p *problem) lit(q Package) sat.Lit { return sat.Pos(int(p.at[q] - 1)) }

// solver returns one that knows the chosen facts, or all of them. Their places in
// facts are the labels.
func (p *problem) solver(o sat.Options, chosen []int32) *sat.Solver {
	o.Lazy = true
	s := sat.New(o)
	literals := 0
	for _, f := range p.facts {
		literals += 2 + len(f.Any)
	}
	if chosen == nil {
		s.Grow(len(p.members), len(p.facts), literals)
	}
	for range p.members {
		s.NewVar()
	}
	var lits []sat.Lit
	if chosen == nil {
		for i := range p.facts {
			lits = p.add(s, int32(i), lits)
		}
	}
	for _, i := range chosen {
		lits = p.add(s, i, lits)
	}
	return s
}

func (p *problem) add(s *sat.Solver, i int32, lits []sat.Lit) []sat.Lit {
	lits = lits[:0]
	f := &p.facts[i]
	switch f.Kind {
	case Banned:
		s.Add(i, p.lit(f.Package).Not())
		return lits
	case Versions, Excludes:
		if f.Other == None {
			atMostOne(s, i, f.Any, p.lit)
		} else {
			s.Add(i, p.lit(f.Package).Not(), p.lit(f.Other).Not())
		}
		return lits
	case Needs:
		lits = append(lits, p.lit(f.Package).Not())
	}
	for _, q := range f.Any {
		lits = append(lits, p.lit(q))
	}
	s.Add(i, lits...)
	return lits
}
