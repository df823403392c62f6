// Package diff says what a change of documents means: what is newly allowed and newly denied,
// by which rules, each shown by a packet or a request that the reference evaluator was asked
// about under both; and what differs besides.
//
// That nothing else differs it says only where all was looked at.
package diff

import (
	"context"
	"fmt"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

// Kinds of changes.
const (
	Packet     = "packet"     // the firewall of the image judges it
	Request    = "request"    // routes, authentication and authorization do
	Connection = "connection" // the image asks for it
)

// A Side is what one of the policies says.
type Side struct {
	Decision string `json:"decision"` // "Allow" or "Deny"
	Rule     string `json:"rule"`
	Line     string `json:"line,omitempty"`
}

// A Change is packets, requests or connections that one rule allowed and another denies, or
// the reverse.
type Change struct {
	Kind   string   `json:"kind"`
	Old    Side     `json:"old"`
	New    Side     `json:"new"`
	Levels []string `json:"levels,omitempty"` // none: at every level
	Routes []string `json:"routes,omitempty"` // by their new names, where they have one

	// Witness is one of them, in words. WhyOld and WhyNew are the arguments with which `lorica
	// why` says the same of it; empty where it cannot be asked in this way.
	Witness string   `json:"witness"`
	WhyOld  []string `json:"whyOld,omitempty"`
	WhyNew  []string `json:"whyNew,omitempty"`
}

// Allows reports whether it is newly allowed.
func (c *Change) Allows() bool { return c.New.Decision == abi.Allow.String() }

// Effects of a difference.
const (
	Loosens  = "loosens"
	Tightens = "tightens"
	Changes  = "changes" // neither, or it is not known which
)

// A Difference is something that documents say differently and that is no rule about packets
// or requests.
type Difference struct {
	Field   string `json:"field"`
	Effect  string `json:"effect"`
	Old     string `json:"old,omitempty"` // empty: absent
	New     string `json:"new,omitempty"`
	OldLine string `json:"oldLine,omitempty"`
	NewLine string `json:"newLine,omitempty"`
}

// An Unanalysed is what was not looked at.
type Unanalysed struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// A Deployment is what a change means for one that both documents have.
type Deployment struct {
	Name        string       `json:"deployment"`
	Allowed     []Change     `json:"newlyAllowed"`
	Denied      []Change     `json:"newlyDenied"`
	Differences []Difference `json:"differences"`
	NotAnalysed []Unanalysed `json:"notAnalysed"`
	Replay      *Replay      `json:"replay,omitempty"`
}

// Same reports whether all is known to be as before.
func (d *Deployment) Same() bool {
	return len(d.Allowed)+len(d.Denied)+len(d.Differences)+len(d.NotAnalysed) == 0
}

// A Report is what a change means.
type Report struct {
	Deployments []*Deployment `json:"deployments"`
	Added       []string      `json:"added,omitempty"`
	Removed     []string      `json:"removed,omitempty"`
	Replayer    *Replayer     `json:"replayed,omitempty"` // records that belong to none of Deployments
}

// Bundles compares the deployments of the same name. For each, the network rules have a
// budget of so many steps, and so have the Cedar policies. Its error is that of the context.
func Bundles(ctx context.Context, before, after *policy.Bundle, steps int64) (*Report, error) {
	r := &Report{Deployments: []*Deployment{}}
	for _, x := range before.Deployments {
		i := slices.IndexFunc(after.Deployments, func(y *policy.Deployment) bool { return y.Name() == x.Name() })
		if i < 0 {
			r.Removed = append(r.Removed, x.Name())
			continue
		}
		d, err := Deployments(ctx, x, after.Deployments[i], steps)
		if err != nil {
			return nil, err
		}
		r.Deployments = append(r.Deployments, d)
	}
	for _, y := range after.Deployments {
		if !slices.ContainsFunc(before.Deployments, func(x *policy.Deployment) bool { return x.Name() == y.Name() }) {
			r.Added = append(r.Added, y.Name())
		}
	}
	return r, nil
}

// Deployments compares two. Its error is that of the context.
func Deployments(ctx context.Context, before, after *policy.Deployment, steps int64) (*Deployment, error) {
	x := &comparing{Deployment: &Deployment{Name: after.Name(), Allowed: []Change{}, Denied: []Change{}, NotAnalysed: []Unanalysed{}}}
	x.sides = [2]*policy.Deployment{before.Enforced(), after.Enforced()} // what is tried decides nothing
	if err := x.packets(space.NewBudget(ctx, steps)); err != nil {
		return nil, err
	}
	if err := x.requests(space.NewBudget(ctx, steps)); err != nil {
		return nil, err
	}
	x.connections()
	x.Differences = differences(before, after)
	return x.Deployment, ctx.Err()
}

// comparing is a comparison on its way.
type comparing struct {
	*Deployment
	sides [2]*policy.Deployment
}

func (x *comparing) unknown(what, format string, args ...any) {
	x.NotAnalysed = append(x.NotAnalysed, Unanalysed{what, fmt.Sprintf(format, args...)})
}

// found adds a change, to one between the same rules where there is one.
func (x *comparing) found(c Change) {
	list := &x.Denied
	if c.Allows() {
		list = &x.Allowed
	}
	for i := range *list {
		o := &(*list)[i]
		if o.Kind != c.Kind || o.Old != c.Old || o.New != c.New {
			continue
		}
		if len(o.Levels) > 0 && len(c.Levels) > 0 {
			o.Levels = union(o.Levels, c.Levels)
		} else {
			o.Levels = nil
		}
		o.Routes = union(o.Routes, c.Routes)
		return
	}
	*list = append(*list, c)
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

func side(v abi.Verdict, r abi.Rule) Side { return Side{v.String(), r.ID, r.Line} }

// shared are the levels that both policies have, by the order of the new one.
func (x *comparing) shared() []string {
	var list []string
	for _, l := range x.sides[1].Policy.Levels.Names {
		if slices.Contains(x.sides[0].Policy.Levels.Names, l) {
			list = append(list, l)
		}
	}
	return list
}

// levels are those at which something changed; none for all that there are.
func (x *comparing) levels(list []string) []string {
	if len(list) == len(x.shared()) {
		return nil
	}
	return list
}

// packets compares what the firewalls say.
func (x *comparing) packets(b *space.Budget) error {
	list, err := space.DiffNetwork(b, x.sides[0], x.sides[1])
	if err != nil {
		return err
	}
	if !list.Complete {
		x.unknown("packets", "%s", list.Why)
	}
	if len(x.shared()) == 0 {
		x.unknown("packets and requests", "the policies have no level in common")
	}
	for _, p := range list.Changes {
		c := Change{Kind: Packet, Old: side(p.Old.Verdict, p.Old.Rule), New: side(p.New.Verdict, p.New.Rule), Levels: []string{p.Level}, Witness: space.PacketText(p.Packet)}
		c.WhyOld = []string{"--packet", c.Witness}
		if len(x.sides[0].Policy.Levels.Names) > 1 || len(x.sides[1].Policy.Levels.Names) > 1 {
			c.WhyOld = append(c.WhyOld, "--level", p.Level)
		}
		c.WhyNew = c.WhyOld
		x.found(c)
	}
	for _, list := range [][]Change{x.Allowed, x.Denied} {
		for i := range list {
			list[i].Levels = x.levels(list[i].Levels)
		}
	}
	return nil
}
