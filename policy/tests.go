package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
)

// A TestResult is what came of one test of the policy.
type TestResult struct {
	Test     *api.Test
	Decision Decision
	Problem  string   // empty: it passed
	Missing  []string // where it was denied and should not have been: what would have to be otherwise
}

// RunTests evaluates the tests that travel with the policy, in file order. They are about
// what the policy says, also where it is tried as a whole.
func (d *Deployment) RunTests() []TestResult {
	return d.RunSome(func(*api.Test) bool { return true })
}

// RunSome is RunTests for those that are chosen.
func (d *Deployment) RunSome(chosen func(*api.Test) bool) []TestResult {
	e := d.Reference()
	out := make([]TestResult, 0, len(d.Policy.Tests))
	for i := range d.Policy.Tests {
		if t := &d.Policy.Tests[i]; chosen(t) {
			out = append(out, e.runTest(t))
		}
	}
	return out
}

func (e *Reference) runTest(t *api.Test) TestResult {
	r := TestResult{Test: t}
	var a Answer
	x := exchange{Query: Query{Request: t.Request, User: t.User, Groups: t.Groups, Level: t.Level, Set: t.Set, Body: t.Body, At: t.At, From: t.From}}
	if t.Packet != nil {
		r.Decision = e.weighPacket(t.Level, *t.Packet)
	} else {
		var err error
		if a, err = e.try(t, &x); err != nil {
			r.Problem = err.Error()
			return r
		}
		r.Decision = Decision{Verdict: a.Verdict, Rule: a.Rule, Level: a.Level, Reason: a.Reason}
		if w := a.DryRun; w != nil {
			r.Decision.Would = &Decision{Verdict: w.Verdict, Rule: w.Rule, Level: w.Level, Reason: w.Reason}
		}
	}
	got := r.Decision
	if got.Verdict == t.Expect && (t.By == "" || got.Rule.ID == t.By) {
		would := got
		if got.Would != nil {
			would = *got.Would
		}
		if t.DryRun != "" && would.Verdict.String() != t.DryRun {
			r.Problem = fmt.Sprintf("expected %s with the rules that are tried, got %s by %s%s", t.DryRun, would.Verdict, would.Rule.ID, written(would.Rule))
		}
		return r
	}
	r.Problem = fmt.Sprintf("expected %s%s, got %s by %s%s", t.Expect, by(t.By), got.Verdict, got.Rule.ID, written(got.Rule))
	if got.Reason != "" {
		r.Problem += ": " + got.Reason
	}
	if got.Verdict == abi.Deny && t.Expect == abi.Allow {
		switch {
		case t.Packet != nil:
			a = e.doc.whyPacket(got.Level, *t.Packet)
		case a.Call != nil:
			e.explain(&a, *a.Call)
		}
		r.Missing = a.Missing
	}
	return r
}

// try asks what a test is about.
func (e *Reference) try(t *api.Test, x *exchange) (Answer, error) {
	if levels := LevelsTo(e.d.Policy, t.Level); len(levels) > 0 {
		x.Level = levels[len(levels)-1]
	}
	if t.Request != "" {
		a, err := e.request(x)
		if err == nil {
			err = e.unsaid(t, a.Call)
		}
		return a, err
	}
	called := e.d.route(t.Call)
	x.route = &route.Route{Name: called.Name, Line: called.Pos.Short()}
	if called.Method != "*" {
		x.verb = called.Method
	}
	a, err := e.admit(x)
	if err == nil {
		err = e.unsaid(t, a.Call)
	}
	return a, err
}

// unsaid refuses a test that lacks a fact: it would be denied for that alone, and would
// pass without testing the rule it is about.
func (e *Reference) unsaid(t *api.Test, c *Call) error {
	if c == nil || t.By == abi.RuleAttribute {
		return nil
	}
	lacking := e.d.lacking(e.About(c.Route).Reads, c.Context)
	if len(lacking) == 0 {
		return nil
	}
	return fmt.Errorf("the policies for %s read %s, and the context of the test does not say it", c.Route, strings.Join(lacking, " and "))
}

func by(rule string) string {
	if rule == "" {
		return ""
	}
	return " by " + rule
}

func written(r abi.Rule) string {
	if r.Line == "" {
		return ""
	}
	return " (" + r.Line + ")"
}

func (d *Deployment) testError(r TestResult, src *source) *Error {
	fix := "correct the rule or the expectation"
	switch {
	case strings.HasSuffix(r.Problem, "does not say it"):
		fix = "add the values to context: {...}"
	case r.Decision.Rule.ID == "":
		fix = "correct context"
	}
	return &Error{Pos: r.Test.Pos, Text: src.line(r.Test.Pos.Line), Message: fmt.Sprintf("test %q: %s", clip(r.Test.Name), r.Problem), Fix: fix}
}

// values reads the attributes that a caller sets, which must exist.
func (d *Deployment) values(set map[string]string) (map[string]cedar.Value, error) {
	out := make(map[string]cedar.Value)
	for _, name := range sortedKeys(set) {
		i := slices.IndexFunc(d.Authorization.Attributes, func(a authz.Attribute) bool { return a.Name == name })
		if i < 0 {
			var known []string
			for _, a := range d.Authorization.Attributes {
				known = append(known, a.Name)
			}
			return nil, fmt.Errorf("there is no attribute %q: %s", clip(name), didYouMean(name, known))
		}
		a := d.Authorization.Attributes[i]
		if a.Source.Kind == authz.SourceLevel {
			return nil, fmt.Errorf("attribute %q is the level: set the level itself", name)
		}
		v, err := ParseValue(a, set[name])
		if err == nil {
			err = onTheClock(a.Source.Kind, v)
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		out[name] = v
	}
	return out, nil
}

// onTheClock refuses a time that no clock shows: a test of it would say nothing.
func onTheClock(k authz.SourceKind, v cedar.Value) error {
	lo, hi := cedar.Long(0), cedar.Long(0)
	switch k {
	case authz.SourceHour:
		hi = 23
	case authz.SourceMinute:
		hi = 1439
	case authz.SourceWeekday:
		lo, hi = 1, 7
	default:
		return nil
	}
	if n, ok := v.(cedar.Long); !ok || n < lo || n > hi {
		return fmt.Errorf("%v is not from %d to %d", v, lo, hi)
	}
	return nil
}
