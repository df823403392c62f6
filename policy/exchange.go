package policy

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/strictjson"
)

// An exchange is a request on its way through the chain of the image.
type exchange struct {
	Query
	verb   string
	route  *route.Route
	params map[string]string
	query  string
}

// request judges a request as a client sends it. Its error is about the query.
func (e *Reference) request(x *exchange) (Answer, error) {
	verb, target, ok := requestLine(x.Request)
	if !ok {
		return Answer{}, fmt.Errorf("%q is not a request: write 'GET /accounts/7'", clip(x.Request))
	}
	if x.User != "" && !authn.ValidPrincipal(x.User) {
		return Answer{}, fmt.Errorf("%q cannot be the name of a user", clip(x.User))
	}
	x.verb = verb
	path, query, _ := strings.Cut(target, "?")
	if a, stop := e.filter(x, path, query); stop {
		return a, nil
	}
	return e.admit(x)
}

// requestLine splits "GET /accounts/7"; the method may be left out.
func requestLine(s string) (verb, target string, ok bool) {
	verb, target, ok = strings.Cut(s, " ")
	if !ok && strings.HasPrefix(s, "/") {
		verb, target = "GET", s
	}
	return verb, target, methodForm.MatchString(verb) && verb != "*" && strings.HasPrefix(target, "/")
}

// admit judges a request that the filter has let through.
func (e *Reference) admit(x *exchange) (Answer, error) {
	a, stop := e.authenticated(x)
	if stop || e.d.Policy.Authorization == nil {
		return a, nil
	}
	return e.authorize(x, a)
}

// authenticated says who lets a request of the route through that authorization, if there
// is any, judges next; or that nobody does.
func (e *Reference) authenticated(x *exchange) (a Answer, stop bool) {
	p := e.d.Policy
	a = Answer{Verdict: abi.Allow, Stage: abi.StageFilter, Level: x.Level}
	if x.route != nil {
		a.Route, a.Rule = x.route.Name, abi.Rule{ID: x.route.Name, Line: x.route.Line}
	}
	if p.Authentication == nil {
		return a, false
	}
	a.Stage, a.Rule = abi.StageAuthn, AuthenticationDefault(p.Authentication)
	// Which of several methods let a user in, the question does not say.
	if list := Methods(p.Authentication); x.User != "" && len(list) == 1 {
		a.Rule = list[0].Rule()
	}
	if x.User == "" && p.Authentication.Require {
		a.Verdict, a.Reason = abi.Deny, "credentials are required"
		a.Missing = []string{"a user: the request has no credentials"}
		return a, true
	}
	if x.User == "" {
		x.User = authn.Anonymous
	}
	return a, false
}

// filter finds the route, or says why there is none.
func (e *Reference) filter(x *exchange, path, query string) (Answer, bool) {
	d := e.d
	f := d.Policy.RequestFilter.WithDefaults()
	a := Answer{Stage: abi.StageFilter, Level: x.Level}
	refuse := func(rule, format string, args ...any) (Answer, bool) {
		a.Rule, a.Reason = abi.Rule{ID: rule}, fmt.Sprintf(format, args...)
		if rule == abi.RuleRoute || rule == abi.RuleMethod {
			a.Rule.Line = d.Policy.RoutesPos.Short()
		}
		return a, true
	}
	if x.verb == "TRACE" || x.verb == "CONNECT" {
		return refuse(abi.RuleRequest, "method %s is not served", x.verb)
	}
	if len(path) > int(f.MaxPathBytes) {
		return refuse(abi.RuleRequest, "the path has %d bytes; the limit is %d", len(path), f.MaxPathBytes)
	}
	p, err := route.Normalize(path, f.RejectEncodedSlash)
	if err == nil {
		err = route.CheckQuery(query)
	}
	if err != nil {
		return refuse(abi.RuleRequest, "%v", err)
	}
	x.query = query
	if len(d.Policy.Routes) == 0 {
		return a, false
	}
	if e.paths == nil {
		e.paths = section(d.Policy.Routes)
	}
	best, allow := e.paths.Match(x.verb, p.Segments(nil))
	switch {
	case best == nil && len(allow) > 0:
		a.Missing = []string{"the path exists for " + strings.Join(allow, ", ") + ", not for " + x.verb}
		return refuse(abi.RuleMethod, "no route of this path has the method %s", x.verb)
	case best == nil:
		a.Missing = d.nearestPaths(p.Canonical)
		return refuse(abi.RuleRoute, "no route has the path %s", clip(p.Canonical))
	}
	x.route, x.params = best, pathValues(best, p.Segments(nil))
	return a, false
}

