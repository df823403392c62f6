package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// An author writes policies of the whole language, entities and requests. Names and values
// come from small pools, so that policies are about the same things and comparisons are
// often equal; one choice in a while has the wrong type, so that evaluation fails often.
type author struct {
	*rand.Rand
	wrong int     // one choice in so many is of any type
	focus []place // what most policies of a set are about, if they are about the same

	contexts []types.Record // of requests so far
}

// A place is a path that policies look at, and how they know that it is there.
type place struct{ kind, path, guard string }

func newAuthor(data []byte) *author {
	a := &author{Rand: roll(data)}
	a.wrong = pick(a, 8, 40, 400)
	return a
}

// What names stand for, nearly always: the same in contexts, entities and records.
var named = map[string][]string{
	"string":   {"x", "y", "odd name"},
	"long":     {"n", "m"},
	"bool":     {"b", "flag"},
	"entity":   {"who", "owner"},
	"ip":       {"ip"},
	"decimal":  {"dec"},
	"datetime": {"at"},
	"duration": {"span"},
	"set":      {"set", "ids"},
	"record":   {"rec", "deep"},
}

var (
	indexed = []string{"string", "string", "string", "string", "entity", "entity", "entity", "long", "long", "bool", "ip", "decimal", "datetime"}
	kinds   = []string{"string", "string", "string", "long", "long", "bool", "entity", "entity", "ip", "decimal", "datetime", "duration", "set", "record"}
	strs    = []string{`""`, `"a"`, `"b"`, `"c"`, `"ab"`, `"a*"`, `"aba"`, `"é"`, `"\\"`, `"\u{0}"`, `"never anywhere"`, `"d"`, `"e"`, `"f"`, `"User"`, `"x"`}
	longs   = []string{"0", "1", "2", "3", "4", "(-1)", "7", "4294967295", "4294967296", "4294967297", "9223372036854775807", "(-9223372036854775808)"}
	ips     = []string{"10.1.2.3", "10.0.0.0/8", "10.1.2.3/8", "127.0.0.1", "::1", "::/0", "0.0.0.0/0", "224.0.0.0/3", "224.0.0.0/4", "ff00::/8", "::ffff:7f00:1", "2001:db8::1/32"}
	noIPs   = []string{"", "10.0.0.256", "::ffff:1.2.3.4", "fe80::1%eth0", "1.2.3.4/33", "1.2.3", "01.2.3.4", "1.2.3.4/08", "1.2.3.4/", ":::1", "10.1.2.3/-1", "::1/129"}
	decs    = []string{"0.0", "1.5", "1.50", "-0.0001", "-1.5", "922337203685477.5807", "-922337203685477.5808", "+1.5", "01.5"}
	noDecs  = []string{"", "1", "1.", ".5", "1.23456", "922337203685477.5808", "-922337203685477.5809", "1.5e3", "--1.5", "1.+5", "１.5", "-.5", "1_0.5", "- 1.5"}
	times   = []string{"1970-01-01", "2024-02-29", "2024-10-15T11:35:00Z", "2024-10-15T11:35:00.123Z", "2024-10-15T11:35:00+0100", "2024-10-15T11:35:00.000-2359", "1969-12-31T23:59:59.999Z", "9999-12-31", "0000-01-01", "-000000001-01-01", "+000012024-10-15", "+292277026-01-01T00:00:00Z", "+292278994-08-17T07:12:55.807Z", "-292275055-05-16"}
	noTimes = []string{"", "2024-02-30", "2023-02-29", "2024-13-01", "2024-10-15T24:00:00Z", "2024-10-15T11:35:00", "2024-10-15T11:35Z", "2024-10-15T11:35:00.12Z", "2024-10-15T11:35:00+01:00", "2024-10-15T11:35:00+2400", "24-10-15", "2024-10-15Z", "+999999999-01-01", "-999999999-01-01", "2024-10-15T11:35:60Z", "2024-10-15 11:35:00Z", "2024-1-15", "+292278994-08-17T07:12:55.808Z", "2024-00-10", "2024-10-00", "2024-10-15T11:35:00z"}
	spans   = []string{"0ms", "1d", "1d2h3m4s5ms", "-1h", "90m", "1000ms", "9223372036854775807ms", "24h", "-1d12h", "-9223372036854775807ms", "0d", "86400000ms"}
	noSpans = []string{"", "1", "d", "1h1d", "1d1d", "9223372036854775808ms", "1.5h", "-", "--1h", "+1h", "106751991168d", "1w", "1m5", "-9223372036854775808ms", "1 h", "5msms", "5ms5s"}
	stars   = []string{`"*"`, `"a*"`, `"*a*"`, `"a\*"`, `"*b"`, `""`, `"a*b*a"`, `"\\*"`, `"é*"`, `"**"`, `"*\**"`, `"a**"`, `"\u{0}"`, `"*é"`, `"a"`, `"\\\*"`}
	classes = []string{"User", "Group", "Doc", "NS::Thing", "Action", "Ghost"}
)

