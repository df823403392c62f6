package policy_test

import (
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// What the request line shows is taken from it, as the image would.
func TestWhyReadsTheRequestLine(t *testing.T) {
	text := replace(t, base,
		"{name: buy, match: {method: POST, path: \"/items/{id}/orders\"}}", "{name: buy, match: {method: \"*\", path: \"/items/{id}/{rest...}\"}}",
		`count: "body.json:/count"`, "count: query.count\n    verb: request.method\n    below: route.rest\n    price: header.x-price",
		`"count"?: Long`, `"count"?: Long, "verb": String, "below": String, "price"?: decimal`,
		"context.count < 10", `context.count < 10 && context.verb == "PUT" && context.below == "a/b c" && context has price && context.price.lessThan(decimal("9.99"))`)
	b, err := parse("", text)
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	price := set("price", "5.50")
	cases := []struct {
		name string
		q    policy.Query
		want string // the rule
	}{
		{"all hold", policy.Query{Request: "PUT /items/7/a/b%20c?count=5", Set: price}, "may-buy"},
		{"another method", policy.Query{Request: "POST /items/7/a/b%20c?count=5", Set: price}, abi.RuleAuthz},
		{"another tail", policy.Query{Request: "PUT /items/7/a/b?count=5", Set: price}, abi.RuleAuthz},
		{"an empty tail", policy.Query{Request: "PUT /items/7?count=5", Set: price}, abi.RuleAuthz},
		{"no count", policy.Query{Request: "PUT /items/7/a/b%20c", Set: price}, abi.RuleAuthz},
		{"count twice", policy.Query{Request: "PUT /items/7/a/b%20c?count=5&count=6", Set: price}, abi.RuleRequest},
		{"count that is no number", policy.Query{Request: "PUT /items/7/a/b%20c?count=05", Set: price}, abi.RuleRequest},
		{"a query in disguise", policy.Query{Request: "PUT /items/7/a/b%20c?count=5;x", Set: price}, abi.RuleRequest},
		{"a header not set", policy.Query{Request: "PUT /items/7/a/b%20c?count=5"}, abi.RuleAuthz},
		{"a method that is not served", policy.Query{Request: "TRACE /items/7/a", Set: price}, abi.RuleRequest},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.q.User = "ann"
			a, err := d.Why(c.q)
			if err != nil || a.Rule.ID != c.want || (a.Verdict == abi.Allow) != (c.want == "may-buy") {
				t.Errorf("got %+v, %v; want %s", a, err, c.want)
			}
		})
	}
}

// Every value has one spelling: what one parser repairs, another refuses.
func TestParseValue(t *testing.T) {
	cases := []struct {
		typ  authz.Type
		good string
		bad  string
	}{
		{authz.TypeString, "a, ,\x00", ""},
		{authz.TypeLong, "0,-1,9223372036854775807,-9223372036854775808", "+1,01,-0,1.0,9223372036854775808,1_000,0x1,five"},
		{authz.TypeBool, "true,false", "True,1,yes"},
		{authz.TypeIP, "10.0.0.1,10.0.0.0/8,::1,2001:db8::/32", "10.0.0,::ffff:10.0.0.1,fe80::1%eth0,localhost"},
		{authz.TypeDecimal, "0.0,1.50,-3.1415,922337203685477.5807", "1,1.,.5,1.00000,+1.0,01.0,-01.0,1e3"},
		{0, "", "a"},
	}
	for _, c := range cases {
		for s := range strings.SplitSeq(c.good, ",") {
			if _, err := policy.ParseValue(authz.Attribute{Type: c.typ}, s); err != nil && c.good != "" {
				t.Errorf("type %d: %q: %v", c.typ, s, err)
			}
		}
		for s := range strings.SplitSeq(c.bad, ",") {
			if v, err := policy.ParseValue(authz.Attribute{Type: c.typ}, s); err == nil && c.bad != "" {
				t.Errorf("type %d: %q was read as %v", c.typ, s, v)
			}
		}
	}
}
