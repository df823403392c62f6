package solver

import (
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/catalog"
)

// An Unsatisfiable says why no healthy set exists.
type Unsatisfiable struct {
	Target       string
	Requirements []catalog.Requirement // without any one of them there would be a set
	Causes       []Cause               // what stopped each way of meeting them
}

// A Cause is a capability that nothing provides, or two modules that exclude
// each other.
type Cause struct {
	Any       catalog.Clause // that has no provider for the target; empty for a conflict
	Elsewhere []string       // modules that provide it for other targets
	Left      Chain          // who needs the capability, or what leads to one module
	Right     Chain          // what leads to the other module
}

// A Chain leads from a requirement to the module it brings in, by the modules
// that require each other in between.
type Chain struct {
	Requirement catalog.Requirement
	Modules     []string
}

// Error lists the causes, one to a line, with the lines of the policy.
func (u *Unsatisfiable) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no module set for target %s meets the policy:", u.Target)
	for _, c := range u.Causes {
		b.WriteString("\n  " + c.String())
	}
	return b.String()
}

func (c Cause) String() string {
	switch {
	case c.Any == nil:
		return fmt.Sprintf("%s and %s exclude each other: %s; %s", c.Left.last(), c.Right.last(), c.Left, c.Right)
	case len(c.Elsewhere) > 0:
		return fmt.Sprintf("no module provides %s for this target (%s does for others): %s", c.Any, strings.Join(c.Elsewhere, ", "), c.Left)
	}
	return fmt.Sprintf("no module provides %s: %s", c.Any, c.Left)
}

func (c Chain) last() string { return c.Modules[len(c.Modules)-1] }

func (c Chain) String() string {
	s := c.Requirement.Why
	if c.Requirement.Pos.Line > 0 {
		s = c.Requirement.Pos.Short() + " (" + s + ")"
	}
	if len(c.Modules) > 0 {
		s += " needs " + strings.Join(c.Modules, ", which needs ")
	}
	return s
}

// explain reduces the requirements to a set of which none can be left out, then
// walks every way of meeting them and collects what stopped each.
func explain(c *catalog.Catalog, reqs []catalog.Requirement, target string) *Unsatisfiable {
	reqs = slices.Clone(reqs)
	for i := 0; i < len(reqs); {
		rest := slices.Delete(slices.Clone(reqs), i, i+1)
		if satisfiable(c, newState(rest), target) {
			i++
		} else {
			reqs = rest
		}
	}
	u := &Unsatisfiable{Target: target, Requirements: reqs}
	u.collect(c, newState(reqs))
	return u
}

func satisfiable(c *catalog.Catalog, st *state, target string) bool {
	n, ok := st.unmet()
	if !ok {
		return true
	}
	return slices.ContainsFunc(candidates(c, n.any, target), func(m *catalog.Module) bool {
		return st.rival(m) == nil && satisfiable(c, st.with(m), target)
	})
}

func (u *Unsatisfiable) collect(c *catalog.Catalog, st *state) {
	n, ok := st.unmet()
	if !ok {
		return
	}
	fit := candidates(c, n.any, u.Target)
	if len(fit) == 0 {
		cause := Cause{Any: n.any, Left: st.chain(n)}
		for _, capability := range n.any {
			for _, m := range c.Providers(capability) {
				cause.Elsewhere = append(cause.Elsewhere, m.ID)
			}
		}
		u.add(cause)
	}
	for _, m := range fit {
		rival := st.rival(m)
		if rival == nil {
			u.collect(c, st.with(m))
			continue
		}
		left := st.chain(n)
		left.Modules = append(left.Modules, m.ID)
		u.add(Cause{Left: left, Right: st.path(rival)})
	}
}

func (u *Unsatisfiable) add(c Cause) {
	text := c.String()
	if !slices.ContainsFunc(u.Causes, func(o Cause) bool { return o.String() == text }) {
		u.Causes = append(u.Causes, c)
	}
}

// chain returns who asked for n, back to a requirement.
func (s *state) chain(n need) Chain {
	if n.by == nil {
		return Chain{Requirement: *n.requirement}
	}
	return s.path(n.by)
}

// path returns what brought m into the set. Each module came for the first need
// that it met, and that need is older than the module's own, so this ends.
func (s *state) path(m *catalog.Module) Chain {
	for _, n := range s.needs {
		if n.any.MetBy(m) {
			c := s.chain(n)
			c.Modules = append(c.Modules, m.ID)
			return c
		}
	}
	return Chain{Modules: []string{m.ID}} // not reached: modules are only added for a need
}
