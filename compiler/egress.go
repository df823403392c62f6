package compiler

import (
	"fmt"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// An Outlet is a rule for connections out of the image, as people read it.
type Outlet struct {
	abi.Rule
	Verdict abi.Verdict
	To      []string // networks and names; empty: everything
	Ports   []string // empty: every port
}

// outlets returns the rules that exist at the i-th level, in order, and the one
// that decides where none of them matches.
func outlets(p *api.SecurityPolicy, i int) []Outlet {
	var list []Outlet
	for _, r := range policy.EgressRules(p, i) {
		o := Outlet{Rule: abi.Rule{ID: r.Name, Line: r.Pos.Short()}, Verdict: r.Action}
		for _, t := range r.To {
			for _, c := range t.CIDRs {
				o.To = append(o.To, c.String())
			}
			o.To = append(o.To, t.Names...)
		}
		for _, x := range r.Ports {
			text := fmt.Sprint(x.Lo)
			if x.Hi != x.Lo {
				text = fmt.Sprintf("%d-%d", x.Lo, x.Hi)
			}
			o.Ports = append(o.Ports, text)
		}
		list = append(list, o)
	}
	for _, c := range policy.Collectors(p) {
		list = append(list, Outlet{Rule: c.Rule(), Verdict: abi.Allow, To: []string{c.Host}, Ports: []string{fmt.Sprint(c.Port)}})
	}
	return append(list, Outlet{Rule: policy.EgressDefault(p)})
}

// String says what the rule does.
func (o Outlet) String() string {
	word, to, ports := "deny", strings.Join(o.To, ", "), ""
	if o.Verdict == abi.Allow {
		word = "allow"
	}
	if to == "" {
		to = "everything else"
	}
	if len(o.Ports) > 0 {
		ports = " port " + strings.Join(o.Ports, ", ")
	}
	return fmt.Sprintf("%s %s%s by %s (%s)", word, to, ports, o.ID, o.Line)
}