// pathValues reads the parameters out of a path that the route matches.
func pathValues(r *route.Route, segs []string) map[string]string {
	m := make(map[string]string)
	for i, p := range r.Segments() {
		if !strings.HasPrefix(p, "{") {
			continue
		}
		name, tail := strings.CutSuffix(strings.Trim(p, "{}"), "...")
		if tail {
			m[name] = route.Unescape(strings.Join(segs[min(i, len(segs)):], "/"))
		} else {
			m[name] = route.Unescape(segs[i])
		}
	}
	return m
}

func (d *Deployment) nearestPaths(path string) []string {
	var known []string
	for _, r := range d.Policy.Routes {
		known = append(known, r.Path)
	}
	if n, ok := nearest(path, known); ok {
		return []string{"a route for " + clip(path) + "; the nearest is " + n}
	}
	return []string{"a route for " + clip(path)}
}

// authorize gathers what the request itself shows, adds what the query sets, and asks.
func (e *Reference) authorize(x *exchange, a Answer) (Answer, error) {
	d := e.d
	r := e.About(x.route.Name)
	for _, at := range d.Authorization.Attributes {
		if _, set := x.Set[at.Name]; !set {
			continue
		}
		// A call of a route for GET may be about HEAD.
		if from, says := x.says(at.Source.Kind); says && (x.Request != "" || at.Source.Kind != authz.SourceMethod) {
			return Answer{}, fmt.Errorf("attribute %q comes from %s: write it there", at.Name, from)
		}
	}
	context, err := d.values(x.Set)
	if err != nil {
		return Answer{}, err
	}
	tried := e.full().About(x.route.Name)
	var wouldBe error // malformed, for rules that are tried
	for _, at := range d.Authorization.Attributes {
		_, set := context[at.Name]
		if _, says := x.says(at.Source.Kind); set || !says || !slices.Contains(tried.Reads, at.Name) {
			continue
		}
		switch v, err := x.fact(at); {
		case err != nil && slices.Contains(r.Reads, at.Name):
			e.malformed(&a, at.Name, err)
			return a, nil
		case err != nil:
			wouldBe = err
		case v != nil:
			context[at.Name] = v
		}
	}
	e.authorized(&a, Call{Level: x.Level, Principal: x.User, Groups: x.Groups, Route: r.Route.Name, Context: context})
	e.wouldBeMalformed(&a, wouldBe)
	return a, nil
}

// authorized makes a the answer of authorization.
func (e *Reference) authorized(a *Answer, c Call) {
	dec := e.weigh(c)
	a.Stage, a.Verdict, a.Rule, a.Level, a.Reason, a.Call = abi.StageAuthz, dec.Verdict, dec.Rule, dec.Level, dec.Reason, &c
	a.would(dec)
}

// malformed makes a the denial of a request that has no value of an attribute's type.
func (e *Reference) malformed(a *Answer, name string, err error) {
	a.Stage, a.Verdict, a.Rule = abi.StageAuthz, abi.Deny, abi.Rule{ID: abi.RuleRequest, Line: AuthorizationDefault(e.d.Policy).Line}
	a.Reason = fmt.Sprintf("attribute %q: %v", name, err)
}

// wouldBeMalformed is malformed, of an attribute that only rules read that are tried.
func (e *Reference) wouldBeMalformed(a *Answer, err error) {
	if err == nil {
		return
	}
	if a.DryRun = nil; a.Verdict == abi.Allow {
		a.DryRun = &Would{abi.Deny, abi.StageAuthz, abi.Rule{ID: abi.RuleRequest, Line: AuthorizationDefault(e.d.Policy).Line}, a.Level, err.Error()}
	}
}

