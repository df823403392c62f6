package diff_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A mutant is a policy with one thing changed.
type mutant struct {
	kind, what string
	text       string
}

// A mutator changes what it finds in a part of a policy, one occurrence at a time.
type mutator struct {
	kind string
	part string                                               // "cedar", "entities", or "" for everything before the tests
	at   string                                               // a pattern; what it matches, or its first group, is replaced
	by   func(r *rand.Rand, p *policyText, s string) []string // candidates to replace it
}

// A policyText is a policy whose parts are known.
type policyText struct {
	text            string
	tests           int // where they begin
	entities, cedar [2]int
	names           map[string][]string
}

func textOf(text string) *policyText {
	p := &policyText{text: text, tests: strings.Index(text, "\n  tests:\n") + 1, names: map[string][]string{}}
	block := func(from, to string) [2]int {
		i := strings.Index(text, from)
		if i < 0 {
			return [2]int{}
		}
		return [2]int{i, i + strings.Index(text[i:], to)}
	}
	p.entities = block("    entities: |\n", "    cedar: |\n")
	p.cedar = block("    cedar: |\n", "\n  rateLimits:")
	for what, pattern := range map[string]string{
		"endpoint": `(?m)^    - \{name: ([a-z-]+), cidrs`, "group": `Group::"([a-z]+)"`, "route": `(?m)^    - \{name: (\w+),.* match:`, "routeGroup": `, group: (\w+),`,
	} {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text[:p.tests], -1) {
			if !slices.Contains(p.names[what], m[1]) && !(what == "group" && slices.Contains([]string{"reads", "care", "writes", "money"}, m[1])) {
				p.names[what] = append(p.names[what], m[1])
			}
		}
	}
	p.names["level"] = []string{"normal", "elevated", "lockdown"}
	return p
}

// others are the names of a kind but one.
func others(kind string) func(*rand.Rand, *policyText, string) []string {
	return func(_ *rand.Rand, p *policyText, s string) []string {
		return slices.DeleteFunc(slices.Clone(p.names[kind]), func(n string) bool { return n == s })
	}
}

func to(list ...string) func(*rand.Rand, *policyText, string) []string {
	return func(_ *rand.Rand, _ *policyText, s string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return n == s })
	}
}

func near(_ *rand.Rand, _ *policyText, s string) []string {
	n, _ := strconv.Atoi(s)
	return []string{strconv.Itoa(n + 1), strconv.Itoa(n - 1)}
}

func drop(*rand.Rand, *policyText, string) []string { return []string{""} }

// cidr is a network a bit wider, a bit narrower, and beside it.
func cidr(_ *rand.Rand, _ *policyText, s string) []string {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil
	}
	var out []string
	for _, bits := range []int{p.Bits() - 1, p.Bits() + 1} {
		if q, err := p.Addr().Prefix(bits); err == nil {
			out = append(out, q.String())
		}
	}
	b := p.Addr().AsSlice()
	b[(p.Bits()-1)/8] ^= 0x80 >> ((p.Bits() - 1) % 8)
	a, _ := netip.AddrFromSlice(b)
	return append(out, netip.PrefixFrom(a, p.Bits()).String())
}

