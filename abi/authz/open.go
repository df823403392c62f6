package authz

import (
	"errors"
	"fmt"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Open checks a section and returns its View, which aliases b. After it every
// index of the section is good, every condition ends within MaxDepth, and every
// route gathers what its rules read.
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
	c.nodes()
	c.rules()
	c.routes()
	if err := c.r.Close(); err != nil {
		return nil, fmt.Errorf("authz: %w", err)
	}
	c.v.index()
	return c.v, nil
}

// A checker reads a section front to back; each part refers to earlier ones.
type checker struct {
	r     *wire.Reader
	v     *View
	reads []uint64 // by node, then by rule: attributes
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
	if c.r.Err() == nil && (!c.isString(v.principal) || v.group != None && !c.isString(v.group)) {
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
	n := c.r.Count(15)
	if n > MaxAttributes {
		c.fail("%d attributes; the limit is %d", n, MaxAttributes)
		return
	}
	for i := range n {
		a := Attribute{Name: c.r.String(), Type: Type(c.r.U8()), Optional: c.r.Bool(),
			Source: Source{Kind: SourceKind(c.r.U8()), Arg: c.r.String(), Has: c.r.String()}}
		if a.Type < TypeString || a.Type > TypeDecimal || a.Source.Kind < SourceLevel || a.Source.Kind >= SourceGroups {
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
		t, id := word(v.entities, 2*i), word(v.entities, 2*i+1)
		key := uint64(t)<<32 | uint64(id)
		if !c.isString(t) || !c.isString(id) || i > 0 && key <= last {
			c.fail("entity %d", i)
			return
		}
		last = key
	}
	if c.r.Err() == nil && !c.isEntity(v.Action) {
		c.fail("the action is no entity")
	}
}

func (c *checker) rules() {
	v := c.v
	v.rules = c.table(ruleSize)
	n := uint32(len(v.rules) / ruleSize)
	reads := make([]uint64, 0, n)
	for i := range n {
		id, line, cond, forbid := word(v.rules, 4*i), word(v.rules, 4*i+1), word(v.rules, 4*i+2), word(v.rules, 4*i+3)
		if !c.isString(id) || !c.isString(line) || forbid > 1 || cond != None && uint64(cond) >= uint64(len(c.reads)) {
			c.fail("rule %d", i)
			return
		}
		v.Rules = append(v.Rules, abi.Rule{ID: string(v.String(id)), Line: string(v.String(line))})
		set := uint64(0)
		if cond != None {
			set = c.reads[cond]
		}
		reads = append(reads, set)
	}
	c.reads = reads
}

func (c *checker) routes() {
	v := c.v
	v.routes = c.table(routeSize)
	v.buckets = c.table(bucketSize)
	next := uint32(0) // first bucket of the next route
	for i := range uint32(len(v.routes) / routeSize) {
		r := v.route(i)
		switch {
		case !c.isString(r.Name) || i > 0 && r.Name <= v.route(i-1).Name:
			c.fail("route %d: name", i)
		case !c.isEntity(r.Resource) || r.Parent != None && !c.isEntity(r.Parent):
			c.fail("route %d: resource", i)
		case r.Reads>>len(v.Attributes) != 0:
			c.fail("route %d: attributes", i)
		case r.first != next || uint64(r.first)+uint64(r.count) > uint64(len(v.buckets)/bucketSize):
			c.fail("route %d: buckets", i)
		}
		if c.r.Err() != nil {
			return
		}
		next += r.count
		for j := range r.count {
			c.bucket(r, j)
		}
	}
	if c.r.Err() == nil && uint64(next) != uint64(len(v.buckets)/bucketSize) {
		c.fail("buckets without a route")
	}
}

func (c *checker) bucket(r Route, j uint32) {
	if c.r.Err() != nil {
		return
	}
	v := c.v
	b := v.bucket(r.first + j)
	if b.Key != None && !c.isEntity(b.Key) || j > 0 && b.Key <= v.bucket(r.first+j-1).Key || !c.isList(b.First, b.Count) {
		c.fail("bucket %d", r.first+j)
		return
	}
	for k := range b.Count {
		rule := v.List(b.First + k)
		if uint64(rule) >= uint64(len(c.reads)) || k > 0 && rule <= v.List(b.First+k-1) {
			c.fail("bucket %d: rule %d", r.first+j, rule)
			return
		}
		if c.reads[rule]&^r.Reads != 0 {
			c.fail("rule %q reads an attribute that its route does not gather", v.Rules[rule].ID)
			return
		}
	}
}

func (c *checker) isList(first, count uint32) bool {
	return uint64(first)+uint64(count) <= uint64(len(c.v.lists)/4)
}
