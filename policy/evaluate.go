package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/api"
)

// A Decision is what a part of the policy says. The zero Decision denies.
type Decision struct {
	Verdict abi.Verdict
	Rule    abi.Rule // what decided
	Level   string   // the level whose rules decided: for a denial the lowest that denies
	Reason  string   // in words, for a denial

	Would *Decision // what it would be if what is tried were enforced; nil: the same
}

// A Call is a question to authorization.
type Call struct {
	Level     string // empty: the initial level
	Principal string
	Groups    []string
	Route     string                 // name
	Context   map[string]cedar.Value // by attribute, without those of the level
}

// NetworkDefault is the rule that decides connections that no rule matches.
func NetworkDefault(p *api.SecurityPolicy) abi.Rule {
	at := p.Default.Pos
	if at.Line == 0 && p.Network != nil {
		at = p.Network.Pos
	}
	return abi.Rule{ID: abi.RuleNetwork, Line: at.Short()}
}

// AuthorizationDefault is the rule that decides calls that no rule matches. The
// policy must have an authorization section.
func AuthorizationDefault(p *api.SecurityPolicy) abi.Rule {
	at := p.Default.Pos
	if at.Line == 0 {
		at = p.Authorization.Pos
	}
	return abi.Rule{ID: abi.RuleAuthz, Line: at.Short()}
}

// LevelsTo returns the levels from the lowest up to one, the initial one where
// none is named; nil if there is no such level.
func LevelsTo(p *api.SecurityPolicy, level string) []string {
	if level == "" {
		level = p.Levels.Initial
	}
	return p.Levels.Names[:slices.Index(p.Levels.Names, level)+1]
}

// Authorize is Reference's, for one call.
func (d *Deployment) Authorize(c Call) Decision { return d.Reference().Authorize(c) }

// Forbids reports whether it is a forbid, and not a permit.
func (r *CedarRule) Forbids() bool { return !bool(r.Policy.Effect) }

func holds(r *CedarRule, env eval.Env) (bool, error) {
	v, err := eval.Eval(eval.PolicyToNode(r.Policy).AsIsNode(), env)
	if err != nil {
		return false, err
	}
	b, ok := v.(cedar.Boolean)
	if !ok {
		return false, fmt.Errorf("a condition is %T, not a boolean", v)
	}
	return bool(b), nil
}

// lacking returns the required attributes among reads that have no value.
func (d *Deployment) lacking(reads []string, context map[string]cedar.Value) []string {
	var out []string
	for _, x := range d.Authorization.Attributes {
		if x.Optional || x.Source.Kind == authz.SourceLevel || !slices.Contains(reads, x.Name) {
			continue
		}
		if _, ok := context[x.Name]; !ok {
			out = append(out, x.Name)
		}
	}
	return out
}

func (d *Deployment) readsLevel(reads []string) bool {
	return slices.ContainsFunc(d.Authorization.Attributes, func(x authz.Attribute) bool {
		return x.Source.Kind == authz.SourceLevel && slices.Contains(reads, x.Name)
	})
}

func (d *Deployment) route(name string) *api.Route {
	for i := range d.Policy.Routes {
		if d.Policy.Routes[i].Name == name {
			return &d.Policy.Routes[i]
		}
	}
	return nil
}

// Classify is the reference for the firewall: at every level up to the given one
// (empty: the initial one) the first rule that matches must allow.
func (d *Deployment) Classify(level string, k api.Packet) Decision {
	return d.Reference().Classify(level, k)
}

// Classify is that of the deployment, for many packets. What is tried decides nothing, and
// is in Would.
func (x *Reference) Classify(level string, k api.Packet) Decision {
	return released(x.whole, x.weighPacket(level, k))
}

// weighPacket is Classify as if the policy were not tried as a whole.
func (x *Reference) weighPacket(level string, k api.Packet) Decision {
	dec := x.classify(level, k)
	if x.tried != nil {
		dec = dec.beside(x.tried.classify(level, k))
	}
	return dec
}

