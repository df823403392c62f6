package policy

import (
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
)

// An Asked is a request that was made, as far as somebody noted what can be judged.
type Asked struct {
	Method    string
	Path      string // canonical, without a query; empty: only Route is known
	Route     string
	Level     string
	Principal string // empty: it had no credentials
	Groups    []string

	// Lacks returns why the principal or the groups (the fields of audit.redact) are not
	// known; nil where they are. It is asked only about what decides.
	Lacks func(field string) error
	// Fact returns what the request says of an attribute, but for parameters of a known
	// path and for the method.
	Fact func(a authz.Attribute) (text string, found bool, err error)
}

// Ask says what the policy decides about a request: routes, authentication as it went
// then, authorization. What counts requests, and what bounds them, is left out. Its error
// says what is not known of the request and would decide. With explain the answer has
// reasons.
func (e *Reference) Ask(q Asked, explain bool) (Answer, error) {
	a, err := e.ask(q, explain)
	if err == nil {
		e.doc.release(&a)
	}
	return a, err
}

func (e *Reference) ask(q Asked, explain bool) (Answer, error) {
	d := e.d
	if q.Level == "" || len(LevelsTo(d.Policy, q.Level)) == 0 {
		return Answer{}, fmt.Errorf("the policy has no level %q", clip(q.Level))
	}
	x := exchange{Query: Query{User: q.Principal, Groups: q.Groups, Level: q.Level}, verb: q.Method}
	if a, stop, err := e.askRoute(&x, &q); stop || err != nil {
		return a, err
	}
	if d.Policy.Authentication != nil {
		if err := q.Lacks("principal"); err != nil {
			return Answer{}, err
		}
	}
	a, stop := e.authenticated(&x)
	if stop || d.Policy.Authorization == nil {
		return a, nil
	}
	if d.Authorization.Group != "" {
		if err := q.Lacks("groups"); err != nil {
			return Answer{}, err
		}
	}
	r := e.About(x.route.Name)
	c := Call{Level: x.Level, Principal: x.User, Groups: x.Groups, Route: r.Route.Name, Context: make(map[string]cedar.Value)}
	tried := e.full().About(x.route.Name)
	var wouldBe error // malformed, for rules that are tried
	for _, at := range d.Authorization.Attributes {
		if at.Source.Kind == authz.SourceLevel || !slices.Contains(tried.Reads, at.Name) {
			continue
		}
		var v cedar.Value
		var wrong error // with what the request says
		if at.Source.Kind == authz.SourceMethod || at.Source.Kind == authz.SourceRoute && q.Path != "" {
			v, wrong = x.fact(at)
		} else {
			text, found, err := q.Fact(at)
			if err != nil {
				return Answer{}, err
			}
			if found {
				v, wrong = ParseValue(at, text)
			}
		}
		if wrong != nil && slices.Contains(r.Reads, at.Name) {
			e.malformed(&a, at.Name, wrong)
			return a, nil
		}
		if wrong != nil {
			wouldBe = wrong
		}
		if v != nil {
			c.Context[at.Name] = v
		}
	}
	e.authorized(&a, c)
	e.wouldBeMalformed(&a, wouldBe)
	if explain {
		e.explain(&a, c)
	}
	return a, nil
}

// askRoute finds the route by the path, and by its name where the path is not known.
func (e *Reference) askRoute(x *exchange, q *Asked) (a Answer, stop bool, err error) {
	if q.Path != "" {
		a, stop = e.filter(x, q.Path, "")
		return a, stop, nil
	}
	if len(e.d.Policy.Routes) == 0 {
		return a, false, nil
	}
	r := e.d.route(q.Route)
	if r == nil {
		return a, false, fmt.Errorf("its path is not known, and the policy has no route %q", clip(q.Route))
	}
	x.route = &route.Route{Name: r.Name, Group: r.Group, Line: r.Pos.Short(), Method: r.Method, Pattern: r.Path}
	return a, false, nil
}

// Classified explains what the network rules decide about a connection.
func (d *Deployment) Classified(level string, k api.Packet) (Answer, error) {
	if level == "" || len(LevelsTo(d.Policy, level)) == 0 {
		return Answer{}, fmt.Errorf("the policy has no level %q", clip(level))
	}
	a := d.whyPacket(level, k)
	d.release(&a)
	return a, nil
}
