package space

import (
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A NetworkRule is what is known of a rule of network.ingress, or of the default.
type NetworkRule struct {
	Rule  abi.Rule
	Index int // in network.ingress; -1: the default

	// Status says whether there are packets that are classified by it at any level. None is a
	// proof, and By then has what decides about its packets instead, in file order.
	Status Status
	By     []abi.Rule
	Why    string // it was not analysed

	// At has, for each level of the policy, a packet that is classified by the rule when the
	// policy is at that level; nil where there is none, or none was found.
	At []*api.Packet
}

// First returns the lowest level with a witness.
func (r *NetworkRule) First() (level int, k api.Packet, ok bool) {
	for l, k := range r.At {
		if k != nil {
			return l, *k, true
		}
	}
	return 0, api.Packet{}, false
}

// Network looks for packets that each rule decides, in file order, the default last. Its
// error is that of the context.
func Network(b *Budget, d *policy.Deployment) ([]NetworkRule, error) {
	f := newField(d)
	v := &reaching{f: f, cited: make([]uint32, len(f.rules)+1), at: make([][]*api.Packet, len(f.rules)+1)}
	for i := range v.at {
		v.at[i] = make([]*api.Packet, len(d.Policy.Levels.Names))
	}
	complete := f.walk(b, v, f.whole(), f.items)
	if err := b.Err(); err != nil {
		return nil, err
	}
	out := make([]NetworkRule, 0, len(v.at))
	for i := range v.at {
		r := NetworkRule{Index: i, At: v.at[i]}
		if i < len(f.rules) {
			x := &d.Policy.Network.Ingress[i]
			r.Rule = abi.Rule{ID: x.Name, Line: x.Pos.Short()}
		} else {
			r.Index, r.Rule = noRule, policy.NetworkDefault(d.Policy)
		}
		switch {
		case v.cited[i] != 0:
			r.Status = Found
		case complete:
			r.Status = None
			if i < len(f.rules) {
				r.By = f.instead(b, d, i)
			}
		default:
			r.Why = b.why()
		}
		out = append(out, r)
	}
	return out, b.Err()
}

func (f *field) whole() box {
	return box{0, int32(len(f.addrs)) - 1, 0, int32(len(f.asks)) - 1}
}

// reaching notes which rules are cited, at which levels.
type reaching struct {
	f       *field
	cited   []uint32 // by rule, the default last: levels
	at      [][]*api.Packet
	scratch []int32
}

func (v *reaching) done(c *cell) bool {
	for i := range c.items[0] {
		x := &c.items[0][i]
		if c.possible(0, x)&^v.cited[x.rule] != 0 {
			return false
		}
	}
	rest := c.f.sides[0].levels &^ c.covered[0]
	if rest != 0 && c.f.sides[0].deny {
		rest = c.f.sides[0].levels &^ (rest&-rest - 1)
	}
	return rest&^v.cited[len(v.cited)-1] == 0
}

func (v *reaching) leaf(c *cell) {
	v.scratch = c.deciders(0, v.scratch)
	var k *api.Packet
	for l, r := range v.scratch {
		if r == noRule {
			r = int32(len(v.cited)) - 1
		}
		if v.cited[r]>>l&1 == 1 {
			continue
		}
		if k == nil {
			p := c.f.packet(&c.box)
			k = &p
		}
		v.cited[r] |= 1 << l
		v.at[r][l] = k
	}
}

// instead returns what decides about the packets of a rule that decides none.
func (f *field) instead(b *Budget, d *policy.Deployment, i int) []abi.Rule {
	items := f.items
	if len(d.Policy.Levels.Names) == 1 { // else later rules may deny its packets at a lower level
		n, _ := slices.BinarySearchFunc(items[0], int32(i), func(x item, i int32) int { return int(x.rule - i) })
		items[0] = items[0][:n]
	}
	v := &deciding{f: f, levels: f.rules[i].levels, cited: make(map[int32]bool)}
	for _, x := range f.rules[i].boxes {
		if !f.walk(b, v, x, items) {
			return nil
		}
	}
	var list []int
	for r := range v.cited {
		if r != noRule {
			list = append(list, int(r))
		}
	}
	slices.Sort(list)
	var out []abi.Rule
	for _, r := range list {
		x := &d.Policy.Network.Ingress[r]
		out = append(out, abi.Rule{ID: x.Name, Line: x.Pos.Short()})
	}
	if v.cited[noRule] {
		out = append(out, policy.NetworkDefault(d.Policy))
	}
	return out
}

// deciding gathers what decides at some levels.
type deciding struct {
	f       *field
	levels  uint32
	cited   map[int32]bool
	scratch []int32
}

func (v *deciding) done(c *cell) bool {
	return c.covered[0] == c.f.sides[0].levels && !slices.ContainsFunc(c.items[0], func(x item) bool { return !v.cited[x.rule] })
}

func (v *deciding) leaf(c *cell) {
	v.scratch = c.deciders(0, v.scratch)
	for l, r := range v.scratch {
		if v.levels>>l&1 == 1 {
			v.cited[r] = true
		}
	}
}

// A PacketChange is packets that two policies classify differently.
type PacketChange struct {
	Level    string
	Packet   api.Packet // a witness
	Old, New policy.Decision
}

// A PacketDiff is how two policies differ about packets.
type PacketDiff struct {
	// Changes has one for each level and pair of rules that decide the same packets with
	// different verdicts, in the order of levels and rules.
	Changes  []PacketChange
	Complete bool   // there are no others
	Why      string // it is not complete
}

// DiffNetwork looks for packets whose verdicts differ. Levels are compared by their names;
// those that only one policy has are not. Its error is that of the context.
func DiffNetwork(b *Budget, before, after *policy.Deployment) (PacketDiff, error) {
	f := newField(before, after)
	v := &differing{f: f, b: b, seen: make(map[change]bool)}
	for l, name := range before.Policy.Levels.Names {
		v.other = append(v.other, slices.Index(after.Policy.Levels.Names, name))
		v.sameLevels = l == 0 && v.other[0] == 0 || v.sameLevels && v.other[l] == l
	}
	v.sameLevels = v.sameLevels && len(after.Policy.Levels.Names) == len(v.other)
	out := PacketDiff{Complete: f.walk(b, v, f.whole(), f.items) && b.left >= 0}
	if !out.Complete {
		out.Why = b.why()
	}
	slices.SortFunc(v.changes, func(x, y found) int { return slices.Compare(x.change[:], y.change[:]) })
	was, is := before.Reference(), after.Reference()
	for _, x := range v.changes {
		level := before.Policy.Levels.Names[x.change[0]]
		out.Changes = append(out.Changes, PacketChange{level, x.packet, was.Classify(level, x.packet), is.Classify(level, x.packet)})
	}
	return out, b.Err()
}

// A change is a level, and the rules that are cited.
type change [3]int32

type found struct {
	change change
	packet api.Packet
}

type differing struct {
	f          *field
	b          *Budget
	other      []int // of each level of the one policy, that of the other
	sameLevels bool
	seen       map[change]bool
	changes    []found
	was, is    []int32
}

// done: the rules that are left say the same, or all have one verdict.
func (v *differing) done(c *cell) bool {
	allow, deny := false, false
	for s := range c.items {
		for i := range c.items[s] {
			if c.f.rules[c.items[s][i].rule].deny {
				deny = true
			} else {
				allow = true
			}
		}
		if side := &c.f.sides[s]; c.covered[s] != side.levels {
			allow, deny = allow || !side.deny, deny || side.deny
		}
	}
	if !allow || !deny {
		return true
	}
	return v.sameLevels && c.f.sides[0].deny == c.f.sides[1].deny && slices.EqualFunc(c.items[0], c.items[1], func(x, y item) bool {
		return x.box == y.box && c.f.rules[x.rule].like == c.f.rules[y.rule].like
	})
}

func (v *differing) denies(s int, r int32) bool {
	if r == noRule {
		return v.f.sides[s].deny
	}
	return v.f.rules[r].deny
}

func (v *differing) leaf(c *cell) {
	v.was, v.is = c.deciders(0, v.was), c.deciders(1, v.is)
	for l, was := range v.was {
		if v.other[l] < 0 {
			continue
		}
		is := v.is[v.other[l]]
		x := change{int32(l), was, is}
		if v.denies(0, was) == v.denies(1, is) || v.seen[x] {
			continue
		}
		if !v.b.spend(1 + len(v.f.rules)/4) { // the reference asks each rule
			return
		}
		v.seen[x] = true
		v.changes = append(v.changes, found{x, c.f.packet(&c.box)})
	}
}
