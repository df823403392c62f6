package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
)

// groupsAttribute is the one name in spec.attributes that is not of the context:
// it feeds the parents of the principal.
const groupsAttribute = "groups"

// attributes gives every attribute of the schema's context its source. It
// reports whether all have types that policies can be checked with.
func (p *parsing) attributes(s *securityPolicy, context resolved.RecordType) bool {
	a := s.auth
	schema := newBlock(s.src, s.Authorization.Schema)
	written := make(map[string]*api.Attribute)
	var groups []*api.Attribute // one for each method
	var names []string
	for name := range context {
		names = append(names, string(name))
	}
	for i := range s.Attributes {
		x := &s.Attributes[i]
		written[x.Name] = x
		if x.Name == groupsAttribute {
			groups = append(groups, x)
		} else {
			p.unlisted(s, x, context, names)
		}
	}
	p.groups(s, groups)
	if len(context) > authz.MaxAttributes {
		s.failAt(schema.Pos, "keep those that policies read", "Cedar schema: the context has %d attributes; the limit is %d", len(context), authz.MaxAttributes)
	}
	typed := true
	for _, name := range sortedKeys(context) {
		at := schema.pos(find(schema.Value, string(name)))
		typ, set, ok := attributeType(context[name].Type)
		switch {
		case string(name) == groupsAttribute:
			s.failAt(at, "write principal in Group::\"...\" in policies", "Cedar schema: the name groups stands for the parents of the principal")
		case !ok:
			typed = false
			s.failAt(at, "use String, Long, Bool, ipaddr, decimal, datetime, duration, or a Set of one", "Cedar schema: attribute %q has a type that nothing in a request gives", name)
		default:
			x := authz.Attribute{Name: string(name), Type: typ, Set: set, Optional: context[name].Optional}
			if p.source(s, &x, written[x.Name], at) {
				a.Attributes = append(a.Attributes, x)
			}
		}
	}
	if slices.ContainsFunc(a.Attributes, func(x authz.Attribute) bool { return x.Source.Kind == authz.SourceRoute }) {
		reads := make([][]string, len(s.Routes))
		for i := range s.Routes {
			reads[i] = a.reads(&s.Routes[i])
		}
		for _, x := range a.Attributes {
			if x.Source.Kind == authz.SourceRoute {
				p.checkParam(s, x, written[x.Name].Pos, reads)
			}
		}
	}
	return typed
}

// source finds where an attribute's value comes from; at is its place in the
// schema. Sources that cannot be read were reported before.
func (p *parsing) source(s *securityPolicy, x *authz.Attribute, w *api.Attribute, at api.Pos) bool {
	if w == nil {
		if !s.bad["spec.attributes"] {
			s.failAt(at, fmt.Sprintf("add %s: SOURCE to spec.attributes, for example %s", x.Name, exampleSource(x.Name, x.Type)), "attribute %q of the context has no source", x.Name)
		}
		return false
	}
	src, types, _, wrong := parseSource(w.Source)
	switch {
	case wrong != "":
		return false
	case src.Kind == authz.SourceGroups:
		s.failAt(w.Pos, "write groups: basic.groups", "attribute %q: basic.groups are the parents of the principal, not an attribute of the context", x.Name)
		return false
	case x.Set && src.Kind != authz.SourceBody && src.Kind != authz.SourceClaim:
		s.failAt(w.Pos, "take it from body.json: or jwt.", "attribute %q: %s gives no Set", x.Name, w.Source)
		return false
	case !slices.Contains(types, x.Type):
		s.failAt(w.Pos, "declare it as "+typeNames(types), "attribute %q: %s gives no %s", x.Name, w.Source, typeName(x.Type))
		return false
	}
	x.Source = src
	p.checkCredential(s, x, w)
	return true
}

// checkCredential checks that there can be the credential that a source reads.
func (p *parsing) checkCredential(s *securityPolicy, x *authz.Attribute, w *api.Attribute) {
	switch x.Source.Kind {
	case authz.SourceClaim, authz.SourceClaimHas:
		if (s.Authentication == nil || len(s.Authentication.JWT) == 0) && !s.bad["spec.authentication"] {
			fix := "add authentication: {require: true, jwt: [...]}, or use another source"
			if s.Authentication != nil {
				fix = "add jwt: [...] to spec.authentication, or use another source"
			}
			s.failAt(w.Pos, fix, "attribute %q: %s reads a token, and no method takes one", x.Name, w.Source)
		}
	case authz.SourceSPIFFE, authz.SourceDNS, authz.SourceSubject:
		switch {
		case s.bad["spec.tls"]:
		case !clientCertificates(s.SecurityPolicy):
			s.failAt(w.Pos, askClients(s.SecurityPolicy), "attribute %q: %s reads a client certificate, and tls does not ask for any", x.Name, w.Source)
		case s.TLS.Mode != transport.Mutual && !x.Optional:
			s.failAt(w.Pos, fmt.Sprintf("declare %q?: String and ask `context has %s` first, or write mode: MUTUAL", x.Name, x.Name), "attribute %q: clients without a certificate have no %s, and the schema requires it", x.Name, w.Source)
		}
	}
}

