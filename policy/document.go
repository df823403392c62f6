package policy

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/api"
)

// securityPolicy decodes the spec of a SecurityPolicy. Every section of the
// language is known here; those without a module yet are refused by name.
func (d *decoder) securityPolicy(n *yaml.Node, s *api.SecurityPolicy) {
	s.SelectorPos, s.Default.Pos = s.Metadata.Pos, api.Pos{}
	s.Levels = api.Levels{Names: []string{"normal"}, Initial: "normal"}
	d.object(n, "spec",
		field{name: "selector", must: true, read: d.selector(s)},
		field{name: "enforcement", read: func(n *yaml.Node) {
			s.EnforcementPos = d.pos(n)
			d.dryRun(&s.DryRun, "spec.enforcement")(n)
		}},
		field{name: "default", read: d.defaults(&s.Default)},
		field{name: "levels", read: d.levels(&s.Levels)},
		field{name: "endpoints", read: d.list("spec.endpoints", func(n *yaml.Node) { s.Endpoints = append(s.Endpoints, d.endpoint(n)) })},
		field{name: "network", read: d.network(s)},
		field{name: "tls", read: d.tls(s)},
		field{name: "authentication", read: d.authentication(s)},
		field{name: "routes", read: func(n *yaml.Node) {
			s.RoutesPos = d.pos(n)
			d.list("spec.routes", func(n *yaml.Node) { s.Routes = append(s.Routes, d.route(n)) })(n)
			// Without routes every path passes; an empty list reads as if none did.
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.fail(n, "write the routes, or remove the field to let every path through", "spec.routes is empty")
			}
		}},
		field{name: "authorization", read: func(n *yaml.Node) {
			a := &api.Authorization{Pos: d.pos(n)}
			d.object(n, "spec.authorization",
				field{name: "schema", must: true, read: d.text(&a.Schema, "spec.authorization.schema")},
				field{name: "entities", read: d.text(&a.Entities, "spec.authorization.entities")},
				field{name: "cedar", must: true, read: d.text(&a.Cedar, "spec.authorization.cedar")})
			s.Authorization = a
		}},
		field{name: "attributes", read: func(n *yaml.Node) {
			d.entries(n, "spec.attributes", func(k, v *yaml.Node) {
				read := func(n *yaml.Node) {
					a := api.Attribute{Pos: d.pos(k), Name: k.Value}
					if d.str(&a.Source, "spec.attributes."+clip(k.Value))(n); a.Source != "" {
						s.Attributes = append(s.Attributes, a)
					}
				}
				if k.Value == groupsAttribute && v.Kind == yaml.SequenceNode {
					if len(v.Content) == 0 {
						d.fail(v, "name the sources, such as [jwt.groups, basic.groups]", "spec.attributes.groups is empty")
					}
					d.list("spec.attributes.groups", read)(v) // one for each method
					return
				}
				read(v)
			}, groupsAttribute)
		}},
		field{name: "modules", read: d.modules(s)},
		field{name: "secrets", read: d.secrets(s)},
		field{name: "requestFilter", read: d.requestFilter(s)},
		field{name: "rateLimits", read: d.rateLimits(s)},
		field{name: "audit", read: d.audit(s)},
		field{name: "introspection", notYet: true},
		field{name: "obligations", read: d.obligations(s)},
		field{name: "coverage", read: func(n *yaml.Node) {
			var word string
			d.choice(&word, "spec.coverage", []string{"Optional", "Required"})(n)
			s.CoverageRequired = word == "Required"
		}},
		field{name: "tests", read: d.list("spec.tests", func(n *yaml.Node) { s.Tests = append(s.Tests, d.test(n)) })})
}

func (d *decoder) selector(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s.SelectorPos = d.pos(n)
		d.object(n, "spec.selector",
			field{name: "matchLabels", must: true, read: d.labels(&s.Selector, "spec.selector.matchLabels")},
			field{name: "matchExpressions", notYet: true})
		if m := value(n, "matchLabels"); m.Kind == yaml.MappingNode && len(m.Content) == 0 {
			d.fail(n, "write matchLabels: {app: ...}", "spec.selector.matchLabels is empty and would select everything")
		}
	}
}

func (d *decoder) verdict(dst *abi.Verdict, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s string
		d.choice(&s, path, []string{"Allow", "Deny"})(n)
		*dst = abi.Deny
		if s == "Allow" {
			*dst = abi.Allow
		}
	}
}

func (d *decoder) defaults(v *api.Default) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v.Pos = d.pos(n)
		d.object(n, "spec.default",
			field{name: "network", read: d.verdict(&v.Network, "spec.default.network")},
			field{name: "authorization", read: d.verdict(&v.Authorization, "spec.default.authorization")},
			field{name: "onError", read: d.choice(new(string), "spec.default.onError", []string{"Deny"}, "Allow")})
	}
}

