package compiler

import (
	"errors"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// with returns the example with one Cedar policy instead of its own.
func with(t testing.TB, text string, attrs ...authz.Attribute) *policy.Deployment {
	t.Helper()
	d := *accounts(t)
	a := *d.Authorization
	a.Attributes = append(append([]authz.Attribute(nil), a.Attributes...), attrs...)
	list, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	a.Rules = nil
	for _, p := range list {
		a.Rules = append(a.Rules, policy.CedarRule{ID: "the-rule", Pos: api.Pos{File: "policy.yaml", Line: 77, Column: 5}, Policy: (*ast.Policy)(p.AST())})
	}
	d.Authorization = &a
	return &d
}

func TestConditionsThatAreRefused(t *testing.T) {
	for name, c := range map[string][2]string{
		"an address that is none": {`ip("10.0.0.256").isIpv4()`, "10.0.0.256"},
		"a decimal that is none":  {`decimal("1.23456") == decimal("1.0")`, "Decimal"},
		"a time that is none":     {`datetime("2024-13-01") < datetime("2025-01-01")`, "month"},
		"a duration that is none": {`duration("1y") < duration("1d")`, "unexpected character"},
		"too few arguments":       {`ip("::1").isInRange()`, "1 arguments"},
		"too much at a time":      {"context.hour > " + strings.Repeat("1 - (context.hour - ", authz.MaxStack) + "1" + strings.Repeat(")", authz.MaxStack), "more than 128 values"},
		"too large a set":         {"[" + strings.Repeat("context.hour, ", authz.MaxElements) + "context.hour].isEmpty()", "the limit is 128"},
		"a constant too deep":     {"context.hour == " + strings.Repeat("[", authz.MaxNesting+2) + strings.Repeat("]", authz.MaxNesting+2), "nested deeper than 32"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(with(t, "permit (principal, action, resource) when { "+c[0]+" };"))
			var errs policy.Errors
			if !errors.As(err, &errs) {
				t.Fatalf("%v", err)
			}
			msg := errs.Error()
			if !strings.HasPrefix(msg, "policy.yaml:77:5: policy the-rule: ") || !strings.Contains(strings.ToLower(msg), strings.ToLower(c[1])) {
				t.Errorf("%s", msg)
			}
		})
	}
}

func TestLongChainsTakeNoRoom(t *testing.T) {
	for _, text := range []string{
		"true" + strings.Repeat(" && context.hour > 1", 1000), "false" + strings.Repeat(" || context.hour > 1", 1000),
		"context.hour" + strings.Repeat(" + 1", 300) + " > 1",
	} {
		if _, err := Compile(with(t, "permit (principal, action, resource) when { "+text+" };")); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestTooManyAttributesIsAnError(t *testing.T) {
	var attrs []authz.Attribute
	for range authz.MaxAttributes {
		attrs = append(attrs, authz.Attribute{Name: "x", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceMethod}})
	}
	if _, err := Compile(with(t, "permit (principal, action, resource);", attrs...)); err == nil || !strings.Contains(err.Error(), "the limit is 64") {
		t.Errorf("%v", err)
	}
}

func TestRulesThatCannotMatchAreInNoRoute(t *testing.T) {
	for _, scope := range []string{
		`principal, action == Action::"other", resource`, `principal is Group, action, resource`, `principal == Group::"staff", action, resource`,
		`principal, action, resource == Route::"gone"`, `principal, action, resource is User`, `principal, action, resource in RouteGroup::"gone"`,
	} {
		out := compile(t, with(t, "permit ("+scope+") when { context.hour > 1 };"))
		for _, r := range out.Levels[0].Routes {
			if len(r.Rules) != 0 || len(r.Attributes) != 0 {
				t.Errorf("%s: %+v", scope, r)
			}
		}
	}
}

func TestDecimalsKeepTheirValue(t *testing.T) {
	for s, want := range map[string]int64{"0.0": 0, "1.5": 15000, "-0.0001": -1, "-1.5": -15000, "922337203685477.5807": 1<<63 - 1, "-922337203685477.5808": -1 << 63} {
		d, err := types.ParseDecimal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := tenThousandths(d); got != want {
			t.Errorf("%s is %d", s, got)
		}
	}
}
