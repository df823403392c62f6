package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
)

// A TestResult is what came of one test of the policy.
type TestResult struct {
	Test     *api.Test
	Decision Decision
	Problem  string // empty: it passed
}

// RunTests evaluates the tests that travel with the policy, in file order. They are about
// what the policy says, also where it is tried as a whole.
func (d *Deployment) RunTests() []TestResult {
	out := make([]TestResult, 0, len(d.Policy.Tests))
	for i := range d.Policy.Tests {
		out = append(out, d.runTest(&d.Policy.Tests[i]))
	}
	return out
}

func (d *Deployment) runTest(t *api.Test) TestResult {
	r := TestResult{Test: t}
	if t.Packet != nil {
		r.Decision = d.classify(t.Level, *t.Packet)
	} else {
		c, err := d.values(t.Call, t.Set)
		if err != nil {
			r.Problem = err.Error()
			return r
		}
		// A test that lacks a fact would be denied for that alone, and would
		// pass without testing the rule it is about.
		if lacking := d.lacking(d.Authorization.reads(d.route(t.Call)), c); len(lacking) > 0 && t.By != abi.RuleAttribute {
			r.Problem = fmt.Sprintf("the policies for %s read %s, and the context of the test does not say it", t.Call, strings.Join(lacking, " and "))
			return r
		}
		r.Decision = d.authenticated(t, c)
	}
	got := r.Decision
	would := got
	if got.Would != nil {
		would = *got.Would
	}
	if got.Verdict != t.Expect || t.By != "" && got.Rule.ID != t.By {
		r.Problem = fmt.Sprintf("expected %s%s, got %s by %s%s", t.Expect, by(t.By), got.Verdict, got.Rule.ID, written(got.Rule))
		if got.Reason != "" {
			r.Problem += ": " + got.Reason
		}
	} else if t.DryRun != "" && would.Verdict.String() != t.DryRun {
		r.Problem = fmt.Sprintf("expected %s with the rules that are tried, got %s by %s%s", t.DryRun, would.Verdict, would.Rule.ID, written(would.Rule))
	}
	return r
}

func (d *Deployment) authenticated(t *api.Test, context map[string]cedar.Value) Decision {
	user := t.User
	if user == "" {
		if a := d.Policy.Authentication; a.Require {
			return Decision{Rule: AuthenticationDefault(a), Level: t.Level, Reason: "credentials are required"}
		}
		user = authn.Anonymous
	}
	return d.authorize(Call{Level: t.Level, Principal: user, Groups: t.Groups, Route: t.Call, Context: context})
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
	if strings.Contains(r.Problem, "does not say it") {
		fix = "add the values to context: {...}"
	}
	return &Error{Pos: r.Test.Pos, Text: src.line(r.Test.Pos.Line), Message: fmt.Sprintf("test %q: %s", clip(r.Test.Name), r.Problem), Fix: fix}
}

// values reads the attributes that a caller sets, which must exist.
func (d *Deployment) values(route string, set map[string]string) (map[string]cedar.Value, error) {
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
	if r := d.route(route); r != nil && r.Method != "*" {
		for _, a := range d.Authorization.Attributes {
			if _, given := out[a.Name]; !given && a.Source.Kind == authz.SourceMethod {
				out[a.Name] = cedar.String(r.Method)
			}
		}
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

// checkTests checks what tests refer to.
func (p *parsing) checkTests(s *securityPolicy) {
	var routes, rules []string
	for _, r := range s.Routes {
		routes = append(routes, r.Name)
	}
	if s.Network != nil {
		for _, r := range s.Network.Ingress {
			rules = append(rules, r.Name)
		}
	}
	if s.auth != nil {
		for _, r := range s.auth.Rules {
			rules = append(rules, r.ID)
		}
	}
	for _, m := range Methods(s.Authentication) {
		rules = append(rules, m.Name)
	}
	rules = append(rules, abi.RuleNetwork, abi.RuleAuthn, abi.RuleAuthz, abi.RuleAttribute)
	for _, t := range s.Tests {
		if t.Level != "" && !slices.Contains(s.Levels.Names, t.Level) && !s.bad["spec.levels"] {
			s.failAt(t.Pos, didYouMean(t.Level, s.Levels.Names), "test %q: there is no level %q", clip(t.Name), t.Level)
		}
		if t.By != "" && !slices.Contains(rules, t.By) && !s.bad["spec.authorization"] && !s.bad["spec.network"] && !s.bad["spec.authentication"] {
			s.failAt(t.Pos, didYouMean(t.By, rules), "test %q: there is no rule %q", clip(t.Name), clip(t.By))
		}
		switch {
		case t.Call == "":
		case s.bad["spec.routes"] || s.bad["spec.authorization"]:
		case !slices.Contains(routes, t.Call):
			s.failAt(t.Pos, didYouMean(t.Call, routes), "test %q: there is no route %q", clip(t.Name), t.Call)
		case s.Authorization == nil:
			s.failAt(t.Pos, "add authorization, or test a packet", "test %q calls a route, but the policy has no authorization", clip(t.Name))
		}
	}
}

func parseLong(s string) (cedar.Value, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return nil, fmt.Errorf("%q is not a whole number", clip(s))
	}
	return cedar.Long(n), nil
}

func parseIP(s string) (cedar.Value, error) {
	v, err := types.ParseIPAddr(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not an IP address", clip(s))
	}
	return v, nil
}

// parseDecimal reads Cedar's decimal in the one spelling that images take.
func parseDecimal(s string) (cedar.Value, error) {
	v, err := types.ParseDecimal(s)
	digits := strings.TrimPrefix(s, "-")
	if err == nil && (digits[0] == '+' || digits[0] == '0' && digits[1] != '.') {
		err = errors.New("a plus or a leading zero")
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not a decimal number with one to four places", clip(s))
	}
	return v, nil
}
