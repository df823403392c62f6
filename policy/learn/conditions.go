package learn

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi/authz"
)

// conditions are what was true of all calls of a permit, and what they are beyond it.
func (l *Learner) conditions(p *permit) (conds []string, general []Generalised) {
	for _, at := range l.reads(p) {
		v := l.values(p.calls, at)
		c := v.condition()
		name := "context has " + member(at.Name)
		switch {
		case v.absent == 0 && at.Optional:
			conds = append(conds, name)
			fallthrough
		case v.absent == 0:
			if c != "" && c != "true" {
				conds = append(conds, c)
			}
		case len(v.distinct) == 0 && l.o.Exact:
			conds = append(conds, "!("+name+")")
		case c != "" && c != "true":
			conds = append(conds, "(if "+name+" then "+c+" else true)")
		}
		if v.absent > 0 && !l.o.Exact && len(v.distinct) == 0 {
			v.told(&general, "was never there", "any value, or none")
		}
		general = append(general, v.general...)
	}
	if c := l.levels(p); c != "" {
		conds = append(conds, c)
	}
	return conds, general
}

// levels is the condition on the level: what no present policy permitted is permitted at
// the levels up to the highest that was seen.
func (l *Learner) levels(p *permit) string {
	at := slices.IndexFunc(l.d.Authorization.Attributes, func(a authz.Attribute) bool { return a.Source.Kind == authz.SourceLevel })
	if at < 0 || p.parent != nil || slices.ContainsFunc(p.routes, func(r string) bool { return !l.ref.About(r).ReadsLevel }) {
		return ""
	}
	names, top := l.d.Policy.Levels.Names, 0
	for _, c := range p.calls {
		top = max(top, slices.Index(names, c.Level))
	}
	if top == len(names)-1 {
		return ""
	}
	var list []string
	for _, n := range names[:top+1] {
		list = append(list, valueText(types.String(n)))
	}
	name := l.d.Authorization.Attributes[at].Name
	cond := "[" + strings.Join(list, ", ") + "].contains(" + access(name) + ")"
	if l.d.Authorization.Attributes[at].Optional {
		cond = "context has " + member(name) + " && " + cond
	}
	return cond
}

// values are what calls had for an attribute.
type values struct {
	authz.Attribute
	o        *Options
	distinct []cedar.Value
	records  int // with one
	absent   int
	general  []Generalised
}

func (l *Learner) values(calls []*call, at authz.Attribute) *values {
	v := &values{Attribute: at, o: &l.o}
	seen := make(map[string]cedar.Value)
	for _, c := range calls {
		x, ok := c.Context[at.Name]
		if !ok {
			v.absent += c.count
			continue
		}
		v.records += c.count
		seen[valueText(x)] = x
	}
	for _, key := range slices.Sorted(maps.Keys(seen)) {
		v.distinct = append(v.distinct, seen[key])
	}
	return v
}

func (v *values) told(list *[]Generalised, what, to string) {
	*list = append(*list, Generalised{"", v.Name + " " + what, v.records + v.absent, len(v.distinct), to})
}

// to notes a generalisation, and returns its condition.
func (v *values) to(cond, text string) string {
	v.general = append(v.general, Generalised{"", v.Name, v.records, len(v.distinct), text})
	return cond
}

// condition is one that holds for all values; "" for none.
func (v *values) condition() string {
	a := access(v.Name)
	switch {
	case len(v.distinct) == 0:
		return ""
	case v.o.Exact:
		return v.exact()
	case v.Set:
		return v.subset()
	}
	switch v.Type {
	case authz.TypeBool:
		switch {
		case len(v.distinct) == 2:
			return ""
		case v.distinct[0] == cedar.Value(types.True):
			return a
		}
		return v.to("", "true, too")
	case authz.TypeLong:
		return v.interval()
	case authz.TypeIP:
		return v.networks()
	case authz.TypeDecimal, authz.TypeDuration:
		if len(v.distinct) > 1 {
			return v.between()
		}
	case authz.TypeDatetime:
		return v.to("", "any time")
	}
	if len(v.distinct) > v.o.Values {
		return v.to("", "any value")
	}
	return v.exact()
}

// exact lists the values.
func (v *values) exact() string {
	a := access(v.Name)
	if len(v.distinct) == 1 && !emptySet(v.distinct[0]) {
		if b, ok := v.distinct[0].(types.Boolean); ok {
			if b {
				return a
			}
			return "!" + a
		}
		return a + " == " + valueText(v.distinct[0])
	}
	var list, or []string
	for _, x := range v.distinct {
		if emptySet(x) {
			or = append(or, a+".isEmpty()")
		} else {
			list = append(list, valueText(x))
			if v.Set {
				or = append(or, a+" == "+valueText(x))
			}
		}
	}
	switch {
	case len(or) == 1:
		return or[0]
	case len(or) > 1:
		return "(" + strings.Join(or, " || ") + ")"
	case v.Type == authz.TypeBool:
		return "" // both
	}
	return "[" + strings.Join(list, ", ") + "].contains(" + a + ")"
}

func emptySet(v cedar.Value) bool {
	s, ok := v.(types.Set)
	return ok && s.Len() == 0
}

