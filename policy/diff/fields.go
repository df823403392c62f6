package diff

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A sense is what it means where a field has more than before: a greater number, true, or
// an entry that was not there.
type sense int8

const (
	unclear sense = iota
	looser
	tighter
)

func (s sense) effect(more bool) string {
	switch {
	case s == unclear:
		return Changes
	case (s == looser) == more:
		return Loosens
	}
	return Tightens
}

// senses are those of fields, by their names without those of the entries. What is not here
// changes, in no known direction.
var senses = map[string]sense{
	"tls.mode":                     tighter,
	"tls.minVersion":               looser, // the zero version is the newest
	"tls":                          tighter,
	"authentication":               tighter,
	"authentication.require":       tighter,
	"authentication.jwt":           looser,
	"authentication.jwt.audiences": looser, "authentication.jwt.algorithms": looser, "authentication.jwt.leeway": looser,
	"authentication.basic":         looser,
	"authentication.mtls":          looser,
	"authentication.basic.require": tighter, "authentication.basic.attempts": looser, "authentication.basic.window": tighter,
	"routes.upgrade": looser,
	"rateLimits":     tighter, "rateLimits.requests": looser, "rateLimits.per": tighter, "rateLimits.minLevel": looser,
	"obligations": tighter, "obligations.count": looser, "obligations.window": tighter, "obligations.alert": tighter, "obligations.block": tighter, "obligations.minLevel": looser,
	"requestFilter.maxHeaderBytes": looser, "requestFilter.maxBodyBytes": looser, "requestFilter.maxPathBytes": looser, "requestFilter.maxConnections": looser,
	"requestFilter.maxHeaders": looser, "requestFilter.maxStreams": looser, "requestFilter.handshakeTimeout": looser, "requestFilter.headerTimeout": looser,
	"requestFilter.bodyTimeout": looser, "requestFilter.writeTimeout": looser, "requestFilter.idleTimeout": looser, "requestFilter.rejectEncodedSlash": tighter,
	"levels.initial": tighter,
	"modules":        tighter, "modules.forbid": tighter, "modules.maxAttackSurface": looser,
	"dryRun": looser, "rateLimits.dryRun": looser, "obligations.dryRun": looser,
	"workload.listen": looser, "workload.minimum": looser, "workload.app.proxy.maxConnections": looser,
}

// everything are lists in which nothing means all that there is.
var everything = map[string]sense{"requestFilter.contentTypes": looser, "rateLimits.routes": tighter}

// unbounded are numbers of which 0, where none is written, is more than any other.
var unbounded = map[string]bool{"modules.maxAttackSurface": true}

// decided is what packets, requests and connections show, more exactly than fields.
func decided(path string) bool {
	switch path {
	case "network.egress", "endpoints", "default", "authorization", "tests", "metadata", "selector", "dir",
		"authentication.basic.schemes": // of the users, which are a secret and no document
		return true
	}
	return false
}

// written gathers what documents say besides rules.
type written struct {
	list []entry
	at   map[string]int
}

// An entry is one field, or that an entry of a list is there.
type entry struct {
	path   string // "rateLimits.transfers.requests"
	kind   string // "rateLimits.requests"
	value  any    // bool, int64, float64, string or []string; nil: it is there
	text   string
	pos    api.Pos
	levels []string
}