// checkSources reports sources that cannot be read, whatever the schema says.
func (p *parsing) checkSources(s *securityPolicy) {
	for _, x := range s.Attributes {
		if _, _, fix, wrong := parseSource(x.Source); wrong != "" {
			s.failAt(x.Pos, fix, "attribute %q: %s", clip(x.Name), wrong)
		}
	}
}

// unlisted reports an attribute that has a source and is not in the schema.
func (p *parsing) unlisted(s *securityPolicy, x *api.Attribute, context resolved.RecordType, names []string) {
	if _, ok := context[cedar.String(x.Name)]; !ok {
		s.failAt(x.Pos, didYouMean(x.Name, names), "attribute %q is not in the context of the Cedar schema", clip(x.Name))
	}
}

// groups checks where the parents of the principal come from: from the method
// that authenticated it.
func (p *parsing) groups(s *securityPolicy, list []*api.Attribute) {
	a := s.auth
	switch {
	case len(list) == 0 && a.Group != "" && !s.bad["spec.attributes"]:
		s.failAt(s.Authorization.Pos, "add groups: "+exampleGroups(s.Authentication)+" to spec.attributes", "the schema puts %s in %s, but spec.attributes does not say where groups come from", a.Principal, a.Group)
	case len(list) > 0 && a.Group == "":
		s.failAt(list[0].Pos, fmt.Sprintf("write entity Group; entity %s in [Group]; in the schema", a.Principal), "groups have a source, but in the schema %s has no parents", a.Principal)
	}
	basic, broken := false, false
	for _, x := range list {
		src, _, _, wrong := parseSource(x.Source)
		broken = broken || wrong != ""
		switch {
		case wrong != "":
		case src.Kind == authz.SourceGroups:
			if basic {
				s.failAt(x.Pos, "name each source once", "attribute \"groups\" names basic.groups twice")
			}
			basic = true
			if s.Authentication != nil && s.Authentication.Basic == nil && !s.bad["spec.authentication"] {
				s.failAt(x.Pos, "write groups: "+exampleGroups(s.Authentication), "attribute \"groups\": basic.groups needs authentication.basic")
			}
		case src.Kind == authz.SourceClaim:
			if a.GroupClaim != "" {
				s.failAt(x.Pos, "name one claim", "attribute \"groups\" names two claims")
			}
			a.GroupClaim = src.Arg
			p.checkCredential(s, &authz.Attribute{Name: groupsAttribute, Source: src}, x)
		default:
			broken = true
			s.failAt(x.Pos, "write groups: "+exampleGroups(s.Authentication), "attribute \"groups\": %s does not give groups", x.Source)
		}
	}
	// Users of the list bring their groups: nobody should have to guess whether
	// they count.
	if len(list) > 0 && !basic && !broken && a.Group != "" && s.Authentication != nil && s.Authentication.Basic != nil {
		s.failAt(list[0].Pos, "write groups: "+exampleGroups(s.Authentication), "attribute \"groups\" leaves out basic.groups, and authentication.basic has users with groups")
	}
	if a.RouteGroup == "" {
		for _, r := range s.Routes {
			if r.Group != "" {
				s.failAt(r.Pos, fmt.Sprintf("write entity RouteGroup; entity %s in [RouteGroup]; in the schema", a.Resource), "route %q has a group, but in the schema %s has no parents", r.Name, a.Resource)
			}
		}
	}
}

// exampleGroups is what to write for the methods of a policy.
func exampleGroups(a *api.Authentication) string {
	switch {
	case a == nil || len(a.JWT) == 0:
		return "basic.groups"
	case a.Basic == nil:
		return "jwt.groups"
	}
	return "[jwt.groups, basic.groups]"
}

