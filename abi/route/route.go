// Package route is the request filter's section of a program: limits, and the
// routes that exist. A request whose canonical path and method match no route
// never reaches authorization or the application.
package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = abi.StageFilter

// Limits bound what one client can make the image hold. Zero values refuse:
// the compiler writes every field.
type Limits struct {
	MaxHeaderBytes     uint32
	MaxBodyBytes       uint64
	MaxPathBytes       uint32
	MaxConnections     uint32
	MaxHeaders         uint32        // header fields of a request
	MaxStreams         uint32        // requests at once on an HTTP/2 connection
	HandshakeTimeout   time.Duration // connection to end of the TLS handshake
	HeaderTimeout      time.Duration // first byte to end of headers
	BodyTimeout        time.Duration // end of headers to end of body
	WriteTimeout       time.Duration // end of headers to end of response
	IdleTimeout        time.Duration // between requests
	RejectEncodedSlash bool          // refuse %2F rather than treat it as data
}

// A Route is a method and a pattern of segments. A segment is literal, {name},
// or, at the end only, {name...}, which matches the rest, empty included.
type Route struct {
	Name    string
	Group   string // may be empty
	Line    string
	Method  string   // "*" matches any
	Pattern string   // canonical, starts with "/"
	Upgrade string   // protocol that a connection may change to: "websocket"; empty: none
	Closed  abi.Rule // why all of it is denied: a rule that the image cannot enforce; zero: it is open
}

// Segments splits the pattern: "/a/{id}" gives "a", "{id}"; "/" gives none.
func (r *Route) Segments() []string {
	p := strings.TrimPrefix(r.Pattern, "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// Kinds of segments, from the one that wins to the one that loses.
const (
	literal = iota
	one
	rest
)

func kind(segment string) int {
	switch {
	case !strings.HasPrefix(segment, "{"):
		return literal
	case strings.HasSuffix(segment, "...}"):
		return rest
	}
	return one
}

// Matches reports whether the pattern applies to the segments of a canonical
// path. {name} takes one segment that is not empty; {name...} takes any number,
// none included.
func (r *Route) Matches(path []string) bool {
	pattern := r.Segments()
	for i, p := range pattern {
		switch {
		case kind(p) == rest:
			return true
		case i == len(path), kind(p) == one && path[i] == "", kind(p) == literal && p != path[i]:
			return false
		}
	}
	return len(pattern) == len(path)
}

// beats reports whether r is the more specific of two routes that both match a
// request: at the first segment of a different kind a literal wins over {name}
// and {name} over {name...}; with equal patterns the nearer method wins.
func (r *Route) beats(other *Route, method string) bool {
	a, b := r.Segments(), other.Segments()
	for i := range min(len(a), len(b)) {
		if ka, kb := kind(a[i]), kind(b[i]); ka != kb {
			return ka < kb
		}
	}
	if len(a) != len(b) {
		return len(a) < len(b) // the longer one ends in {name...}, which matched nothing
	}
	return r.Distance(method) < other.Distance(method)
}

// Distance says how near the route's method is to a request's: 0 the same, 1 GET
// for HEAD, which reveals nothing more, 2 any; negative: not served.
func (r *Route) Distance(method string) int {
	switch {
	case r.Method == method:
		return 0
	case r.Method == "GET" && method == "HEAD":
		return 1
	case r.Method == "*":
		return 2
	}
	return -1
}

// Match is the meaning of the routes: the most specific one whose pattern and
// method both match, or nil. allow then lists the methods of the routes that
// match the path alone, sorted; it is empty when the path is unknown. Whatever
// is faster must give the same results.
func (s *Section) Match(method string, path []string) (best *Route, allow []string) {
	for i := range s.Routes {
		r := &s.Routes[i]
		if !r.Matches(path) {
			continue
		}
		allow = append(allow, r.Method)
		if r.Distance(method) >= 0 && (best == nil || r.beats(best, method)) {
			best = r
		}
	}
	if best != nil {
		return best, nil
	}
	slices.Sort(allow)
	return nil, slices.Compact(allow)
}

// A Section is the whole of it. The zero Section has no routes and lets nothing
// through.
type Section struct {
	Line   string // where the routes are written, for "no route" decisions
	Limits Limits
	Types  []string // media types of bodies, lower case; empty: any
	Open   bool     // no routes are declared and every canonical path may pass
	Closed abi.Rule // why everything is denied, as Route.Closed
	Routes []Route
}

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.String(s.Line)
	l := &s.Limits
	w.U32(l.MaxHeaderBytes)
	w.U64(l.MaxBodyBytes)
	w.U32(l.MaxPathBytes)
	w.U32(l.MaxConnections)
	w.U32(l.MaxHeaders)
	w.U32(l.MaxStreams)
	for _, d := range []time.Duration{l.HandshakeTimeout, l.HeaderTimeout, l.BodyTimeout, l.WriteTimeout, l.IdleTimeout} {
		w.I64(int64(d))
	}
	w.Bool(l.RejectEncodedSlash)
	w.Strings(s.Types)
	w.Bool(s.Open)
	w.String(s.Closed.ID)
	w.String(s.Closed.Line)
	w.U32(uint32(len(s.Routes)))
	for _, r := range s.Routes {
		w.String(r.Name)
		w.String(r.Group)
		w.String(r.Line)
		w.String(r.Method)
		w.String(r.Pattern)
		w.String(r.Upgrade)
		w.String(r.Closed.ID)
		w.String(r.Closed.Line)
	}
	return w.Bytes()
}

// Decode reads a section.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("route: no section")
	}
	r := wire.NewReader(b)
	s := Section{Line: r.String()}
	l := &s.Limits
	l.MaxHeaderBytes, l.MaxBodyBytes, l.MaxPathBytes, l.MaxConnections = r.U32(), r.U64(), r.U32(), r.U32()
	l.MaxHeaders, l.MaxStreams = r.U32(), r.U32()
	for _, d := range []*time.Duration{&l.HandshakeTimeout, &l.HeaderTimeout, &l.BodyTimeout, &l.WriteTimeout, &l.IdleTimeout} {
		if *d = time.Duration(r.I64()); *d < 0 {
			r.Fail(errors.New("negative timeout"))
		}
	}
	l.RejectEncodedSlash, s.Types, s.Open = r.Bool(), r.Strings(), r.Bool()
	s.Closed = abi.Rule{ID: r.String(), Line: r.String()}
	for range r.Count(32) {
		x := Route{Name: r.String(), Group: r.String(), Line: r.String(), Method: r.String(), Pattern: r.String(), Upgrade: r.String(),
			Closed: abi.Rule{ID: r.String(), Line: r.String()}}
		if r.Err() == nil && !strings.HasPrefix(x.Pattern, "/") {
			r.Fail(fmt.Errorf("route %q: pattern %q", x.Name, x.Pattern))
		}
		s.Routes = append(s.Routes, x)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("route: %w", err)
	}
	return s, nil
}
