package space

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// A value is one that a fact may have.
type value struct {
	user string
	in   bool        // of a group
	v    types.Value // of an attribute; nil: absent
}

// A domain is one value of each kind that the rules of a route tell apart, what is most
// usual first.
type domain struct {
	values []value
	short  string // why there may be other kinds
}

// Bounds of domains. What is beyond them is not looked at.
const (
	maxValues   = 4096
	maxUsers    = 256
	maxElements = 5 // constants that elements of a set are compared with
)

// domain returns the values of a fact for a problem.
func (p *problem) domain(f int) *domain {
	if d, ok := p.domains[f]; ok {
		return d
	}
	d := &domain{}
	switch k := p.m.facts[f]; k.kind {
	case aUser:
		p.users(d)
	case aGroup:
		d.values = []value{{in: false}}
		if authn.ValidPrincipal(k.name) {
			d.values = append(d.values, value{in: true})
		}
	case anAttribute:
		p.attribute(d, f, k.name)
	}
	p.narrow(p.m.facts[f], d)
	if len(d.values) > maxValues {
		d.values, d.short = d.values[:maxValues], "there are too many values to tell apart"
	}
	p.domains[f] = d
	return d
}

// users are those that rules name, those of the entities, and somebody else.
func (p *problem) users(d *domain) {
	named := make(map[string]bool)
	kinds := make(map[string]bool)
	var list []string
	for _, a := range p.atoms() {
		for _, v := range p.m.atoms[a].consts {
			if uid, ok := v.(cedar.EntityUID); ok && uid.Type == p.m.sides[p.m.atoms[a].side].a.Principal && !named[string(uid.ID)] {
				named[string(uid.ID)] = true
				list = append(list, string(uid.ID))
			}
		}
	}
	for _, s := range p.m.sides {
		for _, uid := range sortedEntities(s.ref.World()) {
			if uid.Type != s.a.Principal {
				continue
			}
			e := s.ref.World()[uid]
			var above []string
			for x := range e.Parents.All() {
				above = append(above, x.String())
			}
			slices.Sort(above)
			kind := fmt.Sprint(e.Attributes.String(), e.Tags.String(), above)
			if len(p.m.sides) > 1 { // who is alike here may not be there
				kind = string(uid.ID)
			}
			if !named[string(uid.ID)] && !kinds[kind] {
				named[string(uid.ID)], kinds[kind] = true, true
				list = append(list, string(uid.ID))
			}
		}
	}
	somebody := "somebody"
	for named[somebody] {
		somebody += "-else"
	}
	d.values = append(d.values, value{user: somebody})
	for _, u := range list {
		anonymous := u == authn.Anonymous && !slices.ContainsFunc(p.m.sides, func(s *modelSide) bool {
			return s.d.Policy.Authentication == nil || s.d.Policy.Authentication.Require
		})
		if authn.ValidPrincipal(u) || anonymous {
			d.values = append(d.values, value{user: u})
		}
	}
	if len(d.values) > maxUsers {
		d.values, d.short = d.values[:maxUsers], "the entities have too many users that differ"
	}
}

// attribute returns the values of an attribute, as far as the rules at hand tell them apart.
func (p *problem) attribute(d *domain, f int, name string) {
	var decl []authz.Attribute // of each side whose rules read it
	for s := range p.m.sides {
		if x, ok := p.declares(s, name); ok {
			decl = append(decl, x)
		}
	}
	if len(decl) == 0 {
		d.short = "no rule reads the attribute " + name
		return
	}
	at := decl[0]
	for _, x := range decl[1:] {
		if x.Source != at.Source {
			d.short = "the attribute " + name + " has another source in the one policy than in the other"
		}
	}
	required := len(decl) == len(p.m.sides) && !slices.ContainsFunc(decl, func(x authz.Attribute) bool { return x.Optional })
	// What there always is.
	route := p.route()
	switch at.Source.Kind {
	case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday, authz.SourcePeer, authz.SourceMethod:
		required = true
	case authz.SourceClaimHas: // a token lacks it or not; only who has no token has no answer
		required = required || !slices.ContainsFunc(p.m.sides, func(s *modelSide) bool {
			a := s.d.Policy.Authentication
			return a == nil || !a.Require || a.Basic != nil || a.MTLS != nil
		})
	case authz.SourceRoute:
		if required = slices.Contains(policy.Params(route.Path), at.Source.Arg); !required {
			d.values = []value{{}}
			return
		}
	}
	if !required {
		d.values = append(d.values, value{})
	}
	u := p.used(f)
	if u.complex && at.Type != authz.TypeBool {
		d.short = fmt.Sprintf("the attribute %s is computed with", name)
	}
	var vs []types.Value
	var short bool
	switch {
	case at.Set:
		vs, short = setValues(at.Type, u)
	case at.Source.Kind == authz.SourceMethod:
		vs, short = methods(route.Method)
	case at.Source.Kind == authz.SourceHour:
		vs, short = ordered(at.Type, u, 0, 23)
	case at.Source.Kind == authz.SourceMinute:
		vs, short = ordered(at.Type, u, 0, 1439)
	case at.Source.Kind == authz.SourceWeekday:
		vs, short = ordered(at.Type, u, 1, 7)
	case at.Type == authz.TypeBool:
		vs = []types.Value{types.False, types.True}
	case at.Type == authz.TypeString:
		vs, short = texts(u)
	case at.Type == authz.TypeIP:
		vs, short = addresses(u, at.Source.Kind == authz.SourcePeer)
	default:
		vs, short = ordered(at.Type, u, minOrdered, maxOrdered)
	}
	if short && d.short == "" {
		d.short = fmt.Sprintf("the values of the attribute %s are too many to look at", name)
	}
	for _, v := range vs {
		d.values = append(d.values, value{v: v})
	}
}

