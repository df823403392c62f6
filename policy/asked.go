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
func (d *Deployment) Ask(q Asked, explain bool) (Answer, error) {
	a, err := d.ask(q, explain)
	if err == nil {
		d.release(&a)
	}
	return a, err
}

func (d *Deployment) ask(q Asked, explain bool) (Answer, error) {
	levels := LevelsTo(d.Policy, q.Level)
	if len(levels) == 0 || q.Level == "" {
		return Answer{}, fmt.Errorf("the policy has no level %q", clip(q.Level))
	}
	x := exchange{Query: Query{User: q.Principal, Groups: q.Groups, Level: q.Level}, verb: q.Method}
	if a, stop, err := d.askRoute(&x, &q); stop || err != nil {
		return a, err
	}
	if d.Policy.Authentication != nil {
		if err := q.Lacks("principal"); err != nil {
			return Answer{}, err
		}
	}
	a, stop := d.whyAuthenticated(&x)
	if stop || d.Policy.Authorization == nil {
		return a, nil
	}
	if d.Authorization.Group != "" {
		if err := q.Lacks("groups"); err != nil {
			return Answer{}, err
		}
	}
	r := d.route(x.route.Name)
	c := Call{Level: x.Level, Principal: x.User, Groups: x.Groups, Route: r.Name, Context: make(map[string]cedar.Value)}
	reads, enforced := d.Authorization.reads(r), d.Enforced().Authorization.reads(r)
	var wrong error
	for _, at := range d.Authorization.Attributes {
		if at.Source.Kind == authz.SourceLevel || !slices.Contains(reads, at.Name) {
			continue
		}
		text, found, err := x.asked(&q, at)
		if err != nil {
			return Answer{}, err
		}
		if !found {
			continue
		}
		v, err := ParseValue(at, text)
		if err != nil && slices.Contains(enforced, at.Name) {
			d.malformed(&a, at.Name, err)
			return a, nil
		}
		if err != nil { // only what is tried reads it
			wrong = err
			continue
		}
		c.Context[at.Name] = v
	}
	d.authorized(&a, c)
	d.wouldBeMalformed(&a, wrong)
	if explain {
		d.explain(&a, r, c)
	}
	return a, nil
}

// askRoute finds the route by the path, and by its name where the path is not known.
func (d *Deployment) askRoute(x *exchange, q *Asked) (a Answer, stop bool, err error) {
	if q.Path != "" {
		a, stop = d.whyFilter(x, q.Path, "")
		return a, stop, nil
	}
	if len(d.Policy.Routes) == 0 {
		return a, false, nil
	}
	r := d.route(q.Route)
	if r == nil {
		return a, false, fmt.Errorf("its path is not known, and the policy has no route %q", clip(q.Route))
	}
	x.route = &route.Route{Name: r.Name, Group: r.Group, Line: r.Pos.Short(), Method: r.Method, Pattern: r.Path}
	return a, false, nil
}

func (x *exchange) asked(q *Asked, at authz.Attribute) (text string, found bool, err error) {
	if at.Source.Kind == authz.SourceMethod || at.Source.Kind == authz.SourceRoute && q.Path != "" {
		return x.fact(at.Source)
	}
	return q.Fact(at)
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
