package policy

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"

	"github.com/cedar-policy/cedar-go"
	pub "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
)

// A Reference answers many questions about one deployment as its methods do, and looks up
// once which rules are about which route. It is for one goroutine at a time.
type Reference struct {
	d     *Deployment // what decides
	doc   *Deployment // what is written, with what is tried
	world types.EntityMap
	about map[string]*About
	cidrs map[string][]netip.Prefix // by endpoint
	paths *route.Section            // nil: nobody has asked yet
	tried *Reference                // asked as well, with the rules that are tried; nil: there are none
	whole *api.SecurityPolicy       // that is tried as a whole; nil: it is not
}

// An About is what a route is decided by.
type About struct {
	Route      *api.Route
	Rules      []*CedarRule // in file order
	Reads      []string     // attributes of the context, sorted
	ReadsLevel bool         // whether levels tell requests of it apart

	ready compiled // Rules; nil: nobody has asked yet
}

// Reference prepares the answers.
func (d *Deployment) Reference() *Reference {
	x := &Reference{d: d.Enforced(), doc: d, about: make(map[string]*About)}
	switch {
	case d.Policy.DryRun:
		x.whole = d.Policy
	case x.d != d:
		x.tried = d.Written().Reference()
	}
	return x
}

// World is that of the deployment; it must not be changed.
func (x *Reference) World() types.EntityMap {
	if x.world == nil && x.d.Authorization != nil {
		x.world = x.d.World()
	}
	return x.world
}

// About returns nil where there is no such route. The policy must have an authorization
// section.
func (x *Reference) About(name string) *About {
	if a, ok := x.about[name]; ok {
		return a
	}
	var a *About
	if r := x.d.route(name); r != nil {
		a = &About{Route: r, Rules: x.d.Authorization.rulesFor(r), Reads: x.d.Authorization.reads(r)}
		a.ReadsLevel = x.d.readsLevel(a.Reads)
	}
	x.about[name] = a
	return a
}

// Authorize is the reference for what images decide, by cedar-go's evaluator.
// The request must be allowed at every level up to its own. At each level, in
// file order, the first rule that denies decides (a forbid that holds, or any
// rule that cannot be evaluated), else the first permit that holds, else the
// default. A call that lacks a required attribute that a rule for its route
// reads is denied, and so is everything where there is no authorization. What is tried
// decides nothing, and is in Would.
func (x *Reference) Authorize(c Call) Decision {
	return released(x.whole, x.weigh(c))
}

// weigh is Authorize as if the policy were not tried as a whole.
func (x *Reference) weigh(c Call) Decision {
	dec := x.decide(c)
	if x.tried != nil {
		dec = dec.beside(x.tried.decide(c))
	}
	return dec
}

// full is the reference with the rules that are tried as if they were enforced.
func (x *Reference) full() *Reference {
	if x.tried != nil {
		return x.tried
	}
	return x
}

func (x *Reference) decide(c Call) Decision {
	d := x.d
	if d.Authorization == nil {
		return Decision{Rule: abi.Rule{ID: abi.RuleAuthz}, Reason: "the policy has no authorization"}
	}
	fallback := AuthorizationDefault(d.Policy)
	deny := func(id, level, format string, args ...any) Decision {
		return Decision{Rule: abi.Rule{ID: id, Line: fallback.Line}, Level: level, Reason: fmt.Sprintf(format, args...)}
	}
	levels := LevelsTo(d.Policy, c.Level)
	if len(levels) == 0 {
		return deny(abi.RuleError, "", "there is no level %q", c.Level)
	}
	top := levels[len(levels)-1]
	r := x.About(c.Route)
	switch {
	case c.Principal == "":
		return deny(abi.RuleAuthz, top, "nobody authenticated the request")
	case r == nil:
		return deny(abi.RuleAuthz, top, "there is no route %q", c.Route)
	}
	if lacking := d.lacking(r.Reads, c.Context); len(lacking) > 0 {
		return deny(abi.RuleAttribute, top, "attribute %q has no value", lacking[0])
	}
	if !r.ReadsLevel {
		levels = levels[len(levels)-1:]
	}
	var dec Decision
	for _, level := range levels {
		dec = d.judge(r, x.Environment(c, level), level, fallback)
		if dec.Verdict != abi.Allow {
			break
		}
	}
	return dec
}

