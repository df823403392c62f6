package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

func (d *decoder) endpoint(n *yaml.Node) api.Endpoint {
	e := api.Endpoint{Pos: d.pos(n)}
	d.object(n, "spec.endpoints",
		field{name: "name", must: true, read: d.word(&e.Name, "spec.endpoints.name")},
		field{name: "cidrs", read: d.list("spec.endpoints.cidrs", func(n *yaml.Node) {
			if p, ok := d.prefix(n, "spec.endpoints.cidrs"); ok {
				e.CIDRs = append(e.CIDRs, p)
			}
		})},
		field{name: "workloads", notYet: true})
	if d.written(n, false, "cidrs") == 0 && value(n, "workloads") == n {
		d.fail(n, "add cidrs: [10.0.0.0/8]", "spec.endpoints.cidrs is missing")
	} else if c := value(n, "cidrs"); c.Kind == yaml.SequenceNode && len(c.Content) == 0 {
		d.fail(c, "write the networks, or use any", "spec.endpoints.cidrs is empty: the endpoint would match nobody")
	}
	return e
}

// prefix reads a network. One that is written with host bits is probably not
// what was meant, and an IPv4-mapped one would never match.
func (d *decoder) prefix(n *yaml.Node, path string) (netip.Prefix, bool) {
	var s string
	if d.str(&s, path)(n); s == "" {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		fix := "write a network such as 10.20.0.0/16 or \"2001:db8::/32\""
		if a, err := netip.ParseAddr(s); err == nil {
			fix = fmt.Sprintf("write %q for the one address", netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()).String())
		}
		d.fail(n, fix, "%q is not a network", clip(s))
		return p, false
	}
	if p.Addr().Is4In6() {
		fix := "write the IPv4 network"
		if p.Bits() >= 96 {
			fix = "write " + netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked().String()
		}
		d.fail(n, fix, "%s is an IPv4-mapped network", s)
		return p, false
	}
	if p != p.Masked() {
		d.fail(n, "write "+p.Masked().String(), "%s has bits set behind its length", s)
		return p, false
	}
	return p, true
}

func (d *decoder) network(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		x := &api.Network{Pos: d.pos(n)}
		d.object(n, "spec.network",
			field{name: "ingress", must: d.drawing == nil && value(n, "egress") == n, read: d.list("spec.network.ingress", func(n *yaml.Node) { x.Ingress = append(x.Ingress, d.ingress(n)) })},
			field{name: "egress", read: func(n *yaml.Node) {
				d.list("spec.network.egress", func(n *yaml.Node) { x.Egress = append(x.Egress, d.egress(n)) })(n)
				if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
					d.fail(n, "write the rules, or remove the field: nothing can be connected to without rules", "spec.network.egress is empty")
				}
			}})
		d.written(n, false, "ingress", "egress")
		s.Network = x
	}
}

func (d *decoder) ingress(n *yaml.Node) api.IngressRule {
	const p = "spec.network.ingress."
	r := api.IngressRule{Pos: d.pos(n)}
	d.object(n, "spec.network.ingress",
		field{name: "name", must: true, read: d.word(&r.Name, p+"name")},
		field{name: "action", must: true, read: d.verdict(&r.Action, p+"action")},
		field{name: "from", must: true, read: d.words(&r.From, p+"from")},
		field{name: "ports", read: d.list(p+"ports", func(n *yaml.Node) { r.Ports = append(r.Ports, d.port(n, p+"ports.")) })},
		field{name: "audit", read: d.boolean(&r.Audit, p+"audit")},
		field{name: "enforcement", read: d.dryRun(&r.DryRun, p+"enforcement")},
		field{name: "minLevel", read: d.word(&r.MinLevel, p+"minLevel")},
		field{name: "maxLevel", read: d.word(&r.MaxLevel, p+"maxLevel")})
	// An empty list must not read as "every port" or "everybody".
	for _, name := range []string{"from", "ports"} {
		if l := value(n, name); l.Kind == yaml.SequenceNode && len(l.Content) == 0 {
			fix := "name endpoints, or write [any]"
			if name == "ports" {
				fix = "name ports, or remove ports for every port"
			}
			d.fail(l, fix, "%s%s is empty: the rule would match nothing", p, name)
		}
	}
	return r
}

