package policy

import (
	"slices"

	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// Coverage says which rules of a policy decided at least one of its tests. Each list is in
// file order.
type Coverage struct {
	Covered   []CoverageRule
	Uncovered []CoverageRule
	// Beyond are rules that no test of a policy can reach: what they decide depends on
	// what came before, or is about connections that the image makes.
	Beyond []CoverageRule
}

// A CoverageRule is a rule and how many tests it decided.
type CoverageRule struct {
	abi.Rule
	Pos   api.Pos
	Tests int
}

// Share returns the part of the rules that are covered, from 0 to 1.
func (c *Coverage) Share() float64 {
	if len(c.Uncovered) == 0 {
		return 1
	}
	return float64(len(c.Covered)) / float64(len(c.Covered)+len(c.Uncovered))
}

// Coverage counts, for every rule that a test can reach, the tests that it decided and that
// came out as they should: rules for connections, Cedar rules, and the defaults behind them.
func (d *Deployment) Coverage(results []TestResult) *Coverage {
	decided := make(map[string]int)
	for _, r := range results {
		if r.Problem == "" {
			decided[r.Decision.Rule.ID]++
		}
	}
	c := &Coverage{}
	for _, r := range d.reachable() {
		if r.Tests = decided[r.ID]; r.Tests > 0 {
			c.Covered = append(c.Covered, r)
		} else {
			c.Uncovered = append(c.Uncovered, r)
		}
	}
	beyond := func(name string, at api.Pos) { c.Beyond = append(c.Beyond, coverageRule(name, at)) }
	if n := d.Policy.Network; n != nil {
		for _, r := range n.Egress {
			beyond(r.Name, r.Pos)
		}
	}
	for _, l := range d.Policy.RateLimits {
		beyond(l.Name, l.Pos)
	}
	for _, o := range d.Policy.Obligations {
		beyond(o.Name, o.Pos)
	}
	inFile(c.Beyond)
	return c
}

func coverageRule(name string, at api.Pos) CoverageRule {
	return CoverageRule{Rule: abi.Rule{ID: name, Line: at.Short()}, Pos: at}
}

func inFile(list []CoverageRule) {
	slices.SortStableFunc(list, func(a, b CoverageRule) int { return a.Pos.Line - b.Pos.Line })
}

// reachable lists the rules that can decide a test. A default is not among them where rules
// without conditions leave it nothing.
func (d *Deployment) reachable() []CoverageRule {
	var out []CoverageRule
	add := func(name string, at api.Pos) { out = append(out, coverageRule(name, at)) }
	p := d.Policy
	at := func(otherwise api.Pos) api.Pos {
		if p.Default.Pos.Line > 0 {
			return p.Default.Pos
		}
		return otherwise
	}
	if p.Network != nil {
		if !slices.ContainsFunc(p.Network.Ingress, func(r api.IngressRule) bool {
			return len(r.Ports) == 0 && slices.Contains(r.From, api.AnyEndpoint) && r.MinLevel == "" && r.MaxLevel == ""
		}) {
			add(abi.RuleNetwork, at(p.Network.Pos))
		}
		for _, r := range p.Network.Ingress {
			add(r.Name, r.Pos)
		}
	}
	if a := p.Authentication; a != nil && a.Require {
		add(abi.RuleAuthn, a.Pos)
	}
	if d.Authorization != nil {
		if slices.ContainsFunc(p.Routes, func(r api.Route) bool { return !slices.ContainsFunc(d.Authorization.rulesFor(&r), unconditional) }) {
			add(abi.RuleAuthz, at(p.Authorization.Pos))
		}
		for _, r := range d.Authorization.Rules {
			add(r.ID, r.Pos)
		}
	}
	inFile(out)
	return out
}

// unconditional reports whether a rule holds for everybody on the routes that it is about.
func unconditional(r *CedarRule) bool {
	_, anybody := r.Policy.Principal.(ast.ScopeTypeAll)
	return anybody && len(r.Policy.Conditions) == 0
}
