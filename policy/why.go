package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
)

// A Query asks what a policy does with a request or a connection.
type Query struct {
	Request string // "GET /accounts/7?verbose=1"; the method may be left out
	Packet  string // "tcp 10.20.1.1 -> :8443"; then Request is empty
	User    string // empty: no credentials
	Groups  []string
	Level   string            // empty: the initial level
	Set     map[string]string // attributes that the request line does not show
}

// An Answer is a decision with its reasons.
type Answer struct {
	Verdict    abi.Verdict `json:"verdict"`
	Stage      string      `json:"stage"` // the module that decides
	Rule       abi.Rule    `json:"rule"`
	Level      string      `json:"level"` // whose rules decided
	Route      string      `json:"route,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	Missing    []string    `json:"missing,omitempty"`    // for a denial: what would have to be otherwise
	Nearest    []Near      `json:"nearest,omitempty"`    // for a denial that no rule decided: the permits that came nearest
	Considered []Outcome   `json:"considered,omitempty"` // rules in file order
	DryRun     *Would      `json:"dryRun,omitempty"`     // what it would be if what is tried were enforced; nil: the same
	Call       *Call       `json:"-"`                    // what authorization was asked; nil: nothing
}

// A Near is a permit that does not hold.
type Near struct {
	Rule   abi.Rule `json:"rule"`
	Failed []string `json:"failed"` // its clauses that do not hold, in its order
}

// An Outcome is what one rule said.
type Outcome struct {
	Rule abi.Rule `json:"rule"`
	Text string   `json:"outcome"`
}

// Why walks the chain of the image: routes, authentication, authorization; or
// the network rules alone for a packet. Its error is about the query.
func (d *Deployment) Why(q Query) (Answer, error) {
	levels := LevelsTo(d.Policy, q.Level)
	if len(levels) == 0 {
		return Answer{}, fmt.Errorf("there is no level %q: %s", clip(q.Level), didYouMean(q.Level, d.Policy.Levels.Names))
	}
	q.Level = levels[len(levels)-1]
	switch {
	case (q.Request == "") == (q.Packet == ""):
		return Answer{}, errors.New("ask about a request, such as 'GET /accounts/7', or about a packet, such as 'tcp 10.20.1.1 -> :8443'")
	case q.Packet != "":
		k, err := ParsePacket(q.Packet)
		if err != nil {
			return Answer{}, err
		}
		a := d.whyPacket(q.Level, k)
		d.whyObliged(&a, q.Level)
		d.release(&a)
		return a, nil
	}
	x := exchange{Query: q}
	a, err := d.whyRequest(&x)
	if err == nil {
		d.whyTyped(&a, &x)
		d.whyLimited(&a, &x)
		d.whyObliged(&a, q.Level)
		d.release(&a)
	}
	return a, err
}

// ParsePacket reads "tcp 10.20.1.1 -> :8443", or "icmp 10.20.1.1".
func ParsePacket(s string) (api.Packet, error) {
	bad := fmt.Errorf("%q is not a packet: write 'tcp 10.20.1.1 -> :8443', or 'icmp 10.20.1.1'", clip(s))
	from, to, ok := strings.Cut(s, "->")
	words := strings.Fields(from)
	if len(words) != 2 {
		return api.Packet{}, bad
	}
	protocol := strings.ToUpper(words[0])
	addr, err := netip.ParseAddr(words[1])
	if protocol == api.ICMP && !ok && err == nil {
		return api.Packet{From: addr.Unmap(), Protocol: protocol}, nil
	}
	to = strings.TrimSpace(to)
	port, err2 := strconv.ParseUint(to[strings.LastIndexByte(to, ':')+1:], 10, 16)
	if !ok || err != nil || err2 != nil || port == 0 || protocol != "TCP" && protocol != "UDP" {
		return api.Packet{}, bad
	}
	return api.Packet{From: addr.Unmap(), Protocol: protocol, Port: uint16(port)}, nil
}

func (d *Deployment) whyRequest(x *exchange) (Answer, error) {
	q := x.Query
	verb, target, ok := strings.Cut(q.Request, " ")
	if !ok && strings.HasPrefix(q.Request, "/") {
		verb, target = "GET", q.Request
	}
	if !methodForm.MatchString(verb) || verb == "*" || !strings.HasPrefix(target, "/") {
		return Answer{}, fmt.Errorf("%q is not a request: write 'GET /accounts/7'", clip(q.Request))
	}
	if q.User != "" && !authn.ValidPrincipal(q.User) {
		return Answer{}, fmt.Errorf("%q cannot be the name of a user", clip(q.User))
	}
	x.verb = verb
	path, query, _ := strings.Cut(target, "?")
	if a, stop := d.whyFilter(x, path, query); stop {
		return a, nil
	}
	a, stop := d.whyAuthenticated(x)
	if stop || d.Policy.Authorization == nil {
		return a, nil
	}
	return d.whyAuthorization(x, a)
}

// whyAuthenticated says who lets a request of the route through that authorization, if
// there is any, judges next; or that nobody does.
func (d *Deployment) whyAuthenticated(x *exchange) (a Answer, stop bool) {
	a = Answer{Verdict: abi.Allow, Stage: abi.StageFilter, Level: x.Level}
	if x.route != nil {
		a.Route, a.Rule = x.route.Name, abi.Rule{ID: x.route.Name, Line: x.route.Line}
	}
	if d.Policy.Authentication == nil {
		return a, false
	}
	a.Stage, a.Rule = abi.StageAuthn, AuthenticationDefault(d.Policy.Authentication)
	// Which of several methods let a user in, the question does not say.
	if list := Methods(d.Policy.Authentication); x.User != "" && len(list) == 1 {
		a.Rule = list[0].Rule()
	}
	if x.User == "" && d.Policy.Authentication.Require {
		a.Verdict, a.Reason = abi.Deny, "credentials are required"
		a.Missing = []string{"a user: the request has no credentials"}
		return a, true
	}
	if x.User == "" {
		x.User = authn.Anonymous
	}
	return a, false
}

// An exchange is a request on its way through the explanation.
type exchange struct {
	Query
	verb   string
	route  *route.Route
	params map[string]string
	query  string
}

// whyFilter finds the route, or says why there is none.
func (d *Deployment) whyFilter(x *exchange, path, query string) (Answer, bool) {
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
	best, allow := section(d.Policy.Routes).Match(x.verb, p.Segments(nil))
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

// whyAuthorization gathers what the request itself shows, adds what the query
// sets, and asks the reference.
func (d *Deployment) whyAuthorization(x *exchange, a Answer) (Answer, error) {
	r := d.route(x.route.Name)
	fromRequest := func(k authz.SourceKind) bool {
		return k == authz.SourceRoute || k == authz.SourceQuery || k == authz.SourceMethod
	}
	for _, at := range d.Authorization.Attributes {
		if _, set := x.Set[at.Name]; set && fromRequest(at.Source.Kind) {
			return Answer{}, fmt.Errorf("attribute %q comes from the request line: write it there", at.Name)
		}
	}
	context, err := d.values("", x.Set)
	if err != nil {
		return Answer{}, err
	}
	reads, enforced := d.Authorization.reads(r), d.Enforced().Authorization.reads(r)
	var wrong error
	for _, at := range d.Authorization.Attributes {
		if !fromRequest(at.Source.Kind) || !slices.Contains(reads, at.Name) {
			continue
		}
		text, found, err := x.fact(at.Source)
		var v cedar.Value
		if err == nil && found {
			v, err = ParseValue(at, text)
		}
		if err != nil && slices.Contains(enforced, at.Name) {
			d.malformed(&a, at.Name, err)
			return a, nil
		}
		if err != nil { // only what is tried reads it
			wrong = err
			continue
		}
		if found {
			context[at.Name] = v
		}
	}
	c := Call{Level: x.Level, Principal: x.User, Groups: x.Groups, Route: r.Name, Context: context}
	d.authorized(&a, c)
	d.wouldBeMalformed(&a, wrong)
	d.explain(&a, r, c)
	return a, nil
}

// authorized makes a the answer of authorization.
func (d *Deployment) authorized(a *Answer, c Call) {
	dec := d.authorize(c)
	a.Stage, a.Verdict, a.Rule, a.Level, a.Reason, a.Call = abi.StageAuthz, dec.Verdict, dec.Rule, dec.Level, dec.Reason, &c
	a.would(dec)
}

// malformed makes a the denial of a request that has no value of an attribute's type.
func (d *Deployment) malformed(a *Answer, name string, err error) {
	a.Stage, a.Verdict, a.Rule = abi.StageAuthz, abi.Deny, abi.Rule{ID: abi.RuleRequest, Line: AuthorizationDefault(d.Policy).Line}
	a.Reason = fmt.Sprintf("attribute %q: %v", name, err)
}

// wouldBeMalformed is malformed, of an attribute that only rules read that are tried.
func (d *Deployment) wouldBeMalformed(a *Answer, err error) {
	if err == nil {
		return
	}
	if a.DryRun = nil; a.Verdict == abi.Allow {
		a.DryRun = &Would{abi.Deny, abi.StageAuthz, abi.Rule{ID: abi.RuleRequest, Line: AuthorizationDefault(d.Policy).Line}, a.Level, err.Error()}
	}
}

// fact returns what the request line says.
func (x *exchange) fact(s authz.Source) (text string, found bool, err error) {
	switch s.Kind {
	case authz.SourceMethod:
		return x.verb, true, nil
	case authz.SourceRoute:
		text, found = x.params[s.Arg]
		return text, found, nil
	}
	q, err := url.ParseQuery(x.query)
	switch vs := q[s.Arg]; {
	case err != nil:
		return "", false, errors.New("the query is not well formed")
	case len(vs) > 1:
		return "", false, errors.New("it is given twice")
	case len(vs) == 1:
		return vs[0], true, nil
	}
	return "", false, nil
}
