package policy

import (
	"crypto/x509"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
)

// Values of a collector where the policy writes none.
const (
	defaultQueueRecords = 10_000
	defaultQueueMemory  = 16 << 20
	defaultSyslogPort   = 6514       // RFC 5425, section 4.1
	defaultLogsPath     = "/v1/logs" // OTLP 1.x
	defaultEnterprise   = 32473      // for examples (RFC 5612): Lorica has no number of its own
	maxEnterprise       = 1<<32 - 1  // RFC 5424 has digits, and IANA less than this
	collectorTrustFile  = "./logs-ca.pem"
)

func (d *decoder) sinks(a *api.Audit) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const p = "spec.audit.sinks"
		x := &api.Sinks{Pos: d.pos(n)}
		d.object(n, p,
			field{name: "channel", read: d.boolean(&x.Channel, p+".channel")},
			field{name: "syslog", read: func(n *yaml.Node) { x.Syslog = d.syslog(n) }},
			field{name: "otlp", read: func(n *yaml.Node) { x.OTLP = d.otlp(n) }})
		if d.written(n, false, "channel", "syslog", "otlp") == 0 || !x.Channel && x.Syslog == nil && x.OTLP == nil && value(n, "channel").Value == "false" {
			d.fail(n, "write channel: true, syslog: {...} or otlp: {...}", "%s is empty: records would be kept nowhere", p)
		}
		if x.Syslog != nil && x.OTLP != nil && x.Syslog.Deny && x.OTLP.Deny {
			d.fail(n, "write onLoss: Count for one of them", "%s: two collectors deny what they cannot have: one of them would keep what the other has denied", p)
		}
		a.Sinks = x
	}
}

func (d *decoder) collector(n *yaml.Node) *api.Collector {
	return &api.Collector{Pos: d.pos(n), Records: defaultQueueRecords, Memory: defaultQueueMemory, Enterprise: defaultEnterprise}
}

// collectorFields are those that all collectors have, beside their own.
func (d *decoder) collectorFields(c *api.Collector, p string, own ...field) []field {
	loss := ""
	return append(own,
		field{name: "trust", must: true, read: d.secretName(&c.Trust, p+"trust", collectorTrustFile)},
		field{name: "serverName", read: func(n *yaml.Node) {
			var s string
			if d.str(&s, p+"serverName")(n); n.Tag != "!!str" {
				return
			}
			if _, err := netip.ParseAddr(s); err != nil && !egress.ValidName(s) {
				d.fail(n, "write the name in the certificate, such as logs.example.com", "%sserverName %q is neither a lower-case DNS name nor an IP address", p, clip(s))
				return
			}
			c.ServerName = s
		}},
		field{name: "certificate", read: d.secretName(&c.Certificate, p+"certificate", "./logs.pem")},
		field{name: "key", read: d.secretName(&c.Key, p+"key", "./logs.key")},
		// Never a default: what a collector that is away means is said.
		field{name: "onLoss", must: true, read: func(n *yaml.Node) {
			d.choice(&loss, p+"onLoss", []string{api.LossCount, api.LossDeny})(n)
			c.Deny = loss == api.LossDeny
		}},
		field{name: "queue", read: func(n *yaml.Node) {
			records := uint64(c.Records)
			d.object(n, p+"queue",
				field{name: "records", read: d.number(&records, p+"queue.records", 1, audit.MaxQueueRecords)},
				field{name: "memory", read: d.size(&c.Memory, p+"queue.memory", audit.MinQueueBytes, audit.MaxQueueBytes)})
			c.Records = uint32(records)
		}})
}

func (d *decoder) syslog(n *yaml.Node) *api.Collector {
	const p = "spec.audit.sinks.syslog."
	c := d.collector(n)
	enterprise := uint64(c.Enterprise)
	d.object(n, strings.TrimSuffix(p, "."), d.collectorFields(c, p,
		field{name: "server", must: true, read: d.syslogServer(c, p+"server")},
		field{name: "enterprise", read: d.number(&enterprise, p+"enterprise", 1, maxEnterprise)})...)
	c.Enterprise = uint32(enterprise)
	return c
}