// subset lists the elements.
func (v *values) subset() string {
	seen := make(map[string]bool)
	for _, x := range v.distinct {
		for e := range x.(types.Set).All() {
			seen[valueText(e)] = true
		}
	}
	list := slices.Sorted(maps.Keys(seen))
	switch {
	case len(list) == 0:
		return access(v.Name) + ".isEmpty()"
	case len(list) > v.o.Values:
		return v.to("", "any set")
	}
	all := "[" + strings.Join(list, ", ") + "]"
	return v.to(all+".containsAll("+access(v.Name)+")", "any of "+all)
}

// A span of numbers.
type span struct{ lo, hi types.Long }

// interval is the least interval; of a clock, the least that may go on behind its end.
func (v *values) interval() string {
	a := access(v.Name)
	var list []types.Long
	for _, x := range v.distinct {
		list = append(list, x.(types.Long))
	}
	slices.Sort(list)
	lo, hi := list[0], list[len(list)-1]
	clock, turns := clocks[v.Source.Kind]
	if turns && len(list) > 1 {
		gap := clock.hi - clock.lo + 1 - (hi - lo) // from the last over the end to the first
		for i := 1; i < len(list); i++ {
			if d := list[i] - list[i-1]; d > gap {
				gap, lo, hi = d, list[i], list[i-1]
			}
		}
	}
	n := hi - lo + 1
	if lo > hi {
		n += clock.hi - clock.lo + 1
	}
	text := fmt.Sprintf("%d to %d", lo, hi)
	cond := fmt.Sprintf("%s >= %d && %s <= %d", a, lo, a, hi)
	switch {
	case lo == hi:
		return fmt.Sprintf("%s == %d", a, lo)
	case turns && n == clock.hi-clock.lo+1:
		cond, text = "", "every one"
	case lo > hi:
		cond = fmt.Sprintf("(%s >= %d || %s <= %d)", a, lo, a, hi)
	}
	if n > 0 && int64(n) == int64(len(list)) {
		return cond // nothing beyond what was seen
	}
	return v.to(cond, text)
}

// clocks are what a clock can show.
var clocks = map[authz.SourceKind]span{authz.SourceHour: {0, 23}, authz.SourceMinute: {0, 1439}, authz.SourceWeekday: {1, 7}}

// between is the least interval of values that are no numbers.
func (v *values) between() string {
	a := access(v.Name)
	lo, hi := v.distinct[0], v.distinct[0]
	for _, x := range v.distinct {
		if less(x, lo) {
			lo = x
		}
		if less(hi, x) {
			hi = x
		}
	}
	cond := fmt.Sprintf("%s >= %s && %s <= %s", a, valueText(lo), a, valueText(hi))
	if v.Type == authz.TypeDecimal {
		cond = fmt.Sprintf("%s.greaterThanOrEqual(%s) && %s.lessThanOrEqual(%s)", a, valueText(lo), a, valueText(hi))
	}
	return v.to(cond, lo.String()+" to "+hi.String())
}

func less(a, b cedar.Value) bool {
	switch x := a.(type) {
	case types.Decimal:
		return x.Compare(b.(types.Decimal)) < 0
	case types.Duration:
		return x.ToMilliseconds() < b.(types.Duration).ToMilliseconds()
	}
	return false
}

// networks are few prefixes.
func (v *values) networks() string {
	var list []netip.Prefix
	for _, x := range v.distinct {
		list = append(list, netip.Prefix(x.(types.IPAddr)).Masked())
	}
	if slices.ContainsFunc(v.distinct, func(x cedar.Value) bool { p := netip.Prefix(x.(types.IPAddr)); return p.Addr().Is4In6() }) {
		return v.exact() // prefixes would say otherwise what they are
	}
	out := covering(list, v.o.Prefixes, anywhere)
	var or, told []string
	beyond := false
	for _, p := range out {
		told = append(told, p.String())
		beyond = beyond || !slices.Contains(list, p)
		or = append(or, fmt.Sprintf("%s.isInRange(ip(%q))", access(v.Name), address(p)))
	}
	cond := strings.Join(or, " || ")
	if len(or) > 1 {
		cond = "(" + cond + ")"
	}
	if !beyond {
		return cond
	}
	return v.to(cond, strings.Join(told, ", "))
}

// address is a prefix as Cedar has it: one address by itself.
func address(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func valueText(v cedar.Value) string {
	if s, ok := v.(types.Set); ok { // in one order
		var list []string
		for e := range s.All() {
			list = append(list, valueText(e))
		}
		slices.Sort(list)
		return "[" + strings.Join(list, ", ") + "]"
	}
	return string(v.MarshalCedar())
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// reserved are words that Cedar does not take as identifiers.
var reserved = []string{"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar"}

func member(name string) string {
	if identifier.MatchString(name) && !slices.Contains(reserved, name) {
		return name
	}
	return string(types.String(name).MarshalCedar())
}

func access(name string) string {
	if m := member(name); m == name {
		return "context." + name
	} else {
		return "context[" + m + "]"
	}
}

// inOrder are the values of a map in the order of its keys.
func inOrder[V any](m map[string]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}
