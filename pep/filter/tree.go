package filter

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
)

// A tree finds routes by segment; it gives the results of route.Section.Match.
type tree struct {
	literals map[string]*tree
	one      *tree // {name}
	here     []leaf
	rest     []leaf // {name...}
}

// A leaf is a route and where in a path its parameters are.
type leaf struct {
	*route.Route
	params []param
}

type param struct {
	name  string
	index int
	tail  bool
}

// newTree refuses patterns that no canonical path can match and routes that are
// the same twice.
func newTree(routes []route.Route) (*tree, error) {
	root := &tree{}
	for i := range routes {
		if err := root.add(&routes[i]); err != nil {
			return nil, err
		}
	}
	return root, nil
}

func (t *tree) add(r *route.Route) error {
	if !isMethod(r.Method) {
		return fmt.Errorf("route %q: method %q", r.Name, r.Method)
	}
	x := leaf{Route: r}
	segments := r.Segments()
	into := &t.here
	for i, s := range segments {
		name, named, tail := parameter(s)
		last := i == len(segments)-1
		switch {
		case named && (name == "" || slices.ContainsFunc(x.params, func(p param) bool { return p.name == name })):
			return fmt.Errorf("route %q: %q names no new parameter", r.Name, s)
		case tail && !last:
			return fmt.Errorf("route %q: %q is not at the end", r.Name, s)
		case tail:
			into = &t.rest
		case named:
			if t.one == nil {
				t.one = &tree{}
			}
			t = t.one
			into = &t.here
		default:
			if p, err := route.Normalize("/"+s, false); err != nil || p.Canonical != "/"+s || s == "" && !last {
				return fmt.Errorf("route %q: segment %q is not canonical", r.Name, s)
			}
			if t.literals == nil {
				t.literals = map[string]*tree{}
			}
			if t.literals[s] == nil {
				t.literals[s] = &tree{}
			}
			t = t.literals[s]
			into = &t.here
		}
		if named {
			x.params = append(x.params, param{name, i, tail})
		}
	}
	for _, other := range *into {
		if other.Method == r.Method {
			return fmt.Errorf("routes %q and %q match the same requests", other.Name, r.Name)
		}
	}
	*into = append(*into, x)
	return nil
}

// find returns the most specific route for method. Where there is none, allow has
// got the methods of all routes that match the path alone.
func (t *tree) find(method string, path []string, allow *[]string) *leaf {
	if len(path) == 0 {
		if r := choose(t.here, method, allow); r != nil {
			return r
		}
		return choose(t.rest, method, allow)
	}
	if next := t.literals[path[0]]; next != nil {
		if r := next.find(method, path[1:], allow); r != nil {
			return r
		}
	}
	if t.one != nil && path[0] != "" {
		if r := t.one.find(method, path[1:], allow); r != nil {
			return r
		}
	}
	return choose(t.rest, method, allow)
}

func choose(leaves []leaf, method string, allow *[]string) *leaf {
	var best *leaf
	for i := range leaves {
		r := &leaves[i]
		switch d := r.Distance(method); {
		case d < 0:
			*allow = append(*allow, r.Method)
		case best == nil || d < best.Distance(method):
			best = r
		}
	}
	return best
}

// values reads the parameters out of a path that the route matches. A value is
// decoded; that of {name...} keeps the slashes between its segments.
func (l *leaf) values(path []string) []pep.Param {
	if len(l.params) == 0 {
		return nil
	}
	out := make([]pep.Param, len(l.params))
	for i, p := range l.params {
		var v string
		switch {
		case p.tail:
			v = strings.Join(path[min(p.index, len(path)):], "/")
		default:
			v = path[p.index]
		}
		out[i] = pep.Param{Name: p.name, Value: route.Unescape(v)}
	}
	return out
}

// methods lists what an Allow header may say, sorted and without repetition. It
// uses up its argument.
func methods(allow []string) string {
	if slices.Contains(allow, http.MethodGet) {
		allow = append(allow, http.MethodHead)
	}
	slices.Sort(allow)
	return strings.Join(slices.Compact(allow), ", ")
}

// parameter splits "{name}" and "{name...}".
func parameter(segment string) (name string, named, tail bool) {
	name, named = strings.CutPrefix(segment, "{")
	if !named {
		return "", false, false
	}
	name, closed := strings.CutSuffix(name, "}")
	name, tail = strings.CutSuffix(name, "...")
	if !closed || strings.ContainsAny(name, "{}.") {
		return "", true, false
	}
	return name, true, tail
}

// isMethod accepts "*" and tokens of capital letters other than the two methods
// that the filter refuses outright.
func isMethod(m string) bool {
	if m == "*" {
		return true
	}
	return m != "" && m != "TRACE" && m != "CONNECT" && strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}
