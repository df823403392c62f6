package compiler

import (
	"cmp"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi/authz"
)

// names gives strings and entities their indices in a section.
type names interface {
	text(s string) uint32
	entity(e cedar.EntityUID) uint32
	tables() ([]string, []authz.Entity)
}

// A collector notes every name. It gives each its place in the order of first
// use, so that different names stay different.
type collector struct {
	texts    order[string]
	entities order[cedar.EntityUID]
}

type order[T comparable] struct {
	at   map[T]uint32
	list []T
}

func (o *order[T]) index(v T) uint32 {
	i, ok := o.at[v]
	if !ok {
		if o.at == nil {
			o.at = make(map[T]uint32)
		}
		i = uint32(len(o.list))
		o.at[v] = i
		o.list = append(o.list, v)
	}
	return i
}

func (c *collector) text(s string) uint32 { return c.texts.index(s) }

func (c *collector) entity(e cedar.EntityUID) uint32 {
	c.text(string(e.Type))
	c.text(string(e.ID))
	return c.entities.index(e)
}

func (c *collector) tables() ([]string, []authz.Entity) { return nil, nil }

// sorted returns the same names with their final indices.
func (c *collector) sorted() names {
	t := &table{}
	list := slices.Sorted(slices.Values(c.texts.list))
	for _, s := range list {
		t.texts.index(s)
	}
	ents := slices.SortedFunc(slices.Values(c.entities.list), compareEntities)
	for _, e := range ents {
		t.entities.index(e)
	}
	return t
}

// A table knows the final indices; it is asked for names that were collected.
type table struct{ collector }

func (t *table) tables() ([]string, []authz.Entity) {
	var ents []authz.Entity
	for _, e := range t.entities.list {
		ents = append(ents, authz.Entity{Type: t.text(string(e.Type)), ID: t.text(string(e.ID))})
	}
	return t.texts.list, ents
}

func compareEntities(a, b cedar.EntityUID) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
}