var mutators = []mutator{
	{"drop a network rule", "", `(?m)^      - \{name: [a-z-]+, action:.*\n`, drop},
	{"drop a Cedar rule", "cedar", `(?s)      @id\(.*?;\n`, drop},
	{"swap network rules", "", `(?m)^      - \{name: [a-z-]+, action:.*\n      - \{name: .*\n`, swap("\n")},
	{"swap Cedar rules", "cedar", `(?s)      @id\([^@]*@id\([^@]*;\n`, swap("\n\n")},
	{"Allow and Deny", "", `action: (Allow|Deny)`, to("Allow", "Deny")},
	{"permit and forbid", "cedar", `permit|forbid`, to("permit", "forbid")},
	{"a port", "", `port: (\d+)`, near},
	{"a network", "", `[0-9a-f.:]+/\d+`, cidr},
	{"an endpoint of a rule", "", `from: \[([a-z-]+)\]`, func(r *rand.Rand, p *policyText, s string) []string {
		return append(others("endpoint")(r, p, s), "any")
	}},
	{"a level of a rule", "", `, (?:max|min)Level: (\w+)`, others("level")},
	{"no level of a rule", "", `, (?:max|min)Level: \w+`, drop},
	{"a level that was none", "", `(?:from: \[[a-z-]+\]|port: 84\d\d\}\])(\})`, to(", maxLevel: normal}", ", minLevel: elevated}")},
	{"a number", "cedar", `[<>=] (\d+)`, near},
	{"a comparison", "cedar", ` (<=|>=|<|>|==|!=) (?:"|\d|principal)`, to("<", "<=", ">", ">=", "==", "!=")},
	{"&& and ||", "cedar", `&&|\|\|`, to("&&", "||")},
	{"drop a conjunct", "cedar", ` && [^&|(){}]+`, drop},
	{"drop a conjunct before", "cedar", `context has \w+ && `, drop},
	{"when and unless", "cedar", `\b(when|unless) \{`, to("when", "unless")},
	{"a negation", "cedar", `!\(`, to("(")},
	{"a group", "cedar", `Group::"([a-z]+)"\)?,`, others("group")},
	{"anybody instead of a group", "cedar", `principal( in Group::"[a-z]+"),`, drop},
	{"a route", "cedar", `Route::"(\w+)"\)`, others("route")},
	{"every route", "cedar", `resource( == Route::"\w+")\)`, drop},
	{"a group of routes", "cedar", `RouteGroup::"(\w+)"`, func(r *rand.Rand, p *policyText, s string) []string {
		return append(others("routeGroup")(r, p, s), "nothing")
	}},
	{"a text", "cedar", `[=\[,] "(\w+)"`, func(r *rand.Rand, p *policyText, s string) []string { return append(others("level")(r, p, s), s+"s") }},
	{"a network of a condition", "cedar", `ip\("([^"]+)"\)`, cidr},
	{"a source", "", `\b(clock\.hour|clock\.weekday|clock\.minute|body\.json:/\w+|jwt\.amr has "mfa")`, to("clock.minute", "clock.hour", "body.json:/other", `jwt.amr has "otp"`)},
	{"a default", "", `(?:network|authorization): (Deny)\b`, to("Allow")},
	{"a limit", "", `requests: (\d+)`, near},
	{"a time of a limit", "", `per: (\w+)`, to("2m", "30s")},
	{"a method", "", `method: (\w+)`, to("GET", "POST", "PUT", "'*'")},
	{"a path", "", `path: "?(/[^ }"]*(?:\}[^ }"]*)?)`, func(_ *rand.Rand, _ *policyText, s string) []string {
		return []string{s + "/more", strings.Replace(s, "{", "x/{", 1)}
	}},
	{"credentials", "", `require: (true)`, to("false")},
	{"a group of a route", "", `, group: (\w+),`, func(r *rand.Rand, p *policyText, s string) []string {
		return append(others("routeGroup")(r, p, s), "nothing")
	}},
	{"no group of a route", "", `, group: \w+`, drop},
	{"an entity", "entities", `"id": "(\w+)"`, others("group")},
	{"a number of an entity", "entities", `: (\d+)\}`, near},
	{"the first level", "", `initial: (normal)`, to("elevated")},
	{"the order of levels", "", `(normal, elevated)`, to("elevated, normal")},
	{"a bound", "", `maxBodyBytes: (\d+)`, near},
	{"an obligation", "", `count: (\d+)`, near},
	{"a type of bodies", "", `application/json`, to("text/plain")},
	{"an audience", "", `audiences: \[(\w+)\]`, to("others")},
	{"an issuer", "", `issuer: "(https:[^"]+)"`, to("https://other.example")},
	{"drop a limit", "", `(?m)^    - \{name: \S+ key:.*\n`, drop},
	{"optional or required", "", `"(?:hour|weekday|from|mfa|days|drug|amount)(\??)":`, to("", "?")},
}

// swap exchanges what stands before and after the first separator.
func swap(sep string) func(*rand.Rand, *policyText, string) []string {
	return func(_ *rand.Rand, _ *policyText, s string) []string {
		a, b, ok := strings.Cut(strings.TrimSuffix(s, "\n"), sep)
		if !ok {
			return nil
		}
		return []string{b + sep + a + "\n"}
	}
}

// mutants are all that the mutators make of a policy, by their kind.
func mutants(r *rand.Rand, text string) map[string][]mutant {
	p := textOf(text)
	out := make(map[string][]mutant)
	for _, m := range mutators {
		in := [2]int{0, p.tests}
		switch m.part {
		case "cedar":
			in = p.cedar
		case "entities":
			in = p.entities
		}
		for _, at := range regexp.MustCompile(m.at).FindAllStringSubmatchIndex(text[in[0]:in[1]], -1) {
			lo, hi := in[0]+at[0], in[0]+at[1]
			if len(at) > 2 && at[2] >= 0 {
				lo, hi = in[0]+at[2], in[0]+at[3]
			}
			for _, s := range m.by(r, p, text[lo:hi]) {
				if s == text[lo:hi] {
					continue
				}
				line := 1 + strings.Count(text[:lo], "\n")
				out[m.kind] = append(out[m.kind], mutant{m.kind, fmt.Sprintf("line %d: %q -> %q", line, text[lo:hi], s), text[:lo] + s + text[hi:]})
			}
		}
	}
	return out
}

// some chooses n mutants: of each kind in turn, at random.
func some(r *rand.Rand, all map[string][]mutant, n int) []mutant {
	var out []mutant
	for _, list := range all {
		slices.SortFunc(list, func(a, b mutant) int { return strings.Compare(a.what, b.what) })
	}
	for len(out) < n {
		before := len(out)
		for _, m := range mutators {
			if list := all[m.kind]; len(list) > 0 && len(out) < n {
				i := r.IntN(len(list))
				out = append(out, list[i])
				all[m.kind] = slices.Delete(list, i, i+1)
			}
		}
		if len(out) == before {
			break
		}
	}
	return out
}