func (x *Reference) classify(level string, k api.Packet) Decision {
	d := x.d
	fallback := NetworkDefault(d.Policy)
	levels := LevelsTo(d.Policy, level)
	if len(levels) == 0 {
		return Decision{Rule: fallback, Reason: fmt.Sprintf("there is no level %q", level)}
	}
	var dec Decision
	for i, l := range levels {
		dec = Decision{Verdict: d.Policy.Default.Network, Rule: fallback, Level: l}
		if r := x.firstRule(i, k); r != nil {
			dec.Verdict, dec.Rule = r.Action, abi.Rule{ID: r.Name, Line: r.Pos.Short()}
		}
		if dec.Verdict == abi.Deny {
			dec.Reason = "denied by " + dec.Rule.ID
			if dec.Rule == fallback {
				dec.Reason = "no rule matched"
			}
			break
		}
	}
	return dec
}

func (x *Reference) firstRule(level int, k api.Packet) *api.IngressRule {
	p := x.d.Policy
	if p.Network == nil {
		return nil
	}
	if x.cidrs == nil {
		x.cidrs = make(map[string][]netip.Prefix)
		for _, e := range p.Endpoints {
			x.cidrs[e.Name] = append(x.cidrs[e.Name], e.CIDRs...)
		}
	}
	a := k.From.Unmap().WithZone("")
	from := func(name string) bool {
		return name == api.AnyEndpoint || slices.ContainsFunc(x.cidrs[name], func(x netip.Prefix) bool { return x.Contains(a) })
	}
	for i := range p.Network.Ingress {
		r := &p.Network.Ingress[i]
		if Applies(p, r, level) && portMatches(r, k) && slices.ContainsFunc(r.From, from) {
			return r
		}
	}
	return nil
}

// Applies reports whether a rule exists at the level with this index.
func Applies(p *api.SecurityPolicy, r *api.IngressRule, level int) bool {
	lo, hi := 0, len(p.Levels.Names)-1
	if r.MinLevel != "" {
		lo = slices.Index(p.Levels.Names, r.MinLevel)
	}
	if r.MaxLevel != "" {
		hi = slices.Index(p.Levels.Names, r.MaxLevel)
	}
	return lo <= level && level <= hi
}

func fromMatches(p *api.SecurityPolicy, r *api.IngressRule, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if slices.Contains(r.From, api.AnyEndpoint) {
		return true
	}
	for _, e := range p.Endpoints {
		if slices.Contains(r.From, e.Name) && slices.ContainsFunc(e.CIDRs, func(x netip.Prefix) bool { return x.Contains(a) }) {
			return true
		}
	}
	return false
}

// portMatches: a rule without ports is about every port of every protocol.
func portMatches(r *api.IngressRule, k api.Packet) bool {
	return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p api.Port) bool {
		return (p.Protocol == "any" || p.Protocol == k.Protocol) && p.Lo <= k.Port && k.Port <= p.Hi
	})
}

// ParseValue reads the value of an attribute from text, the way the image does; that of a
// set from a JSON array.
func ParseValue(a authz.Attribute, s string) (cedar.Value, error) {
	if !a.Set {
		return parseScalar(a.Type, s)
	}
	var out [1]strictjson.Value
	if err := strictjson.Find([]byte(s), []strictjson.Pointer{{}}, out[:]); err != nil || out[0].Kind != strictjson.Array {
		return nil, fmt.Errorf("%q is not a JSON array", clip(s))
	}
	return jsonValue(a, out[0])
}

func parseScalar(t authz.Type, s string) (cedar.Value, error) {
	switch t {
	case authz.TypeString:
		return cedar.String(s), nil
	case authz.TypeLong:
		return parseLong(s)
	case authz.TypeBool:
		if s == "true" || s == "false" {
			return cedar.Boolean(s == "true"), nil
		}
	case authz.TypeIP:
		return parseIP(s)
	case authz.TypeDecimal:
		return parseDecimal(s)
	case authz.TypeDatetime:
		return types.ParseDatetime(s)
	case authz.TypeDuration:
		return types.ParseDuration(s)
	}
	return nil, fmt.Errorf("%q is not a %s", clip(s), typeName(t))
}
