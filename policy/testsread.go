package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
)

func (d *decoder) test(n *yaml.Node) api.Test {
	t := api.Test{Pos: d.pos(n)}
	expect := ""
	d.object(n, "spec.tests",
		field{name: "name", must: true, read: func(n *yaml.Node) {
			if d.str(&t.Name, "spec.tests.name")(n); len(t.Name) > 200 || !printable(t.Name) {
				d.fail(n, "use at most 200 printable characters", "spec.tests.name cannot be %s", shown(n))
			}
		}},
		field{name: "level", read: d.word(&t.Level, "spec.tests.level")},
		field{name: "as", read: func(n *yaml.Node) {
			d.object(n, "spec.tests.as",
				field{name: "user", must: true, read: d.person(&t.User, "spec.tests.as.user")},
				field{name: "groups", read: d.list("spec.tests.as.groups", func(n *yaml.Node) {
					var g string
					if d.person(&g, "spec.tests.as.groups")(n); g != "" {
						t.Groups = append(t.Groups, g)
					}
				})})
		}},
		field{name: "call", read: d.word(&t.Call, "spec.tests.call")},
		field{name: "request", read: d.requestText(&t.Request, "spec.tests.request")},
		field{name: "context", read: func(n *yaml.Node) {
			t.Set = make(map[string]string)
			d.entries(n, "spec.tests.context", func(k, v *yaml.Node) {
				if d.drawn(v, sketch{"type": []string{"string", "number", "boolean"}}) {
					return
				}
				if v.Kind != yaml.ScalarNode {
					d.fail(v, "write a number, a word or quoted text", "spec.tests.context.%s cannot be %s", clip(k.Value), kindOf(v))
					return
				}
				t.Set[k.Value] = v.Value
			})
		}},
		field{name: "body", read: d.body(&t.Body, "spec.tests.body")},
		field{name: "at", read: d.time(&t.At, "spec.tests.at")},
		field{name: "from", read: d.address(&t.From, "spec.tests.from")},
		field{name: "packet", read: func(n *yaml.Node) {
			t.Packet = &api.Packet{Protocol: "TCP"}
			var port uint64
			d.object(n, "spec.tests.packet",
				field{name: "from", must: true, read: d.address(&t.Packet.From, "spec.tests.packet.from")},
				field{name: "protocol", read: d.choice(&t.Packet.Protocol, "spec.tests.packet.protocol", []string{"TCP", "UDP", api.ICMP}, "SCTP")},
				field{name: "port", read: d.number(&port, "spec.tests.packet.port", 1, 65535)})
			t.Packet.Port = uint16(port)
			switch written := n.Kind != yaml.MappingNode || value(n, "port") != n; {
			case t.Packet.Protocol == api.ICMP && port > 0:
				d.fail(n, "remove port", "spec.tests.packet: ICMP has no ports")
			case t.Packet.Protocol != api.ICMP && !written:
				d.fail(n, "write port: N", "spec.tests.packet.port is missing")
			}
		}},
		field{name: "expect", must: true, read: d.choice(&expect, "spec.tests.expect", []string{"Allow", "Deny"})},
		field{name: "by", read: func(n *yaml.Node) { d.str(&t.By, "spec.tests.by")(n) }},
		field{name: "dryRun", read: d.choice(&t.DryRun, "spec.tests.dryRun", []string{"Allow", "Deny"})})
	if expect == "Allow" {
		t.Expect = abi.Allow
	}
	about, misspelt := d.written(n, true, "call", "request", "packet"), false
	for _, name := range []string{"call", "request", "packet"} {
		misspelt = misspelt || d.bad["spec.tests."+name]
	}
	if n.Kind != yaml.MappingNode {
		return t
	}
	written := func(name string) bool { return value(n, name) != n }
	if about != 1 && !misspelt {
		d.fail(n, "write call: ROUTE, request: \"GET /path\", or packet: {from: ..., port: ...}", "spec.tests must have exactly one of call, request and packet")
	}
	for _, name := range []string{"as", "context", "body", "at", "from"} {
		if about == 1 && written("packet") && written(name) {
			d.fail(value(n, name), "remove it, or test a call or a request", "spec.tests.%s is not for a packet, which is judged by where it comes from and its port", name)
		}
	}
	return t
}

// requestText reads a request as a client sends it.
func (d *decoder) requestText(dst *string, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.str(dst, path)(n); n.Tag != "!!str" || n.Kind != yaml.ScalarNode {
			return
		}
		if _, _, ok := requestLine(*dst); ok {
			return
		}
		fix := `write "GET /accounts/7"`
		verb, target, _ := strings.Cut(*dst, " ")
		if up := strings.ToUpper(verb) + " " + target; up != *dst {
			if _, _, ok := requestLine(up); ok {
				fix = "write " + strconv.Quote(clip(up))
			}
		}
		d.fail(n, fix, "%s %q is not a request", path, clip(*dst))
		*dst = ""
	}
}

// time reads a moment; YAML takes what looks like one for no text.
func (d *decoder) time(dst *time.Time, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "string", "format": "date-time"}) {
			return
		}
		var err error
		if *dst, err = time.Parse(time.RFC3339, n.Value); err != nil || n.Kind != yaml.ScalarNode {
			d.fail(n, `write date, time and zone, such as "2026-11-25T23:10:00Z"`, "%s cannot be %s", path, shown(n))
		}
	}
}

// body reads a value as JSON; text is taken as it is, so that a body can be wrong.
func (d *decoder) body(dst *[]byte, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": []string{"object", "array", "string", "number", "boolean"}}) || d.drawing != nil {
			return
		}
		if n.Tag == "!!str" {
			*dst = []byte(n.Value)
			return
		}
		*dst = d.appendJSON([]byte{}, n, path)
	}
}