// differences compares what two deployments say besides rules.
func differences(before, after *policy.Deployment) []Difference {
	var sides [2]*written
	for s, d := range []*policy.Deployment{before, after} {
		w := &written{at: make(map[string]int)}
		p := *d.Policy
		f := p.RequestFilter.WithDefaults()
		if p.RequestFilter = &f; f.Pos.Line == 0 {
			p.RequestFilter.Pos = p.Metadata.Pos
		}
		if p.Audit == nil {
			p.Audit = &api.Audit{Pos: p.Metadata.Pos, SampleAllowed: 1}
		}
		w.levels(&p)
		w.fields(reflect.ValueOf(p), "", "", p.Metadata.Pos, p.Levels.Names)
		w.fields(reflect.ValueOf(*d.Workload), "workload", "workload", d.Workload.Metadata.Pos, nil)
		w.types(d)
		sides[s] = w
	}
	var out []Difference
	absent := make(map[string]bool) // what is below is said with it
	for _, e := range merged(sides[0], sides[1]) {
		if hidden(absent, e) {
			continue
		}
		i, was := sides[0].at[e]
		j, is := sides[1].at[e]
		switch {
		case was && is:
			if x, y := &sides[0].list[i], &sides[1].list[j]; x.text != y.text {
				out = append(out, Difference{e, direction(x, y), x.text, y.text, x.pos.Short(), y.pos.Short()})
			}
		case was:
			x := &sides[0].list[i]
			absent[e] = true
			out = append(out, Difference{e, senses[x.kind].effect(false), or(x.text, "written"), "", x.pos.Short(), ""})
		default:
			y := &sides[1].list[j]
			absent[e] = true
			out = append(out, Difference{e, senses[y.kind].effect(true), "", or(y.text, "written"), "", y.pos.Short()})
		}
	}
	return out
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func hidden(absent map[string]bool, path string) bool {
	for i, c := range path {
		if c == '.' && absent[path[:i]] {
			return true
		}
	}
	return false
}

// merged returns the paths of both in the order of documents, those of the new one where
// the old one has its neighbours.
func merged(x, y *written) []string {
	var out []string
	done := 0
	for _, e := range y.list {
		if i, ok := x.at[e.path]; ok {
			for ; done < i; done++ {
				if _, both := y.at[x.list[done].path]; !both {
					out = append(out, x.list[done].path)
				}
			}
		}
		out = append(out, e.path)
	}
	for ; done < len(x.list); done++ {
		if _, both := y.at[x.list[done].path]; !both {
			out = append(out, x.list[done].path)
		}
	}
	return out
}

// direction is the effect of a change of a field.
func direction(x, y *entry) string {
	s := senses[x.kind]
	switch a := x.value.(type) {
	case int64:
		b := y.value.(int64)
		if unbounded[x.kind] && (a == 0 || b == 0) {
			return s.effect(b == 0)
		}
		return s.effect(b > a)
	case float64:
		return s.effect(y.value.(float64) > a)
	case bool:
		return s.effect(y.value.(bool))
	case string:
		if x.kind == "levels.initial" || strings.HasSuffix(x.kind, ".minLevel") {
			i, j := slices.Index(x.levels, a), slices.Index(x.levels, y.value.(string))
			if slices.Equal(x.levels, y.levels) {
				return s.effect(j > i)
			}
		}
	case []string:
		b := y.value.([]string)
		if all, ok := everything[x.kind]; ok {
			if len(a) == 0 || len(b) == 0 {
				return all.effect(len(b) == 0)
			}
			s = all
		}
		switch {
		case !slices.ContainsFunc(a, func(v string) bool { return !slices.Contains(b, v) }):
			return s.effect(true)
		case !slices.ContainsFunc(b, func(v string) bool { return !slices.Contains(a, v) }):
			return s.effect(false)
		}
	}
	return Changes
}

func (w *written) add(e entry) {
	if _, ok := w.at[e.path]; !ok {
		w.at[e.path] = len(w.list)
		w.list = append(w.list, e)
	}
}

// levels says which there are: those are entries.
func (w *written) levels(p *api.SecurityPolicy) {
	pos := p.Levels.Pos
	if pos.Line == 0 {
		pos = p.Metadata.Pos
	}
	w.add(entry{path: "levels.names", kind: "levels.names", value: p.Levels.Names, text: strings.Join(p.Levels.Names, ", "), pos: pos})
}

// types says of what type attributes are in the schema.
func (w *written) types(d *policy.Deployment) {
	if d.Authorization == nil {
		return
	}
	for _, a := range d.Authorization.Attributes {
		text := fmt.Sprint(a.Type)
		if a.Set {
			text = "Set<" + text + ">"
		}
		if a.Optional {
			text += ", optional"
		}
		w.add(entry{path: "attributes." + a.Name + ".type", kind: "attributes.type", value: text, text: text, pos: d.Policy.Authorization.Schema.Pos})
	}
}

// fields adds those of a struct.
func (w *written) fields(v reflect.Value, path, kind string, pos api.Pos, levels []string) {
	if p := v.FieldByName("Pos"); p.IsValid() && p.Interface().(api.Pos).Line > 0 {
		pos = p.Interface().(api.Pos)
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Type == reflect.TypeFor[api.Pos]() {
			continue
		}
		name := yamlName(f.Name)
		here, sort := joined(path, name), joined(kind, name)
		if sort == "network" || sort == "workload.metadata" || sort == "workload.dir" {
			if sort == "network" {
				w.ingress(v.Field(i), pos)
			}
			continue
		}
		if !decided(sort) && !(name == "name" && path != kind) {
			w.value(v.Field(i), here, sort, pos, levels)
		}
	}
}

// ingress says of network rules what is not their decision.
func (w *written) ingress(v reflect.Value, pos api.Pos) {
	if n, ok := v.Interface().(*api.Network); ok && n != nil {
		for _, r := range n.Ingress {
			if r.Audit {
				w.add(entry{path: "network.ingress." + r.Name + ".audit", kind: "network.ingress.audit", value: true, text: "true", pos: r.Pos})
			}
		}
	}
}

func (w *written) value(v reflect.Value, path, kind string, pos api.Pos, levels []string) {
	e := entry{path: path, kind: kind, pos: pos, levels: levels}
	if s, ok := v.Interface().(fmt.Stringer); ok && v.Kind() != reflect.Struct && v.Kind() != reflect.Pointer {
		e.text = s.String()
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			w.section(v.Elem(), path, kind, pos, levels)
		}
		return
	case reflect.Struct:
		if s, ok := v.Interface().(fmt.Stringer); ok {
			e.value, e.text = s.String(), s.String()
			break
		}
		w.fields(v, path, kind, pos, levels)
		return
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem().NumField() > 0 && v.Type().Elem().Field(0).Name == "Pos" {
			w.entries(v, path, kind, pos, levels)
			return
		}
		list := []string{}
		for i := range v.Len() {
			list = append(list, fmt.Sprint(v.Index(i).Interface()))
		}
		e.value, e.text = list, strings.Join(list, ", ")
	case reflect.Map:
		e.text = fmt.Sprint(v.Interface())
		e.value = e.text
	case reflect.Bool:
		e.value, e.text = v.Bool(), strconv.FormatBool(v.Bool())
	case reflect.Float64:
		e.value, e.text = v.Float(), strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		e.value = v.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		e.value = int64(v.Uint())
	default:
		e.value, e.text = v.String(), v.String()
	}
	if n, ok := e.value.(int64); ok && e.text == "" {
		e.text = strconv.FormatInt(n, 10)
	}
	if _, ok := v.Interface().(time.Duration); ok && e.value == int64(0) {
		e.text = "0"
	}
	w.add(e)
}

