// Package filter lets through requests that have one meaning only and that a
// route of the policy expects. It bounds what a client may send, brings the path
// to its canonical form (route.Normalize, called nowhere else in an image), and
// rewrites the request so that the application sees exactly the path that was
// judged.
//
// The server in front has refused requests that say their length twice, and whose
// lines or fields could be read in two ways. What it would let pass by mistake is
// refused here: after every chunked request, and after every one of HTTP/1.0, the
// connection is closed, so that nothing can ride behind an ambiguous body.
package filter

import (
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
)

// A Module has no state of its own.
type Module struct{}

// New returns the module.
func New() *Module { return &Module{} }

// Prepare builds the tree of routes.
func (*Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := route.Decode(in.Section)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	if s.Open && len(s.Routes) > 0 {
		return nil, errors.New("filter: the section has routes and is open")
	}
	if s.Limits.MaxHeaders == 0 {
		return nil, errors.New("filter: the section does not bound the number of header fields")
	}
	t, err := newTree(s.Routes)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return &state{section: s, routes: t, dry: in.DryRun != nil}, nil
}

type state struct {
	section route.Section
	routes  *tree
	dry     bool // whoever asks for no route may go on
}

// Limits implements pep.Limiter.
func (s *state) Limits() route.Limits { return s.section.Limits }

// overriding are headers by which some frameworks and proxies replace the method
// or the path that was judged.
var overriding = [...]string{
	"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url",
}

// Judge sets Path, Route, Params and MaxBody of the exchange, and rewrites its
// request.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	r := x.Request
	h := survey(r)
	if !framed(r) && (r.ProtoMajor != 1 || r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
		x.Header.Set("Connection", "close")
	}
	if status, reason := malformed(r, &h); status != 0 {
		return refuse(x, status, reason)
	}
	if h.fields > int64(s.section.Limits.MaxHeaders) {
		return refuse(x, http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("%d header fields", h.fields))
	}
	target, query, hasQuery := strings.Cut(r.RequestURI, "?")
	if len(target) > int(s.section.Limits.MaxPathBytes) {
		return refuse(x, http.StatusRequestURITooLong, fmt.Sprintf("the path has %d bytes", len(target)))
	}
	p, err := route.Normalize(target, s.section.Limits.RejectEncodedSlash)
	if err != nil {
		return refuse(x, http.StatusBadRequest, err.Error())
	}
	if err := route.CheckQuery(query); err != nil {
		return refuse(x, http.StatusBadRequest, err.Error())
	}
	rewrite(r, p, query, hasQuery)
	if h.overrides {
		drop(r.Header)
	}
	x.Path = p.Canonical

	d := pep.Decision{Verdict: abi.Allow, Stage: abi.StageFilter}
	if !s.section.Open {
		var allow []string
		var room [8]string
		segments := p.Segments(room[:0])
		switch found := s.routes.find(r.Method, segments, &allow); {
		case found != nil:
			x.Route, x.Params = found.Route, found.values(segments)
			d.Rule = abi.Rule{ID: found.Name, Line: found.Line}
		case s.dry: // it may go on, within its bounds
			d = s.unknown(x, allow)
		default:
			return s.unknown(x, allow)
		}
	}
	if why := s.closed(x.Route); why.ID != "" {
		x.Header.Set("Retry-After", "1")
		return deny(http.StatusServiceUnavailable, abi.Rule{ID: abi.RuleLevel, Line: why.Line}, "closed: this image has no module for "+why.ID+", which its level asks for")
	}
	if h.upgrade() && (x.Route == nil || x.Route.Upgrade != webSocket) {
		return refuse(x, http.StatusNotImplemented, "the route serves no protocol upgrades")
	}
	x.MaxBody = int64(min(s.section.Limits.MaxBodyBytes, math.MaxInt64-1))
	if r.ContentLength > x.MaxBody {
		return refuse(x, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has %d bytes", r.ContentLength))
	}
	if r.ContentLength != 0 && !s.takes(h.contentType) {
		return refuse(x, http.StatusUnsupportedMediaType, "a body of this type is not expected")
	}
	x.Limit()
	return d
}