// appendJSON writes a node as JSON.
func (d *decoder) appendJSON(b []byte, n *yaml.Node, path string) []byte {
	switch {
	case n.Kind == yaml.MappingNode:
		b = append(b, '{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, n.Content[i].Value), ':')
			b = d.appendJSON(b, n.Content[i+1], path+"."+clip(n.Content[i].Value))
		}
		return append(b, '}')
	case n.Kind == yaml.SequenceNode:
		b = append(b, '[')
		for i, c := range n.Content {
			if i > 0 {
				b = append(b, ',')
			}
			b = d.appendJSON(b, c, path)
		}
		return append(b, ']')
	case n.Tag == "!!null":
		return append(b, "null"...)
	case n.Tag == "!!str":
		return appendText(b, n.Value)
	case !json.Valid([]byte(n.Value)):
		d.fail(n, "write it as JSON does, or in quotes", "%s cannot be %s", path, kindOf(n))
	}
	return append(b, n.Value...)
}

// appendText writes text as JSON.
func appendText(b []byte, s string) []byte {
	q, _ := json.Marshal(s) // text cannot fail
	return append(b, q...)
}

// checkTests checks what tests refer to.
func (p *parsing) checkTests(s *securityPolicy) {
	var routes, rules []string
	for _, r := range s.Routes {
		routes = append(routes, r.Name)
	}
	if s.Network != nil {
		for _, r := range s.Network.Ingress {
			rules = append(rules, r.Name)
		}
	}
	if s.auth != nil {
		for _, r := range s.auth.Rules {
			rules = append(rules, r.ID)
		}
	}
	for _, m := range Methods(s.Authentication) {
		rules = append(rules, m.Name)
	}
	rules = append(rules, abi.RuleNetwork, abi.RuleRoute, abi.RuleMethod, abi.RuleRequest, abi.RuleAuthn, abi.RuleAuthz, abi.RuleAttribute)
	if s.Authentication == nil && s.Authorization == nil {
		rules = append(rules, routes...) // whom nobody asks further
	}
	groups := s.auth.groups()
	for _, t := range s.Tests {
		if t.Level != "" && !slices.Contains(s.Levels.Names, t.Level) && !s.bad["spec.levels"] {
			s.failAt(t.Pos, didYouMean(t.Level, s.Levels.Names), "test %q: there is no level %q", clip(t.Name), t.Level)
		}
		if t.By != "" && !slices.Contains(rules, t.By) && !s.bad["spec.authorization"] && !s.bad["spec.network"] && !s.bad["spec.authentication"] {
			s.failAt(t.Pos, didYouMean(t.By, rules), "test %q: there is no rule %q", clip(t.Name), clip(t.By))
		}
		switch {
		case t.Call == "":
		case s.bad["spec.routes"] || s.bad["spec.authorization"]:
		case !slices.Contains(routes, t.Call):
			s.failAt(t.Pos, didYouMean(t.Call, routes), "test %q: there is no route %q", clip(t.Name), t.Call)
		case s.Authorization == nil:
			s.failAt(t.Pos, "add authorization, or test a request or a packet", "test %q calls a route, but the policy has no authorization", clip(t.Name))
		}
		for _, g := range t.Groups {
			// A group that no policy names may be what a test is about.
			if near, ok := nearest(g, groups); ok && !slices.Contains(groups, g) {
				p.warn(s.src, t.Pos, fmt.Sprintf("did you mean %q?", near), "test %q: no policy names the group %q", clip(t.Name), clip(g))
			}
		}
		p.checkUnread(s, &t)
	}
}

// checkUnread reports what a test says and no policy reads: it would look as if it were tested.
func (p *parsing) checkUnread(s *securityPolicy, t *api.Test) {
	if s.bad["spec.authorization"] || s.bad["spec.attributes"] || t.Packet != nil {
		return
	}
	reads := func(kinds ...authz.SourceKind) bool {
		return s.auth != nil && slices.ContainsFunc(s.auth.Attributes, func(a authz.Attribute) bool { return slices.Contains(kinds, a.Source.Kind) })
	}
	for _, x := range []struct {
		field   string
		written bool
		read    bool
		sources string
	}{
		{"body", t.Body != nil, reads(authz.SourceBody), "body.json:/MEMBER"},
		{"at", !t.At.IsZero(), reads(authz.SourceHour, authz.SourceMinute, authz.SourceWeekday), "clock.hour, clock.minute or clock.weekday"},
		{"from", t.From.IsValid(), reads(authz.SourcePeer), "peer.address"},
		{"context", len(t.Set) > 0, s.Authorization != nil, "its own: the policy has no authorization"},
	} {
		if x.written && !x.read {
			s.failAt(t.Pos, "remove "+x.field, "test %q says %s, and no attribute has the source %s", clip(t.Name), x.field, x.sources)
		}
	}
}

// groups returns the groups that policies name, and those among the entities.
func (a *Authorization) groups() []string {
	if a == nil || a.Group == "" {
		return nil
	}
	var out []string
	see := func(e cedar.EntityUID) {
		if e.Type == a.Group {
			out = append(out, string(e.ID))
		}
	}
	for e := range a.Entities {
		see(e)
	}
	for _, r := range a.Rules {
		switch x := r.Policy.Principal.(type) {
		case ast.ScopeTypeIn:
			see(x.Entity)
		case ast.ScopeTypeIsIn:
			see(x.Entity)
		}
		for _, c := range r.Policy.Conditions {
			ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
				if v, ok := n.(ast.NodeValue); ok {
					if e, ok := v.Value.(cedar.EntityUID); ok {
						see(e)
					}
				}
				return true
			})
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