// text reads a block of another language and remembers where its first
// character is.
func (d *decoder) text(dst *api.Text, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "string", "pattern": `\S`}) {
			return
		}
		var s string
		if d.str(&s, path)(n); strings.TrimSpace(s) == "" {
			if n.Tag == "!!str" {
				d.fail(n, "write it as a block: "+path[strings.LastIndexByte(path, '.')+1:]+": |", "%s is empty", path)
			}
			return
		}
		*dst = api.Text{Pos: d.pos(n), Value: s}
		if n.Style&yaml.LiteralStyle == 0 {
			return
		}
		// A literal block starts on the line after its indicator; its
		// indentation is what stands before its first line of text.
		for i, line := range strings.Split(s, "\n") {
			if strings.TrimSpace(line) == "" {
				continue
			}
			if written := strings.TrimRight(d.src.fullLine(n.Line+1+i), "\r"); strings.HasSuffix(written, line) {
				dst.Pos.Line, dst.Pos.Column = n.Line+1, 1+len(written)-len(line)
			}
			return
		}
	}
}

func (d *decoder) secrets(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d.entries(n, "spec.secrets", func(k, v *yaml.Node) {
			x := api.Secret{Pos: d.pos(k)}
			d.word(&x.Name, "spec.secrets")(k)
			path := "spec.secrets." + clip(k.Value)
			before := d.count()
			d.object(v, path,
				field{name: "file", read: d.path(&x.File, path+".file")},
				field{name: "development", read: d.choice(&x.Development, path+".development", []string{api.DevelopmentJWKS, api.DevelopmentClientCA})},
				field{name: "descriptor", notYet: true})
			switch d.written(v, true, "file", "development") {
			case 2:
				d.fail(v, "keep one of them", "%s has both a file and a development secret", path)
			case 0:
				if d.count() > before {
					break
				}
				d.fail(v, "add file: ./FILE", "%s.file is missing", path)
			}
			s.Secrets = append(s.Secrets, x)
		})
	}
}

func (d *decoder) audit(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		a := &api.Audit{Pos: d.pos(n)}
		decisions, sample := "all", -1.0
		d.object(n, "spec.audit",
			field{name: "decisions", read: d.choice(&decisions, "spec.audit.decisions", []string{"all", "denied"})},
			field{name: "sampleAllowed", read: d.share(&sample, "spec.audit.sampleAllowed")},
			field{name: "redact", read: d.list("spec.audit.redact", func(n *yaml.Node) { a.Redact = append(a.Redact, d.redact(n)) })},
			field{name: "sinks", read: d.sinks(a)})
		switch {
		case sample >= 0 && sample < 1 && value(n, "decisions") != n && decisions == "all":
			d.fail(value(n, "sampleAllowed"), "write decisions: denied, or remove sampleAllowed", "spec.audit: decisions is all, but sampleAllowed would leave some out")
		case sample >= 0:
			a.SampleAllowed = sample
		case decisions == "all":
			a.SampleAllowed = 1
		}
		s.Audit = a
	}
}

func (d *decoder) redact(n *yaml.Node) api.Redaction {
	r := api.Redaction{Pos: d.pos(n)}
	name, one := strings.CutPrefix(n.Value, audit.FieldAttribute)
	switch {
	case n.Tag == "!!str" && strings.HasPrefix(n.Value, "header."):
		d.fail(n, "write attribute.NAME for an attribute that reads it: other headers are never recorded", "spec.audit.redact: %s is not supported yet", clip(n.Value))
	case n.Tag == "!!str" && one && name != "":
		r.Field = n.Value // whether there is such an attribute, the schema says
	default:
		d.choice(&r.Field, "spec.audit.redact", []string{audit.FieldPrincipal, audit.FieldSource, audit.FieldPath, audit.FieldGroups, audit.FieldAttributes})(n)
	}
	return r
}

// checkAudit checks that what is redacted exists.
func (p *parsing) checkAudit(s *securityPolicy) {
	if s.Audit == nil || s.bad["spec.authorization"] || s.bad["spec.attributes"] {
		return
	}
	var known []string
	if s.auth != nil {
		for _, a := range s.auth.Attributes {
			known = append(known, audit.FieldAttribute+a.Name)
		}
	}
	for _, r := range s.Audit.Redact {
		name, one := strings.CutPrefix(r.Field, audit.FieldAttribute)
		switch {
		case !one || slices.Contains(known, r.Field):
		case len(known) == 0:
			s.failAt(r.Pos, "remove it", "spec.audit.redact: there is no attribute %q", clip(name))
		default:
			s.failAt(r.Pos, didYouMean(r.Field, known), "spec.audit.redact: there is no attribute %q", clip(name))
		}
	}
}
