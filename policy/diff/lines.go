package diff

import (
	"slices"
	"strconv"
	"strings"

	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A taken is a pair of routes that some request takes, the one before and the other after;
// nil where it has none, anyRoute where every path passes.
type taken struct {
	old, new *api.Route
	method   string
	path     []string // of one of these requests
}

// anyRoute stands for the routes of a policy that writes none; otherMethod says, within a
// walk, that the path has a route and the method has none.
var (
	anyRoute    = &api.Route{Name: "every path", Method: "*", Path: "/{path...}"}
	otherMethod = &api.Route{}
)

// maxPaths bounds how many kinds of paths are looked at.
const maxPaths = 100_000

// A walk looks at one path of each kind that the routes of two policies tell apart.
type walk struct {
	sections [2]*route.Section
	routes   [2][]api.Route
	paths    int
	seen     map[[2]*api.Route]bool
	out      []taken
}

// lines returns each pair of routes that some request takes, with a request that does;
// complete is false where there were too many kinds of them.
func lines(before, after *policy.Deployment) (list []taken, complete bool) {
	w := &walk{seen: make(map[[2]*api.Route]bool)}
	var patterns [][]string
	for s, d := range []*policy.Deployment{before, after} {
		w.routes[s] = d.Policy.Routes
		w.sections[s] = &route.Section{}
		for _, r := range d.Policy.Routes {
			x := route.Route{Name: r.Name, Method: r.Method, Pattern: r.Path}
			w.sections[s].Routes = append(w.sections[s].Routes, x)
			patterns = append(patterns, x.Segments())
		}
	}
	if len(before.Policy.Routes) == 0 || len(after.Policy.Routes) == 0 { // what no pattern is about
		patterns = append(patterns, []string{"{path...}"})
	}
	w.from(nil, patterns)
	return w.out, w.paths < maxPaths
}

// from looks at a path and those below it; patterns are those that may match them.
func (w *walk) from(path []string, patterns [][]string) {
	if w.paths++; w.paths >= maxPaths {
		return
	}
	w.at(path)
	at := len(path)
	words := map[string]bool{}
	open, deeper := false, false
	for _, p := range patterns {
		switch {
		case at < len(p) && strings.HasPrefix(p[at], "{"):
			open, deeper = true, deeper || at+1 < len(p)
		case at < len(p):
			words[p[at]] = true
		}
	}
	rest := slices.ContainsFunc(patterns, tail)
	longest := 0
	for _, p := range patterns {
		longest = max(longest, len(p))
	}
	if at > longest { // only {rest...} is left, which has begun
		return
	}
	if open || rest {
		other := 1
		for words[strconv.Itoa(other)] {
			other++
		}
		w.from(append(path[:at:at], strconv.Itoa(other)), live(patterns, at, ""))
	}
	for _, s := range sorted(words) {
		w.from(append(path[:at:at], s), live(patterns, at, s))
	}
	if rest && at > 0 {
		w.at(append(path[:at:at], "")) // it ends with a slash
	}
}

func tail(pattern []string) bool {
	return len(pattern) > 0 && strings.HasSuffix(pattern[len(pattern)-1], "...}")
}

// live returns the patterns that may match paths with a segment at a place.
func live(patterns [][]string, at int, segment string) [][]string {
	var out [][]string
	for _, p := range patterns {
		if at < len(p) && (strings.HasPrefix(p[at], "{") || p[at] == segment) || at >= len(p) && tail(p) {
			out = append(out, p)
		}
	}
	return out
}

func sorted(set map[string]bool) []string {
	var list []string
	for s := range set {
		list = append(list, s)
	}
	slices.Sort(list)
	return list
}

// at notes which routes requests for a path take.
func (w *walk) at(path []string) {
	var methods []string
	for s := range w.sections {
		for i := range w.sections[s].Routes {
			if r := &w.sections[s].Routes[i]; r.Matches(path) {
				methods = append(methods, r.Method)
			}
		}
		if len(w.routes[s]) == 0 {
			methods = append(methods, "*")
		}
	}
	var list []string // in the order in which people think of them
	for _, m := range methods {
		if m != "*" {
			list = append(list, m)
		}
	}
	slices.Sort(list)
	if slices.Contains(methods, "*") {
		list = append(list, "GET", "POST", "PURGE")
	}
	for _, m := range list { // HEAD goes where GET does, or has a route of its own
		pair := [2]*api.Route{w.match(0, m, path), w.match(1, m, path)}
		if w.seen[pair] {
			continue
		}
		w.seen[pair] = true
		t := taken{pair[0], pair[1], m, slices.Clone(path)}
		for _, r := range []**api.Route{&t.old, &t.new} {
			if *r == otherMethod {
				*r = nil
			}
		}
		if t.old != nil || t.new != nil {
			w.out = append(w.out, t)
		}
	}
}

func (w *walk) match(s int, method string, path []string) *api.Route {
	if len(w.routes[s]) == 0 {
		return anyRoute
	}
	best, allow := w.sections[s].Match(method, path)
	switch {
	case best == nil && len(allow) > 0:
		return otherMethod
	case best == nil:
		return nil
	}
	i := slices.IndexFunc(w.sections[s].Routes, func(r route.Route) bool { return r.Name == best.Name })
	return &w.routes[s][i]
}
