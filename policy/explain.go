package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	pub "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// explain says what each rule did, and for a denial what was missing.
func (e *Reference) explain(a *Answer, c Call) {
	d, r := e.doc, e.About(c.Route)
	if a.Rule.ID == abi.RuleAttribute {
		for _, name := range d.lacking(r.Reads, c.Context) {
			a.Missing = append(a.Missing, fmt.Sprintf("a value for the attribute %q (%s)", name, d.sourceOf(name)))
		}
		return
	}
	env := e.full().Environment(c, a.Level)
	about := d.Authorization.rulesFor(r.Route)
	var nearest []Near
	for i := range d.Authorization.Rules {
		rule := &d.Authorization.Rules[i]
		o := Outcome{Rule: abi.Rule{ID: rule.ID, Line: rule.Pos.Short()}}
		if !slices.Contains(about, rule) {
			o.Text = "is not about route " + r.Route.Name
			a.Considered = append(a.Considered, o)
			continue
		}
		var failing []string
		held, err := holds(rule, env)
		tried := Tries(d.Policy, rule.DryRun)
		switch {
		case err != nil:
			o.Text = "cannot be evaluated: " + err.Error()
		case held && rule.Forbids():
			o.Text = "forbids"
		case held:
			o.Text = "permits"
		default:
			failing = failures(rule, env)
			o.Text = "does not apply: " + strings.Join(failing, "; ")
		}
		if tried {
			o.Text += " (dry run)"
		}
		a.Considered = append(a.Considered, o)
		if a.Verdict == abi.Deny && a.Rule.ID == rule.ID {
			a.Missing = d.blame(rule, env)
		}
		if rule.Forbids() || tried || len(failing) == 0 {
			continue
		}
		nearest = append(nearest, Near{o.Rule, failing})
	}
	if a.Verdict == abi.Deny && a.Rule.ID == abi.RuleAuthz {
		slices.SortStableFunc(nearest, func(x, y Near) int { return len(x.Failed) - len(y.Failed) })
		a.Nearest = nearest[:min(maxNearest, len(nearest))]
		for _, n := range a.Nearest {
			if len(n.Failed) == len(nearest[0].Failed) {
				a.Missing = append(a.Missing, n.Failed...)
			}
		}
		if a.Missing = unique(a.Missing); len(a.Missing) == 0 {
			a.Missing = []string{"a rule that permits: none is about route " + r.Route.Name}
		}
	}
}

// maxNearest bounds the permits that an explanation calls near.
const maxNearest = 3

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (d *Deployment) sourceOf(name string) string {
	for _, x := range d.Policy.Attributes {
		if x.Name == name {
			return x.Source
		}
	}
	return ""
}

// blame says with which facts a rule denied.
func (d *Deployment) blame(rule *CedarRule, env eval.Env) []string {
	var facts []string
	for _, name := range unique(d.Authorization.ruleReads(rule)) {
		facts = append(facts, fact(name, env))
	}
	if len(facts) == 0 {
		return []string{"rule " + rule.ID + " forbids this whatever the request says"}
	}
	what := "forbids this"
	if !rule.Forbids() {
		what = "cannot be evaluated"
	}
	return []string{strings.Join(facts, ", ") + "; rule " + rule.ID + " " + what}
}

func fact(name string, env eval.Env) string {
	ctx, _ := env.Context.(cedar.Record)
	v, ok := ctx.Get(cedar.String(name))
	if !ok {
		return name + " has no value"
	}
	return name + " is " + valueText(v)
}

func valueText(v cedar.Value) string {
	if s, ok := v.(cedar.String); ok {
		return fmt.Sprintf("%q", clip(string(s)))
	}
	return v.String()
}

// failures describes the clauses of a rule that do not hold, in the order of the
// rule. A clause is an operand of the conjunction of scope and conditions.
func failures(rule *CedarRule, env eval.Env) []string {
	var out []string
	absent := make(map[string]bool)
	for _, n := range conjuncts(eval.PolicyToNode(rule.Policy).AsIsNode()) {
		v, err := eval.Eval(n, env)
		if err == nil && v == cedar.Value(cedar.True) {
			continue
		}
		if has, ok := n.(ast.NodeTypeHas); ok && isContext(has.Arg) {
			absent[string(has.Value)] = true
		}
		var names []string
		ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
			if x, ok := n.(ast.NodeTypeAccess); ok && isContext(x.Arg) {
				names = append(names, string(x.Value))
			}
			return true
		})
		if err != nil && slices.ContainsFunc(names, func(n string) bool { return absent[n] }) {
			continue // it was said that the attribute has no value
		}
		out = append(out, clause(n, rule, env, unique(names)))
	}
	return out
}

