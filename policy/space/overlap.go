package space

import (
	"slices"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// An Overlap is two network rules with opposite actions that match some of the same
// packets, and each others that the other does not: which one wins is by their order alone.
type Overlap struct {
	First, Second int // in network.ingress
	Level         string
	Packet        api.Packet // matched by both, decided by the first
}

// Overlaps returns overlaps in the order of second rules, at most one for each, as long as
// there are fewer than limit, and the index of the first rule that was not looked at. A narrow
// rule before a wider one is an exception and no overlap, and neither is a rule that an
// earlier one covers; rules that decide nothing, as known says, are left out. Its error is that
// of the context.
func Overlaps(b *Budget, d *policy.Deployment, known []NetworkRule, limit int) (list []Overlap, next int, err error) {
	f := newField(d)
	for j := range f.rules {
		if known[j].Status == None {
			continue
		}
		if y := &f.rules[j]; len(list) == limit || !b.spend(1+j/8) || !f.overlap(b, y, j, d, &list) {
			return list, j, b.Err()
		}
	}
	return list, len(f.rules), b.Err()
}

// overlap adds the first overlap of a rule, and reports whether the budget sufficed.
func (f *field) overlap(b *Budget, y *netRule, j int, d *policy.Deployment, list *[]Overlap) bool {
	for i := range j {
		x := &f.rules[i]
		if x.deny == y.deny || x.levels&y.levels == 0 || !x.bounds.meets(&y.bounds) || !meets(x.boxes, y.boxes) ||
			inside(x.boxes, y.boxes) || inside(y.boxes, x.boxes) {
			continue
		}
		v := &seeking{rule: int32(i), levels: x.levels & y.levels}
		for _, p := range x.boxes {
			for _, q := range y.boxes {
				if v.packet == nil && p.meets(&q) && !f.walk(b, v, p.and(&q), f.items) {
					return false
				}
			}
		}
		if v.packet != nil {
			*list = append(*list, Overlap{i, j, d.Policy.Levels.Names[v.level], *v.packet})
			return true
		}
	}
	return true
}

func meets(a, b []box) bool {
	return slices.ContainsFunc(a, func(x box) bool { return slices.ContainsFunc(b, func(y box) bool { return x.meets(&y) }) })
}

// inside reports whether each of the boxes is in one of others.
func inside(a, b []box) bool {
	for i := range a {
		if !slices.ContainsFunc(b, func(y box) bool { return y.covers(&a[i]) }) {
			return false
		}
	}
	return true
}

// seeking looks for one packet that a rule decides.
type seeking struct {
	rule    int32
	levels  uint32
	packet  *api.Packet
	level   int
	scratch []int32
}

func (v *seeking) done(c *cell) bool {
	return v.packet != nil || !slices.ContainsFunc(c.items[0], func(x item) bool { return x.rule == v.rule })
}

func (v *seeking) leaf(c *cell) {
	v.scratch = c.deciders(0, v.scratch)
	for l, r := range v.scratch {
		if v.packet == nil && r == v.rule && v.levels>>l&1 == 1 {
			k := c.f.packet(&c.box)
			v.packet, v.level = &k, l
		}
	}
}