// A usage is what the rules at hand compare an attribute with.
type usage struct {
	consts  []types.Value
	likes   []types.Pattern
	linked  int  // attributes that may be compared with one another, this one included
	complex bool // some condition does not just compare
}

// used gathers the usage of an attribute, with that of the attributes that it is compared
// with.
func (p *problem) used(f int) usage {
	u := usage{}
	group := map[int]bool{f: true}
	list := p.atoms()
	for grown := true; grown; {
		grown = false
		for _, i := range list {
			a := &p.m.atoms[i]
			if !slices.ContainsFunc(a.facts, func(f int) bool { return group[f] }) {
				continue
			}
			for _, o := range a.facts {
				if p.m.facts[o].kind == anAttribute && !group[o] {
					group[o], grown = true, true
				}
			}
		}
	}
	u.linked = len(group)
	for _, i := range list {
		a := &p.m.atoms[i]
		if !slices.ContainsFunc(a.facts, func(f int) bool { return group[f] }) {
			continue
		}
		u.complex = u.complex || !a.simple
		u.consts = append(u.consts, a.consts...)
		u.likes = append(u.likes, a.likes...)
		for _, name := range a.looks {
			u.consts = append(u.consts, p.m.sides[a.side].lookups()[name]...)
		}
	}
	return u
}

func methods(m string) ([]types.Value, bool) {
	switch m {
	case "*":
		return []types.Value{types.String("GET"), types.String("POST"), types.String("PUT"), types.String("DELETE"), types.String("PATCH"), types.String("HEAD"), types.String("OPTIONS")}, true
	case "GET":
		return []types.Value{types.String("GET"), types.String("HEAD")}, false
	}
	return []types.Value{types.String(m)}, false
}

// Values that have an order are counted: units of Long, ten-thousandths of decimal,
// milliseconds of datetime and duration.
const (
	minOrdered = -1 << 63
	maxOrdered = 1<<63 - 1
)

func counted(v types.Value) (int64, authz.Type, bool) {
	switch x := v.(type) {
	case types.Long:
		return int64(x), authz.TypeLong, true
	case types.Decimal:
		return tenThousandths(x), authz.TypeDecimal, true
	case types.Datetime:
		return x.Milliseconds(), authz.TypeDatetime, true
	case types.Duration:
		return x.ToMilliseconds(), authz.TypeDuration, true
	}
	return 0, 0, false
}

func tenThousandths(d types.Decimal) int64 {
	whole, part, _ := strings.Cut(d.String(), ".")
	var n int64
	_, _ = fmt.Sscan(whole+(part + "0000")[:4], &n)
	return n
}

func ofCount(t authz.Type, n int64) types.Value {
	switch t {
	case authz.TypeDecimal:
		d, err := types.NewDecimal(n, -4)
		if err != nil {
			return nil
		}
		return d
	case authz.TypeDatetime:
		return types.NewDatetimeFromMillis(n)
	case authz.TypeDuration:
		return types.NewDurationFromMillis(n)
	}
	return types.Long(n)
}

// ordered returns each constant from lo to hi, and as many values between, below and
// beyond them as there are attributes to compare.
func ordered(t authz.Type, u usage, lo, hi int64) ([]types.Value, bool) {
	at := []int64{}
	for _, v := range u.consts {
		if n, of, ok := counted(v); ok && of == t && lo <= n && n <= hi {
			at = append(at, n)
		}
	}
	slices.Sort(at)
	at = slices.Compact(at)
	if len(at) == 0 {
		at = []int64{max(lo, min(hi, 1))}
	}
	out := slices.Clone(at)
	for i, n := range at {
		next := hi
		if i+1 < len(at) {
			next = at[i+1] - 1
		}
		for k := range int64(u.linked) {
			if n <= next-1-k {
				out = append(out, n+1+k)
			}
		}
	}
	for k := range int64(u.linked) {
		if at[0] >= lo+1+k {
			out = append(out, at[0]-1-k)
		}
	}
	// What is close to nothing first, as people think of it.
	slices.SortFunc(out, func(a, b int64) int { return cmp.Or(cmp.Compare(magnitude(a), magnitude(b)), cmp.Compare(b, a)) })
	var vs []types.Value
	for _, n := range slices.Compact(out) {
		if v := ofCount(t, n); v != nil {
			vs = append(vs, v)
		}
	}
	return vs, false
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return uint64(-(n + 1)) + 1
	}
	return uint64(n)
}

