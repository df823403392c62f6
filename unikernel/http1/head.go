package http1

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// A Refusal is a request that is not to be understood. Status is what the client
// gets; nothing that it sent is in Reason.
type Refusal struct {
	Status int
	Reason string
}

func (r *Refusal) Error() string { return r.Reason }

func malformed(reason string) *Refusal { return &Refusal{http.StatusBadRequest, reason} }

// A scan looks for the end of a head, and is not begun anew when more of it
// arrives.
type scan struct {
	seen int // bytes that were looked at
	line int // where the line at seen begins
}

// end returns the length of the head that b begins with; 0: there is more to
// come. What can be no head is refused before its end.
func (s *scan) end(b []byte) (int, error) {
	if len(b) > 0 && !isToken[b[0]] {
		return 0, malformed("a request does not begin with a method")
	}
	for {
		i := bytes.IndexByte(b[s.seen:], '\n')
		if i < 0 {
			s.seen = len(b)
			return 0, nil
		}
		at := s.seen + i
		if at == s.line || b[at-1] != '\r' {
			return 0, malformed("a line ends without a carriage return")
		}
		if at-1 == s.line {
			return at + 1, nil
		}
		s.seen, s.line = at+1, at+1
	}
}

// parse makes a request of a head that ends with its empty line. RFC 9112 lets a
// server accept some things that others read otherwise; this one does not.
func parse(head string) (*http.Request, error) {
	line, rest, _ := strings.Cut(head, "\r\n")
	method, line, ok := strings.Cut(line, " ")
	target, proto, found := strings.Cut(line, " ")
	if !ok || !found || !token(method) || target == "" || !visible(target) {
		return nil, malformed("the request line is not a method, a target and a version")
	}
	r := &http.Request{Method: method, RequestURI: target, Proto: proto, ProtoMajor: 1}
	switch {
	case proto == "HTTP/1.1":
		r.ProtoMinor = 1
	case proto == "HTTP/1.0":
	case len(proto) == 8 && proto[:5] == "HTTP/" && digit(proto[5]) && proto[6] == '.' && digit(proto[7]):
		return nil, &Refusal{http.StatusHTTPVersionNotSupported, "the protocol is neither HTTP/1.0 nor HTTP/1.1"}
	default:
		return nil, malformed("the request line names no version")
	}
	var err error
	if r.URL, err = locate(method, target); err != nil {
		return nil, malformed("the target is no URI")
	}
	if r.Header, err = fields(rest); err != nil {
		return nil, err
	}
	if err := address(r); err != nil {
		return nil, err
	}
	return r, frame(r)
}

// locate parses a target. Most are an absolute path, of which there is little to
// parse.
func locate(method, target string) (*url.URL, error) {
	if target[0] == '/' && !strings.HasPrefix(target, "//") && plain(target) {
		u := &url.URL{}
		u.Path, u.RawQuery, u.ForceQuery = target, "", false
		if i := strings.IndexByte(target, '?'); i >= 0 {
			u.Path, u.RawQuery, u.ForceQuery = target[:i], target[i+1:], i == len(target)-1
		}
		return u, nil
	}
	if method == http.MethodConnect && target[0] != '/' {
		u, err := url.ParseRequestURI("http://" + target)
		if err == nil {
			u.Scheme = ""
		}
		return u, err
	}
	return url.ParseRequestURI(target)
}

// modest is for how many names there is room from the start.
const modest = 32