var rangeForm = regexp.MustCompile(`^(\d{1,5})-(\d{1,5})$`)

func (d *decoder) port(n *yaml.Node, p string) api.Port {
	x := api.Port{Pos: d.pos(n), Hi: 65535}
	d.object(n, strings.TrimSuffix(p, "."),
		field{name: "protocol", must: true, read: d.choice(&x.Protocol, p+"protocol", []string{"TCP", "UDP", "ICMP", "any"}, "SCTP")},
		field{name: "port", read: func(n *yaml.Node) {
			var v uint64
			d.number(&v, p+"port", 1, 65535)(n)
			x.Lo, x.Hi = uint16(v), uint16(v)
		}},
		field{name: "portRange", read: func(n *yaml.Node) {
			if d.drawn(n, sketch{"type": "string", "pattern": rangeForm.String()}) {
				return
			}
			m := rangeForm.FindStringSubmatch(n.Value)
			if n.Kind == yaml.ScalarNode && m != nil {
				lo, err1 := strconv.ParseUint(m[1], 10, 16)
				hi, err2 := strconv.ParseUint(m[2], 10, 16)
				if err1 == nil && err2 == nil && lo <= hi && lo > 0 {
					x.Lo, x.Hi = uint16(lo), uint16(hi)
					return
				}
			}
			d.fail(n, `write "8000-8100", from 1 to 65535, the lower one first`, "%sportRange cannot be %s", p, shown(n))
		}})
	if value(n, "port") != n && value(n, "portRange") != n {
		d.fail(n, "keep one of them", "%s: port and portRange are both written", strings.TrimSuffix(p, "."))
	}
	if x.Protocol == api.ICMP && (value(n, "port") != n || value(n, "portRange") != n) {
		d.fail(n, "remove it", "%s: ICMP has no ports", strings.TrimSuffix(p, "."))
		x.Lo, x.Hi = 0, 65535
	}
	return x
}

func (d *decoder) route(n *yaml.Node) api.Route {
	r := api.Route{Pos: d.pos(n)}
	d.object(n, "spec.routes",
		field{name: "name", must: true, read: d.word(&r.Name, "spec.routes.name")},
		field{name: "group", read: d.word(&r.Group, "spec.routes.group")},
		field{name: "match", must: true, read: func(n *yaml.Node) {
			d.object(n, "spec.routes.match",
				field{name: "method", must: true, read: d.method(&r.Method)},
				field{name: "path", must: true, read: d.pattern(&r.Path)},
				field{name: "headers", notYet: true},
				field{name: "host", notYet: true})
		}},
		field{name: "enforcement", notYet: true},
		field{name: "upgrade", read: d.choice(&r.Upgrade, "spec.routes.upgrade", []string{"websocket"})})
	if r.Upgrade != "" && r.Method != "" && r.Method != "GET" {
		d.fail(value(n, "upgrade"), "write match: {method: GET, ...}", "spec.routes.upgrade: a WebSocket begins with GET, not %s", r.Method)
	}
	return r
}

var methodForm = regexp.MustCompile(`^(\*|[A-Z]{1,20})$`)

func (d *decoder) method(dst *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s string
		if d.str(&s, "spec.routes.match.method")(n); s == "" {
			return
		}
		switch {
		case !methodForm.MatchString(s):
			fix := `write a method such as GET, or "*" for any`
			if up := strings.ToUpper(s); methodForm.MatchString(up) {
				fix = "write " + up
			}
			d.fail(n, fix, "spec.routes.match.method %q is not a method", clip(s))
		case s == "CONNECT" || s == "TRACE":
			d.fail(n, "remove the route", "spec.routes.match.method: %s is not supported yet", s)
		default:
			*dst = s
		}
	}
}
