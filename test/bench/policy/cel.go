package main

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// ofCEL has each rule as a program of its own. Those that forbid are run first, so that the
// first one that holds decides.
func ofCEL(w *world) (*decider, error) {
	env, err := cel.NewEnv(cel.Variable("user", cel.StringType), cel.Variable("groups", cel.ListType(cel.StringType)), cel.Variable("action", cel.StringType),
		cel.Variable("folders", cel.ListType(cel.StringType)), cel.Variable("context", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return nil, err
	}
	var permits, forbids []cel.Program
	for _, r := range w.rules {
		checked, issues := env.Compile(r.cel())
		if issues.Err() != nil {
			return nil, issues.Err()
		}
		p, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize))
		if err != nil {
			return nil, err
		}
		if r.forbid {
			forbids = append(forbids, p)
		} else {
			permits = append(permits, p)
		}
	}
	var list []cel.Activation
	for _, r := range w.requests {
		c := map[string]any{"tenant": r.facts.tenant, "plan": r.facts.plan, "hour": r.facts.hour, "amount": r.facts.amount, "risk": r.facts.risk, "mfa": r.facts.mfa}
		if r.facts.project != "" {
			c["project"] = r.facts.project
		}
		to := types.DefaultTypeAdapter.NativeToValue
		a, err := cel.NewActivation(map[string]any{"user": to(r.user), "groups": to(w.above[r.user]), "action": to(r.action), "folders": to(w.above[r.doc]), "context": to(c)})
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	holds := func(programs []cel.Program, a cel.Activation) bool {
		for _, p := range programs {
			if v, _, err := p.Eval(a); err != nil || v == types.True {
				return true
			}
		}
		return false
	}
	return &decider{"cel", func(i int) bool { return !holds(forbids, list[i]) && holds(permits, list[i]) }}, nil
}

func (r *rule) cel() string {
	var list []string
	switch {
	case r.user:
		list = append(list, fmt.Sprintf("user == %q", r.who))
	case r.who != "":
		list = append(list, fmt.Sprintf("%q in groups", r.who))
	}
	switch len(r.actions) {
	case 0:
	case 1:
		list = append(list, fmt.Sprintf("action == %q", r.actions[0]))
	default:
		list = append(list, fmt.Sprintf("action in [\"%s\"]", strings.Join(r.actions, `", "`)))
	}
	if r.where != "" {
		list = append(list, fmt.Sprintf("%q in folders", r.where))
	}
	return strings.Join(append(list, r.conditions("has(context.project)")...), " && ")
}
