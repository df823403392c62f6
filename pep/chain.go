package pep

import (
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

	Tried  GuardState // asked as well, of what is tried and not enforced; nil: nothing is
	DryRun *abi.Rule  // lets through what Guard denies, since the whole policy is tried; nil: it is enforced
}

// A Chain is the guards of one generation, in their order. It is immutable.
type Chain []Link

// Judge asks the guards about x, in order; the first denial ends it. An allowed
// request carries the rule of the last guard that names one. No guard: denied.
func (c Chain) Judge(x *Exchange) Decision { return c.judge(x, nil) }

// Learn is Judge, and returns what Again needs; nil where there is nothing to
// spare.
func (c Chain) Learn(x *Exchange) (Decision, *Judged) {
	j := &Judged{guards: len(c), since: x.Now, by: -1}
	d := c.judge(x, j)
	if d.Verdict != abi.Allow || d.Would != nil || len(x.Header) > 0 || len(j.ask) == len(c) {
		return d, nil
	}
	j.path, j.route, j.params, j.maxBody = x.Path, x.Route, x.Params, x.MaxBody
	j.principal, j.groups, j.claims, j.expires = x.Principal, x.Groups, x.Claims, x.Expires
	j.witness = x.Witness
	return d, j
}

// A Judged is what was found out about an allowed request. It is immutable.
type Judged struct {
	guards          int      // of the chain
	ask             []int    // those that are not steady, in order
	said            Decision // by the others
	by              int      // the guard whose decision that is; -1: none of them counts
	since, expires  time.Time
	path, principal string
	route           *route.Route
	params          []Param
	maxBody         int64
	groups          []string
	claims          []byte
	witness         Witness
}

// Again judges a request with the same head as that which j was learnt from, byte
// for byte, on the same connection and by the same chain. The request of x is as
// the guards left it then. Steady guards are not asked again. ok is false where j
// holds no longer: then nobody was asked.
func (c Chain) Again(x *Exchange, j *Judged) (d Decision, ok bool) {
	if j.guards != len(c) || x.Now.Before(j.since) || !j.expires.IsZero() && !x.Now.Before(j.expires) {
		return Decision{}, false
	}
	x.Path, x.Route, x.Params, x.MaxBody = j.path, j.route, j.params, j.maxBody
	x.Principal, x.Groups, x.Claims, x.Expires = j.principal, j.groups, j.claims, j.expires
	x.Limit()
	if d = c.replay(x, j); d.Verdict == abi.Allow {
		x.Witness = j.witness // where it denies, a guard before the witness may have
	}
	return d, true
}

func (c Chain) judge(x *Exchange, learn *Judged) (d Decision) {
	at := 0
	defer c.failed(&at, &d)
	last, record := noGuard, false
	var trial Trial
	for i := range c {
		at = i
		if d = c[i].judge(x, &trial); d.Verdict != abi.Allow {
			return trial.End(c[i].denied(d), c[i].DryRun)
		}
		if i == 0 || d.Rule.ID != "" {
			last = c[i].named(d)
		}
		record = record || d.Record
		if learn != nil && trial.would == nil {
			learn.note(i, &c[i], x, d)
		}
	}
	last.Record = record
	return c.end(&trial, last)
}

// end is the decision that no guard denies.
func (c Chain) end(t *Trial, d Decision) Decision {
	if t.would == nil {
		return d
	}
	return t.End(d, c[len(c)-1].DryRun)
}

// note keeps what the guard i says, or that it is to be asked again.
func (j *Judged) note(i int, l *Link, x *Exchange, d Decision) {
	if !steady(l.Guard, x) || l.Tried != nil && !steady(l.Tried, x) {
		j.ask = append(j.ask, i)
		return
	}
	record := j.said.Record || d.Record
	if i == 0 || d.Rule.ID != "" {
		j.said, j.by = l.named(d), i
	}
	j.said.Record = record
}

func steady(g GuardState, x *Exchange) bool {
	s, ok := g.(Steady)
	return ok && s.Steady(x)
}

func (c Chain) replay(x *Exchange, j *Judged) (d Decision) {
	at := 0
	defer c.failed(&at, &d)
	last, by, record := j.said, j.by, j.said.Record
	var trial Trial
	for _, i := range j.ask {
		at = i
		if d = c[i].judge(x, &trial); d.Verdict != abi.Allow {
			return trial.End(c[i].denied(d), c[i].DryRun)
		}
		if i == 0 && by < 0 || i > by && d.Rule.ID != "" {
			last, by = c[i].named(d), i
		}
		record = record || d.Record
	}
	last.Record = record
	return c.end(&trial, last)
}

// named is d with the stage that it is of.
func (l *Link) named(d Decision) Decision {
	if d.Stage == "" {
		d.Stage = l.Stage
	}
	return d
}

// denied is d as a denial: a verdict that does not exist is one, too, and so is one
// with a status that is not a denial's.
func (l *Link) denied(d Decision) Decision {
	d.Verdict = abi.Deny
	if d.Status < 400 || d.Status > 599 {
		d.Status = http.StatusForbidden
	}
	return l.named(d)
}

// failed makes a panic of the guard at an index a denial.
func (c Chain) failed(at *int, d *Decision) {
	if v := recover(); v != nil {
		*d = panicked(c[*at].Stage, v)
		d.Status = http.StatusForbidden
	}
}

var noGuard = Decision{Status: http.StatusForbidden, Rule: abi.Rule{ID: abi.RuleError}, Reason: "no guard"}

// Guarded asks a module that is no guard about x. A panic and a verdict that does not exist are
// denials.
func Guarded[T any](stage string, decide func(T) Decision, x T) (d Decision) {
	defer func() {
		if v := recover(); v != nil {
			d = panicked(stage, v)
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