// uids are entities in the order of the hierarchy: one is in some of those after it.
var uids = func() (list []uid) {
	for i := range 6 {
		list = append(list, uid{"User", string(rune('a' + i))})
	}
	for i := range 4 {
		list = append(list, uid{"Doc", string(rune('a' + i))})
	}
	list = append(list, uid{"Action", "read"}, uid{"Action", "write"}, uid{"NS::Thing", ""}, uid{"NS::Thing", `"q"`})
	for i := range 6 {
		list = append(list, uid{"Group", string(rune('a' + i))})
	}
	return append(list, uid{"Action", "all"}, uid{"Doc", "root"}, uid{"Ghost", "a"}, uid{"User", "nobody"}, uid{"Group", "none"})
}()

func (u uid) source() string { return u.Type + "::" + cedarString(u.ID) }

func (a *author) uid(of ...string) uid {
	for range 50 {
		u := pick(a, uids...)
		for _, t := range of {
			if u.Type == t {
				return u
			}
		}
		if len(of) == 0 {
			return u
		}
	}
	return uids[0]
}

func (a *author) policies() string {
	var b strings.Builder
	count := pick(a, 1, 4, 8, 8, 16, 16, 24, 40)
	a.wrong, a.focus = pick(a, 8, 40, 400), nil
	if count > 4 && a.IntN(4) > 0 {
		for range pick(a, 1, 1, 2, 3) {
			kind := pick(a, "string", "entity", "long", pick(a, indexed...))
			path, guard := a.path(kind)
			if n := pick(a, named[kind]...); a.IntN(3) > 0 {
				path, guard = "context"+get(n), "context has "+name(n)
			}
			a.focus = append(a.focus, place{kind, path, guard})
		}
	}
	for range count {
		b.WriteString(a.policy())
		b.WriteByte('\n')
	}
	return b.String()
}

func (a *author) policy() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s, %s, %s)", pick(a, "permit", "permit", "forbid"), a.scope("principal"), a.scope("action"), a.scope("resource"))
	conditions, more := []int{0, 1, 1, 1, 1, 2, 2, 3}, []int{0, 0, 1, 1, 2, 3}
	if a.focus != nil { // fewer, that they hold more often
		conditions, more = []int{1, 1, 1, 2}, []int{0, 0, 0, 0, 1, 2}
	}
	for range pick(a, conditions...) {
		body := a.clause()
		if a.focus != nil && a.IntN(4) == 0 {
			body = a.before() + " && " + body
		}
		for range pick(a, more...) {
			body += " && " + a.clause()
		}
		fmt.Fprintf(&b, " %s { %s }", pick(a, "when", "when", "when", "when", "unless"), body)
	}
	b.WriteByte(';')
	return b.String()
}