// says reports whether the query itself says what comes from a source, and where.
func (x *exchange) says(k authz.SourceKind) (where string, says bool) {
	switch k {
	case authz.SourceRoute, authz.SourceQuery:
		return "the request line", x.Request != ""
	case authz.SourceMethod:
		return "the request line", x.verb != ""
	case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday:
		return "the time", !x.At.IsZero()
	case authz.SourcePeer:
		return "the client's address", x.From.IsValid()
	case authz.SourceBody:
		return "the body", x.Body != nil
	}
	return "", false
}

// fact returns what the query says of an attribute, as an image reads it; nil where that
// has no value.
func (x *exchange) fact(at authz.Attribute) (cedar.Value, error) {
	text, found := "", true
	switch at.Source.Kind {
	case authz.SourceMethod:
		text = x.verb
	case authz.SourceHour, authz.SourceMinute, authz.SourceWeekday:
		text = strconv.Itoa(clock(at.Source.Kind, x.At))
	case authz.SourcePeer:
		text = x.From.Unmap().WithZone("").String()
	case authz.SourceRoute:
		text, found = x.params[at.Source.Arg]
	case authz.SourceBody:
		return member(x.Body, at)
	default:
		q, err := url.ParseQuery(x.query)
		vs := q[at.Source.Arg]
		if err != nil {
			return nil, errors.New("the query is not well formed")
		}
		if len(vs) > 1 {
			return nil, errors.New("it is given twice")
		}
		if found = len(vs) == 1; found {
			text = vs[0]
		}
	}
	if !found {
		return nil, nil
	}
	return ParseValue(at, text)
}

// clock reads a time in UTC.
func clock(k authz.SourceKind, t time.Time) int {
	t = t.UTC()
	switch k {
	case authz.SourceMinute:
		return 60*t.Hour() + t.Minute()
	case authz.SourceWeekday:
		return (int(t.Weekday())+6)%7 + 1 // Monday is the first
	}
	return t.Hour()
}

// member reads an attribute out of a JSON document, which may be empty.
func member(doc []byte, at authz.Attribute) (cedar.Value, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	p, err := strictjson.ParsePointer(at.Source.Arg)
	if err != nil {
		return nil, err
	}
	var out [1]strictjson.Value
	if err := strictjson.Find(doc, []strictjson.Pointer{p}, out[:]); err != nil || out[0].Kind == strictjson.Missing {
		return nil, err
	}
	return jsonValue(at, out[0])
}

// jsonValue reads an attribute from a value of JSON.
func jsonValue(at authz.Attribute, v strictjson.Value) (cedar.Value, error) {
	if !at.Set {
		return jsonScalar(at.Type, v)
	}
	if v.Kind != strictjson.Array {
		return nil, errors.New("it is not an array")
	}
	var list []cedar.Value
	err := strictjson.Elements(v, func(x strictjson.Value) error {
		if len(list) == authz.MaxElements {
			return fmt.Errorf("it has more than %d elements", authz.MaxElements)
		}
		e, err := jsonScalar(at.Type, x)
		list = append(list, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return cedar.NewSet(list...), nil
}

func jsonScalar(t authz.Type, v strictjson.Value) (cedar.Value, error) {
	text, fits := string(v.Text), false
	switch v.Kind {
	case strictjson.String:
		fits = t != authz.TypeLong && t != authz.TypeBool
	case strictjson.Number:
		fits = t == authz.TypeLong || t == authz.TypeDecimal
		// Writers of JSON leave out the places of a decimal number that is whole.
		if t == authz.TypeDecimal && !strings.ContainsAny(text, ".eE") {
			text += ".0"
		}
	case strictjson.True, strictjson.False:
		fits = t == authz.TypeBool
	}
	if !fits {
		return nil, errors.New("it has the wrong JSON type")
	}
	return parseScalar(t, text)
}
