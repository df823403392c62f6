package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"lorica.dev/lorica/api"
)

// Bounds of the entities that a policy is given.
const (
	maxEntitiesText = 4 << 20
	maxEntities     = 100_000
)

// entities reads the entities that policies can look up, in the JSON form of Cedar: users
// with what they have, groups within groups.
func (p *parsing) entities(s *securityPolicy, a *Authorization, rs *resolved.Schema) {
	t := newBlock(s.src, s.Authorization.Entities)
	if t.Value == "" {
		return
	}
	const see = "see https://docs.cedarpolicy.com/auth/entities-syntax.html"
	if len(t.Value) > maxEntitiesText {
		s.failAt(t.Pos, "keep those that policies ask about", "the entities have %d bytes; the limit is %d", len(t.Value), maxEntitiesText)
		return
	}
	at := func(offset int64) api.Pos { return t.pos(point(t.Value, int(offset))) }
	d := json.NewDecoder(bytes.NewReader([]byte(t.Value)))
	if tok, err := d.Token(); err != nil || tok != json.Delim('[') {
		s.failAt(at(0), see, "Cedar entities: there is no array")
		return
	}
	a.Entities = types.EntityMap{}
	v := validate.New(rs, validate.WithStrict())
	for d.More() {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			s.failAt(at(offsetOf(err, d.InputOffset())), see, "Cedar entities: %v", err)
			return
		}
		start := d.InputOffset() - int64(len(raw))
		var e types.Entity
		if err := guard(func() error { return json.Unmarshal(raw, &e) }); err != nil {
			s.failAt(at(start+offsetOf(err, 0)), see, "Cedar entities: %v", err)
			continue
		}
		_, twice := a.Entities[e.UID]
		switch {
		case twice:
			s.failAt(at(start), "keep one", "Cedar entities: %s is there twice", e.UID)
			continue
		case e.UID.Type == a.Action.Type:
			s.failAt(at(start), "remove it: the schema declares actions", "Cedar entities: %s is an action", e.UID)
			continue
		case len(a.Entities) == maxEntities:
			s.failAt(at(start), "keep those that policies ask about", "Cedar entities: there are more than %d", maxEntities)
			return
		}
		if err := v.Entity(e); err != nil {
			s.failAt(at(start), "the schema declares what entities have and are in", "Cedar entities: %v", err)
		}
		a.Entities[e.UID] = e
	}
	if _, err := d.Token(); err != nil {
		s.failAt(at(d.InputOffset()), see, "Cedar entities: the array has no end")
	} else if _, err := d.Token(); !errors.Is(err, io.EOF) {
		s.failAt(at(d.InputOffset()), see, "Cedar entities: there is more behind the array")
	}
	if uid, ok := circle(a.Entities); ok {
		s.failAt(t.pos(find(t.Value, string(uid.ID))), "take it out of one", "Cedar entities: %s is in itself", uid)
	}
}

// offsetOf returns how far the input is good, where an error of package json says so.
func offsetOf(err error, otherwise int64) int64 {
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return syntax.Offset
	case errors.As(err, &typed):
		return typed.Offset
	}
	return otherwise
}

// circle returns an entity that is in itself.
func circle(all types.EntityMap) (cedar.EntityUID, bool) {
	const open, done = 1, 2
	state := make(map[cedar.EntityUID]int)
	var visit func(cedar.EntityUID) bool
	visit = func(e cedar.EntityUID) bool {
		switch state[e] {
		case open:
			return true
		case done:
			return false
		}
		state[e] = open
		for p := range all[e].Parents.All() {
			if visit(p) {
				return true
			}
		}
		state[e] = done
		return false
	}
	for _, e := range slices.SortedFunc(maps.Keys(all), func(x, y cedar.EntityUID) int { return strings.Compare(x.String(), y.String()) }) {
		if visit(e) {
			return e, true
		}
	}
	return cedar.EntityUID{}, false
}

// World returns the entities that policies can look up: those that they were given, and
// the routes, each in its group.
func (d *Deployment) World() types.EntityMap {
	a := d.Authorization
	all := make(types.EntityMap, len(a.Entities)+len(d.Policy.Routes))
	maps.Copy(all, a.Entities)
	for _, r := range d.Policy.Routes {
		var group []cedar.EntityUID
		if r.Group != "" && a.RouteGroup != "" {
			group = append(group, cedar.NewEntityUID(a.RouteGroup, cedar.String(r.Group)))
		}
		put(all, cedar.NewEntityUID(a.Resource, cedar.String(r.Name)), group)
	}
	return all
}

// put adds an entity, or parents to one that is there.
func put(all types.EntityMap, uid cedar.EntityUID, parents []cedar.EntityUID) {
	e := all[uid]
	e.UID = uid
	if len(parents) > 0 {
		e.Parents = cedar.NewEntityUIDSet(append(slices.Collect(e.Parents.All()), parents...)...)
	}
	all[uid] = e
}

// isIn reports whether a route is an entity or in it.
func (a *Authorization) isIn(r *api.Route, e cedar.EntityUID) bool {
	self := cedar.NewEntityUID(a.Resource, cedar.String(r.Name))
	seen := make(map[cedar.EntityUID]bool)
	todo := []cedar.EntityUID{self}
	if r.Group != "" && a.RouteGroup != "" {
		todo = append(todo, cedar.NewEntityUID(a.RouteGroup, cedar.String(r.Group)))
	}
	for ; len(todo) > 0; todo = todo[1:] {
		x := todo[0]
		if x == e {
			return true
		}
		if !seen[x] {
			seen[x] = true
			todo = append(todo, slices.Collect(a.Entities[x].Parents.All())...)
		}
	}
	return false
}

// point returns the place of a byte.
func point(text string, offset int) spot {
	before := text[:min(offset, len(text))]
	return spot{strings.Count(before, "\n") + 1, len(before) - strings.LastIndexByte(before, '\n')}
}