func (a *author) scope(v string) string {
	if a.focus != nil && a.IntN(6) > 0 {
		return v
	}
	of := []string{"User", "Group"}
	switch v {
	case "action":
		of = []string{"Action"}
	case "resource":
		of = []string{"Doc", "NS::Thing"}
	}
	if a.IntN(12) == 0 {
		of = nil
	}
	e := func() string { return a.uid(of...).source() }
	switch a.IntN(12) {
	case 0, 1:
		return v + " == " + e()
	case 2, 3:
		return v + " in " + e()
	case 4:
		if v == "action" {
			var list []string
			for range a.IntN(4) {
				list = append(list, e())
			}
			return v + " in [" + strings.Join(list, ", ") + "]"
		}
		return v + " is " + pick(a, classes...)
	case 5:
		if v != "action" {
			return v + " is " + pick(a, classes...) + " in " + e()
		}
	}
	return v
}

// clause writes one operand of &&, often one that an index can make use of.
func (a *author) clause() string {
	var at place
	switch {
	case a.focus != nil && a.IntN(4) > 0:
		at = pick(a, a.focus...)
	case a.focus != nil && a.IntN(2) == 0:
		return a.before()
	case a.IntN(5) == 0:
		return a.plain()
	case a.IntN(3) == 0:
		return a.boolean(pick(a, 0, 1, 2, 3, 4))
	default:
		at.kind = pick(a, indexed...)
		at.path, at.guard = a.path(at.kind)
	}
	kind, path, guard := at.kind, at.path, at.guard
	demand := a.demand(kind, path)
	switch a.IntN(10) {
	case 0, 1, 2, 3:
		return "(" + guard + " && " + demand + ")"
	case 4:
		return guard + " && " + demand // guards that later clauses rest on too
	case 7:
		return fmt.Sprintf("(%s || %s) && %s", guard, pick(a, "context has n", "true", "principal is User"), demand) // which says nothing of what is there
	case 5:
		return fmt.Sprintf("(if %s then %s else %s)", guard, demand, pick(a, "true", "false", a.boolean(1)))
	case 6:
		return "(!(" + guard + ") || " + demand + ")"
	}
	return "(" + demand + ")"
}

// before writes what never faults, or may, in front of what an index can make use of.
func (a *author) before() string {
	return pick(a, "true", "3", "context has x", "principal is User", "context == context", "!(principal == resource)", `context.x != "a"`, "principal.b", "context.n < 3", "context.n == context.m",
		"1 + 1 == 2", `[1, "a"].contains(context)`, "(context has x || context has y)", "principal in resource", "!(context has n && context.n < 3)", "!(context has n && context.n)",
		"context.who is User", "(context.who is User || true)", "(context.rec has x || true)", "!(context.rec.x has y)", "context.rec has x", "(true || context.n)", `(context.x like "*")`, "!(context.ip.isIpv6())")
}

// plain writes what deep expressions rarely come to: overflow, texts that are parsed, and
// sets that are made of equal values.
func (a *author) plain() string {
	path := func(kind string) string { p, _ := a.path(kind); return pick(a, "context."+named[kind][0], p) }
	n := func() string { return pick(a, path("long"), pick(a, longs...)) }
	switch a.IntN(7) {
	case 3:
		return path("string") + " like " + pick(a, stars...)
	case 4:
		return fmt.Sprintf("(true && %s) == %s", path("long"), path("long"))
	case 5:
		return path("datetime") + pick(a, ".toDate() == context.at", ".toTime() < context.span", ".toTime().toHours() > 0", `.toDate() < datetime("1970-01-01")`)
	case 0:
		return fmt.Sprintf("(%s %s %s) %s %s", n(), pick(a, "+", "-", "*"), n(), pick(a, "==", "<", ">=", "!="), n())
	case 1:
		return fmt.Sprintf("-(%s) %s %s", n(), pick(a, "==", "<", "!="), n())
	case 2:
		x, y := path("string"), pick(a, path("long"), path("string"), path("set"))
		return fmt.Sprintf("[%s, %s, %s, %s]%s", x, y, x, pick(a, strs...), pick(a, " == ["+y+", "+x+", "+x+"]", ".containsAll(["+y+", "+y+"])", " == ["+x+", "+y+"]", ".containsAny(context.set)"))
	}
	of := pick(a, [3]string{"ip", "ip", "ip"}, [3]string{"decimal", "decimal", "dec"}, [3]string{"datetime", "datetime", "at"}, [3]string{"duration", "duration", "span"})
	return fmt.Sprintf("%s(%s) %s %s", of[0], pick(a, "context.y", path("string")), pick(a, "==", "!="), pick(a, a.literal(of[1]), "context."+of[2], of[0]+"(context.y)"))
}

