// Package lint finds what is valid in a policy and probably not meant: rules that never
// decide, conditions that cannot hold, routes that nobody may use. What it says of rules is
// exact, and shown by packets and calls of package space; what was not looked at is named.
package lint

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

// Kinds of findings. They are stable: other programs compare them.
const (
	ShadowedRule       = "shadowed-rule"        // a network rule decides nothing
	Overlap            = "overlap"              // two network rules are about the same packets, and only their order says which wins
	NotEnforced        = "not-enforced"         // the target of a workload sees nothing that a network rule is about
	NeverDecides       = "never-decides"        // a Cedar rule decides nothing
	AlwaysFalse        = "always-false"         // conditions cannot hold
	AlwaysTrue         = "always-true"          // conditions say nothing
	UnconditionalDeny  = "unconditional-forbid" // a forbid about everybody, without conditions
	WildcardScope      = "wildcard-scope"       // a permit about everybody or every route, without conditions; all packets
	RouteWithoutPermit = "route-without-permit" // nobody may call it
	GroupWithoutGrant  = "group-without-grant"  // no permit names the group
	UnreadAttribute    = "unread-attribute"     // no policy asks about it
	SecretInDocument   = "secret-in-document"   // documents are no place for it
)

// Severities.
const (
	Warning = "warning" // something is without effect, or open, and hardly meant so
	Note    = "note"    // worth knowing, and often meant so
)

// A Finding is one thing that was found.
type Finding struct {
	policy.Error
	Kind     string `json:"kind"`
	Severity string `json:"severity"`
	Witness  string `json:"witness,omitempty"` // a packet or a call that shows it
}

// A Report is what was found, and what was not looked at, both by position.
type Report struct {
	Findings    []Finding     `json:"findings"`
	NotAnalysed policy.Errors `json:"notAnalysed,omitempty"`
}

// Count returns the findings of a severity.
func (r *Report) Count(severity string) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == severity {
			n++
		}
	}
	return n
}

// Lint looks at each policy of a bundle, and takes as many steps as budget for each. Its
// error is that of the context.
func Lint(ctx context.Context, b *policy.Bundle, steps int64) (*Report, error) {
	x := &linting{b: b}
	seen := make(map[*api.SecurityPolicy]bool)
	for _, d := range b.Deployments {
		x.d = d.Written() // what is tried is meant to be enforced one day
		x.p = x.d.Policy
		x.enforced()
		x.own(d)
		if seen[d.Policy] {
			continue
		}
		seen[d.Policy] = true
		if err := x.network(space.NewBudget(ctx, steps)); err != nil {
			return nil, err
		}
		if d.Authorization != nil {
			if err := x.requests(space.NewBudget(ctx, steps)); err != nil {
				return nil, err
			}
		}
	}
	x.secrets()
	slices.SortStableFunc(x.r.Findings, func(a, b Finding) int {
		return cmp.Or(before(a.Pos, b.Pos), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Message, b.Message))
	})
	slices.SortStableFunc(x.r.NotAnalysed, func(a, b *policy.Error) int { return before(a.Pos, b.Pos) })
	return &x.r, ctx.Err()
}

// own says of modules of the user's own that findings are of the policy without them.
func (x *linting) own(d *policy.Deployment) {
	for _, m := range d.Own() {
		if !slices.ContainsFunc(x.r.NotAnalysed, func(e *policy.Error) bool { return e.Pos == m.Pos }) {
			x.unknown(m.Pos, "what %s decides, a module of your own: all findings are of the policy without it", m.Name)
		}
	}
}

func before(a, b api.Pos) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

type linting struct {
	b *policy.Bundle
	d *policy.Deployment
	p *api.SecurityPolicy
	r Report

	ref *policy.Reference
}

func (x *linting) find(kind, severity string, at api.Pos, witness, fix, format string, args ...any) {
	x.r.Findings = append(x.r.Findings, Finding{policy.Error{Pos: at, Text: x.b.Line(at), Message: fmt.Sprintf(format, args...), Fix: fix}, kind, severity, witness})
}

func (x *linting) unknown(at api.Pos, format string, args ...any) {
	x.r.NotAnalysed = append(x.r.NotAnalysed, &policy.Error{Pos: at, Text: x.b.Line(at), Message: fmt.Sprintf(format, args...)})
}
