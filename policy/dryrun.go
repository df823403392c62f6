package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// What enforcement can be.
const (
	enforce = "Enforce"
	dryRun  = "DryRun"
)

// dryRun reads whether something is tried and not enforced.
func (d *decoder) dryRun(dst *bool, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s := enforce
		d.choice(&s, path, []string{enforce, dryRun})(n)
		*dst = s == dryRun
	}
}

// annotation has a Cedar policy tried.
const annotation = "enforcement"

// annotated reads from a Cedar policy whether it is tried. What looks like the annotation and
// is another would be enforced.
func (p *parsing) annotated(s *securityPolicy, st statement, pol *cedar.Policy, r *CedarRule) {
	for _, name := range sortedKeys(pol.Annotations()) {
		value, at := string(pol.Annotations()[name]), r.Pos
		if found, ok := locate(st.text, string(name)); ok {
			at = s.cedar.pos(st.at(found.line, found.col))
		}
		_, like := nearest(strings.ToLower(string(name)), []string{annotation, strings.ToLower(dryRun), "dry_run", "enforce"})
		switch {
		case name == annotation && value == dryRun:
			r.DryRun = true
		case name == annotation:
			s.failAt(at, fmt.Sprintf(`write @%s("%s"), or remove it`, annotation, dryRun), "policy %s: @%s cannot be %q", r.ID, annotation, clip(value))
		case like:
			s.failAt(at, fmt.Sprintf(`did you mean @%s("%s")?`, annotation, dryRun), "policy %s: @%s means nothing, and the policy would be enforced", r.ID, clip(string(name)))
		}
	}
}

// checkDryRun warns of a policy that is tried as a whole.
func (p *parsing) checkDryRun(s *securityPolicy) {
	if s.DryRun {
		p.warn(s.src, s.EnforcementPos, "write enforcement: Enforce when lorica dryrun report shows what you expect",
			"policy %s is a DRY RUN: it denies nothing but malformed requests, and records what it would have denied", s.Metadata.Name)
	}
}

// DryRunRule is the rule by which a policy that is tried as a whole lets through what it
// denies.
func DryRunRule(p *api.SecurityPolicy) abi.Rule {
	return abi.Rule{ID: abi.RuleDryRun, Line: p.EnforcementPos.Short()}
}

// Enforced is the deployment without the rules that are tried; one whose policy is tried as
// a whole is taken as it is written. What it decides has no Would.
func (d *Deployment) Enforced() *Deployment {
	if !d.tries() {
		return d.Written()
	}
	p := *d.Policy
	if p.Network != nil {
		n := *p.Network
		n.Ingress = without(n.Ingress, func(r api.IngressRule) bool { return r.DryRun })
		p.Network = &n
	}
	p.RateLimits = without(p.RateLimits, func(l api.RateLimit) bool { return l.DryRun })
	p.Obligations = without(p.Obligations, func(o api.Obligation) bool { return o.DryRun })
	x := &Deployment{Workload: d.Workload, Policy: &p}
	if d.Authorization != nil {
		a := *d.Authorization
		a.Rules = without(a.Rules, func(r CedarRule) bool { return r.DryRun })
		x.Authorization = &a
	}
	return x
}

func without[T any](list []T, tried func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), tried)
}

// tries reports whether some rules are tried, and not the whole policy.
func (d *Deployment) tries() bool {
	p := d.Policy
	return !p.DryRun && (p.Network != nil && slices.ContainsFunc(p.Network.Ingress, func(r api.IngressRule) bool { return r.DryRun }) ||
		slices.ContainsFunc(p.RateLimits, func(l api.RateLimit) bool { return l.DryRun }) ||
		slices.ContainsFunc(p.Obligations, func(o api.Obligation) bool { return o.DryRun }) ||
		d.Authorization != nil && slices.ContainsFunc(d.Authorization.Rules, func(r CedarRule) bool { return r.DryRun }))
}

// Written is the deployment as if all that is written were enforced. What it decides has
// no Would.
func (d *Deployment) Written() *Deployment {
	if !d.Policy.DryRun && !d.tries() {
		return d
	}
	p := *d.Policy
	p.DryRun = false
	if p.Network != nil {
		n := *p.Network
		n.Ingress = slices.Clone(n.Ingress)
		for i := range n.Ingress {
			n.Ingress[i].DryRun = false
		}
		p.Network = &n
	}
	p.RateLimits, p.Obligations = slices.Clone(p.RateLimits), slices.Clone(p.Obligations)
	for i := range p.RateLimits {
		p.RateLimits[i].DryRun = false
	}
	for i := range p.Obligations {
		p.Obligations[i].DryRun = false
	}
	x := &Deployment{Workload: d.Workload, Policy: &p}
	if d.Authorization != nil {
		a := *d.Authorization
		a.Rules = slices.Clone(a.Rules)
		for i := range a.Rules {
			a.Rules[i].DryRun = false
		}
		x.Authorization = &a
	}
	return x
}

// Tries reports whether something of the policy is tried beside what is enforced.
func Tries(p *api.SecurityPolicy, dryRun bool) bool { return dryRun && !p.DryRun }

// beside has what would have been stand beside a decision, where it is another.
func (dec Decision) beside(would Decision) Decision {
	if would.Verdict != dec.Verdict {
		dec.Would = &would
	}
	return dec
}

// released is a decision as the policy enforces it where it is tried as a whole.
func released(p *api.SecurityPolicy, dec Decision) Decision {
	if p == nil || dec.Verdict == abi.Allow || dec.Rule.ID == abi.RuleError {
		return dec
	}
	would := dec
	return Decision{Verdict: abi.Allow, Rule: DryRunRule(p), Level: dec.Level, Would: &would}
}

// A Would is what an answer would be if what is tried were enforced.
type Would struct {
	Verdict abi.Verdict `json:"verdict"`
	Stage   string      `json:"stage"`
	Rule    abi.Rule    `json:"rule"`
	Level   string      `json:"level"`
	Reason  string      `json:"reason,omitempty"`
}

// would has an answer say what a decision says of what is tried.
func (a *Answer) would(dec Decision) {
	a.DryRun = nil
	if w := dec.Would; w != nil {
		a.DryRun = &Would{w.Verdict, a.Stage, w.Rule, w.Level, w.Reason}
	}
}

// release is released, of an answer. What is malformed or beyond a bound does not go on.
func (d *Deployment) release(a *Answer) {
	if !d.Policy.DryRun || a.Verdict == abi.Allow || a.Rule.ID == abi.RuleError || a.Stage == abi.StageFilter && a.Rule.ID == abi.RuleRequest {
		return
	}
	a.DryRun = &Would{a.Verdict, a.Stage, a.Rule, a.Level, a.Reason}
	a.Verdict, a.Rule, a.Reason = abi.Allow, DryRunRule(d.Policy), ""
}
