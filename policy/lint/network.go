package lint

import (
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy/space"
)

// maxOverlaps bounds the notes about overlaps: nobody reads more.
const maxOverlaps = 20

func (x *linting) network(b *space.Budget) error {
	if x.p.Network == nil {
		return nil
	}
	rules := x.p.Network.Ingress
	list, err := space.Network(b, x.d)
	if err != nil {
		return err
	}
	open := 0
	for _, r := range list {
		if r.Index < 0 {
			continue
		}
		rule := &rules[r.Index]
		switch r.Status {
		case space.None:
			x.find(ShadowedRule, Warning, rule.Pos, "", "remove it, or move it up", "rule %q can never decide: %s", rule.Name, x.instead(r.By))
		case space.NotAnalysed:
			if open++; open == 1 {
				x.unknown(rule.Pos, "whether rule %q can decide: %s", rule.Name, r.Why)
			}
		}
		if rule.Action == abi.Allow && len(rule.Ports) == 0 && slices.Contains(rule.From, api.AnyEndpoint) && r.Status != space.None {
			x.find(WildcardScope, Warning, rule.Pos, witness(&r), "name the endpoints and ports that are meant", "rule %q allows everything from everywhere", rule.Name)
		}
	}
	if open > 1 {
		x.unknown(x.p.Network.Pos, "whether %d more network rules can decide", open-1)
	}
	return x.overlaps(b, list)
}

func witness(r *space.NetworkRule) string {
	if _, k, ok := r.First(); ok {
		return space.PacketText(k)
	}
	return ""
}

// instead says what decides instead of a network rule.
func (x *linting) instead(by []abi.Rule) string {
	switch len(by) {
	case 0:
		return "no packet is like that"
	case 1:
		return named(by[0]) + " matches everything that it matches"
	}
	var names []string
	for _, r := range by[:min(maxNamed, len(by))] {
		names = append(names, named(r))
	}
	if more := len(by) - len(names); more > 0 {
		return fmt.Sprintf("%s and %d more together match everything that it matches", strings.Join(names, ", "), more)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last] + " together match everything that it matches"
}

// maxNamed bounds the rules that a message names.
const maxNamed = 4

func named(r abi.Rule) string {
	_, line, ok := strings.Cut(r.Line, ":")
	if !ok {
		return fmt.Sprintf("%q", r.ID)
	}
	return fmt.Sprintf("%q (line %s)", r.ID, line)
}

func (x *linting) overlaps(b *space.Budget, known []space.NetworkRule) error {
	rules := x.p.Network.Ingress
	list, next, err := space.Overlaps(b, x.d, known, maxOverlaps)
	if err != nil {
		return err
	}
	for _, o := range list {
		i, j := &rules[o.First], &rules[o.Second]
		at := ""
		if o.Level != x.p.Levels.Names[0] {
			at = " at level " + o.Level
		}
		x.find(Overlap, Note, j.Pos, space.PacketText(o.Packet), "leave it where the order is meant; else move the one that should win up",
			"rule %q (%s) overlaps with %q (%s, line %d), which decides about what both match%s, because it is first", j.Name, j.Action, i.Name, i.Action, i.Pos.Line, at)
	}
	if next < len(rules) {
		why := "the budget is used up"
		if len(list) == maxOverlaps {
			why = fmt.Sprintf("%d are shown", maxOverlaps)
		}
		x.unknown(rules[next].Pos, "which rules from %q on overlap with earlier ones: %s", rules[next].Name, why)
	}
	return nil
}

// enforced finds network rules about what the workload's target never sees.
func (x *linting) enforced() {
	if x.p.Network == nil || x.d.Workload.OwnStack() {
		return
	}
	for i := range x.p.Network.Ingress {
		r := &x.p.Network.Ingress[i]
		tcp := func(p api.Port) bool { return p.Protocol == "TCP" || p.Protocol == "any" }
		if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, tcp) {
			x.find(NotEnforced, Warning, r.Pos, "", "write network: direct in the workload, which gives it a stack of its own; or remove the rule",
				"rule %q is not about TCP, and workload %s has sockets of the host, which see nothing else", r.Name, x.d.Workload.Metadata.Name)
		}
	}
}
