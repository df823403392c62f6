package main

import (
	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// entities makes a hierarchy, up to five deep and now and then in circles, of entities with
// attributes and tags; some of those that it names do not exist.
func (a *author) entities() types.EntityMap {
	all := types.EntityMap{}
	rank := func(i int) int { return i * 6 / len(uids) }
	for i, u := range uids {
		if u.Type == "Ghost" || u.ID == "nobody" || u.ID == "none" || a.IntN(20) == 0 {
			continue
		}
		e := types.Entity{UID: u.entity()}
		var up []cedar.EntityUID
		for range pick(a, 0, 1, 1, 2, 3) {
			j := a.IntN(len(uids))
			if rank(j) > rank(i) || a.IntN(40) == 0 {
				up = append(up, uids[j].entity())
			}
		}
		e.Parents = types.NewEntityUIDSet(up...)
		e.Attributes = a.record(2)
		if a.IntN(2) == 0 {
			e.Tags = a.record(1)
		}
		all[e.UID] = e
	}
	return all
}

// record makes members for some of the names.
func (a *author) record(depth int) types.Record {
	m := types.RecordMap{}
	often := pick(a, 2, 3, 6)
	for _, k := range kinds {
		for _, n := range named[k] {
			if a.IntN(often) == 0 {
				continue
			}
			of := k
			if a.IntN(8) == 0 {
				of = pick(a, "string", "long", "entity", pick(a, kinds...))
			}
			m[types.String(n)] = a.value(of, depth)
			if n == "y" && a.IntN(2) == 0 {
				m["y"] = types.String(pick(a, pick(a, ips, noIPs, decs, noDecs, times, noTimes, times, noTimes, spans, noSpans)...))
			}
		}
	}
	return types.NewRecord(m)
}

func (a *author) value(kind string, depth int) types.Value {
	switch kind {
	case "string":
		if a.IntN(10) == 0 {
			return types.String(pick(a, pick(a, ips, noIPs, decs, noDecs, times, noTimes, spans, noSpans)...))
		}
		if a.IntN(2) == 0 {
			return types.String(pick(a, "", "a", "b", "c", "ab", "a*"))
		}
		return types.String(pick(a, "", "a", "b", "c", "ab", "a*", "aba", "é", `\`, "\x00", "d", "e", "f", "User", "x", "somebody else"))
	case "long":
		if a.IntN(2) == 0 {
			return types.Long(pick(a, 0, 1, 2, 1<<32-1, 1<<32, 1<<32+1))
		}
		return types.Long(pick(a, 0, 1, 2, 3, 4, -1, 7, 1<<32-1, 1<<32, 1<<32+1, 1<<63-1, -1<<63, a.Int64()))
	case "bool":
		return types.Boolean(a.IntN(2) == 0)
	case "entity":
		return a.uid().entity()
	case "ip":
		return must(types.ParseIPAddr(pick(a, ips...)))
	case "decimal":
		return must(types.ParseDecimal(pick(a, decs...)))
	case "datetime":
		return must(types.ParseDatetime(pick(a, times...)))
	case "duration":
		return must(types.ParseDuration(pick(a, spans...)))
	case "set":
		of := pick(a, "string", "long", "entity", "ip", "set", "record", pick(a, kinds...))
		if depth <= 0 {
			of = pick(a, "string", "long", "entity")
		}
		var list []types.Value
		for range a.IntN(4) {
			list = append(list, a.value(of, depth-1))
		}
		return types.NewSet(list...)
	}
	if depth <= 0 {
		return types.NewRecord(types.RecordMap{"x": a.value("string", 0), "n": a.value("long", 0)})
	}
	return a.record(depth - 1)
}

func (a *author) request() cedar.Request {
	r := cedar.Request{Principal: a.uid("User").entity(), Action: a.uid("Action").entity(), Resource: a.uid("Doc", "NS::Thing").entity()}
	if len(a.contexts) < 100 { // making them takes longer than judging them
		a.contexts = append(a.contexts, a.record(2))
		r.Context = a.contexts[len(a.contexts)-1]
	} else {
		r.Context = pick(a, a.contexts...)
	}
	switch a.IntN(12) {
	case 0:
		r.Principal = a.uid().entity()
	case 1:
		r.Action = pick(a, a.uid().entity(), cedar.NewEntityUID("Action", "unheard of"))
	case 2:
		r.Resource = pick(a, a.uid().entity(), cedar.NewEntityUID("Unheard::Of", "a"))
	case 3:
		r.Principal = cedar.NewEntityUID("User", cedar.String(pick(a, "", "unheard of", "x")))
	}
	return r
}
