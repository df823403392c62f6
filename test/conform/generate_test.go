package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// A generator writes policies and requests of the supported language. Values are
// drawn from small pools, so that comparisons are often equal, and one choice in
// a while is of the wrong type, so that evaluation errors are common.
type generator struct{ *rand.Rand }

func newGenerator(data []byte) *generator { return &generator{roll(data)} }

func seeded(seed uint64) *generator { return newGenerator(number(seed)) }

func (g *generator) policies() string {
	var b strings.Builder
	if g.IntN(2) == 0 {
		return g.alike()
	}
	for range 2 + g.IntN(8) {
		fmt.Fprintf(&b, "%s (%s, %s, %s)", pick(g, "permit", "permit", "permit", "forbid"), g.principal(), g.action(), g.resource())
		for range g.IntN(3) {
			fmt.Fprintf(&b, "\n%s { %s }", pick(g, "when", "when", "unless"), g.boolean(3))
		}
		b.WriteString(";\n")
	}
	return b.String()
}

// alike writes many policies that ask for different values of the same few things, which
// is what the index of a program tells apart.
func (g *generator) alike() string {
	var b strings.Builder
	about := []string{pick(g, "id", "tag", "acr", "level"), pick(g, "hour", "amount", "q", "weekday"), pick(g, "method", "subject", "rank", "tag")}[:1+g.IntN(3)]
	for range 8 + g.IntN(16) {
		fmt.Fprintf(&b, "%s (%s, action, %s)", pick(g, "permit", "permit", "forbid"), pick(g, "principal", "principal", "principal", g.principal()), pick(g, "resource", "resource", "resource", g.resource()))
		for range 1 + g.IntN(2) {
			list := []string{g.demand(pick(g, about...))}
			if g.IntN(3) == 0 {
				list = append([]string{pick(g, g.boolean(1), "context.hour < 23", "context.amount < 5000", "context.ip.isIpv4()", "!context.from.isIpv4()", "context.flag", "context has tag", "context has q && context.q > 0")}, list...)
			}
			if g.IntN(3) == 0 {
				list = append(list, g.demand(pick(g, about...)))
			}
			fmt.Fprintf(&b, " %s { %s }", pick(g, "when", "when", "when", "unless"), strings.Join(list, " && "))
		}
		b.WriteString(";\n")
	}
	return b.String()
}

// demand writes a condition on an attribute, or on who asks or what for.
func (g *generator) demand(name string) string {
	path := "context." + name
	value := func() string {
		if g.IntN(12) > 0 && slices.Contains([]string{"hour", "amount", "q", "weekday", "rank"}, name) {
			return pick(g, "0", "1", "(-1)", "11", "12", "5000", "4294967295", "4294967296")
		}
		return pick(g, `""`, `"a"`, `"ab"`, `"aba"`, `"elevated"`, `"GET"`, "12", g.user())
	}
	switch g.IntN(10) {
	case 0:
		return "principal in " + pick(g, g.group(), "["+g.group()+", "+g.user()+"]")
	case 1:
		return pick(g, "principal == "+g.user(), "resource in ["+g.part()+"]", "resource == "+g.route(), "principal is User")
	case 2, 3:
		return fmt.Sprintf("(context has %s && %s == %s)", name, path, value())
	case 4:
		return fmt.Sprintf("[%s, %s].contains(%s)", value(), pick(g, value(), value(), `"a"`, "12", g.user()), path)
	case 5:
		return fmt.Sprintf("(%s == %s || %s == %s)", path, value(), value(), path)
	case 6:
		return fmt.Sprintf("(context has %s || context.hour > 11) && %s == %s", name, path, value())
	}
	return path + " == " + value()
}

func (g *generator) user() string  { return "User::" + cedarString(pick(g, users...)) }
func (g *generator) group() string { return "Group::" + cedarString(pick(g, groups...)) }
func (g *generator) route() string { return fmt.Sprintf("Route::%q", pick(g, routes...).Name) }
func (g *generator) part() string  { return fmt.Sprintf("RouteGroup::%q", pick(g, "g0", "g1", "g2")) }

func (g *generator) principal() string {
	return pick(g, "principal", "principal", "principal", "principal", "principal is User", "principal == "+g.user(), "principal in "+g.group(), "principal in "+g.user(),
		"principal is User", "principal is User in "+g.group(), "principal is Group in "+g.group(), "principal is Group", "principal == "+g.group())
}

func (g *generator) action() string {
	return pick(g, "action", "action", "action", "action", `action == Action::"call"`, `action in [Action::"call", Action::"other"]`, `action == Action::"other"`)
}