func (d *decoder) syslogServer(c *api.Collector, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s string
		if d.str(&s, path)(n); n.Tag != "!!str" {
			return
		}
		u, err := url.Parse("syslog://" + s)
		if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.ContainsAny(s, "#/?@") {
			d.fail(n, "write a host, or a host and a port, such as logs.example.com:6514", "%s %q is not a host and a port", path, clip(s))
			return
		}
		d.collectorHost(n, c, u, path, s, defaultSyslogPort)
	}
}

// collectorHost reads host and port of u, which is written as s.
func (d *decoder) collectorHost(n *yaml.Node, c *api.Collector, u *url.URL, path, s string, port uint16) {
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		v, err := strconv.ParseUint(p, 10, 16)
		if err != nil || v == 0 || p[0] == '0' {
			d.fail(n, "write a port from 1 to 65535, or none", "%s %q has no valid port", path, clip(s))
			return
		}
		port = uint16(v)
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			d.fail(n, "write an address that can be connected to, without a zone", "%s %q names nobody that can be connected to", path, clip(s))
			return
		}
		host = a.String()
	} else if !egress.ValidName(host) {
		d.fail(n, nameFix(host), "%s %q has a host that is neither an IP address nor a lower-case DNS name", path, clip(s))
		return
	}
	c.Host, c.Port = host, port
}

func (d *decoder) otlp(n *yaml.Node) *api.Collector {
	const p = "spec.audit.sinks.otlp."
	c := d.collector(n)
	d.object(n, strings.TrimSuffix(p, "."), d.collectorFields(c, p,
		field{name: "url", must: true, read: func(n *yaml.Node) {
			var s string
			if d.str(&s, p+"url")(n); n.Tag != "!!str" {
				return
			}
			const fine = "write a URL such as https://collector.example.com:4318, or with a path other than /v1/logs"
			u, err := url.Parse(s)
			switch {
			case err != nil || u.Scheme != "https" || u.Opaque != "":
				d.fail(n, fine, "%surl %q is not a URL of https: records are never sent in the clear", p, clip(s))
				return
			case u.User != nil:
				d.fail(n, "remove it, and write token: secret/NAME", "%surl %q holds a user or a password", p, clip(s))
				return
			case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
				d.fail(n, fine, "%surl %q has a query or a fragment", p, clip(s))
				return
			}
			c.Path = u.EscapedPath()
			if c.Path == "" || c.Path == "/" {
				c.Path = defaultLogsPath
			}
			if !audit.ValidPath(c.Path) {
				d.fail(n, fine, "%surl %q has a path that cannot be asked for", p, clip(s))
				return
			}
			d.collectorHost(n, c, u, p+"url", s, 443)
		}},
		field{name: "token", read: d.secretName(&c.Token, p+"token", "./token.txt")})...)
	return c
}

// A Sending is a collector of a policy, and what it is called.
type Sending struct {
	Name string // "syslog", "otlp"
	*api.Collector
}

// Rule names the connection to the collector, and what it denies.
func (s Sending) Rule() abi.Rule { return abi.Rule{ID: "audit:" + s.Name, Line: s.Pos.Short()} }

// Section names the section of the program that says where records go.
func (s Sending) Section() string { return "audit-" + s.Name }

// Target is what is connected to.
func (s Sending) Target() (egress.Target, error) { return egress.ParseTarget(s.Host, s.Port) }

// Collectors returns where the records of a policy go over the network.
func Collectors(s *api.SecurityPolicy) (list []Sending) {
	if s.Audit == nil || s.Audit.Sinks == nil {
		return nil
	}
	if c := s.Audit.Sinks.Syslog; c != nil {
		list = append(list, Sending{"syslog", c})
	}
	if c := s.Audit.Sinks.OTLP; c != nil {
		list = append(list, Sending{"otlp", c})
	}
	return list
}

// Channel reports whether the tender keeps the records of a policy.
func Channel(s *api.SecurityPolicy) bool {
	return s.Audit == nil || s.Audit.Sinks == nil || s.Audit.Sinks.Channel
}

// egressRule is the one that a collector brings with it, after all that are written.
func (s Sending) egressRule() (r egress.Rule, ok bool) {
	t, err := s.Target()
	if err != nil {
		return r, false
	}
	r = egress.Rule{Rule: s.Rule(), Verdict: abi.Allow, Ports: []egress.Ports{{Lo: t.Port, Hi: t.Port}}}
	if t.Name != "" {
		r.Names = []string{t.Name}
	} else {
		r.CIDRs = []netip.Prefix{netip.PrefixFrom(t.Addr, t.Addr.BitLen())}
	}
	return r, true
}

