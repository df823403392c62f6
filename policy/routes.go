package policy

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
)

var (
	// The characters of a path segment that need no escape (RFC 3986, pchar).
	segmentForm = regexp.MustCompile(`^[A-Za-z0-9._~!$&'()*+,;=:@-]+$`)
	paramForm   = regexp.MustCompile(`^\{[A-Za-z_][A-Za-z0-9_]{0,31}(\.\.\.)?\}$`)
)

// pattern reads a path pattern. It must be written the way the request filter
// writes paths: a pattern in any other form would never match.
func (d *decoder) pattern(dst *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const what = "spec.routes.match.path"
		var s string
		if d.str(&s, what)(n); n.Tag != "!!str" || n.Kind != yaml.ScalarNode {
			return
		}
		if fix, wrong := patternProblem(s); wrong != "" {
			d.fail(n, fix, "%s %q %s", what, clip(s), wrong)
			return
		}
		*dst = s
	}
}

func patternProblem(s string) (fix, wrong string) {
	if !strings.HasPrefix(s, "/") {
		return "write /" + clip(s), "does not start with /"
	}
	if len(s) > 1024 {
		return "write a shorter pattern", "is longer than 1024 bytes"
	}
	if s == "/" {
		return "", ""
	}
	segs := strings.Split(s[1:], "/")
	seen := make(map[string]bool)
	for i, seg := range segs {
		last := i == len(segs)-1
		switch {
		case seg == "" && last:
			return "write " + clip(strings.TrimRight(s, "/")) + ", or " + clip(s) + "{rest...} for everything below", "ends with /"
		case seg == "":
			return "write " + clip(collapse(s)), "has an empty segment"
		case seg == "." || seg == "..":
			return "write the path that is meant", "has a dot segment"
		case strings.ContainsRune(seg, '%'):
			return "write the character itself, or match the segment with {name}", "has an escaped character"
		case strings.ContainsAny(seg, "?#"):
			return "match the path only; query.NAME is a source of attributes", "has a query or a fragment"
		case strings.ContainsAny(seg, "{}"):
			name := strings.TrimSuffix(strings.Trim(seg, "{}"), "...")
			switch {
			case !paramForm.MatchString(seg):
				return "a parameter is a whole segment: {name}, or {name...} at the end", "has a segment that is partly a parameter: " + clip(seg)
			case strings.HasSuffix(seg, "...}") && !last:
				return "put it at the end", "has " + seg + " before its end"
			case seen[name]:
				return "give each parameter its own name", "has the parameter " + name + " twice"
			}
			seen[name] = true
		case strings.Contains(seg, "*"):
			return "write {name} for a segment, {name...} for everything below", "has a wildcard"
		case !segmentForm.MatchString(seg):
			return "use characters that need no escape in a path, or match the segment with {name}", "has a character that a path cannot hold: " + clip(seg)
		}
	}
	return "", ""
}

func collapse(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	return s
}

// shape is a pattern without the names of its parameters.
func shape(pattern string) string {
	segs := strings.Split(pattern, "/")
	for i, s := range segs {
		if strings.HasPrefix(s, "{") {
			segs[i] = "{}"
			if strings.HasSuffix(s, "...}") {
				segs[i] = "{...}"
			}
		}
	}
	return strings.Join(segs, "/")
}

// Params returns the names of a pattern's parameters.
func Params(pattern string) []string {
	var ps []string
	for s := range strings.SplitSeq(pattern, "/") {
		if strings.HasPrefix(s, "{") {
			ps = append(ps, strings.TrimSuffix(strings.Trim(s, "{}"), "..."))
		}
	}
	return ps
}

// checkRoutes looks for names and patterns that two routes share.
func (p *parsing) checkRoutes(s *securityPolicy) {
	names := make(map[string]api.Pos)
	type method struct {
		pos    api.Pos
		method string
	}
	shapes := make(map[string][]method)
	for _, r := range s.Routes {
		if first, dup := names[r.Name]; dup && r.Name != "" {
			s.failAt(r.Pos, "give each route its own name", "route %q exists already, at line %d", r.Name, first.Line)
		}
		names[r.Name] = r.Pos
		if r.Path == "" || r.Method == "" {
			continue
		}
		k := shape(r.Path)
		for _, o := range shapes[k] {
			if o.method == r.Method {
				s.failAt(r.Pos, "remove one of them, or give them different methods", "%s %s is ambiguous: the route at line %d has the same method and the same paths", r.Method, r.Path, o.pos.Line)
				break
			}
		}
		shapes[k] = append(shapes[k], method{r.Pos, r.Method})
	}
}

// section is the part of the routes' meaning that image and explanation share.
func section(routes []api.Route) *route.Section {
	s := &route.Section{Open: len(routes) == 0}
	for _, r := range routes {
		s.Routes = append(s.Routes, route.Route{Name: r.Name, Group: r.Group, Line: r.Pos.Short(), Method: r.Method, Pattern: r.Path})
	}
	return s
}