// fields parses field lines up to an empty one that ends the text. A line that is
// folded begins with a space, which is no name.
func fields(text string) (http.Header, error) {
	n := strings.Count(text, "\n") - 1
	h := make(http.Header, min(n, modest)) // the lines may all have one name
	values := make([]string, 0, n)         // of all fields, in one piece
	for text != "\r\n" {
		line, rest, _ := strings.Cut(text, "\r\n")
		text = rest
		name, value, ok := strings.Cut(line, ":")
		if !ok || !token(name) {
			return nil, malformed("a header field has no name of one word")
		}
		value = trim(value)
		if !printable(value) {
			return nil, malformed("a header field holds control characters")
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if have, ok := h[name]; ok {
			h[name] = append(have, value)
			continue
		}
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	return h, nil
}

// address sets the host of r: that of its target where that has one (RFC 9112,
// section 3.2.2), or of its one field.
func address(r *http.Request) error {
	hosts := r.Header["Host"]
	delete(r.Header, "Host")
	switch {
	case len(hosts) > 1:
		return malformed("there is more than one host")
	case len(hosts) == 0 && r.ProtoMinor > 0:
		return malformed("there is no host")
	case r.URL.Host != "":
		r.Host = r.URL.Host
	case len(hosts) == 1:
		r.Host = hosts[0]
	}
	return nil
}

// frame sets the length of the body of r. There is one way to say it: whoever says
// it twice is refused, rather than taken by one of two words (RFC 9112, section
// 6.3).
func frame(r *http.Request) error {
	lengths, codings := r.Header["Content-Length"], r.Header["Transfer-Encoding"]
	delete(r.Header, "Transfer-Encoding")
	switch {
	case len(codings) > 0 && r.ProtoMinor == 0:
		return malformed("HTTP/1.0 has no transfer codings")
	case len(codings) > 1 || len(codings) == 1 && !is(codings[0], "chunked"):
		return &Refusal{http.StatusNotImplemented, "the transfer coding is not chunked"}
	case len(codings) > 0 && len(lengths) > 0:
		return malformed("both Content-Length and Transfer-Encoding")
	case len(lengths) > 1:
		return malformed("more than one Content-Length")
	case len(codings) == 1:
		r.TransferEncoding, r.ContentLength = []string{"chunked"}, -1
		return announced(r)
	case len(lengths) == 1:
		n, ok := decimal(lengths[0])
		if !ok {
			return malformed("the Content-Length is no number")
		}
		r.ContentLength = n
	}
	return nil
}

// announced makes the names of the trailers that r announces keys of r.Trailer.
func announced(r *http.Request) error {
	for _, v := range r.Header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			switch name = http.CanonicalHeaderKey(trim(name)); name {
			case "":
				continue
			case "Transfer-Encoding", "Content-Length", "Trailer", "Host":
				return malformed("a trailer would frame the message")
			}
			if r.Trailer == nil {
				r.Trailer = make(http.Header)
			}
			r.Trailer[name] = nil
		}
	}
	delete(r.Header, "Trailer")
	return nil
}

// is reports whether s is word, an ASCII one, in letters of either case. Unicode has
// more letters that fold to some of those, which nobody else takes for them.
func is(s, word string) bool { return len(s) == len(word) && strings.EqualFold(s, word) }

// decimal parses digits and nothing else.
func decimal(s string) (int64, bool) {
	for i := range len(s) {
		if !digit(s[i]) {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// trim takes the optional white space of RFC 9110, section 5.6.3, away.
func trim(s string) string { return strings.Trim(s, " \t") }

// isToken holds the characters of a token (RFC 9110, section 5.6.2).
var isToken = func() (t [256]bool) {
	for c := range 256 {
		t[c] = digit(byte(c)) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c < 128 && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return t
}()

func token(s string) bool {
	for i := range len(s) {
		if !isToken[s[i]] {
			return false
		}
	}
	return s != ""
}

// visible reports whether s has neither spaces nor control characters.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// printable reports whether s has no control characters but tabs.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// isPlain holds the characters that stand for themselves in a path and a query,
// and the question mark between them.
var isPlain = func() (t [256]bool) {
	for c := range 256 {
		t[c] = digit(byte(c)) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c < 128 && strings.IndexByte("/-._~?&=+:@$", byte(c)) >= 0
	}
	return t
}()

func plain(s string) bool {
	for i := range len(s) {
		if !isPlain[s[i]] {
			return false
		}
	}
	return true
}