// texts returns each constant, others, and for patterns a text of each combination of those
// that match.
func texts(u usage) ([]types.Value, bool) {
	var consts []string
	for _, v := range u.consts {
		if s, ok := v.(types.String); ok {
			consts = append(consts, string(s))
		}
	}
	slices.Sort(consts)
	consts = slices.Compact(consts)
	var vs []types.Value
	if len(u.likes) > 0 {
		found, all := matches(consts, u.likes)
		for _, s := range found {
			vs = append(vs, types.String(s))
		}
		return vs, !all || u.linked > 1
	}
	for i := 1; len(vs) < u.linked; i++ {
		s := "other"
		if i > 1 {
			s = fmt.Sprint("other-", i)
		}
		if _, taken := slices.BinarySearch(consts, s); !taken {
			vs = append(vs, types.String(s))
		}
	}
	for _, s := range consts {
		vs = append(vs, types.String(s))
	}
	return vs, false
}

// addresses returns one address of each piece that networks cut the families into; peers
// are never networks, nor IPv4 in IPv6.
func addresses(u usage, peer bool) ([]types.Value, bool) {
	cuts := []netip.Addr{four, six, mapped.Addr(), beyond(mapped), netip.MustParseAddr("::1"), netip.MustParseAddr("::2")}
	add := func(p netip.Prefix) {
		if within(p) {
			return
		}
		cuts = append(cuts, p.Masked().Addr())
		if b := beyond(p.Masked()); b.IsValid() {
			cuts = append(cuts, b)
		}
	}
	for _, s := range []string{"127.0.0.0/8", "224.0.0.0/4", "ff00::/8"} {
		add(netip.MustParsePrefix(s))
	}
	var nets []netip.Prefix
	for _, v := range u.consts {
		if ip, ok := v.(types.IPAddr); ok {
			add(ip.Prefix())
			nets = append(nets, ip.Prefix())
		}
	}
	slices.SortFunc(cuts, netip.Addr.Compare)
	cuts = slices.Compact(cuts)
	var vs []types.Value
	put := func(p netip.Prefix) {
		if v, err := types.ParseIPAddr(text(p)); err == nil {
			vs = append(vs, v)
		}
	}
	for i, a := range cuts {
		if a == mapped.Addr() {
			continue
		}
		for k := range u.linked { // as many as there are attributes to compare
			if i+1 < len(cuts) && cuts[i+1].Is4() == a.Is4() && !a.Less(cuts[i+1]) || !a.IsValid() {
				break
			}
			if n := a.Next(); k == 0 && u.linked == 1 && n.IsValid() && !slices.Contains(cuts, n) {
				a = n
			}
			put(netip.PrefixFrom(a, a.BitLen()))
			a = a.Next()
		}
	}
	if !peer {
		for _, p := range nets {
			put(p)
		}
	}
	return vs, !peer
}

func text(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// setValues returns the sets of the constants, with and without something else.
func setValues(t authz.Type, u usage) ([]types.Value, bool) {
	var consts []types.Value
	seen := make(map[string]bool)
	for _, v := range u.consts {
		if k := string(v.MarshalCedar()); typeOf(v) == t && !seen[k] {
			seen[k] = true
			consts = append(consts, v)
		}
	}
	single := usage{consts: consts, linked: 1}
	var other types.Value
	switch list := []types.Value(nil); t {
	case authz.TypeBool:
		consts = []types.Value{types.True, types.False}
	case authz.TypeString:
		list, _ = texts(single)
		other = list[0]
	case authz.TypeIP:
		list, _ = addresses(single, true)
		other = list[0]
	default:
		list, _ = ordered(t, single, minOrdered, maxOrdered)
		for _, v := range list {
			if !seen[string(v.MarshalCedar())] {
				other = v
			}
		}
	}
	var vs []types.Value
	put := func(list []types.Value) {
		vs = append(vs, types.NewSet(list...))
		if other != nil {
			vs = append(vs, types.NewSet(append(slices.Clone(list), other)...))
		}
	}
	if len(consts) <= maxElements {
		for bits := range 1 << len(consts) {
			var list []types.Value
			for i, v := range consts {
				if bits>>i&1 == 1 {
					list = append(list, v)
				}
			}
			put(list)
		}
		return vs, u.linked > 1 || t == authz.TypeIP
	}
	put(nil)
	for i := range consts {
		put(consts[i : i+1])
	}
	put(consts)
	return vs, true
}

func typeOf(v types.Value) authz.Type {
	switch v.(type) {
	case types.String:
		return authz.TypeString
	case types.Boolean:
		return authz.TypeBool
	case types.IPAddr:
		return authz.TypeIP
	}
	_, t, _ := counted(v)
	return t
}

func sortedEntities(all types.EntityMap) []cedar.EntityUID {
	out := make([]cedar.EntityUID, 0, len(all))
	for uid := range all {
		out = append(out, uid)
	}
	slices.SortFunc(out, func(a, b cedar.EntityUID) int {
		return cmp.Or(strings.Compare(string(a.Type), string(b.Type)), strings.Compare(string(a.ID), string(b.ID)))
	})
	return out
}
