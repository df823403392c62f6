package policy

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/api"
)

func (d *decoder) obligations(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d.list("spec.obligations", func(n *yaml.Node) { s.Obligations = append(s.Obligations, d.obligation(n)) })(n)
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			d.fail(n, "write the obligations, or remove the field", "spec.obligations is empty")
		}
	}
}

// What an obligation can do.
const (
	doAlert = "alert"
	doBlock = "blockSource"
)

func (d *decoder) obligation(n *yaml.Node) api.Obligation {
	const p = "spec.obligations."
	o := api.Obligation{Pos: d.pos(n)}
	var count uint64
	block := false
	d.object(n, "spec.obligations",
		field{name: "name", must: true, read: d.word(&o.Name, p+"name")},
		field{name: "on", must: true, read: d.choice(&o.On, p+"on", obligation.Names())},
		field{name: "count", must: true, read: d.number(&count, p+"count", 1, obligation.MaxCount)},
		field{name: "window", must: true, read: d.duration(&o.Window, p+"window", obligation.MinSpan, obligation.MaxSpan)},
		field{name: "do", must: true, read: func(n *yaml.Node) {
			d.list(p+"do", func(n *yaml.Node) {
				var s string
				d.choice(&s, p+"do", []string{doAlert, doBlock})(n)
				if s == doAlert && o.Alert || s == doBlock && block {
					d.fail(n, "name each once", "%sdo names %s twice", p, s)
				}
				o.Alert, block = o.Alert || s == doAlert, block || s == doBlock
			})(n)
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.fail(n, "write [alert], [blockSource] or both", "%sdo is empty: the obligation would do nothing", p)
			}
		}},
		field{name: "for", read: d.duration(&o.Block, p+"for", obligation.MinSpan, obligation.MaxSpan)},
		field{name: "enforcement", read: d.dryRun(&o.DryRun, p+"enforcement")},
		field{name: "minLevel", read: d.word(&o.MinLevel, p+"minLevel")})
	switch written := value(n, "for") != n; {
	case n.Kind != yaml.MappingNode:
	case block && !written:
		d.fail(n, "add for: 10m", "%sfor is missing: how long is a source blocked?", p)
	case !block && written && o.Alert:
		d.fail(value(n, "for"), "remove it, or add blockSource to do", "%sfor: nothing is blocked", p)
	}
	o.Count = uint32(count)
	return o
}

func (p *parsing) checkObligations(s *securityPolicy) {
	if n := len(s.Obligations); n > obligation.MaxObligations {
		s.failAt(s.Obligations[obligation.MaxObligations].Pos, "keep those that matter", "there are %d obligations; the limit is %d", n, obligation.MaxObligations)
	}
	for _, o := range s.Obligations {
		switch {
		case o.On == obligation.Authentication.String() && s.Authentication == nil && !s.bad["spec.authentication"]:
			s.failAt(o.Pos, "add authentication, or write on: any.deny", "obligation %q would never act: the policy has no authentication", o.Name)
		case o.On == obligation.Authorization.String() && s.Authorization == nil && !s.bad["spec.authorization"]:
			s.failAt(o.Pos, "add authorization, or write on: any.deny", "obligation %q would never act: the policy has no authorization", o.Name)
		}
		if o.MinLevel != "" && !slices.Contains(s.Levels.Names, o.MinLevel) && !s.bad["spec.levels"] {
			s.failAt(o.Pos, didYouMean(o.MinLevel, s.Levels.Names), "obligation %q: there is no level %q", o.Name, o.MinLevel)
		}
	}
}

// Obligations returns those that exist at the i-th level, in file order: those of
// all levels up to it, so that a higher level only adds some.
func Obligations(p *api.SecurityPolicy, i int) []api.Obligation {
	var list []api.Obligation
	for _, o := range p.Obligations {
		// An unknown level is below all: the obligation exists.
		if o.MinLevel == "" || slices.Index(p.Levels.Names, o.MinLevel) <= i {
			list = append(list, o)
		}
	}
	return list
}

// SourceLimits returns the names of the rate limits at the i-th level whose
// buckets belong to a source: what others do cannot exhaust them.
func SourceLimits(p *api.SecurityPolicy, i int) []string {
	var list []string
	for _, l := range RateLimits(p, i) {
		if l.Key&limit.BySource != 0 {
			list = append(list, l.Name)
		}
	}
	return list
}

// whyObliged adds the obligations that may refuse whatever the source asks for.
// Which sources are blocked is known in the instance only, so that no verdict
// changes.
func (d *Deployment) whyObliged(a *Answer, level string) {
	for _, o := range Obligations(d.Policy, slices.Index(d.Policy.Levels.Names, level)) {
		if o.Block == 0 {
			continue
		}
		text := fmt.Sprintf("refuses a source for %s after %d denials (%s) within %s; which ones are blocked only the instance knows",
			span(o.Block), o.Count, strings.TrimSuffix(o.On, ".deny"), span(o.Window))
		if Tries(d.Policy, o.DryRun) {
			text += " (dry run)"
		}
		a.Considered = append(a.Considered, Outcome{Rule: abi.Rule{ID: o.Name, Line: o.Pos.Short()}, Text: text})
	}
}