// checkSinks checks what one policy shows.
func (p *parsing) checkSinks(s *securityPolicy) {
	for _, c := range Collectors(s.SecurityPolicy) {
		if (c.Certificate == "") != (c.Key == "") {
			s.failAt(c.Pos, "write certificate and key, or neither", "spec.audit.sinks.%s: a certificate and its key go together", c.Name)
		}
		if s.bad["spec.network"] || s.bad["spec.levels"] || s.bad["spec.audit"] {
			continue
		}
		t, err := c.Target()
		if err != nil {
			continue // reported
		}
		for i, level := range s.Levels.Names {
			res := EgressSection(s.SecurityPolicy, i).Decide(t)
			if res.Verdict == abi.Allow {
				continue
			}
			at := c.Pos
			if i := slices.IndexFunc(s.Network.Egress, func(r api.EgressRule) bool { return r.Name == res.Rule.ID }); i >= 0 {
				at = s.Network.Egress[i].Pos
			}
			s.failAt(at, "put a rule that allows it before this one", "rule %q denies the connection to %s at level %s, and spec.audit.sinks.%s (%s) sends records there at every level",
				res.Rule.ID, t, level, c.Name, c.Pos.Short())
			break
		}
	}
}

// checkPairSinks checks that the image of a workload has a way to the collectors, and the
// memory for what waits for them: half of it, as anybody can have records made.
func (p *parsing) checkPairSinks(w *workload, s *securityPolicy) {
	list := Collectors(s.SecurityPolicy)
	var memory uint64
	for _, c := range list {
		memory += c.Memory
	}
	if memory > w.Memory/2 {
		s.failAt(list[0].Pos, "write a smaller queue.memory, or a larger spec.resources.memory in the workload", "what waits for collectors may take %s, more than half of the %s that workload %s has",
			sizeText(memory), sizeText(w.Memory), w.Metadata.Name)
	}
	if len(list) > 0 && w.Interface != nil {
		s.failAt(list[0].Pos, "write network: direct without an interface, or socket, in the workload", "workload %s is on an interface, where records cannot be sent: its tender, which makes its connections, is not on that network", w.Metadata.Name)
	}
}

// sinkUses lists the secrets of collectors and how each is read.
func sinkUses(s *api.SecurityPolicy) (list []use) {
	for _, c := range Collectors(s) {
		var chain []*x509.Certificate
		list = append(list, use{c.Trust, c.Pos, collectorTrustFile, "", func(p *parsing, s *securityPolicy, x api.Secret) {
			if data, ok := p.readPEM(s, x); ok {
				_, err := transport.ParseTrust(data)
				p.failPEM(x, err, "write the certificates of the authorities that may vouch for the collector, in PEM")
			}
		}}, use{c.Certificate, c.Pos, "./logs.pem", "", func(p *parsing, s *securityPolicy, x api.Secret) {
			if data, ok := p.readPEM(s, x); ok {
				var err error
				chain, err = transport.ParseClientChain(data)
				p.failPEM(x, err, "write the image's certificate for this collector in PEM, then those that lead to its authority")
			}
		}}, use{c.Key, c.Pos, "./logs.key", "", func(p *parsing, s *securityPolicy, x api.Secret) {
			data, ok := p.readPEM(s, x)
			if !ok {
				return
			}
			key, err := transport.ParseKey(data)
			p.failPEM(x, err, "write one private key in PEM: ECDSA P-256, Ed25519, or RSA of 2048 bits or more")
			if err == nil && chain != nil && !transport.Matches(chain[0], key) {
				s.failAt(c.Pos, "name the certificate and the key that were made together", "the key in secret %q is not that of the certificate in secret %q", c.Key, c.Certificate)
			}
		}}, use{c.Token, c.Pos, "./token.txt", "", func(p *parsing, s *securityPolicy, x api.Secret) {
			data, ok := p.readSecret(s, x, audit.MaxToken+2, "name a file that holds the token", "write nothing but the token")
			if !ok {
				return
			}
			if _, err := audit.ParseToken(data); err != nil {
				p.failIn(x, 1, "write nothing but the token (RFC 6750)", err.Error())
			}
		}})
	}
	return list
}
