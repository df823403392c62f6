package policy

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/api"
)

func (d *decoder) levels(l *api.Levels) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*l = api.Levels{Pos: d.pos(n)}
		d.object(n, "spec.levels",
			field{name: "names", must: true, read: d.words(&l.Names, "spec.levels.names")},
			field{name: "initial", read: d.word(&l.Initial, "spec.levels.initial")},
			field{name: "triggers", read: func(n *yaml.Node) {
				d.list("spec.levels.triggers", func(n *yaml.Node) { l.Triggers = append(l.Triggers, d.trigger(n)) })(n)
				if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
					d.fail(n, "write the triggers, or remove the field", "spec.levels.triggers is empty")
				}
			}},
			field{name: "pool", read: func(n *yaml.Node) {
				l.PoolPos = d.pos(n)
				d.choice(&l.Pool, "spec.levels.pool", []string{api.PoolProactive, api.PoolReactive})(n)
			}})
	}
}

// holdManual is the hold of a trigger whose level stays until it is released.
const holdManual = "manual"

func (d *decoder) trigger(n *yaml.Node) api.Trigger {
	const p = "spec.levels.triggers."
	t := api.Trigger{Pos: d.pos(n), Key: obligation.ByAll.String()}
	var count uint64
	d.object(n, "spec.levels.triggers",
		field{name: "name", must: true, read: d.word(&t.Name, p+"name")},
		field{name: "on", must: true, read: d.choice(&t.On, p+"on", obligation.TriggerNames())},
		field{name: "count", must: true, read: d.number(&count, p+"count", 1, obligation.MaxCount)},
		field{name: "window", must: true, read: d.duration(&t.Window, p+"window", obligation.MinSpan, obligation.MaxSpan)},
		field{name: "key", read: d.choice(&t.Key, p+"key", obligation.KeyNames())},
		field{name: "to", must: true, read: d.word(&t.To, p+"to")},
		field{name: "hold", must: true, read: func(n *yaml.Node) {
			if d.drawn(n, sketch{"type": "string", "pattern": "^" + holdManual + "$|" + durationForm}) {
				return
			}
			v, err := time.ParseDuration(n.Value)
			switch {
			case n.Tag == "!!str" && n.Value == holdManual:
			case n.Tag != "!!str" || err != nil || v < obligation.MinSpan || v > obligation.MaxSpan:
				d.fail(n, fmt.Sprintf("write a duration from %s to %s, for example 10m, or manual: until 'lorica level release'", span(obligation.MinSpan), span(obligation.MaxSpan)),
					"%shold cannot be %s", p, shown(n))
			default:
				t.Hold = v
			}
		}})
	t.Count = uint32(count)
	return t
}

func (p *parsing) checkLevels(s *securityPolicy) {
	l := &s.Levels
	seen := make(map[string]bool)
	for _, n := range l.Names {
		if seen[n] {
			s.failAt(l.Pos, "name each level once", "the level %q is named twice", n)
		}
		seen[n] = true
	}
	if s.bad["spec.levels"] {
		l.Initial = ""
		return
	}
	if len(l.Names) == 0 {
		s.failAt(l.Pos, "write names: [normal, elevated, lockdown]", "spec.levels.names is empty")
		return
	}
	if len(l.Names) > 16 {
		s.failAt(l.Pos, "keep those that change a decision", "there are %d levels; the limit is 16", len(l.Names))
	}
	if l.Initial == "" {
		l.Initial = l.Names[0]
	} else if !seen[l.Initial] {
		s.failAt(l.Pos, didYouMean(l.Initial, l.Names), "spec.levels.initial: there is no level %q", l.Initial)
	}
	if l.Pool != "" && len(l.Names) == 1 {
		s.failAt(l.PoolPos, "remove it, or name more levels", "spec.levels.pool: there is one level, and one image")
	}
	if n := len(l.Triggers); n > obligation.MaxTriggers {
		s.failAt(l.Triggers[obligation.MaxTriggers].Pos, "keep those that matter", "there are %d triggers; the limit is %d", n, obligation.MaxTriggers)
	}
	for _, t := range l.Triggers {
		checkTrigger(s, t)
	}
}

func checkTrigger(s *securityPolicy, t api.Trigger) {
	names := s.Levels.Names
	switch at := slices.Index(names, t.To); {
	case at < 0:
		s.failAt(t.Pos, didYouMean(t.To, names[1:]), "trigger %q: there is no level %q", t.Name, t.To)
	case at == 0 && len(names) == 1:
		s.failAt(t.Pos, "name more levels: names: [normal, elevated]", "trigger %q can raise nothing: %s is the only level", t.Name, t.To)
	case at == 0:
		s.failAt(t.Pos, didYouMean("", names[1:]), "trigger %q can raise nothing: %s is the lowest level", t.Name, t.To)
	}
	switch on, _ := obligation.Parse(t.On); {
	case on == obligation.Authentication && s.Authentication == nil && !s.bad["spec.authentication"]:
		s.failAt(t.Pos, "add authentication, or write on: any.deny", "trigger %q would never fire: the policy has no authentication", t.Name)
	case on == obligation.Authorization && s.Authorization == nil && !s.bad["spec.authorization"]:
		s.failAt(t.Pos, "add authorization, or write on: any.deny", "trigger %q would never fire: the policy has no authorization", t.Name)
	case on == obligation.Network && s.Network == nil && s.Default.Network == abi.Allow && !s.bad["spec.network"] && !s.bad["spec.default"]:
		s.failAt(t.Pos, "add network rules, or write on: any.deny", "trigger %q would never fire: every connection is allowed", t.Name)
	}
	// Whom a denial counts for must be known by then.
	switch key, _ := obligation.ParseKey(t.Key); {
	case key == obligation.ByPrincipal && t.On != obligation.Authorization.String() && t.On != obligation.Any.String():
		s.failAt(t.Pos, "write key: source, or on: authorization.deny", "trigger %q would never fire: nobody has a name when %s is decided", t.Name, t.On)
	case key == obligation.ByPrincipal && s.Authentication == nil && !s.bad["spec.authentication"]:
		s.failAt(t.Pos, "write key: source, or add authentication", "trigger %q would never fire: the policy has no authentication, and nobody a name", t.Name)
	case key == obligation.ByRoute && (t.On == obligation.Network.String() || t.On == obligation.Request.String()):
		s.failAt(t.Pos, "write key: source or all", "trigger %q would never fire: no route is known when %s is decided", t.Name, t.On)
	case key == obligation.ByRoute && len(s.Routes) == 0 && !s.bad["spec.routes"]:
		s.failAt(t.Pos, "write key: source, or add routes", "trigger %q would never fire: the policy has no routes", t.Name)
	}
}
