package space

import (
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/policy"
)

// Within narrows the calls that are looked at. The zero Within is all of them.
type Within struct {
	Routes []string                 // nil: every route
	Values map[string][]types.Value // that attributes may have, by name; nil among them: absent
	Who    *Somebody                // nil: everybody
}

// Somebody is a principal with its groups.
type Somebody struct {
	User   string
	Groups []string
}

func (w *Within) route(name string) bool { return w.Routes == nil || slices.Contains(w.Routes, name) }

// narrow leaves of a fact's values those that are to be looked at.
func (p *problem) narrow(k factKey, d *domain) {
	w := &p.within
	switch k.kind {
	case aUser:
		if w.Who != nil {
			*d = domain{values: []value{{user: w.Who.User}}}
		}
	case aGroup:
		if w.Who != nil {
			s := p.m.sides[0]
			above := cedar.NewEntityUID(s.a.Group, cedar.String(k.name))
			d.values = []value{{in: slices.ContainsFunc(w.Who.Groups, func(g string) bool {
				return s.isIn(cedar.NewEntityUID(s.a.Group, cedar.String(g)), above)
			})}}
		}
	case anAttribute:
		if list, ok := w.Values[k.name]; ok {
			*d = domain{}
			for _, v := range list {
				d.values = append(d.values, value{v: v})
			}
		}
	}
}

// Values returns one value of each kind that the rules of a route tell apart, of each
// attribute that they read; nil among them: absent.
func Values(d *policy.Deployment, route string) map[string][]types.Value {
	if d.Authorization == nil || d.Reference().About(route) == nil {
		return nil
	}
	m := newModel(d)
	p := m.problem(route)
	out := make(map[string][]types.Value)
	for _, f := range p.facts() {
		if k := m.facts[f]; k.kind == anAttribute {
			for _, x := range p.domain(f).values {
				out[k.name] = append(out[k.name], x.v)
			}
		}
	}
	return out
}