func (g *generator) resource() string {
	return pick(g, "resource", "resource", "resource", "resource", "resource == "+g.route(), "resource in "+g.part(), "resource is Route", "resource is User in "+g.part(), "resource is Route in "+g.part(), "resource in "+g.route())
}

// any writes an expression of any type.
func (g *generator) any(depth int) string {
	return pick(g, g.boolean, g.long, g.text, g.entity, g.ip, g.decimal, g.set)(depth)
}

// wild writes an expression of the wanted type, nearly always.
func (g *generator) wild(depth int, want func(int) string) string {
	if g.IntN(30) == 0 {
		return g.any(depth)
	}
	return want(depth)
}

func (g *generator) boolean(depth int) string {
	if depth <= 0 {
		return "(" + pick(g, "true", "false", "context has amount", "context has q", "context has nothing", "context has flag && context.flag", "context.hour < 12",
			`context.level == "elevated"`, "principal in "+g.group(), "resource in "+g.part(), "context.flag",
			"context has mfa && context.mfa", "context.mfa", "context has acr", "context.verified", "context has spiffe", "context.weekday > 5") + ")"
	}
	d := depth - 1
	b, l, t, e, i, m, s := func() string { return g.wild(d, g.boolean) }, func() string { return g.wild(d, g.long) }, func() string { return g.wild(d, g.text) },
		func() string { return g.wild(d, g.entity) }, func() string { return g.wild(d, g.ip) }, func() string { return g.wild(d, g.decimal) }, func() string { return g.wild(d, g.set) }
	switch g.IntN(20) {
	case 0, 1:
		return fmt.Sprintf("(%s && %s)", b(), b())
	case 2, 3:
		return fmt.Sprintf("(%s || %s)", b(), b())
	case 4:
		return fmt.Sprintf("(%s && %s && %s || %s)", b(), b(), b(), b())
	case 5:
		return "!(" + b() + ")"
	case 6:
		return fmt.Sprintf("(if %s then %s else %s)", b(), b(), b())
	case 7, 8:
		return fmt.Sprintf("(%s %s %s)", l(), pick(g, "<", "<=", ">", ">="), l())
	case 9, 10:
		same := pick(g, g.boolean, g.long, g.text, g.entity, g.ip, g.decimal, g.set)
		return fmt.Sprintf("(%s %s %s)", g.wild(d, same), pick(g, "==", "!="), g.wild(d, same))
	case 11:
		return fmt.Sprintf("(%s like %s)", t(), pick(g, `"*"`, `"a*"`, `"*a*"`, `"a\*"`, `"*b"`, `""`, `"a*b*a"`, `"\\*"`, `"é*"`, `"**x"`))
	case 12:
		return fmt.Sprintf("(%s in %s)", e(), pick(g, e(), s(), "["+e()+", "+e()+"]"))
	case 13:
		return fmt.Sprintf("(%s is %s)", e(), pick(g, "User", "Route", "Group", "Action"))
	case 14:
		return fmt.Sprintf("(%s is %s in %s)", e(), pick(g, "User", "Route"), pick(g, e(), "["+e()+"]"))
	case 15:
		return fmt.Sprintf("(%s).contains(%s)", s(), g.any(d))
	case 16:
		return fmt.Sprintf("(%s).%s(%s)", s(), pick(g, "containsAll", "containsAny"), s())
	case 17:
		return "(" + s() + ").isEmpty()"
	case 18:
		return pick(g, fmt.Sprintf("(%s).isInRange(%s)", i(), i()), fmt.Sprintf("(%s).%s()", i(), pick(g, "isIpv4", "isIpv6", "isLoopback", "isMulticast")))
	}
	return fmt.Sprintf("(%s).%s(%s)", m(), pick(g, "lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"), m())
}

func (g *generator) long(depth int) string {
	if depth <= 0 {
		return pick(g, "0", "1", "-1", "12", "5000", "9223372036854775807", "-9223372036854775808", "context.hour", "context.amount", "context.q", "context.amount", "context.minute", "context.weekday", "context.rank")
	}
	d := depth - 1
	switch g.IntN(6) {
	case 0, 1:
		return g.long(0)
	case 2:
		return fmt.Sprintf("(if %s then %s else %s)", g.wild(d, g.boolean), g.wild(d, g.long), g.wild(d, g.long))
	case 3:
		return "(-(" + g.wild(d, g.long) + "))"
	}
	return fmt.Sprintf("(%s %s %s)", g.wild(d, g.long), pick(g, "+", "-", "*"), g.wild(d, g.long))
}

