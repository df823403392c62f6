package verify

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

// A passage is a door, and what the network rules say of it.
type passage struct {
	door
	said policy.Decision
}

// Passages are tried of each rule at each listener: fewer of packets that are denied, each
// of which takes a client and its record a second or more.
const (
	maxPassages = 12
	maxPackets  = 4
)

// connections returns passages from addresses that this machine has, the most usual first.
func (v *verifier) connections() (list []passage) {
	per := map[string]int{}
	for _, to := range v.Listeners {
		for _, from := range v.sources(to.Addr()) {
			d := door{from, to}
			said := policy.Decision{Verdict: abi.Allow}
			if v.guarded() {
				said = v.Deployment.Classify(v.Level.Name, d.packet())
			}
			most := maxPassages
			if said.Verdict == abi.Deny && v.Deployment.Workload.OwnStack() {
				most = maxPackets
			}
			if k := said.Rule.ID + " " + to.String(); per[k] < most {
				per[k]++
				list = append(list, passage{d, said})
			}
		}
	}
	return list
}

// guarded reports whether the image judges connections.
func (v *verifier) guarded() bool {
	return slices.ContainsFunc(v.Level.Enforced, func(e compiler.Enforced) bool { return e.Stage == abi.StageFirewall })
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// sources returns addresses of this machine that can connect to a listener: of 127.0.0.0/8
// one of each piece that the endpoints of the policy cut it into.
func (v *verifier) sources(to netip.Addr) (list []netip.Addr) {
	own := interfaces()
	if to.IsLoopback() || slices.Contains(own, to) {
		list = append(list, netip.IPv6Loopback())
		cuts := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
		for _, e := range v.Deployment.Policy.Endpoints {
			for _, c := range e.CIDRs {
				if c.Addr().Is4() && c.Overlaps(loopback) {
					cuts = append(cuts, c.Masked().Addr(), last(c).Next())
				}
			}
		}
		for _, a := range cuts {
			if !loopback.Contains(a) || a == loopback.Addr() {
				a = loopback.Addr().Next()
			}
			list = append(list, a)
		}
	}
	list = append(list, own...)
	var out []netip.Addr
	for _, a := range list {
		if a.Is4() == to.Is4() && a != last(loopback) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// last returns the last address of a network.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// interfaces returns the addresses of this machine that are no loopback.
func interfaces() (list []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, x := range all {
		n, ok := x.(*net.IPNet)
		if !ok {
			continue
		}
		a, _ := netip.AddrFromSlice(n.IP)
		if a = a.Unmap(); a.IsValid() && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			list = append(list, a)
		}
	}
	return list
}

// network shows what a rule for connections does, at each listener.
func (v *verifier) network(ctx context.Context, r *Result, all []passage) {
	none := true
	for _, p := range all {
		if p.said.Rule.ID != r.Rule || ctx.Err() != nil {
			continue
		}
		none = false
		e := expectation{p.said.Verdict, abi.StageFirewall, p.said.Rule}
		t := Trial{Witness: p.words(), Expected: e.String()}
		var err error
		if p.said.Verdict == abi.Allow {
			t, err = v.letIn(ctx, t, e, p.door)
		} else {
			t, err = v.refused(ctx, t, e, p.door, func() (try.Answer, error) { return v.probe(ctx, p.door) })
		}
		r.add(t, err)
	}
	if none {
		r.Why = v.unreachable(ctx, r)
	}
}

// probe makes a connection, and asks what is never served: no application sees it.
func (v *verifier) probe(ctx context.Context, at door) (try.Answer, error) {
	c, err := v.config(nil)
	if err != nil {
		return try.Answer{}, err
	}
	return try.Exchange(ctx, at.to.String(), at.from.String(), c, "TRACE", "TRACE / HTTP/1.1\r\nHost: "+at.to.String()+"\r\nConnection: close\r\n\r\n")
}

// letIn shows that a connection is served. Which rule let it in only some records say: else
// it is shown where the connection would be refused without the rule.
func (v *verifier) letIn(ctx context.Context, t Trial, e expectation, at door) (Trial, error) {
	if !v.audited(e.rule.ID) && !v.needed(e.rule.ID, at) {
		return t, errors.New("another rule would let the connection in as well, and no record says which one did (audit: true asks for one)")
	}
	if why := v.blocks(abi.StageFilter, at.from); why != "" {
		return t, errors.New(why)
	}
	a, err := v.probe(ctx, at)
	switch {
	case ctx.Err() != nil:
		return t, ctx.Err()
	case err != nil:
		t.Got = "no connection: " + err.Error()
		return t, nil
	case a.Refused == try.Closed:
		t.Got = "the connection is closed"
		return t, nil
	case a.Refused == try.Handshake: // by TLS, which comes behind the network rules
		t.Got, t.OK = "Allow (TLS answered)", true
		return t, nil
	}
	t.Decision = a.Decision
	d, ok := v.records.find(ctx, a.Decision)
	if !ok {
		t.Got = "let in, and no record of what was asked"
		return t, nil
	}
	if why := v.limited(&d, e); why != "" {
		return t, errors.New(why)
	}
	if d.Level != v.Level.Name || d.Program != v.Program {
		t.Got = "Allow at level " + d.Level + " of the program " + d.Program
		return t, nil
	}
	t.Got, t.OK = e.verdict.String(), true
	if v.audited(e.rule.ID) && !v.hides("source") {
		got, ok := v.records.let(at.from, e)
		t.Got = got
		t.OK = ok
	}
	return t, nil
}

func (v *verifier) rule(name string) *api.IngressRule {
	if n := v.Deployment.Policy.Network; n != nil {
		for i := range n.Ingress {
			if n.Ingress[i].Name == name {
				return &n.Ingress[i]
			}
		}
	}
	return nil
}

// audited reports whether connections that a rule lets in are recorded.
func (v *verifier) audited(name string) bool {
	r := v.rule(name)
	return r != nil && r.Audit
}

// needed reports whether a door would be closed without a rule; that of the default, which
// nothing stands behind, would.
func (v *verifier) needed(name string, at door) bool {
	if v.rule(name) == nil {
		return true
	}
	d, p, n := *v.Deployment, *v.Deployment.Policy, *v.Deployment.Policy.Network
	n.Ingress = slices.DeleteFunc(slices.Clone(n.Ingress), func(r api.IngressRule) bool { return r.Name == name })
	p.Network, d.Policy = &n, &p
	return d.Classify(v.Level.Name, at.packet()).Verdict == abi.Deny
}

// unreachable says why no connection from here is decided by a rule.
func (v *verifier) unreachable(ctx context.Context, r *Result) string {
	if r.Where == compiler.WhereNowhere {
		return "it is enforced nowhere: an image with sockets of the host sees TCP alone"
	}
	known, err := space.Network(space.NewBudget(ctx, space.DefaultSteps), v.Deployment)
	if err != nil {
		return err.Error()
	}
	for _, x := range known {
		switch {
		case x.Rule.ID != r.Rule:
			continue
		case x.Status == space.None:
			return "it decides nothing: " + strings.Join(names(x.By), ", ") + " decide before it"
		case x.At[v.level] == nil && x.Status == space.Found:
			return "it decides nothing at level " + v.Level.Name
		}
	}
	rule := v.rule(r.Rule)
	if rule == nil {
		return "every connection that can be made from here is decided by another rule"
	}
	if len(rule.Ports) > 0 && !slices.ContainsFunc(v.Listeners, func(l netip.AddrPort) bool {
		return slices.ContainsFunc(rule.Ports, func(p api.Port) bool {
			return (p.Protocol == "TCP" || p.Protocol == "any") && p.Lo <= l.Port() && l.Port() <= p.Hi
		})
	}) {
		return "it is about ports where this instance does not listen"
	}
	if slices.Contains(rule.From, api.AnyEndpoint) {
		return "every connection that can be made from here is decided by another rule"
	}
	var from []string
	for _, e := range v.Deployment.Policy.Endpoints {
		if slices.Contains(rule.From, e.Name) {
			for _, c := range e.CIDRs {
				from = append(from, c.String())
			}
		}
	}
	if len(from) > 4 {
		from = append(from[:4], "...")
	}
	return "it needs a source in " + strings.Join(from, ", ")
}

func names(rules []abi.Rule) (out []string) {
	for _, r := range rules {
		out = append(out, r.ID)
	}
	return out
}
