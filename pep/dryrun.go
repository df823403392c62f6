package pep

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
)

// A Trier is a state that decides about more than it is asked about, and so has to know
// the state that is tried beside it. Try is called before Enforce.
type Trier interface{ Try(GateState) }

// A Trial is what a decision would have been so far, had all been enforced that is tried.
// The zero Trial: what it is.
type Trial struct {
	would    *Decision
	noRoute  bool // the request has none, and went on
	nobody   bool // who asks is not known, and went on
	released bool // something was let through
}

// Tried has w, which a state that is tried says, stand beside d, which is enforced. The
// first denial counts. What grants nothing by a rule of its own allows nothing either.
func (t *Trial) Tried(d, w Decision) {
	if t.would == nil && (d.Verdict == abi.Allow) != (w.Verdict == abi.Allow) && (w.Verdict != abi.Allow || w.Rule.ID != "") {
		would := w // so that nothing is allocated otherwise
		t.would = &would
	}
}

// Release lets a denial through, where the whole policy is tried and it is one that can
// be.
func (t *Trial) Release(d Decision) (Decision, bool) {
	if !releasable(&d) {
		return d, false
	}
	if t.would == nil {
		would := d
		t.would = &would
	}
	t.released = true
	return Decision{Verdict: abi.Allow, Stage: d.Stage}, true
}

// End is d, which is enforced, with what would have been; let is the rule of a policy
// that is tried as a whole.
func (t *Trial) End(d Decision, let *abi.Rule) Decision {
	if t.would == nil || t.would.Verdict == d.Verdict {
		return d
	}
	if t.released && let != nil {
		d.Stage, d.Rule, d.Reason = t.would.Stage, *let, ""
	}
	d.Would, d.Record = t.would, true
	return d
}

// releasable reports whether a request or a connection can go on that was denied: not
// where it is malformed or beyond a bound, and not where a module failed.
func releasable(d *Decision) bool {
	switch d.Stage {
	case abi.StageFilter:
		return d.Rule.ID == abi.RuleRoute || d.Rule.ID == abi.RuleMethod
	case abi.StageFirewall, abi.StageObligations, abi.StageSourceLimit, abi.StageAuthn, abi.StagePrincipalLimit, abi.StageAuthz:
		return d.Rule.ID != abi.RuleError
	}
	return false
}

// judge asks the guard about x.
func (l *Link) judge(x *Exchange, t *Trial) Decision {
	switch {
	case l.DryRun != nil:
		return l.release(x, t)
	case l.Tried != nil:
		d := l.Guard.Judge(x)
		t.Tried(d, l.try(x))
		return d
	}
	return l.Guard.Judge(x)
}

// try asks the state that is tried. It says nothing to the client, and its failure is a
// denial that nobody meets.
func (l *Link) try(x *Exchange) (w Decision) {
	header := x.Header
	defer func() {
		x.Header = header
		if v := recover(); v != nil {
			w = panicked(l.Stage, v)
		}
		if w.Verdict != abi.Allow {
			w = l.denied(w)
		}
	}()
	x.Header = http.Header{}
	return l.named(l.Tried.Judge(x))
}

// release asks the guard, and lets x through where it denies. What later guards cannot
// judge without what this one would have found, they are not asked.
func (l *Link) release(x *Exchange, t *Trial) Decision {
	about := l.Stage == abi.StagePrincipalLimit || l.Stage == abi.StageAuthz
	if t.nobody && (about || authenticates(l.Stage)) || t.noRoute && l.Stage == abi.StageAuthz {
		return Decision{Verdict: abi.Allow, Stage: l.Stage}
	}
	header, said := x.Header, http.Header{}
	x.Header = said
	judged := false
	defer func() {
		if !judged { // it panics, and the request is denied with what was said so far
			x.Header = header
			maps.Copy(header, said)
		}
	}()
	d := l.Guard.Judge(x)
	x.Header, judged = header, true
	ok := false
	if d.Verdict != abi.Allow {
		d, ok = t.Release(l.denied(d))
	}
	for k, v := range said {
		if !ok || l.Stage == abi.StageFilter && k == "Connection" { // is about what was received
			x.Header[k] = append(x.Header[k], v...)
		}
	}
	switch {
	case !ok:
	case l.Stage == abi.StageFilter:
		x.Route, x.Params, t.noRoute = nil, nil, true
	case authenticates(l.Stage):
		delete(x.Request.Header, "Authorization")
		x.Principal, x.Groups, x.Claims, x.Expires, t.nobody = anonymous, nil, nil, time.Time{}, true
	}
	return d
}

// anonymous is authn.Anonymous, without having images linked with what they do not need.
const anonymous = "anonymous"

// authenticates reports whether a guard asks who it is.
func authenticates(stage string) bool {
	return stage == abi.StageAuthn || strings.HasPrefix(stage, abi.StageAuthn+"-")
}

func panicked(stage string, v any) Decision {
	return Decision{Stage: stage, Rule: abi.Rule{ID: abi.RuleError}, Reason: fmt.Sprintf("panic: %v", v)}
}