// closed returns the rule for want of which everything, or a route, is denied.
func (s *state) closed(r *route.Route) abi.Rule {
	if s.section.Closed.ID != "" || r == nil {
		return s.section.Closed
	}
	return r.Closed
}

// Steady implements pep.Steady: all that is judged here is in the head.
func (s *state) Steady(*pep.Exchange) bool { return true }

// unknown denies a request that no route expects.
func (s *state) unknown(x *pep.Exchange, allow []string) pep.Decision {
	rule := abi.Rule{ID: abi.RuleRoute, Line: s.section.Line}
	if len(allow) == 0 {
		return deny(http.StatusNotFound, rule, "no route has this path")
	}
	list := methods(allow)
	x.Header.Set("Allow", list)
	rule.ID = abi.RuleMethod
	return deny(http.StatusMethodNotAllowed, rule, "the routes with this path are for "+list)
}

// refuse denies a request that is not to be understood, and all that may follow
// it on its connection. Nothing the client sent is in the reason.
func refuse(x *pep.Exchange, status int, reason string) pep.Decision {
	if !framed(x.Request) {
		x.Header.Set("Connection", "close")
	}
	return deny(status, abi.Rule{ID: abi.RuleRequest}, reason)
}

func deny(status int, rule abi.Rule, reason string) pep.Decision {
	return pep.Decision{Stage: abi.StageFilter, Rule: rule, Reason: reason, Status: status}
}

// framed reports whether r is of HTTP/2, where the next request has frames of its
// own, whatever is wrong with this one. PRI is how net/http hands over the preface
// of HTTP/2 on a connection of HTTP/1.
func framed(r *http.Request) bool { return r.ProtoMajor == 2 && r.Method != "PRI" }

// A headers is what the filter looks at in the fields of a request, found in one
// pass over them.
type headers struct {
	host, length, coding, connection, upgrades, expect, contentType []string

	fields    int64 // with those that the server took away
	disguised bool  // one could be taken for another that frames the message
	overrides bool  // one could replace the method or the path
}

func survey(r *http.Request) (h headers) {
	h.fields = int64(len(r.TransferEncoding))
	if r.Host != "" {
		h.fields++
	}
	for name, values := range r.Header {
		h.fields += int64(len(values))
		switch name {
		case "Host":
			h.host = values
		case "Content-Length":
			h.length = values
		case "Transfer-Encoding":
			h.coding = values
		case "Connection":
			h.connection = values
		case "Upgrade":
			h.upgrades = values
		case "Expect":
			h.expect = values
		case "Content-Type":
			h.contentType = values
		default:
			if route.OddName(name) {
				plain := route.PlainName(name)
				h.disguised = h.disguised || plain == "transfer-encoding" || plain == "content-length"
				name = http.CanonicalHeaderKey(plain)
			}
			h.overrides = h.overrides || strings.HasPrefix(name, "X") && slices.Contains(overriding[:], name)
		}
	}
	return h
}