// demand writes a condition on one path, as people write them.
func (a *author) demand(kind, path string) string {
	one := func() string {
		if a.IntN(12) == 0 {
			return a.literal(pick(a, kinds...))
		}
		return a.literal(kind)
	}
	some := func() string {
		var list []string
		for range pick(a, 0, 1, 2, 3, 3, 4, 18) {
			list = append(list, one())
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	if kind == "entity" {
		switch a.IntN(8) {
		case 0:
			return path + " in " + a.uid().source()
		case 1:
			return path + " in " + some()
		case 2:
			return path + " is " + pick(a, classes...)
		case 3:
			return path + " is " + pick(a, classes...) + " in " + pick(a, a.uid().source(), some())
		case 4:
			return fmt.Sprintf("(%s in %s || %s in %s)", path, a.uid().source(), path, a.uid().source())
		}
	}
	switch a.IntN(10) {
	case 0:
		return one() + " == " + path
	case 7:
		return fmt.Sprintf("[%s, %s, %s, %s].contains(%s)", one(), a.literal("string"), a.literal("long"), a.literal("entity"), path)
	case 1:
		var list []string
		for range pick(a, 2, 2, 3, 4, 17) {
			list = append(list, pick(a, path+" == "+one(), one()+" == "+path))
		}
		return "(" + strings.Join(list, " || ") + ")"
	case 2, 3:
		return some() + ".contains(" + path + ")"
	case 4:
		other, _ := a.path(kind)
		return fmt.Sprintf("(%s == %s || %s == %s)", path, one(), other, one())
	case 5:
		return fmt.Sprintf("%s(%s == %s)", pick(a, "!", "!!"), path, one())
	case 6:
		return path + " != " + one()
	}
	return path + " == " + one()
}

// path writes what is reached by names, and the test that it is there.
func (a *author) path(kind string) (path, guard string) {
	root := pick(a, "context", "context", "context", "principal", "resource", "principal", "action")
	if kind == "entity" && a.IntN(2) == 0 {
		root = pick(a, "principal", "resource", "action")
		return root, pick(a, "true", root+" == "+root, root+" is User", "context has x")
	}
	var steps []string
	for range pick(a, 0, 0, 0, 0, 1, 1, 2) {
		steps = append(steps, pick(a, named[pick(a, "record", "record", "entity")]...))
	}
	steps = append(steps, pick(a, named[kind]...))
	path, guards := root, []string{}
	dotted := true
	for _, s := range steps {
		guards = append(guards, path+" has "+pick(a, name(s), cedarString(s)))
		path += get(s)
		dotted = dotted && s != "odd name"
	}
	guard = strings.Join(guards, " && ")
	if dotted && a.IntN(2) == 0 {
		guard = root + " has " + strings.Join(steps, ".")
	}
	if a.IntN(10) == 0 {
		guard = guards[0]
	}
	return path, guard
}

func name(s string) string {
	if s == "odd name" {
		return cedarString(s)
	}
	return s
}

func get(s string) string {
	if s == "odd name" {
		return "[" + cedarString(s) + "]"
	}
	return "." + s
}
