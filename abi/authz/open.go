package authz

import (
	"errors"
	"fmt"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Open checks a section and returns its View, which aliases b. After it every
// index of the section is good, every code keeps its stack within MaxStack and ends, and
// the index is a tree.
func Open(b []byte) (*View, error) {
	if len(b) == 0 {
		return nil, errors.New("authz: no section")
	}
	c := checker{r: wire.NewReader(b), v: &View{}}
	c.strings()
	c.header()
	c.attributes()
	c.entities()
	c.v.lists = c.table(4)
	c.values()
	c.members()
	c.code()
	c.rules()
	c.nodes()
	c.routes()
	if err := c.r.Close(); err != nil {
		return nil, fmt.Errorf("authz: %w", err)
	}
	c.v.index()
	return c.v, nil
}

// A checker reads a section front to back; each part refers to earlier ones.
type checker struct {
	r *wire.Reader
	v *View
}

func (c *checker) fail(format string, args ...any) { c.r.Fail(fmt.Errorf(format, args...)) }

func (c *checker) table(size int) []byte { return c.r.Fixed(size * c.r.Count(size)) }

func (c *checker) strings() {
	v := c.v
	v.spans = c.table(spanSize)
	v.text = c.r.Blob()
	for i := range uint32(len(v.spans) / spanSize) {
		at, n := word(v.spans, 2*i), word(v.spans, 2*i+1)
		if uint64(at)+uint64(n) > uint64(len(v.text)) {
			c.fail("string %d lies outside of the text", i)
			return
		}
		if i > 0 && string(v.String(i-1)) >= string(v.String(i)) {
			c.fail("string %d is out of order", i)
			return
		}
	}
}

func (c *checker) isString(i uint32) bool { return uint64(i) < uint64(len(c.v.spans)/spanSize) }
func (c *checker) isEntity(i uint32) bool { return uint64(i) < uint64(len(c.v.entities)/entitySize) }

func (c *checker) header() {
	v := c.v
	v.principal, v.group, v.Action = c.r.U32(), c.r.U32(), c.r.U32()
	if c.r.Err() == nil && (v.principal != None && !c.isString(v.principal) || v.group != None && !c.isString(v.group)) {
		c.fail("a type of the header is no string")
	}
	if d := abi.Verdict(c.r.U8()); d <= abi.Allow {
		v.Default = d
	} else {
		c.fail("verdict %d is unknown", uint8(d))
	}
	v.Rule = abi.Rule{ID: c.r.String(), Line: c.r.String()}
}

func (c *checker) attributes() {
	v := c.v
	n := c.r.Count(16)
	if n > MaxAttributes {
		c.fail("%d attributes; the limit is %d", n, MaxAttributes)
		return
	}
	for i := range n {
		a := Attribute{Name: c.r.String(), Type: Type(c.r.U8()), Set: c.r.Bool(), Optional: c.r.Bool(),
			Source: Source{Kind: SourceKind(c.r.U8()), Arg: c.r.String(), Has: c.r.String()}}
		if a.Type < TypeString || a.Type > TypeDuration || a.Source.Kind < SourceLevel || a.Source.Kind >= SourceGroups {
			c.fail("attribute %q: type %d, source %d", a.Name, a.Type, a.Source.Kind)
			return
		}
		if a.Source.Kind == SourceLevel {
			v.Level |= 1 << i
		}
		v.Attributes = append(v.Attributes, a)
	}
}

func (c *checker) entities() {
	v := c.v
	v.entities = c.table(entitySize)
	last := uint64(0)
	for i := range uint32(len(v.entities) / entitySize) {
		t, id := word(v.entities, 6*i), word(v.entities, 6*i+1)
		key := uint64(t)<<32 | uint64(id)
		if !c.isString(t) || !c.isString(id) || i > 0 && key <= last {
			c.fail("entity %d", i)
			return
		}
		last = key
	}
	if c.r.Err() == nil && v.Action != None && !c.isEntity(v.Action) {
		c.fail("the action is no entity")
	}
}

// members checks what entities have and are in, when constants and lists are known.
func (c *checker) members() {
	v := c.v
	isRecord := func(i uint32) bool { return i == None || c.isValue(i) && v.Value(i).Kind == ValueRecord }
	for i := range uint32(len(v.entities) / entitySize) {
		e := v.Entity(i)
		if c.r.Err() != nil {
			return
		}
		if !isRecord(e.Members) || !isRecord(e.Tags) || !c.ascends(Span{e.First, e.Parents}, len(v.entities)/entitySize) || v.In(i, i) {
			c.fail("entity %d: what it has or is in", i)
		}
	}
}

func (c *checker) rules() {
	v := c.v
	v.rules = c.table(ruleSize)
	for i := range uint32(len(v.rules) / ruleSize) {
		id, line, effect := word(v.rules, 5*i), word(v.rules, 5*i+1), word(v.rules, 5*i+2)
		if !c.isString(id) || !c.isString(line) || effect > 3 || !c.isCode(Span{word(v.rules, 5*i+3), word(v.rules, 5*i+4)}, 0) {
			c.fail("rule %d", i)
			return
		}
		v.Rules = append(v.Rules, abi.Rule{ID: string(v.String(id)), Line: string(v.String(line))})
	}
}

func (c *checker) routes() {
	v := c.v
	v.routes = c.table(routeSize)
	for i := range uint32(len(v.routes) / routeSize) {
		r := v.route(i)
		switch {
		case !c.isString(r.Name) || i > 0 && r.Name <= v.route(i-1).Name:
			c.fail("route %d: name", i)
		case !c.isEntity(r.Resource):
			c.fail("route %d: resource", i)
		case r.Reads>>len(v.Attributes) != 0:
			c.fail("route %d: attributes", i)
		}
		if c.r.Err() != nil {
			return
		}
	}
}

func (c *checker) isList(first, count uint32) bool {
	return uint64(first)+uint64(count) <= uint64(len(c.v.lists)/4)
}

// ascends reports whether a span of the lists holds indices below n, each once.
func (c *checker) ascends(s Span, n int) bool {
	if !c.isList(s.First, s.Count) {
		return false
	}
	for k := range s.Count {
		x := c.v.List(s.First + k)
		if uint64(x) >= uint64(n) || k > 0 && x <= c.v.List(s.First+k-1) {
			return false
		}
	}
	return true
}