// malformed refuses requests that this server and another could read as
// different ones, and what is not served. The status is 0 where nothing is wrong.
func malformed(r *http.Request, h *headers) (status int, reason string) {
	if framed(r) && len(h.host) == 1 && h.host[0] == r.Host { // says what :authority says
		delete(r.Header, "Host")
		h.host, h.fields = nil, h.fields-1
	}
	switch {
	case r.ProtoMajor != 1 && !framed(r):
		return http.StatusHTTPVersionNotSupported, "the protocol is neither HTTP/1 nor HTTP/2"
	case framed(r) && r.Host == "":
		return http.StatusBadRequest, "there is no authority"
	case framed(r) && len(h.length) == 1 && h.length[0] != strconv.FormatInt(r.ContentLength, 10):
		return http.StatusBadRequest, "the length is not that of the body"
	case r.Method == http.MethodTrace || r.Method == http.MethodConnect:
		return http.StatusNotImplemented, "method " + r.Method + " is not served"
	case h.upgrade() && !h.websocket(r):
		return http.StatusNotImplemented, "the upgrade is not one to WebSocket"
	case len(h.host) > 0 || len(h.coding) > 0 || len(h.length) > 1:
		// The server takes these away; whoever put them back is confused.
		return http.StatusBadRequest, "the framing is ambiguous"
	case h.disguised:
		return http.StatusBadRequest, "a header could be taken for another that frames the message"
	case r.Host != "" && !plainHost(r.Host):
		return http.StatusBadRequest, "the host is not well formed"
	case len(h.length) > 0 && len(r.TransferEncoding) > 0:
		return http.StatusBadRequest, "both Content-Length and Transfer-Encoding"
	case names(r.Header, h.connection):
		return http.StatusBadRequest, "Connection names a header that is not about the connection"
	case len(h.expect) > 1 || len(h.expect) == 1 && !strings.EqualFold(h.expect[0], "100-continue"):
		return http.StatusExpectationFailed, "the expectation is unknown"
	}
	return 0, ""
}

// webSocket is the only protocol that a connection may change to (RFC 6455).
const webSocket = "websocket"

func (h *headers) upgrade() bool { return len(h.upgrades) > 0 || token(h.connection, "upgrade") }

// websocket reports whether an upgrade is exactly what RFC 6455 says: what else is
// in such a request could mean another thing to an application.
func (h *headers) websocket(r *http.Request) bool {
	u := h.upgrades
	return r.Method == http.MethodGet && r.ProtoMinor == 1 && len(u) == 1 &&
		len(u[0]) == len(webSocket) && strings.EqualFold(u[0], webSocket) && // letters of Unicode that fold are longer
		token(h.connection, "upgrade") && r.ContentLength == 0 && len(r.TransferEncoding) == 0
}

// names reports whether Connection lists a header of the request itself. A proxy
// must drop what is listed there (RFC 9110, section 7.6.1): its upstream would not
// see what was judged.
func names(h http.Header, connection []string) bool {
	for _, v := range connection {
		for t := range strings.SplitSeq(v, ",") {
			switch t = http.CanonicalHeaderKey(strings.TrimSpace(t)); t {
			case "", "Close", "Keep-Alive", "Upgrade", "Te", "Trailer", "Http2-Settings":
			default:
				if len(h[t]) > 0 {
					return true
				}
			}
		}
	}
	return false
}

// takes reports whether a body of this type may pass: one type, which the policy
// lists where it lists any. Its parameters must be well formed.
func (s *state) takes(values []string) bool {
	if len(s.section.Types) == 0 {
		return true
	}
	if len(values) != 1 {
		return false
	}
	t, _, err := mime.ParseMediaType(values[0]) // in small letters
	family, _, whole := strings.Cut(t, "/")
	if err != nil || !whole {
		return false
	}
	return slices.Contains(s.section.Types, t) || slices.Contains(s.section.Types, family+"/*")
}

func token(values []string, want string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), want) {
				return true
			}
		}
	}
	return false
}

// rewrite makes p the only path that is left in the request.
func rewrite(r *http.Request, p route.Path, query string, hasQuery bool) {
	u := url.URL{Path: p.Decoded, RawQuery: query, ForceQuery: hasQuery && query == ""}
	if !p.Bare() && u.EscapedPath() != p.Canonical {
		u.RawPath = p.Canonical
	}
	if r.URL == nil {
		r.URL = new(url.URL)
	}
	*r.URL, r.RequestURI = u, p.Canonical
	if hasQuery {
		r.RequestURI += "?" + query
	}
}

// drop takes headers away by which an application could be made to serve another
// method or path than was judged.
func drop(h http.Header) {
	for _, name := range overriding {
		delete(h, name)
	}
	for name := range h {
		if route.OddName(name) && slices.Contains(overriding[:], http.CanonicalHeaderKey(route.PlainName(name))) {
			delete(h, name)
		}
	}
}
