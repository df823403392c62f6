package main

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

//go:embed scoped.rego
var scopedRego string

//go:embed wildcard.rego
var wildcardRego string

//go:embed conditions.rego
var conditionsRego string

// ofOPA has rules as data, found by keys, with all that somebody or something is in written
// out: what the authors of OPA advise where there are many. The query is prepared, and
// inputs and data are values of OPA already.
func ofOPA(w *world) (*decider, error) {
	text, data := scopedRego, w.opaScopes()
	if w.rules[0].who == "" {
		text, data = wildcardRego, w.opaAttributes()
	}
	ctx := context.Background()
	q, err := rego.New(rego.Query("data.authz.allow"), rego.Module("rules.rego", text), rego.Module("conditions.rego", conditionsRego),
		rego.Store(inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true)))).PrepareForEval(ctx)
	if err != nil {
		return nil, err
	}
	var list []rego.EvalOption
	for _, r := range w.requests {
		c := map[string]any{"tenant": r.facts.tenant, "plan": r.facts.plan, "hour": r.facts.hour, "amount": r.facts.amount, "risk": r.facts.risk, "mfa": r.facts.mfa}
		if r.facts.project != "" {
			c["project"] = r.facts.project
		}
		v, err := ast.InterfaceToValue(map[string]any{"user": r.user, "action": r.action, "doc": r.doc, "context": c})
		if err != nil {
			return nil, err
		}
		list = append(list, rego.EvalParsedInput(v))
	}
	return &decider{"opa", func(i int) bool {
		out, err := q.Eval(ctx, list[i])
		if err != nil {
			panic(fmt.Sprint("opa: ", err))
		}
		return out.Allowed()
	}}, nil
}

func effectOf(r *rule) string {
	if r.forbid {
		return "forbids"
	}
	return "permits"
}

// member returns the object in another one, made where it is not there.
func member(of map[string]any, name string) map[string]any {
	m, ok := of[name].(map[string]any)
	if !ok {
		m = map[string]any{}
		of[name] = m
	}
	return m
}

func (w *world) opaScopes() map[string]any {
	data := map[string]any{"permits": map[string]any{}, "forbids": map[string]any{}}
	for i := range w.rules {
		r := &w.rules[i]
		may := map[string]any{}
		for _, a := range actions {
			may[a] = true
		}
		if len(r.actions) > 0 {
			may = map[string]any{}
			for _, a := range r.actions {
				may[a] = true
			}
		}
		by := member(member(data, effectOf(r)), r.who)
		list, _ := by[r.where].([]any)
		by[r.where] = append(list, map[string]any{"actions": may, "when": r.when})
	}
	subjects, folders := member(data, "subjects"), member(data, "folders")
	for i, u := range w.users {
		who, where := []any{u}, []any{}
		for _, g := range w.above[u] {
			who = append(who, g)
		}
		for _, f := range w.above[w.docs[i]] {
			where = append(where, f)
		}
		subjects[u], folders[w.docs[i]] = who, where
	}
	return data
}

func (w *world) opaAttributes() map[string]any {
	data := map[string]any{}
	for _, e := range []string{"permits", "forbids"} {
		for _, by := range []string{"tenant", "project"} {
			member(member(data, e), by)
		}
	}
	for i := range w.rules {
		r := &w.rules[i]
		by, key := "tenant", r.tenant
		if r.project != "" {
			by, key = "project", r.project
		}
		m := member(member(data, effectOf(r)), by)
		list, _ := m[key].([]any)
		m[key] = append(list, r.when)
	}
	return data
}
