package main

import (
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/compiler"
	engine "lorica.dev/lorica/pep/authz/cedar"
	"lorica.dev/lorica/policy"
)

// text is the rules in Cedar.
func (w *world) text() string {
	var b strings.Builder
	for _, r := range w.rules {
		effect, who, what, where := "permit", "principal", "action", "resource"
		if r.forbid {
			effect = "forbid"
		}
		switch {
		case r.user:
			who += fmt.Sprintf(" == User::%q", r.who)
		case r.who != "":
			who += fmt.Sprintf(" in Group::%q", r.who)
		}
		switch len(r.actions) {
		case 0:
		case 1:
			what += fmt.Sprintf(" == Action::%q", r.actions[0])
		default:
			what += fmt.Sprintf(" in [Action::\"%s\"]", strings.Join(r.actions, `", Action::"`))
		}
		if r.where != "" {
			where += fmt.Sprintf(" in Folder::%q", r.where)
		}
		fmt.Fprintf(&b, "%s (%s, %s, %s)", effect, who, what, where)
		if c := r.conditions("context has project"); len(c) > 0 {
			fmt.Fprintf(&b, " when { %s }", strings.Join(c, " && "))
		}
		b.WriteString(";\n")
	}
	return b.String()
}

// conditions are what a rule asks of the context; has is how to say that it has a project.
func (r *rule) conditions(has string) (list []string) {
	if r.tenant != "" {
		list = append(list, fmt.Sprintf("context.tenant == %q", r.tenant))
	}
	if r.project != "" {
		list = append(list, has, fmt.Sprintf("context.project == %q", r.project))
	}
	if r.when != "" {
		list = append(list, conditions[r.when])
	}
	return list
}

func entity(kind, id string) types.EntityUID {
	return cedar.NewEntityUID(types.EntityType(kind), types.String(id))
}

// entities are all that the world knows.
func (w *world) entities() types.EntityMap {
	all := types.EntityMap{}
	add := func(kind, of string, id string) {
		var up []types.EntityUID
		for _, p := range w.parents[id] {
			up = append(up, entity(of, p))
		}
		uid := entity(kind, id)
		all[uid] = types.Entity{UID: uid, Parents: types.NewEntityUIDSet(up...)}
	}
	for i, u := range w.users {
		add("User", "Group", u)
		add("Doc", "Folder", w.docs[i])
	}
	for g := range w.groups {
		add("Group", "Group", g)
	}
	for f := range w.folders {
		add("Folder", "Folder", f)
	}
	for _, a := range actions {
		add("Action", "", a)
	}
	return all
}

// An engine decides about requests by their number. What a request says is at hand in the
// form that the engine likes best.
type decider struct {
	name   string
	decide func(request int) bool
}

// ofCedarGo is the reference. It goes through all policies.
func ofCedarGo(w *world) (*decider, error) {
	set, err := cedar.NewPolicySetFromBytes("", []byte(w.text()))
	if err != nil {
		return nil, err
	}
	all := w.entities()
	var list []cedar.Request
	for _, r := range w.requests {
		c := types.RecordMap{"tenant": types.String(r.facts.tenant), "plan": types.String(r.facts.plan), "hour": types.Long(r.facts.hour),
			"amount": types.Long(r.facts.amount), "risk": types.Long(r.facts.risk), "mfa": types.Boolean(r.facts.mfa)}
		if r.facts.project != "" {
			c["project"] = types.String(r.facts.project)
		}
		list = append(list, cedar.Request{Principal: entity("User", r.user), Action: entity("Action", r.action), Resource: entity("Doc", r.doc), Context: types.NewRecord(c)})
	}
	return &decider{"cedar-go", func(i int) bool {
		d, _ := cedar.Authorize(set, all, list[i])
		return d == cedar.Allow
	}}, nil
}

// A lorica is our engine under a world's rules, without what is around it in an image.
type lorica struct {
	view  *authz.View
	eval  *engine.Evaluation
	bytes int
}

func newLorica(w *world) (*lorica, error) {
	list, err := cedar.NewPolicyListFromBytes("policy.cedar", []byte(w.text()))
	if err != nil {
		return nil, err
	}
	var rules []policy.CedarRule
	for i, p := range list {
		rules = append(rules, policy.CedarRule{ID: fmt.Sprint("policy", i), Policy: (*ast.Policy)(p.AST())})
	}
	// As a schema declares the context: what images are given.
	text, long := authz.TypeString, authz.TypeLong
	context := []authz.Attribute{{Name: "amount", Type: long}, {Name: "hour", Type: long}, {Name: "mfa", Type: authz.TypeBool}, {Name: "plan", Type: text},
		{Name: "project", Type: text, Optional: true}, {Name: "risk", Type: long}, {Name: "tenant", Type: text}}
	for i := range context {
		context[i].Source = authz.Source{Kind: authz.SourceBody, Arg: "/" + context[i].Name}
	}
	s, err := compiler.Cedar(rules, w.entities(), context...)
	if err != nil {
		return nil, err
	}
	b := s.Encode()
	v, err := authz.Open(b)
	if err != nil {
		return nil, err
	}
	return &lorica{view: v, eval: engine.New(v), bytes: len(b)}, nil
}

// A question is a request whose texts are bytes, as they come in.
type question struct {
	*request
	tenant, project, plan []byte
}

// decide is one decision from strings on: nothing that a request says is remembered, looked
// up or interned before. The names of what the context holds are.
func (l *lorica) decide(q *question) bool {
	e, f := l.eval, &q.facts
	e.Start()
	e.Who(e.Entity("User", q.user))
	e.What(e.Entity("Action", q.action))
	e.On(e.Entity("Doc", q.doc))
	for i, v := range [...]engine.Value{engine.Long(int64(f.amount)), engine.Long(int64(f.hour)), engine.Bool(f.mfa), e.Text(q.plan)} {
		e.Set(i, v)
	}
	if len(q.project) > 0 {
		e.Set(4, e.Text(q.project))
	}
	e.Set(5, engine.Long(int64(f.risk)))
	e.Set(6, e.Text(q.tenant))
	permit := false
	for _, rule := range e.Candidates() {
		forbid, sure := l.view.Effect(rule)
		if permit && sure && !forbid {
			continue
		}
		applies, fault := e.Applies(rule)
		switch {
		case fault != engine.NoFault, applies && forbid:
			return false
		case applies:
			permit = true
		}
	}
	return permit
}

func ofLorica(w *world) (*decider, *lorica, error) {
	l, err := newLorica(w)
	if err != nil {
		return nil, nil, err
	}
	list := make([]question, len(w.requests))
	for i := range list {
		r := &w.requests[i]
		list[i] = question{r, []byte(r.facts.tenant), []byte(r.facts.project), []byte(r.facts.plan)}
	}
	return &decider{"lorica", func(i int) bool { return l.decide(&list[i]) }}, l, nil
}
