package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
)

// A draft is a call that is not yet a request: who asks for which route, with which values
// of attributes, as they are written on a command line.
type draft struct {
	route  string
	user   string
	groups []string
	set    map[string]string
}

// A request is what is sent, and what the reference is asked about it.
type request struct {
	door   door
	method string
	target string
	header []string // lines
	body   []byte
	login  *login
	set    map[string]string // attributes that the request line does not show
	line   map[string]string // those that it shows
	level  string
	route  string
	edge   bool // with one fact otherwise, another rule decides
}

// words is a request in words.
func (q *request) words() string {
	s := q.method + " " + q.target
	if len(q.body) > 0 {
		s += " " + string(q.body)
	}
	for _, h := range q.header {
		s += " with " + h
	}
	s += " " + q.login.how
	if q.login.certificate != nil && q.login.authorization != "" {
		s += " and a certificate"
	}
	return s
}

// safe reports whether it asks for nothing to be changed.
func (q *request) safe() bool { return q.method == "GET" || q.method == "HEAD" }

// clock returns the attributes of the clock at a time.
func (v *verifier) clock(now time.Time) map[string]string {
	out := map[string]string{}
	if v.Deployment.Authorization == nil {
		return out
	}
	now = now.UTC()
	for _, a := range v.Deployment.Authorization.Attributes {
		switch a.Source.Kind {
		case authz.SourceHour:
			out[a.Name] = fmt.Sprint(now.Hour())
		case authz.SourceMinute:
			out[a.Name] = fmt.Sprint(60*now.Hour() + now.Minute())
		case authz.SourceWeekday:
			out[a.Name] = fmt.Sprint((int(now.Weekday())+6)%7 + 1)
		}
	}
	return out
}

// expect asks the reference about a request at a time.
func (v *verifier) expect(q *request, now time.Time) (policy.Answer, error) {
	set := v.clock(now)
	maps.Copy(set, q.set)
	return v.Deployment.Why(policy.Query{Request: q.method + " " + q.target, User: q.login.user, Groups: q.login.groups, Level: q.level, Set: set})
}

// requests returns what a draft can be sent as: by each login that it can have, through a
// door. The error says why there is none.
func (v *verifier) requests(d draft, at door) (list []*request, err error) {
	r := v.route(d.route)
	if r == nil {
		return nil, fmt.Errorf("there is no route %s", d.route)
	}
	var claims any
	var spiffe, subject string
	for _, a := range v.attributes() {
		text, ok := d.set[a.Name]
		if !ok {
			continue
		}
		switch a.Source.Kind {
		case authz.SourceClaim:
			claims, err = put(claims, a.Source.Arg, jsonValue(a, text))
		case authz.SourceClaimHas:
			if text == "true" {
				claims, err = putElement(claims, a.Source.Arg, a.Source.Has)
			}
		case authz.SourceSPIFFE:
			spiffe = text
		case authz.SourceSubject:
			subject = text
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", a.Name, err)
		}
	}
	object, ok := claims.(map[string]any)
	if claims != nil && !ok {
		return nil, errors.New("the claims are not an object")
	}
	logins := v.issue(d.user, d.groups, object, spiffe, subject)
	for _, l := range v.people.known { // those who are asked for first
		if l.user == d.user {
			logins = append(logins, l)
		}
	}
	for _, l := range v.people.known {
		if l.user != d.user {
			logins = append(logins, l)
		}
	}
	if len(logins) == 0 {
		return nil, errors.New("nobody is known whom the policy would take: give --users")
	}
	for _, l := range logins {
		if l, err = v.connected(l, spiffe, subject); err != nil {
			continue
		}
		q := &request{door: at, login: l, level: v.Level.Name, route: r.Name}
		if err = v.write(q, r, d.set); err == nil {
			list = append(list, q)
		}
	}
	if len(list) > 0 {
		err = nil
	}
	return list, err
}

// connected adds the certificate that every connection needs.
func (v *verifier) connected(l *login, spiffe, subject string) (*login, error) {
	if l.certificate != nil || !v.mutual() && (spiffe == "" && subject == "" || !v.people.clients) {
		return l, nil
	}
	if !v.people.clients {
		return nil, errors.New("the service asks for a client certificate that only its own authority can issue")
	}
	if subject == "" {
		subject = "verify"
	}
	cert, err := v.Identities.Certificate(subject, try.Certificate{SPIFFE: spiffe})
	if err != nil {
		return nil, err
	}
	c := *l
	c.certificate, c.spiffe, c.subject = &cert, spiffe, subject
	return &c, nil
}

func (v *verifier) attributes() []authz.Attribute {
	if v.Deployment.Authorization == nil {
		return nil
	}
	return v.Deployment.Authorization.Attributes
}

func (v *verifier) route(name string) *api.Route {
	for i := range v.Deployment.Policy.Routes {
		if r := &v.Deployment.Policy.Routes[i]; r.Name == name {
			return r
		}
	}
	return nil
}