// judge asks at one level.
func (d *Deployment) judge(r *About, env eval.Env, level string, fallback abi.Rule) Decision {
	if r.ready == nil {
		for _, rule := range r.Rules {
			r.ready = append(r.ready, cedar.NewPolicyFromAST((*pub.Policy)(rule.Policy)))
		}
	}
	said, found := cedar.Authorize(r.ready, env.Entities, cedar.Request{Principal: env.Principal.(cedar.EntityUID), Action: env.Action.(cedar.EntityUID),
		Resource: env.Resource.(cedar.EntityUID), Context: env.Context.(cedar.Record)})
	cited := func(r *CedarRule) abi.Rule { return abi.Rule{ID: r.ID, Line: r.Pos.Short()} }
	wrong, holds := len(r.Rules), len(r.Rules) // the first of each, in file order
	if len(found.Errors) > 0 {
		wrong = r.ready.index(found.Errors[0].PolicyID)
	}
	if len(found.Reasons) > 0 {
		holds = r.ready.index(found.Reasons[0].PolicyID)
	}
	switch forbidden := said == cedar.Deny && holds < len(r.Rules); {
	case wrong < len(r.Rules) && (!forbidden || wrong < holds):
		return Decision{Rule: cited(r.Rules[wrong]), Level: level, Reason: "the rule could not be evaluated: " + found.Errors[0].Message}
	case forbidden:
		return Decision{Rule: cited(r.Rules[holds]), Level: level, Reason: "forbidden by " + r.Rules[holds].ID}
	case holds < len(r.Rules):
		return Decision{Verdict: abi.Allow, Rule: cited(r.Rules[holds]), Level: level}
	case d.Policy.Default.Authorization == abi.Allow:
		return Decision{Verdict: abi.Allow, Rule: fallback, Level: level}
	}
	return Decision{Rule: fallback, Level: level, Reason: "no rule matched"}
}

// compiled are rules as cedar-go's authorizer takes them, in file order.
type compiled []*cedar.Policy

func (c compiled) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i, p := range c {
			if !yield(cedar.PolicyID(strconv.Itoa(i)), p) {
				return
			}
		}
	}
}

func (c compiled) index(id cedar.PolicyID) int {
	i, _ := strconv.Atoi(string(id)) // one of ours
	return i
}

// Environment is the world as the rules of the call's route see it, which must exist: the
// entities, the principal in its groups, and the attributes that they read.
func (x *Reference) Environment(c Call, level string) eval.Env {
	a, about := x.d.Authorization, x.About(c.Route)
	who := cedar.NewEntityUID(a.Principal, cedar.String(c.Principal))
	what := cedar.NewEntityUID(a.Resource, cedar.String(about.Route.Name))
	var member []cedar.EntityUID
	if a.Group != "" {
		for _, g := range c.Groups {
			member = append(member, cedar.NewEntityUID(a.Group, cedar.String(g)))
		}
	}
	context := make(cedar.RecordMap, len(about.Reads))
	for _, at := range a.Attributes {
		if !slices.Contains(about.Reads, at.Name) {
			continue
		}
		if at.Source.Kind == authz.SourceLevel {
			context[cedar.String(at.Name)] = cedar.String(level)
		} else if v, ok := c.Context[at.Name]; ok {
			context[cedar.String(at.Name)] = v
		}
	}
	with := types.EntityMap{}
	if e, ok := x.World()[who]; ok {
		with[who] = e
	}
	put(with, who, member)
	return eval.Env{Principal: who, Action: a.Action, Resource: what, Context: cedar.NewRecord(context), Entities: Overlay{with, x.World()}}
}

// An Overlay is entities of which the first map that has one says what it is.
type Overlay [2]types.EntityMap

// Get is that of types.EntityGetter.
func (o Overlay) Get(uid cedar.EntityUID) (types.Entity, bool) {
	if e, ok := o[0][uid]; ok {
		return e, true
	}
	e, ok := o[1][uid]
	return e, ok
}
