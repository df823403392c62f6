package pep

import (
	"fmt"
	"net/http"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/route"
)

// A Steady guard can tell that it would judge the same request the same way again.
type Steady interface {
	GuardState
	// Steady reports whether the allow that Judge has just given x follows from
	// the head of its request and from its connection alone, and holds until
	// x.Expires.
	Steady(x *Exchange) bool
}

// A Link is a guard of a chain.
type Link struct {
	Stage string
	Guard GuardState
}

// A Chain is the guards of one generation, in their order. It is immutable.
type Chain []Link

// Judge asks the guards about x, in order; the first denial ends it. An allowed
// request carries the rule of the last guard that names one. No guard: denied.
func (c Chain) Judge(x *Exchange) Decision { return c.judge(x, nil) }

// Learn is Judge, and returns what Again needs; nil where there is nothing to
// spare.
func (c Chain) Learn(x *Exchange) (Decision, *Judged) {
	j := &Judged{since: x.Now, steps: make([]Decision, 0, len(c))}
	if d := c.judge(x, j); d.Verdict != abi.Allow || len(x.Header) > 0 || !j.steady {
		return d, nil
	} else {
		j.path, j.route, j.params, j.maxBody = x.Path, x.Route, x.Params, x.MaxBody
		j.principal, j.groups, j.claims, j.expires = x.Principal, x.Groups, x.Claims, x.Expires
		return d, j
	}
}

// A Judged is what was found out about an allowed request. It is immutable.
type Judged struct {
	since, expires  time.Time
	steps           []Decision // of the steady guards; of others the zero one
	steady          bool       // there is one at least
	path, principal string
	route           *route.Route
	params          []Param
	maxBody         int64
	groups          []string
	claims          []byte
}

// Again judges a request with the same head as that which j was learnt from, byte
// for byte, on the same connection and by the same chain. The request of x is as
// the guards left it then. Steady guards are not asked again. ok is false where j
// holds no longer: then nobody was asked.
func (c Chain) Again(x *Exchange, j *Judged) (d Decision, ok bool) {
	if len(j.steps) != len(c) || x.Now.Before(j.since) || !j.expires.IsZero() && !x.Now.Before(j.expires) {
		return Decision{}, false
	}
	x.Path, x.Route, x.Params, x.MaxBody = j.path, j.route, j.params, j.maxBody
	x.Principal, x.Groups, x.Claims, x.Expires = j.principal, j.groups, j.claims, j.expires
	x.Limit()
	return c.replay(x, j), true
}

func (c Chain) judge(x *Exchange, learn *Judged) Decision {
	last, record := noGuard, false
	for i := range c {
		d := Guarded(c[i].Stage, c[i].Guard.Judge, x)
		if d.Verdict != abi.Allow {
			return denied(d)
		}
		if learn != nil {
			learn.step(c[i].Guard, x, d)
		}
		last, record = follow(i, last, d), record || d.Record
	}
	last.Record = record
	return last
}

func (c Chain) replay(x *Exchange, j *Judged) Decision {
	last, record := noGuard, false
	for i := range c {
		d := j.steps[i]
		if d.Verdict != abi.Allow { // not steady
			if d = Guarded(c[i].Stage, c[i].Guard.Judge, x); d.Verdict != abi.Allow {
				return denied(d)
			}
		}
		last, record = follow(i, last, d), record || d.Record
	}
	last.Record = record
	return last
}

// step notes what a guard said, where it will say so again.
func (j *Judged) step(g GuardState, x *Exchange, d Decision) {
	if s, ok := g.(Steady); !ok || !s.Steady(x) {
		d = Decision{}
	} else {
		j.steady = true
	}
	j.steps = append(j.steps, d)
}

var noGuard = Decision{Status: http.StatusForbidden, Rule: abi.Rule{ID: abi.RuleError}, Reason: "no guard"}

func follow(i int, last, d Decision) Decision {
	if i == 0 || d.Rule.ID != "" {
		return d
	}
	return last
}

func denied(d Decision) Decision {
	if d.Status < 400 || d.Status > 599 {
		d.Status = http.StatusForbidden
	}
	return d
}

// Guarded asks a module about x. A panic and a verdict that does not exist are
// denials.
func Guarded[T any](stage string, decide func(T) Decision, x T) (d Decision) {
	defer func() {
		if v := recover(); v != nil {
			d = Decision{Stage: stage, Rule: abi.Rule{ID: abi.RuleError}, Reason: fmt.Sprintf("panic: %v", v)}
		}
	}()
	d = decide(x)
	if d.Verdict != abi.Allow {
		d.Verdict = abi.Deny
	}
	if d.Stage == "" {
		d.Stage = stage
	}
	return d
}