func conjuncts(n ast.IsNode) []ast.IsNode {
	if a, ok := n.(ast.NodeTypeAnd); ok {
		return append(conjuncts(a.Left), conjuncts(a.Right)...)
	}
	return []ast.IsNode{n}
}

// clause puts a clause that fails into words.
func clause(n ast.IsNode, rule *CedarRule, env eval.Env, names []string) string {
	switch x := n.(type) {
	case ast.NodeTypeIn:
		if who, target, ok := about(x.BinaryNode); ok {
			return fmt.Sprintf("%s is not in %s", subject(who, env), target)
		}
	case ast.NodeTypeEquals:
		if who, target, ok := about(x.BinaryNode); ok {
			return fmt.Sprintf("%s is not %s", subject(who, env), target)
		}
	case ast.NodeTypeHas:
		if isContext(x.Arg) {
			return fmt.Sprintf("%s has no value; rule %s needs it", x.Value, rule.ID)
		}
	}
	var facts []string
	for _, name := range names {
		facts = append(facts, fact(name, env))
	}
	needs := "rule " + rule.ID + " needs " + strings.ReplaceAll(cedarText(n), "context.", "")
	if len(facts) == 0 {
		return needs
	}
	return strings.Join(facts, ", ") + "; " + needs
}

// about recognises a variable that is compared with an entity.
func about(n ast.BinaryNode) (variable, entity string, ok bool) {
	v, isVar := n.Left.(ast.NodeTypeVariable)
	e, isVal := n.Right.(ast.NodeValue)
	if !isVar || !isVal {
		return "", "", false
	}
	uid, isUID := e.Value.(cedar.EntityUID)
	return string(v.Name), uid.String(), isUID
}

func subject(variable string, env eval.Env) string {
	if uid, ok := env.Resource.(cedar.EntityUID); ok && variable == "resource" {
		return "route " + string(uid.ID)
	}
	return variable
}

// cedarText is an expression as Cedar writes it, on one line.
func cedarText(n ast.IsNode) string {
	p := cedar.NewPolicyFromAST((*pub.Policy)(ast.Permit().When(ast.NewNode(n))))
	s := strings.Join(strings.Fields(string(p.MarshalCedar())), " ")
	_, s, _ = strings.Cut(s, "when {")
	return strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(s), "};"))
}

// whyPacket explains a connection.
func (d *Deployment) whyPacket(level string, k api.Packet) Answer {
	dec := d.Reference().weighPacket(level, k)
	a := Answer{Verdict: dec.Verdict, Stage: abi.StageFirewall, Rule: dec.Rule, Level: dec.Level, Reason: dec.Reason}
	a.would(dec)
	if d.Policy.Network == nil {
		return a
	}
	at := slices.Index(d.Policy.Levels.Names, dec.Level)
	for i := range d.Policy.Network.Ingress {
		r := &d.Policy.Network.Ingress[i]
		var not []string
		if !Applies(d.Policy, r, at) {
			not = append(not, "it does not exist at level "+dec.Level)
		}
		if !fromMatches(d.Policy, r, k.From) {
			not = append(not, fmt.Sprintf("%s is not in %s", k.From, strings.Join(r.From, ", ")))
		}
		if !portMatches(r, k) {
			what := k.Protocol
			if what != api.ICMP {
				what = fmt.Sprintf("%s %d", what, k.Port)
			}
			not = append(not, what+" is not "+portsText(r.Ports))
		}
		o := Outcome{Rule: abi.Rule{ID: r.Name, Line: r.Pos.Short()}, Text: "matches: " + r.Action.String()}
		if len(not) > 0 {
			o.Text = "does not match: " + strings.Join(not, "; ")
			if len(not) == 1 && r.Action == abi.Allow && !Tries(d.Policy, r.DryRun) && a.Verdict == abi.Deny && a.Rule.ID == abi.RuleNetwork {
				a.Missing = append(a.Missing, "rule "+r.Name+" would allow it, but "+not[0])
			}
		}
		tried := Tries(d.Policy, r.DryRun)
		if tried {
			o.Text += " (dry run)"
		}
		a.Considered = append(a.Considered, o)
		if len(not) == 0 && !tried {
			break // the first match wins
		}
	}
	return a
}

func portsText(ps []api.Port) string {
	var out []string
	for _, p := range ps {
		switch {
		case p.Lo == p.Hi:
			out = append(out, fmt.Sprintf("%s %d", p.Protocol, p.Lo))
		case p.Lo == 0 && p.Hi == 65535:
			out = append(out, p.Protocol)
		default:
			out = append(out, fmt.Sprintf("%s %d-%d", p.Protocol, p.Lo, p.Hi))
		}
	}
	return strings.Join(out, ", ")
}
