package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
)

const effect = `
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
`

// Models: roles for who and where, attributes for the rest. Conditions are a function in
// Go, the fastest way that Casbin has.
const (
	rolesModel = `
[request_definition]
r = sub, act, obj, facts
[policy_definition]
p = sub, act, obj, when, eft
[role_definition]
g = _, _
g2 = _, _
[matchers]
m = among(r.act, p.act) && g2(r.obj, p.obj) && g(r.sub, p.sub) && holds(r.facts, p.when)
` + effect
	attributesModel = `
[request_definition]
r = tenant, project, facts
[policy_definition]
p = tenant, project, when, eft
[matchers]
m = (r.tenant == p.tenant || r.project == p.project) && holds(r.facts, p.when)
` + effect
)

func ofCasbin(w *world) (*decider, error) {
	text := rolesModel
	scoped := w.rules[0].who != ""
	if !scoped {
		text = attributesModel
	}
	m, err := model.NewModelFromString(text)
	if err != nil {
		return nil, err
	}
	e, err := casbin.NewEnforcer(m)
	if err != nil {
		return nil, err
	}
	e.EnableAutoBuildRoleLinks(false)
	e.AddFunction("among", func(args ...any) (any, error) {
		for list := range strings.SplitSeq(args[1].(string), "|") {
			if list == args[0].(string) {
				return true, nil
			}
		}
		return false, nil
	})
	e.AddFunction("holds", func(args ...any) (any, error) { return args[0].(*facts).holds(args[1].(string)), nil })
	var lines [][]string
	for _, r := range w.rules {
		eft := "allow"
		if r.forbid {
			eft = "deny"
		}
		if scoped {
			what := r.actions
			if len(what) == 0 {
				what = actions
			}
			lines = append(lines, []string{r.who, strings.Join(what, "|"), r.where, r.when, eft})
			continue
		}
		tenant, project := r.tenant, r.project
		if tenant == "" {
			tenant = "none"
		}
		if project == "" {
			project = "none"
		}
		lines = append(lines, []string{tenant, project, r.when, eft})
	}
	if _, err := e.AddPolicies(lines); err != nil {
		return nil, err
	}
	if scoped {
		var who, where [][]string
		for x, list := range w.parents {
			for _, up := range slices.Compact(slices.Sorted(slices.Values(list))) {
				if w.folders[up] {
					where = append(where, []string{x, up})
				} else {
					who = append(who, []string{x, up})
				}
			}
		}
		if _, err := e.AddNamedGroupingPolicies("g", who); err != nil {
			return nil, err
		}
		if _, err := e.AddNamedGroupingPolicies("g2", where); err != nil {
			return nil, err
		}
		if err := e.BuildRoleLinks(); err != nil {
			return nil, err
		}
	}
	return &decider{"casbin", func(i int) bool {
		r := &w.requests[i]
		var ok bool
		var err error
		if scoped {
			ok, err = e.Enforce(r.user, r.action, r.doc, &r.facts)
		} else {
			ok, err = e.Enforce(r.facts.tenant, r.facts.project, &r.facts)
		}
		if err != nil {
			panic(fmt.Sprint("casbin: ", err))
		}
		return ok
	}}, nil
}
