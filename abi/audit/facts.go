package audit

import (
	"fmt"

	"lorica.dev/lorica/abi/wire"
)

// Bounds of what a record says of the facts that authorization judged by.
const (
	MaxFacts      = 64
	MaxFactBytes  = 2048 // of all names and values
	MaxGroupBytes = 1024 // of all groups, each with groupCost
	groupCost     = 4
	factCost      = 9
)

// A Fact is the value of an attribute that the policies of a route read.
type Fact struct {
	Name  string
	Value string // as `lorica why --set` takes it
	State State
}

// A State says what the value of a fact is.
type State uint8

const (
	FactWhole   State = iota // what was judged
	FactAbsent               // empty: the request has none
	FactCut                  // the beginning of it
	FactHidden               // something that stands for it
	FactUnread               // empty: what the request has is no value of the attribute
	factUnknown              // and above
)

// Partial says which fields of a record do not hold what was judged, since they
// are redacted or cut. Facts have a State each.
type Partial uint8

const (
	PartialPrincipal Partial = 1 << iota
	PartialSource
	PartialPath
	PartialGroups
	PartialAttributes // some are left out
	partialAll        = 1<<iota - 1
)

// Fields returns the names of the fields, as a policy redacts them.
func (p Partial) Fields() (list []string) {
	for i, name := range [...]string{FieldPrincipal, FieldSource, FieldPath, FieldGroups, FieldAttributes} {
		if p&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

// Bounded returns what of groups and facts is encoded, and what is partial then.
func (r *Record) Bounded() ([]string, []Fact, Partial) {
	p := r.Partial
	if len(r.Principal) > MaxField {
		p |= PartialPrincipal
	}
	if len(r.Source) > MaxField {
		p |= PartialSource
	}
	if len(r.Path) > MaxPath {
		p |= PartialPath
	}
	groups, facts := r.Groups, r.Facts
	size := 0
	for i, g := range groups {
		if size += groupCost + len(g); size > MaxGroupBytes {
			groups, p = groups[:i], p|PartialGroups
			break
		}
	}
	if within(facts) {
		return groups, facts, p
	}
	facts, size = nil, 0
	for _, f := range r.Facts {
		if len(f.Value) > MaxField {
			f.Value = Cut(f.Value, MaxField)
			if f.State == FactWhole {
				f.State = FactCut
			}
		}
		more := factCost + len(f.Name) + len(f.Value)
		if len(facts) == MaxFacts || len(f.Name) > MaxField || size+more > MaxFactBytes {
			p |= PartialAttributes
			continue
		}
		facts, size = append(facts, f), size+more
	}
	return groups, facts, p
}

// within reports whether facts can be encoded as they are, as nearly all can.
func within(facts []Fact) bool {
	size := 0
	for i := range facts {
		if len(facts[i].Value) > MaxField || len(facts[i].Name) > MaxField {
			return false
		}
		size += factCost + len(facts[i].Name) + len(facts[i].Value)
	}
	return len(facts) <= MaxFacts && size <= MaxFactBytes
}

func appendFacts(w *wire.Writer, facts []Fact) {
	w.U32(uint32(len(facts)))
	for i := range facts {
		w.U8(uint8(facts[i].State))
		w.String(facts[i].Name)
		w.String(facts[i].Value)
	}
}

func readGroups(rd *wire.Reader) []string {
	list := rd.Strings()
	size := 0
	for _, g := range list {
		size += groupCost + len(g)
	}
	if size > MaxGroupBytes {
		rd.Fail(fmt.Errorf("audit: groups of %d bytes; the limit is %d", size, MaxGroupBytes))
	}
	return list
}

func readFacts(rd *wire.Reader) []Fact {
	n := rd.Count(factCost)
	var list []Fact
	for range n {
		f := Fact{State: State(rd.U8()), Name: text(rd, MaxField), Value: text(rd, MaxField)}
		if f.State >= factUnknown || f.Value != "" && (f.State == FactAbsent || f.State == FactUnread) {
			rd.Fail(fmt.Errorf("audit: a fact in state %d", f.State))
		}
		list = append(list, f)
	}
	if !within(list) {
		rd.Fail(fmt.Errorf("audit: %d facts are too many, or too large", n))
	}
	return list
}
