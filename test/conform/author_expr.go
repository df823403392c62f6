package main

import (
	"fmt"
	"strings"
)

// literal writes a constant of a kind.
func (a *author) literal(kind string) string {
	parsed := func(f string, good, bad []string) string {
		if a.IntN(12) == 0 {
			good = bad
		}
		return fmt.Sprintf("%s(%s)", f, cedarString(pick(a, good...)))
	}
	few := a.focus != nil && a.IntN(4) > 0 // so that policies ask for the same
	switch kind {
	case "string":
		if few {
			return pick(a, strs[:6]...)
		}
		return pick(a, strs...)
	case "long":
		if few {
			return pick(a, "0", "1", "2", "4294967295", "4294967296", "4294967297")
		}
		return pick(a, longs...)
	case "bool":
		return pick(a, "true", "false")
	case "entity":
		return a.uid().source()
	case "ip":
		return parsed("ip", ips, noIPs)
	case "decimal":
		return parsed("decimal", decs, noDecs)
	case "datetime":
		return parsed("datetime", times, noTimes)
	case "duration":
		return parsed("duration", spans, noSpans)
	case "set":
		var list []string
		of := pick(a, kinds[:11]...)
		for range a.IntN(4) {
			list = append(list, a.literal(of))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	var list []string
	for _, k := range kinds {
		if n := pick(a, named[k]...); a.IntN(5) == 0 && !strings.Contains(strings.Join(list, " "), name(n)+":") {
			list = append(list, name(n)+": "+a.literal(pick(a, k, k, "string", "long")))
		}
	}
	return "{" + strings.Join(list, ", ") + "}"
}

// expr writes an expression of a kind, nearly always.
func (a *author) expr(kind string, depth int) string {
	if a.IntN(a.wrong) == 0 {
		kind = pick(a, kinds...)
	}
	if depth <= 0 {
		return a.leaf(kind)
	}
	d := depth - 1
	switch a.IntN(12) {
	case 0, 1, 2:
		return a.leaf(kind)
	case 3:
		return fmt.Sprintf("(if %s then %s else %s)", a.boolean(d), a.expr(kind, d), a.expr(kind, d))
	case 4:
		if kind != "bool" { // of a record that is made here
			n := pick(a, named[kind]...)
			return fmt.Sprintf("{%s: %s, %s: %s}%s", name(n), a.expr(kind, d), "other", a.expr(pick(a, kinds...), d), get(n))
		}
	case 5:
		return fmt.Sprintf("%s.getTag(%s)", a.expr("entity", d), a.tag(kind, d))
	case 6:
		return a.expr("record", d) + get(pick(a, named[kind]...))
	}
	switch kind {
	case "bool":
		return a.boolean(depth)
	case "long":
		switch a.IntN(6) {
		case 0:
			return "(-(" + a.expr("long", d) + "))"
		case 1:
			return a.expr("duration", d) + "." + pick(a, "toMilliseconds", "toSeconds", "toMinutes", "toHours", "toDays") + "()"
		}
		return fmt.Sprintf("(%s %s %s)", a.expr("long", d), pick(a, "+", "-", "*"), a.expr("long", d))
	case "datetime":
		switch a.IntN(3) {
		case 0:
			return fmt.Sprintf("%s.offset(%s)", a.expr("datetime", d), a.expr("duration", d))
		case 1:
			return a.expr("datetime", d) + ".toDate()"
		}
		return "datetime(" + a.expr("string", d) + ")"
	case "duration":
		switch a.IntN(3) {
		case 0:
			return fmt.Sprintf("%s.durationSince(%s)", a.expr("datetime", d), a.expr("datetime", d))
		case 1:
			return a.expr("datetime", d) + ".toTime()"
		}
		return "duration(" + a.expr("string", d) + ")"
	case "ip":
		return "ip(" + a.expr("string", d) + ")"
	case "decimal":
		return "decimal(" + a.expr("string", d) + ")"
	case "set":
		of := pick(a, kinds...)
		var list []string
		for range a.IntN(5) {
			list = append(list, a.expr(of, d))
		}
		return "[" + strings.Join(list, ", ") + "]"
	case "record":
		var list []string
		for i, k := range []string{pick(a, kinds...), pick(a, kinds...), pick(a, kinds...)} {
			if a.IntN(2) == 0 {
				n := named[k][0]
				if strings.Contains(strings.Join(list, " "), name(n)+":") {
					n = fmt.Sprint("member", i)
				}
				list = append(list, name(n)+": "+a.expr(k, d))
			}
		}
		return "{" + strings.Join(list, ", ") + "}"
	}
	return a.leaf(kind)
}

// leaf writes a constant or what a path leads to.
func (a *author) leaf(kind string) string {
	switch n := a.IntN(5); {
	case n < 2:
		return a.literal(kind)
	case kind == "record" && n == 2:
		return "context"
	case kind == "string" && n == 2: // which a parser may take
		return cedarString(pick(a, pick(a, ips, noIPs, decs, noDecs, times, noTimes, spans, noSpans)...))
	}
	path, _ := a.path(kind)
	return path
}

func (a *author) tag(kind string, depth int) string {
	if a.IntN(5) == 0 {
		return a.expr("string", depth)
	}
	return cedarString(pick(a, named[kind]...))
}

func (a *author) boolean(depth int) string {
	if a.IntN(a.wrong) == 0 {
		return a.leaf(pick(a, kinds...))
	}
	if depth <= 0 {
		kind := pick(a, kinds...)
		path, guard := a.path(kind)
		return pick(a, "("+guard+")", "("+a.demand(kind, path)+")", a.leaf("bool"))
	}
	d := depth - 1
	b := func() string { return a.boolean(d) }
	e := func(kind string) string { return a.expr(kind, d) }
	any := pick(a, kinds...)
	switch a.IntN(20) {
	case 0, 1:
		return fmt.Sprintf("(%s && %s)", b(), b())
	case 2, 3:
		return fmt.Sprintf("(%s || %s)", b(), b())
	case 4:
		return fmt.Sprintf("(%s && %s || %s && !%s)", b(), b(), b(), b())
	case 5:
		return "!(" + b() + ")"
	case 6:
		return fmt.Sprintf("(if %s then %s else %s)", b(), b(), b())
	case 7:
		kind := pick(a, "long", "long", "datetime", "duration")
		return fmt.Sprintf("(%s %s %s)", e(kind), pick(a, "<", "<=", ">", ">="), e(kind))
	case 8, 9:
		return fmt.Sprintf("(%s %s %s)", e(any), pick(a, "==", "!="), e(any))
	case 10:
		return fmt.Sprintf("(%s like %s)", e("string"), pick(a, stars...))
	case 11:
		return fmt.Sprintf("(%s in %s)", e("entity"), pick(a, e("entity"), e("set"), "["+e("entity")+", "+e("entity")+"]"))
	case 12:
		return fmt.Sprintf("(%s is %s)", e("entity"), pick(a, classes...))
	case 13:
		return fmt.Sprintf("(%s is %s in %s)", e("entity"), pick(a, classes...), pick(a, e("entity"), e("set")))
	case 14:
		return fmt.Sprintf("%s.contains(%s)", e("set"), e(any))
	case 15:
		return fmt.Sprintf("%s.%s(%s)", e("set"), pick(a, "containsAll", "containsAny"), e("set"))
	case 16:
		return e("set") + ".isEmpty()"
	case 17:
		return pick(a, fmt.Sprintf("%s.isInRange(%s)", e("ip"), e("ip")), fmt.Sprintf("%s.%s()", e("ip"), pick(a, "isIpv4", "isIpv6", "isLoopback", "isMulticast")),
			fmt.Sprintf("%s.%s(%s)", e("decimal"), pick(a, "lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"), e("decimal")))
	case 18:
		t := a.tag(any, d)
		of := e("entity")
		return pick(a, fmt.Sprintf("%s.hasTag(%s)", of, t), fmt.Sprintf("(%s.hasTag(%s) && %s.getTag(%s) == %s)", of, t, of, t, a.literal(any)))
	}
	return fmt.Sprintf("(%s has %s)", e(pick(a, "record", "entity")), name(pick(a, named[any]...)))
}