func (g *generator) text(depth int) string {
	if depth > 0 && g.IntN(5) == 0 {
		return fmt.Sprintf("(if %s then %s else %s)", g.wild(depth-1, g.boolean), g.text(depth-1), g.text(depth-1))
	}
	return pick(g, `""`, `"a"`, `"ab"`, `"a*"`, `"aba"`, `"é"`, `"elevated"`, "context.level", "context.id", "context.tag", "context.method", "context.acr", "context.spiffe", "context.dns", "context.subject")
}

func (g *generator) entity(depth int) string {
	if depth > 0 && g.IntN(6) == 0 {
		return fmt.Sprintf("(if %s then %s else %s)", g.wild(depth-1, g.boolean), g.entity(depth-1), g.entity(depth-1))
	}
	return pick(g, "principal", "principal", "resource", "action", g.user(), g.group(), g.route(), g.part(), `Action::"call"`, `Other::"x"`)
}

func (g *generator) ip(int) string {
	return pick(g, "context.ip", "context.ip", "context.from", `ip("10.1.2.3")`, `ip("10.0.0.0/8")`, `ip("127.0.0.1")`, `ip("::1")`, `ip("224.0.0.0/3")`, `ip("ff00::/8")`,
		`ip("0.0.0.0/0")`, `ip("::/0")`, `ip("::ffff:7f00:1")`, `ip("10.1.2.3/8")`)
}

func (g *generator) decimal(int) string {
	return pick(g, "context.price", "context.limit", `decimal("0.0")`, `decimal("1.50")`, `decimal("-0.0001")`, `decimal("922337203685477.5807")`, `decimal("-922337203685477.5808")`)
}

func (g *generator) set(depth int) string {
	if depth > 0 && g.IntN(6) == 0 {
		return fmt.Sprintf("(if %s then %s else %s)", g.wild(depth-1, g.boolean), g.set(depth-1), g.set(depth-1))
	}
	of := pick(g, g.long, g.text, g.entity, g.any)
	if depth > 1 && g.IntN(4) == 0 {
		of = g.set
	}
	var list []string
	for range g.IntN(4) {
		list = append(list, g.wild(depth-1, of))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (g *generator) request() request {
	r := request{user: pick(g, append(slices.Clone(users), "nobody in particular")...), route: g.IntN(len(routes)), level: g.IntN(len(levels)), values: map[string]cedar.Value{}}
	for _, name := range groups {
		if g.IntN(3) == 0 {
			r.groups = append(r.groups, name)
		}
	}
	for _, a := range attributes {
		if a.Name == "level" || a.Optional && g.IntN(3) == 0 {
			continue
		}
		r.values[a.Name] = g.value(a.Name)
	}
	r.values["minute"] = 60*r.values["hour"].(cedar.Long) + cedar.Long(pick(g, 0, 1, 30, 59))
	// A token without the claim of mfa does not say mfa; without a token nobody
	// knows.
	withToken := g.IntN(4) > 0
	if delete(r.values, "mfa"); withToken {
		r.values["mfa"] = cedar.Boolean(g.IntN(2) == 0)
	}
	for _, name := range claims {
		if !withToken {
			delete(r.values, name)
		}
	}
	return r
}

func (g *generator) value(name string) cedar.Value {
	switch name {
	case "hour":
		return cedar.Long(pick(g, 0, 1, 11, 12, 23))
	case "weekday":
		return cedar.Long(1 + g.IntN(7))
	case "spiffe", "dns", "subject": // an empty one is none
		return cedar.String(pick(g, "a", "ab", "spiffe://acme/a", "elevated"))
	case "amount", "q", "rank":
		return cedar.Long(pick(g, 0, 1, -1, 12, 5000, 1<<32-1, 1<<32, 9223372036854775807, -9223372036854775808, g.Int64()))
	case "flag", "verified", "mfa":
		return cedar.Boolean(g.IntN(2) == 0)
	case "price", "limit":
		return must(types.ParseDecimal(pick(g, "0.0", "1.5", "-0.0001", "922337203685477.5807", "-922337203685477.5808", strconv.Itoa(g.IntN(10))+".25")))
	case "ip":
		return must(types.ParseIPAddr(pick(g, "10.1.2.3", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "192.0.2.1")))
	case "from":
		return must(types.ParseIPAddr(pick(g, "10.1.2.3", "10.0.0.0/8", "::/0", "224.0.0.0/3", "224.0.0.0/4", "127.0.0.0/8", "::ffff:7f00:1")))
	case "method":
		return cedar.String(pick(g, "GET", "POST", "a"))
	}
	return cedar.String(pick(g, "", "a", "ab", "aba", "abxa", "a*", "elevated", "é", "éa", "b"))
}