// write makes the parts of a request, and notes what the policy reads in them.
func (v *verifier) write(q *request, r *api.Route, set map[string]string) error {
	q.set, q.line = map[string]string{}, map[string]string{}
	q.method = r.Method
	if q.method == "*" {
		q.method = "GET"
	}
	params := map[string]string{}
	query := url.Values{}
	var body any
	for _, a := range v.attributes() {
		text, ok := set[a.Name]
		var err error
		switch k := a.Source.Kind; k {
		case authz.SourceClaim, authz.SourceClaimHas, authz.SourceSPIFFE, authz.SourceDNS, authz.SourceSubject, authz.SourcePeer:
			text, ok, err = v.shown(q, a)
			if ok && err == nil {
				q.set[a.Name] = text
			}
		case authz.SourceMethod:
			if ok && (r.Method == "*" || text == "HEAD" && r.Method == "GET") {
				q.method, q.line[a.Name] = text, text
			}
		case authz.SourceRoute:
			if ok {
				err = once(params, a.Source.Arg, text)
				q.line[a.Name] = text
			}
		case authz.SourceQuery:
			if ok && query.Has(a.Source.Arg) && query.Get(a.Source.Arg) != text {
				err = errors.New("two attributes are read in one place")
			} else if ok {
				query.Set(a.Source.Arg, text)
				q.line[a.Name] = text
			}
		case authz.SourceHeader:
			if !ok {
				break
			}
			if strings.TrimSpace(text) != text || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				err = errors.New("a header cannot hold its value")
			}
			q.header = append(q.header, a.Source.Arg+": "+text)
			q.set[a.Name] = text
		case authz.SourceBody:
			if ok {
				body, err = put(body, a.Source.Arg, jsonValue(a, text))
				q.set[a.Name] = text
			}
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", a.Name, err)
		}
	}
	path, err := fill(r.Path, params)
	if err != nil {
		return err
	}
	q.target = path
	if len(query) > 0 {
		q.target += "?" + query.Encode()
	}
	if body != nil {
		q.body, err = json.Marshal(body)
	}
	return err
}

func once(m map[string]string, k, v string) error {
	if old, ok := m[k]; ok && old != v {
		return errors.New("two attributes are read in one place")
	}
	m[k] = v
	return nil
}

// shown returns the value of an attribute that the connection or the login shows.
func (v *verifier) shown(q *request, a authz.Attribute) (text string, ok bool, err error) {
	switch a.Source.Kind {
	case authz.SourcePeer:
		return q.door.from.String(), true, nil
	case authz.SourceSPIFFE:
		return q.login.spiffe, q.login.spiffe != "", nil
	case authz.SourceSubject:
		return q.login.subject, q.login.subject != "", nil
	case authz.SourceDNS:
		return "", false, nil // no certificate that is issued here has one
	}
	if q.login.claims == nil {
		return "", false, nil
	}
	x, ok := pointed(q.login.claims, a.Source.Arg)
	if a.Source.Kind == authz.SourceClaimHas {
		list, _ := x.([]any)
		return fmt.Sprint(x == any(a.Source.Has) || slices.Contains(list, any(a.Source.Has))), true, nil
	}
	if !ok {
		return "", false, nil
	}
	if a.Set {
		b, err := json.Marshal(x)
		return string(b), true, err
	}
	text = fmt.Sprint(x)
	if a.Type == authz.TypeDecimal && !strings.Contains(text, ".") {
		text += ".0"
	}
	return text, true, nil
}

// jsonValue is the value of an attribute as JSON has it.
func jsonValue(a authz.Attribute, text string) any {
	if a.Set || a.Type == authz.TypeLong || a.Type == authz.TypeBool {
		return json.RawMessage(text)
	}
	return text
}

// putElement adds a text to an array.
func putElement(doc any, pointer, text string) (any, error) {
	if x, ok := pointed(doc, pointer); ok {
		if list, ok := x.(*[]string); ok {
			*list = append(*list, text)
			return doc, nil
		}
	}
	return put(doc, pointer, &[]string{text})
}

// fill writes a path of a pattern. Parameters that nobody reads are numbers.
func fill(pattern string, params map[string]string) (string, error) {
	var out []string
	for seg := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		name, isParam := strings.CutPrefix(seg, "{")
		if !isParam {
			out = append(out, seg)
			continue
		}
		name, rest := strings.CutSuffix(strings.TrimSuffix(name, "}"), "...")
		value, given := params[name]
		if !given {
			value = "1"
		}
		if !rest && (value == "" || strings.Contains(value, "/")) {
			return "", fmt.Errorf("no segment of a path is %q", value)
		}
		parts := strings.Split(value, "/")
		for i := range parts {
			parts[i] = url.PathEscape(parts[i])
		}
		out = append(out, strings.Join(parts, "/"))
	}
	return "/" + strings.Join(out, "/"), nil
}

// expectation is what an answer of the reference comes to.
func expected(a *policy.Answer) expectation { return expectation{a.Verdict, a.Stage, a.Rule} }

// A door is a way to the image: from an address of this machine to a listener.
type door struct {
	from netip.Addr
	to   netip.AddrPort
}

func (d door) packet() api.Packet {
	return api.Packet{From: d.from, Protocol: "TCP", Port: d.to.Port()}
}

func (d door) words() string {
	return fmt.Sprintf("TCP from %s to %s", d.from, d.to)
}

// open returns the doors through which connections are let.
func open(all []passage) (list []door) {
	for _, p := range all {
		if p.said.Verdict == abi.Allow {
			list = append(list, p.door)
		}
	}
	return list
}

// values returns those of the attributes that the request was made with.
func (q *request) values() map[string]string {
	out := maps.Clone(q.set)
	maps.Copy(out, q.line)
	return out
}
