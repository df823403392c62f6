// Package compiler turns a checked deployment into what images enforce: for each
// security level the sections of its program, the capabilities that an image
// must have and the line that asks for each, and, for plan, where every rule is
// enforced and what every route reads.
//
// It is pure: equal input gives equal bytes.
package compiler

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

// An Output holds one Level for each security level, from the lowest up.
type Output struct{ Levels []Level }

// A Level is everything that one security level asks for.
type Level struct {
	Name         string
	Names        []string          // levels up to this one
	Sections     []program.Section // in chain order; absent where nothing asks for one
	Requirements []catalog.Requirement
	Prohibitions []catalog.Requirement // modules and capabilities that must not be in its image
	MaxSurface   int                   // of its modules together; 0: no limit
	Ports        []Port
	Enforced     []Enforced
	Egress       []Outlet // rules for connections out, in order; the last one decides where none matches
	Routes       []RouteReads
	DryRun       bool // nothing of the policy is enforced that can be let through

	MaxSurfacePos api.Pos

	claims []claim
}

// A Port is an open port of the workload and the network rules that can decide
// about connections to it, in order.
type Port struct {
	Name    string
	Address netip.Addr
	Port    uint16
	Rules   []Reach
	Default Reach // where none of them matches
}

// A Reach is a network rule as far as it is about one port.
type Reach struct {
	abi.Rule
	Verdict abi.Verdict
	From    []string // endpoint names; empty: every source
}

// An Enforced says where a rule is enforced.
type Enforced struct {
	abi.Rule
	Stage  string // which module decides
	Where  string // one of the places of enforcement
	DryRun bool   // it is tried, and decides nothing
}

// Places of enforcement.
const (
	WherePacket    = "packet"
	WhereAccept    = "accept"
	WhereHandshake = "handshake"
	WhereRequest   = "request"
	WhereTender    = "tender"
	WhereNowhere   = "nowhere"
)

// PacketNote says what WherePacket means.
const PacketNote = "An image with a stack of its own judges every packet before its TCP sees it: whom it denies gets no handshake of it, and none at all where packets are routed or the image is on an interface. Elsewhere its tender has taken the connection by then, and ends it."

// AcceptNote says what WhereAccept means.
const AcceptNote = "A connection is accepted after its TCP handshake: one that is refused then is closed before a byte of it is read."

// NowhereNote says what WhereNowhere means.
const NowhereNote = "An image with sockets of the host serves TCP alone and sees nothing else: with network: direct it judges every packet."

// TenderNote says what WhereTender means.
const TenderNote = "A sealed image cannot connect: the tender makes its connections and shuts down those that a new program denies. The image asks the rules first."

// A RouteReads is a route, the attributes that its rules read and the rules
// that can decide there, both in file order.
type RouteReads struct {
	Route      string
	Attributes []string
	Rules      []string
}

// Compile compiles every level of d. Its errors are policy.Errors, with the
// place of what cannot be compiled.
func Compile(d *policy.Deployment) (*Output, error) {
	p := d.Policy
	if len(p.Levels.Names) == 0 {
		return nil, errors.New("compiler: the policy has no level")
	}
	var rules, tried *authorization
	if d.Authorization != nil {
		var errs policy.Errors
		if rules, errs = authorize(d, d.Enforced().Authorization.Rules); len(errs) > 0 {
			return nil, errs
		}
		if tried = rules; slices.ContainsFunc(d.Authorization.Rules, func(r policy.CedarRule) bool { return policy.Tries(p, r.DryRun) }) {
			if tried, errs = authorize(d, d.Authorization.Rules); len(errs) > 0 {
				return nil, errs
			}
		}
	} else if p.Default.Authorization != abi.Allow {
		return nil, policy.Errors{{Pos: written(p.Default.Pos, p.Metadata.Pos),
			Message: "every request would be denied: default.authorization is Deny and there is no authorization section",
			Fix:     "write spec.authorization, or default: {authorization: Allow}"}}
	}
	nets, err := network(p)
	if err != nil {
		return nil, err
	}
	out := &Output{}
	for i, name := range p.Levels.Names {
		l := Level{Name: name, Names: p.Levels.Names[: i+1 : i+1], Requirements: requirements(d, nets, i), DryRun: p.DryRun, claims: claims(p, i)}
		l.steer(p)
		if p.DryRun {
			l.add(dryrun.Name, dryrun.Encode(policy.DryRunRule(p).Line))
		}
		if guarded(p) {
			l.add(flow.Name, nets.section(i, false).Encode())
			if nets.tries(i) {
				l.add(dryrun.Of(flow.Name), nets.section(i, true).Encode())
			}
		}
		if secured(p) {
			l.add(transport.Name, tlsSection(p.TLS).Encode())
		}
		if obliged(p, i) {
			l.add(obligation.Name, obligationSection(p, i, false).Encode())
			if s := obligationSection(p, i, true); len(s.Obligations) > 0 {
				l.add(dryrun.Of(obligation.Name), s.Encode())
			}
		}
		l.add(route.Name, filterSection(p).Encode())
		if _, ok := limited(p, i, sourceLimits); ok {
			l.limit(p, i, sourceLimits, limit.SourceName)
		}
		l.authenticate(d)
		if _, ok := limited(p, i, principalLimits); ok {
			l.limit(p, i, principalLimits, limit.PrincipalName)
		}
		if rules != nil {
			l.add(authz.Name, rules.bytes)
			if tried != rules {
				l.add(dryrun.Of(authz.Name), tried.bytes)
			}
			l.Routes = tried.routes
		}
		l.add(audit.Name, auditSection(d).Encode())
		l.sinks(d)
		if connects(d) {
			l.add(egress.Name, policy.EgressSection(p, i).Encode())
			l.Egress = outlets(p, i)
		}
		l.Ports = nets.ports(d.Workload, i)
		l.Enforced = enforced(d, nets, i)
		out.Levels = append(out.Levels, l)
	}
	return out, nil
}

func (l *Level) add(name string, data []byte) {
	l.Sections = append(l.Sections, program.Section{Name: name, Data: data})
}

// Program returns the program of the level for its image, which is of this plan.
func (l *Level) Program(d *policy.Deployment, plan program.PlanID, revision uint64) *program.Program {
	return &program.Program{
		Plan: plan, Revision: revision,
		Tenant: d.Workload.Metadata.Tenant, Workload: d.Workload.Metadata.Name, Policy: d.Policy.Metadata.Name,
		Levels: l.Names, Sections: l.Sections,
	}
}

// ProgramIn returns the program of the level for the image of another, which is of this
// plan.
func (l *Level) ProgramIn(d *policy.Deployment, image *Level, plan program.PlanID, revision uint64) *program.Program {
	p := l.Program(d, plan, revision)
	p.Sections = l.in(image)
	return p
}

// Level returns the named level.
func (o *Output) Level(name string) (*Level, error) {
	for i := range o.Levels {
		if o.Levels[i].Name == name {
			return &o.Levels[i], nil
		}
	}
	return nil, fmt.Errorf("compiler: there is no level %q", name)
}

// written returns the first position that is known.
func written(list ...api.Pos) api.Pos {
	for _, p := range list {
		if p.Line != 0 {
			return p
		}
	}
	return api.Pos{}
}