// section adds a part that is there or not.
func (w *written) section(v reflect.Value, path, kind string, pos api.Pos, levels []string) {
	if p := v.FieldByName("Pos"); p.IsValid() && p.Interface().(api.Pos).Line > 0 {
		pos = p.Interface().(api.Pos)
	}
	w.add(entry{path: path, kind: kind, pos: pos})
	w.fields(v, path, kind, pos, levels)
}

// entries adds those of a list, by their names; how often the same name comes tells others
// apart.
func (w *written) entries(v reflect.Value, path, kind string, pos api.Pos, levels []string) {
	seen := make(map[string]int)
	for i := range v.Len() {
		x := v.Index(i)
		name := strconv.Itoa(i + 1)
		if n := x.FieldByName("Name"); n.IsValid() && n.String() != "" {
			name = n.String()
		}
		if seen[name]++; seen[name] > 1 {
			name += "-" + strconv.Itoa(seen[name])
		}
		w.section(x, path+"."+name, kind, pos, levels)
	}
}

func joined(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// yamlName is a field as documents write it.
func yamlName(s string) string {
	n := 0
	for n < len(s) && (s[n] >= 'A' && s[n] <= 'Z' || s[n] >= '0' && s[n] <= '9') {
		n++
	}
	if n > 1 && n < len(s) {
		n--
	}
	return strings.ToLower(s[:n]) + s[n:]
}
