package verify

import (
	"context"

	"lorica.dev/lorica/abi"
)

// routes shows that what no route names does not exist.
func (v *verifier) routes(ctx context.Context, r *Result) {
	if len(v.doors) == 0 {
		r.Why = "no network rule lets a connection from this machine in"
		return
	}
	l, err := v.connected(&login{how: "without credentials"}, "", "")
	if err != nil {
		r.Why = err.Error()
		return
	}
	for _, q := range v.unknown(l, r.Rule) {
		a, err := v.expect(q, v.now())
		if err != nil || a.Rule.ID != r.Rule {
			continue
		}
		r.add(v.send(ctx, q, expected(&a)))
		if len(r.Sent) == 4 || r.Why != "" {
			return
		}
	}
	if len(r.Sent) == 0 && r.Why == "" {
		r.Why = "every such request finds a route"
	}
}

// unknown returns requests that a rule may refuse: paths that are made up, or a method that
// is, for the path of each route.
func (v *verifier) unknown(l *login, rule string) (list []*request) {
	add := func(method, target string) {
		list = append(list, &request{door: v.doors[0], method: method, target: target, login: l, level: v.Level.Name})
	}
	if rule == abi.RuleRoute {
		add("GET", "/"+nobody)
		add("GET", "/"+nobody+"/a/b/c/d/e/f/g/h")
		return list
	}
	for i := range v.Deployment.Policy.Routes {
		if path, err := fill(v.Deployment.Policy.Routes[i].Path, nil); err == nil {
			add("VERIFY", path)
		}
	}
	return list
}
