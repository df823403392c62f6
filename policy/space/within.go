package space

import (
	"slices"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// Within narrows the calls that are looked at. The zero Within is all of them.
type Within struct {
	Routes []string            // nil: every route
	Values map[string][]string // that attributes may have, by name, as policy.ParseValue reads them
	Absent []string            // attributes that have none
	Who    *Somebody           // nil: everybody
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
		list, given := w.Values[k.name]
		switch {
		case slices.Contains(w.Absent, k.name):
			*d = domain{values: []value{{}}}
		case given:
			*d = domain{}
			for _, text := range list {
				if v, err := policy.ParseValue(p.declared(k.name), text); err == nil {
					d.values = append(d.values, value{v: v})
				}
			}
		}
	}
}

// declared returns an attribute by its name.
func (p *problem) declared(name string) authz.Attribute {
	list := p.m.sides[0].a.Attributes
	return list[slices.IndexFunc(list, func(x authz.Attribute) bool { return x.Name == name })]
}

// Values returns one value of each kind that the rules of a route tell apart, of each
// attribute that they read, as policy.ParseValue reads them.
func Values(d *policy.Deployment, route string) map[string][]string {
	if d.Authorization == nil || d.Reference().About(route) == nil {
		return nil
	}
	m := newModel(d)
	p := m.problem(route)
	out := make(map[string][]string)
	for _, f := range p.facts() {
		k := m.facts[f]
		if k.kind != anAttribute {
			continue
		}
		for _, x := range p.domain(f).values {
			if x.v == nil {
				continue
			}
			if text, err := policy.FormatValue(p.declared(k.name), x.v); err == nil {
				out[k.name] = append(out[k.name], text)
			}
		}
	}
	return out
}