// checkParam checks that every route whose rules need the parameter has it.
func (p *parsing) checkParam(s *securityPolicy, x authz.Attribute, at api.Pos, reads [][]string) {
	some := false
	for i := range s.Routes {
		r := &s.Routes[i]
		has := slices.Contains(Params(r.Path), x.Source.Arg)
		some = some || has
		if !has && !x.Optional && slices.Contains(reads[i], x.Name) {
			s.failAt(at, fmt.Sprintf("add {%s} to the path, or declare %q?: and ask `context has %s` first", x.Source.Arg, x.Name, x.Name),
				"attribute %q: route %q (line %d) has no parameter {%s}, and policies for it read the attribute", x.Name, r.Name, r.Pos.Line, x.Source.Arg)
		}
	}
	if !some && len(s.Routes) > 0 {
		var all []string
		for _, r := range s.Routes {
			all = append(all, Params(r.Path)...)
		}
		slices.Sort(all)
		s.failAt(at, didYouMean(x.Source.Arg, slices.Compact(all)), "attribute %q: no route has a parameter {%s}", x.Name, x.Source.Arg)
	}
}

// attributeType returns the type of an attribute, or of the elements of one that is a set.
func attributeType(t resolved.IsType) (of authz.Type, set, ok bool) {
	if s, isSet := t.(resolved.SetType); isSet {
		t, set = s.Element, true
	}
	switch x := t.(type) {
	case resolved.StringType:
		return authz.TypeString, set, true
	case resolved.LongType:
		return authz.TypeLong, set, true
	case resolved.BoolType:
		return authz.TypeBool, set, true
	case resolved.ExtensionType:
		of, ok = map[resolved.ExtensionType]authz.Type{"ipaddr": authz.TypeIP, "decimal": authz.TypeDecimal,
			"datetime": authz.TypeDatetime, "duration": authz.TypeDuration}[x]
	}
	return of, set, ok
}

func typeName(t authz.Type) string {
	switch t {
	case authz.TypeString:
		return "String"
	case authz.TypeLong:
		return "Long"
	case authz.TypeBool:
		return "Bool"
	case authz.TypeIP:
		return "ipaddr"
	case authz.TypeDecimal:
		return "decimal"
	case authz.TypeDatetime:
		return "datetime"
	case authz.TypeDuration:
		return "duration"
	}
	return "unknown type"
}

func typeNames(ts []authz.Type) string {
	var names []string
	for _, t := range ts {
		names = append(names, typeName(t))
	}
	return strings.Join(names, " or ")
}

// exampleSource guesses what a missing source might be.
func exampleSource(name string, t authz.Type) string {
	switch {
	case name == "level":
		return "level: level"
	case t == authz.TypeIP:
		return name + ": peer.address"
	case name == "hour", name == "minute", name == "weekday":
		return name + ": clock." + name
	}
	return fmt.Sprintf("%s: \"body.json:/%s\"", name, name)
}

// rulesFor returns the rules whose scope can match a route, in file order. Only
// these are asked about its requests, and only what they read is gathered.
func (a *Authorization) rulesFor(r *api.Route) []*CedarRule {
	self := cedar.NewEntityUID(a.Resource, cedar.String(r.Name))
	in := func(e cedar.EntityUID) bool { return a.isIn(r, e) }
	var out []*CedarRule
	for i := range a.Rules {
		ok := true
		switch x := a.Rules[i].Policy.Resource.(type) {
		case ast.ScopeTypeEq:
			ok = x.Entity == self
		case ast.ScopeTypeIn:
			ok = in(x.Entity)
		case ast.ScopeTypeIs:
			ok = x.Type == a.Resource
		case ast.ScopeTypeIsIn:
			ok = x.Type == a.Resource && in(x.Entity)
		}
		if ok {
			out = append(out, &a.Rules[i])
		}
	}
	return out
}

// reads returns the attributes that the rules for a route read, sorted.
func (a *Authorization) reads(r *api.Route) []string {
	var out []string
	for _, rule := range a.rulesFor(r) {
		out = append(out, a.ruleReads(rule)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ruleReads returns the attributes of the context that a rule names: all of them, where it
// reads the context as a whole.
func (a *Authorization) ruleReads(r *CedarRule) []string {
	var out []string
	for _, c := range r.Policy.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch x := n.(type) {
			case ast.NodeTypeAccess:
				if isContext(x.Arg) {
					out = append(out, string(x.Value))
					return false
				}
			case ast.NodeTypeHas:
				if isContext(x.Arg) {
					out = append(out, string(x.Value))
					return false
				}
			case ast.NodeTypeVariable:
				if isContext(x) {
					for _, all := range a.Attributes {
						out = append(out, all.Name)
					}
				}
			}
			return true
		})
	}
	return out
}
