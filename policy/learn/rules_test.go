package learn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
)

const open = "  default: {network: Allow, authorization: Deny}\n"

// rulesOf are the permits of a proposal, each on one line, without its comment.
func rulesOf(p *Proposal) (out []string) {
	for _, s := range p.Sections {
		if s.Name != "authorization.cedar" {
			continue
		}
		for rule := range strings.SplitSeq(strings.TrimPrefix(s.Text, "cedar: |\n"), "\n\n") {
			var lines []string
			for line := range strings.Lines(rule) {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "//") {
					lines = append(lines, line)
				}
			}
			out = append(out, strings.Replace(strings.Join(lines, " "), `action == Action::"call", `, "", 1))
		}
	}
	return out
}

func told(p *Proposal) (out []string) {
	for _, g := range p.Generalised {
		out = append(out, fmt.Sprintf("%s: %s, %d in %d: %s", g.Rule, g.What, g.Distinct, g.Records, g.To))
	}
	return out
}

// What is seen of each kind of fact becomes the condition that people would write, and what
// is beyond it is told.
func TestWhatBecomesOfFacts(t *testing.T) {
	// The rule reads everything, and permits everybody in any group.
	const all = `@id("all") permit (principal, action, resource == Route::"one") when { context has n || context has s || context has f || context has t || context has d || context.h < 30 || context.p.isIpv4() };`
	facts := func(list ...string) map[string]string {
		m := make(map[string]string)
		for i := 0; i < len(list); i += 2 {
			m[list[i]] = list[i+1]
		}
		return m
	}
	one := func(facts map[string]string) question {
		return question{who: "bob", groups: []string{"free"}, route: "one", from: "10.0.0.1", hour: 9, facts: facts}
	}
	at := func(hours ...int) (list []question) {
		for _, h := range hours {
			q := one(nil)
			q.hour = h
			list = append(list, q)
		}
		return list
	}
	const who = `@id("all") permit (principal in Group::"free", resource == Route::"one") `
	const rest = ` && context.p.isInRange(ip("10.0.0.1"))`
	for name, c := range map[string]struct {
		asked []question
		want  string
		told  []string
	}{
		"a number":        {[]question{one(facts("n", "5", "f", "true"))}, "when { context has f && context.f && context.h == 9 && context has n && context.n == 5" + rest + " };", nil},
		"numbers":         {[]question{one(facts("n", "5")), one(facts("n", "9"))}, "when { context has f && context.h == 9 && context has n && context.n >= 5 && context.n <= 9" + rest + " };", []string{"f, 1 in 2: true, too", "n, 2 in 2: 5 to 9"}},
		"neighbours":      {[]question{one(facts("n", "5", "f", "true")), one(facts("n", "6", "f", "true"))}, "when { context has f && context.f && context.h == 9 && context has n && context.n >= 5 && context.n <= 6" + rest + " };", nil},
		"one that may be": {[]question{one(facts("n", "5", "f", "true")), one(facts("f", "true"))}, "when { context has f && context.f && context.h == 9 && (if context has n then context.n == 5 else true)" + rest + " };", nil},
		"both":            {[]question{one(facts("f", "true")), one(nil)}, "when { context has f && context.h == 9" + rest + " };", nil},
		"texts":           {[]question{one(facts("s", "a\"b", "f", "true")), one(facts("s", "c", "f", "true"))}, "when { context has f && context.f && context.h == 9" + rest + ` && context has s && ["a\"b", "c"].contains(context.s) };`, nil},
		"many texts":      {[]question{one(facts("s", "1", "f", "true")), one(facts("s", "2", "f", "true")), one(facts("s", "3", "f", "true"))}, "when { context has f && context.f && context.h == 9" + rest + ` && context has s };`, []string{"s, 3 in 3: any value"}},
		"sets":            {[]question{one(facts("t", `["x"]`, "f", "true")), one(facts("t", `["y"]`, "f", "true"))}, "when { context has f && context.f && context.h == 9" + rest + ` && context has t && ["x", "y"].containsAll(context.t) };`, []string{`t, 2 in 2: any of ["x", "y"]`}},
		"no elements":     {[]question{one(facts("t", `[]`, "f", "true"))}, "when { context has f && context.f && context.h == 9" + rest + ` && context has t && context.t.isEmpty() };`, nil},
		"decimals":        {[]question{one(facts("d", "1.5", "f", "true")), one(facts("d", "10.25", "f", "true"))}, "when { context has d && context.d.greaterThanOrEqual(decimal(\"1.5\")) && context.d.lessThanOrEqual(decimal(\"10.25\")) && context has f && context.f && context.h == 9" + rest + " };", []string{"d, 2 in 2: 1.5 to 10.25"}},
		"hours":           {at(9, 11), "when { context has f && context.h >= 9 && context.h <= 11" + rest + " };", []string{"f, 1 in 2: true, too", "h, 2 in 2: 9 to 11"}},
		"a night":         {at(23, 1, 22), "when { context has f && (context.h >= 22 || context.h <= 1)" + rest + " };", []string{"f, 1 in 3: true, too", "h, 3 in 3: 22 to 1"}},
	} {
		d := load(t, document(open, all))
		var log []record.Decision
		for _, q := range c.asked {
			log = append(log, recorded(d, q))
		}
		o := defaults
		o.Values = 2
		p, err := propose(t, document(open, all), o, log)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := []string{fmt.Sprintf("all: users, 1 in %d: members of free", len(log))}
		absent := func(s string) bool { return strings.Contains(s, "was never there") }
		for _, g := range c.told {
			want = append(want, "all: "+g)
		}
		if got := slices.DeleteFunc(told(p), absent); !slices.Equal(got, want) {
			t.Errorf("%s: told\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got := rulesOf(p); len(got) != 1 || got[0] != who+c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), who+c.want)
		}
		o.Exact = true
		if p, err = propose(t, document(open, all), o, log); err != nil || len(told(p)) > 0 || len(p.Against.Allowed) > 0 {
			t.Errorf("%s, exact: %v %v", name, err, p)
		}
	}
}

// Groups that all calls of a user had cover users, the fewest and the smallest of them;
// others are named; routes that are used alike are one.
func TestWhoIsPermitted(t *testing.T) {
	const all = `@id("all") permit (principal, action, resource); @id("never") forbid (principal == User::"mallory", action, resource);`
	ask := func(who, route string, groups ...string) question {
		return question{who: who, groups: groups, route: route, from: "10.0.0.1", hour: 9}
	}
	const never = `@id("never") forbid (principal == User::"mallory", action, resource);`
	for name, c := range map[string]struct {
		asked []question
		users int
		want  []string
	}{
		"one group":    {[]question{ask("a", "three", "g", "h"), ask("b", "three", "g"), ask("c", "one", "h")}, 20, []string{`@id("all-one") permit (principal in Group::"h", resource == Route::"one");`, `@id("all-three") permit (principal in Group::"g", resource == Route::"three");`}},
		"the smaller":  {[]question{ask("a", "three", "big", "small"), ask("b", "one", "big")}, 20, []string{`@id("all-one") permit (principal in Group::"big", resource == Route::"one");`, `@id("all-three") permit (principal in Group::"small", resource == Route::"three");`}},
		"not always":   {[]question{ask("a", "three", "g", "h"), ask("a", "three", "h")}, 20, []string{`@id("all") permit (principal in Group::"h", resource == Route::"three");`}},
		"two groups":   {[]question{ask("a", "three", "g"), ask("b", "three", "h")}, 20, []string{`@id("all") permit (principal, resource == Route::"three") when { principal in [Group::"g", Group::"h"] };`}},
		"by name":      {[]question{ask("a", "three"), ask("b", "three"), ask("c", "three", "g")}, 20, []string{`@id("all-three") permit (principal in Group::"g", resource == Route::"three");`, `@id("all-three-2") permit (principal, resource == Route::"three") when { [User::"a", User::"b"].contains(principal) };`}},
		"too many":     {[]question{ask("a", "three"), ask("b", "three")}, 1, []string{`@id("all") permit (principal, resource == Route::"three");`}},
		"used alike":   {[]question{ask("a", "one", "g"), ask("b", "two", "g")}, 20, []string{`@id("all") permit (principal in Group::"g", resource in RouteGroup::"some");`}},
		"not alike":    {[]question{ask("a", "one", "g"), ask("b", "two", "h")}, 20, []string{`@id("all-one") permit (principal in Group::"g", resource == Route::"one");`, `@id("all-two") permit (principal in Group::"h", resource == Route::"two");`}},
		"who may not":  {[]question{ask("a", "three", "g"), ask("mallory", "three", "g")}, 20, []string{`@id("all") permit (principal in Group::"g", resource == Route::"three");`}},
		"a strange id": {[]question{ask("a\"] || true", "three")}, 20, []string{`@id("all") permit (principal == User::"a\"] || true", resource == Route::"three");`}},
	} {
		d := load(t, document(open, all))
		var log []record.Decision
		for _, q := range c.asked {
			log = append(log, recorded(d, q))
		}
		o := defaults
		o.Users = c.users
		p, err := propose(t, document(open, all), o, log)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := rulesOf(p); !slices.Equal(got, append(c.want, never)) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// What nobody permitted by a rule is not permitted to everybody without being asked for.
func TestManyUsersWithoutAGroup(t *testing.T) {
	doc := document("  default: {network: Allow, authorization: Allow}\n", `@id("never") forbid (principal == User::"mallory", action, resource);`)
	d := load(t, doc)
	log := []record.Decision{recorded(d, question{who: "a", route: "three", from: "10.0.0.1"}), recorded(d, question{who: "b", route: "three", from: "10.0.0.1"})}
	o := defaults
	o.Users = 1
	if _, err := propose(t, doc, o, log); err == nil || !strings.Contains(err.Error(), "--max-users 2 lists them") {
		t.Error(err)
	}
	o.Users = 0
	p, err := propose(t, doc, o, log)
	if err != nil {
		t.Fatal(err)
	}
	if got := rulesOf(p)[0]; got != `@id("learnt-three") permit (principal, resource == Route::"three");` || len(p.Generalised) != 1 || p.Generalised[0].To != "anybody" {
		t.Errorf("%s, %v", got, p.Generalised)
	}
	if load(t, string(p.Document)).Policy.Default.Authorization == d.Policy.Default.Authorization {
		t.Error("what is not learnt stays allowed by default")
	}
}

// Of records that do not say what would decide, of other workloads and of other times,
// nothing is learnt, and that is said.
func TestWhatIsLeftOut(t *testing.T) {
	doc := document("  default: {network: Deny, authorization: Deny}\n  endpoints: [{name: near, cidrs: [10.0.0.0/8]}]\n  network: {ingress: [{name: in, action: Allow, from: [near]}]}\n", `@id("all") permit (principal, action, resource == Route::"one") when { context has n && context.n > 1 };`)
	d := load(t, doc)
	good := recorded(d, question{who: "a", route: "one", from: "10.0.0.1", hour: 9, facts: map[string]string{"n": "2"}})
	var log []record.Decision
	with := func(change func(*record.Decision)) {
		x := good
		x.Facts = map[string]*string{"n": good.Facts["n"]}
		change(&x)
		log = append(log, x)
	}
	with(func(*record.Decision) {})
	with(func(x *record.Decision) { x.Instance = "other-1" })
	with(func(x *record.Decision) { x.Time = x.Time.AddDate(0, 0, -1) })
	with(func(x *record.Decision) { x.Time = x.Time.AddDate(0, 0, 1) })
	with(func(x *record.Decision) { x.Partial = []string{audit.FieldAttribute + "n"}; delete(x.Facts, "n") })
	with(func(x *record.Decision) { x.Partial = []string{audit.FieldSource} })
	with(func(x *record.Decision) { x.Facts["n"] = text("1") })
	with(func(x *record.Decision) { x.Level = "gone" })
	with(func(x *record.Decision) { x.Source = "192.0.2.1" })
	with(func(x *record.Decision) { x.Decision, x.Rule = "Deny", "default:authorization" })
	o := defaults
	o.Since, o.Until = good.Time, good.Time
	p, err := propose(t, doc, o, log)
	if err != nil {
		t.Fatal(err)
	}
	var why []string
	for _, x := range p.LeftOut {
		why = append(why, fmt.Sprint(x.Count, " ", x.Why))
	}
	want := []string{"1 what the request had for attribute n could not be read", "1 the record does not hold source, which was redacted or cut", "1 the policy denies it: default:authorization", `1 the policy has no level "gone"`, "1 the policy denies it: default:network"}
	if p.Records != 10 || p.Learnt != 1 || p.Foreign != 1 || p.Outside != 2 || p.Denied != 1 || p.First != "other-1" || !slices.Equal(why, want) {
		t.Errorf("%+v\n%s", p.Counts, strings.Join(why, "\n"))
	}
	if !slices.Equal(p.Unused, []string{"two", "three"}) {
		t.Error(p.Unused)
	}
	if _, err := propose(t, doc, defaults, log[1:2]); err != errNothing {
		t.Error(err)
	}
	// A rule denied: that stays denied.
	o = defaults
	o.Denied = true
	good.Decision, good.Rule = "Deny", "never"
	l := New(d, o)
	if err := l.Add(good); err != nil || l.Learnt != 0 || len(l.LeftOut) != 1 || l.LeftOut[0].Why != "denied by never, which is not that nothing matched" {
		t.Errorf("%v, %+v", err, l.Counts)
	}
}

func TestThereIsABound(t *testing.T) {
	d := load(t, document(open, `@id("all") permit (principal, action, resource == Route::"one") when { context has n };`))
	request := recorded(d, question{who: "a", route: "one", from: "10.0.0.1", facts: map[string]string{"n": "2"}})
	connection := recorded(d, question{from: "10.0.0.1"})
	for name, c := range map[string]struct {
		most int
		make func(i int) record.Decision
	}{
		"calls": {maxSeen, func(i int) record.Decision {
			request.Facts["n"] = text(fmt.Sprint(i))
			return request
		}},
		"connections": {maxSeen, func(i int) record.Decision {
			connection.Source = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
			return connection
		}},
		"text": {maxBytes/2/30_000 + 1, func(i int) record.Decision {
			x := request
			x.Groups = []string{strings.Repeat("g", 30_000), fmt.Sprint(i)}
			return x
		}},
	} {
		l, n := New(d, defaults), 0
		var err error
		for ; err == nil && n <= c.most; n++ {
			err = l.Add(c.make(n))
		}
		if err == nil || !strings.Contains(err.Error(), "--since") || n < c.most-10 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// Prefixes cover all addresses, keep to the bounds and to the number, and cover no more
// than they would have to where they are as many as there may be.
func TestPrefixes(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 9))
		bounds := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/25"), netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("2001:db8::/120")}
		var list []netip.Prefix
		for range 1 + r.IntN(12) {
			b := pick(r, bounds...)
			a := b.Addr().AsSlice()
			a[len(a)-1] = byte(r.IntN(1 << min(8, b.Addr().BitLen()-b.Bits())))
			x, _ := netip.AddrFromSlice(a)
			list = append(list, netip.PrefixFrom(x, x.BitLen()))
		}
		most := r.IntN(5)
		out := covering(list, most, bounds)
		size, families := 0, map[bool]int{}
		for _, p := range out {
			size += 1 << (p.Addr().BitLen() - p.Bits())
			families[p.Addr().Is4()]++
			if p != p.Masked() || !slices.ContainsFunc(bounds, func(b netip.Prefix) bool { return b.Bits() <= p.Bits() && b.Contains(p.Addr()) }) {
				t.Fatalf("seed %d: %s is beyond the bounds", seed, p)
			}
		}
		different := map[netip.Prefix]bool{}
		for _, a := range list {
			different[a] = true
			if !slices.ContainsFunc(out, func(p netip.Prefix) bool { return p.Contains(a.Addr()) }) {
				t.Fatalf("seed %d: %s is in none of %s", seed, a.Addr(), out)
			}
		}
		if most == 0 && size != len(different) {
			t.Fatalf("seed %d: %s has %d addresses, and %d were seen", seed, out, size, len(different))
		}
		if most > 0 && (families[true] > max(most, 2) || families[false] > most) {
			t.Fatalf("seed %d: more than %d: %s", seed, most, out)
		}
	}
	var list []netip.Prefix
	for _, s := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.77", "10.9.0.1"} {
		list = append(list, netip.PrefixFrom(netip.MustParseAddr(s), 32))
	}
	if got := prefixesText(covering(list, 2, anywhere)); got != "[10.0.0.0/25, 10.9.0.1/32]" {
		t.Error(got)
	}
	alike := []netip.Prefix{netip.MustParsePrefix("32.1.13.184/32"), netip.MustParsePrefix("2001:db9::/32")}
	if got := covering(alike, 0, anywhere); !slices.Equal(got, alike) {
		t.Error("joins families", got)
	}
	if got := prefixesText(covering(list, 0, anywhere)); got != "[10.0.0.1/32, 10.0.0.2/31, 10.0.0.77/32, 10.9.0.1/32]" {
		t.Error(got)
	}
}

// Sections are replaced by lines, and everything else stays; where they are not blocks of
// their own the document is written anew.
func TestSectionsOfDocuments(t *testing.T) {
	const doc = `# first
kind: Workload
metadata: {name: w}
spec: {}
--- # second
kind: SecurityPolicy
metadata: {name: p, tenant: t}
spec:
  # before a
  a: 1 # beside
  # before b
  b:
    # in b
    c: |
      # a text
      x
    d: [1]   # kept

  # before tests
  tests:
    - {name: one}
    # before two
    - {name: two}
    - name: three
      x: y
# behind
status: 1
`
	p := &api.SecurityPolicy{Metadata: api.Metadata{Name: "p", Tenant: "t"}}
	run := func(text string, sections []section, drop ...api.Pos) (string, bool) {
		t.Helper()
		out, straight, err := edited(policy.File{Name: "x", Data: []byte(text)}, p, sections, drop)
		if err != nil {
			t.Fatal(err)
		}
		return string(out), straight
	}
	sec := func(path string, lines ...string) section { return section{strings.Split(path, "."), lines} }
	one, two, three := api.Pos{Line: 21, Column: 7}, api.Pos{Line: 23, Column: 7}, api.Pos{Line: 24, Column: 7}
	for name, c := range map[string]struct {
		sections []section
		drop     []api.Pos
		change   []string
	}{
		"a text":         {[]section{sec("b.c", "c: |", "  y", "", "  z")}, nil, []string{"    c: |\n      # a text\n      x\n", "    c: |\n      y\n\n      z\n"}},
		"a line":         {[]section{sec("a", "a: 2")}, nil, []string{"  a: 1 # beside\n", "  a: 2\n"}},
		"a new one":      {[]section{sec("z", "z: 2")}, nil, []string{"      x: y\n", "      x: y\n  z: 2\n"}},
		"a new one in b": {[]section{sec("b.e", "e: 2")}, nil, []string{"# kept\n", "# kept\n    e: 2\n"}},
		"nested":         {[]section{sec("n.m", "m:", "  - 1")}, nil, []string{"      x: y\n", "      x: y\n  n:\n    m:\n      - 1\n"}},
		"a test":         {nil, []api.Pos{two}, []string{"    - {name: two}\n", ""}},
		"the last test":  {nil, []api.Pos{three}, []string{"    - name: three\n      x: y\n", ""}},
		"all tests":      {nil, []api.Pos{one, two, three}, []string{doc[strings.Index(doc, "  tests:"):strings.Index(doc, "# behind")], ""}},
	} {
		got, straight := run(doc, c.sections, c.drop...)
		if want := strings.NewReplacer(c.change...).Replace(doc); got != want || !straight {
			t.Errorf("%s: %v\n%s", name, straight, got)
		}
	}
	flow := strings.Replace(doc, "  a: 1 # beside\n", "  a: {x: 1} # beside\n", 1)
	got, straight := run(flow, []section{sec("a.x", "x: 2"), sec("n.m", "m: 3")}, two)
	if straight || !strings.Contains(got, "    x: 2\n") || !strings.Contains(got, "  n:\n    m: 3\n") || strings.Contains(got, "two}") || !strings.Contains(got, "kind: Workload\n") || !strings.Contains(got, "- {name: one}") {
		t.Errorf("%v\n%s", straight, got)
	}
	if _, _, err := edited(policy.File{Name: "x", Data: []byte("a: b\n")}, p, nil, nil); err == nil {
		t.Error("a document without the policy")
	}
}

// Whoever ends it gets no proposal.
func TestWhoeverAskedMayEnd(t *testing.T) {
	doc := document(open, `@id("all") permit (principal, action, resource == Route::"one") when { context has n };`)
	d := load(t, doc)
	l := New(d, defaults)
	if err := l.Add(recorded(d, question{who: "a", route: "one", from: "10.0.0.1", facts: map[string]string{"n": "2"}})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if p, err := l.Propose(ctx, Source{Files: files(doc)}); err == nil {
		t.Error(p)
	}
}

// lines are those of a section, without comments.
func lines(p *Proposal, name string) (out []string) {
	for _, s := range p.Sections {
		if s.Name != name {
			continue
		}
		for line := range strings.Lines(s.Text) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "- ") {
				out = append(out, line)
			}
		}
	}
	return out
}

// Each network rule that allowed something stays where it is, with the sources and ports
// that were seen; those that deny stay as they are, those that allowed nothing go.
func TestNetworkRules(t *testing.T) {
	const rules = `@id("all") permit (principal, action, resource);`
	const ends = "  endpoints: [{name: bad, cidrs: [10.0.0.3/32]}, {name: unused, cidrs: [10.9.0.0/16]}, {name: near, cidrs: [10.0.0.0/24]}, {name: ten, cidrs: [10.0.0.0/8]}]\n"
	const deny = "  default: {network: Deny, authorization: Deny}\n" + ends
	from := func(a string, port uint16, level string) question { return question{from: a, port: port, level: level} }
	for name, c := range map[string]struct {
		settings string
		asked    []question
		most     int
		ends     []string
		rules    []string
	}{
		"narrowed": {deny + "  network: {ingress: [{name: never, action: Deny, from: [bad], audit: true}, {name: in, action: Allow, from: [near], maxLevel: normal}, {name: wide, action: Allow, from: [any], ports: [{protocol: TCP, port: 8080}]}]}\n",
			[]question{from("10.0.0.1", 8080, ""), from("10.0.0.2", 8080, ""), from("10.0.0.77", 8081, "")}, 4,
			[]string{"- {name: bad, cidrs: [10.0.0.3/32]}", "- {name: unused, cidrs: [10.9.0.0/16]}", "- {name: ten, cidrs: [10.0.0.0/8]}", "- {name: in-seen, cidrs: [10.0.0.1/32, 10.0.0.2/32]}", "- {name: in-2-seen, cidrs: [10.0.0.77/32]}"},
			[]string{"- {name: never, action: Deny, from: [bad], audit: true}", "- {name: in, action: Allow, from: [in-seen], ports: [{protocol: TCP, port: 8080}], maxLevel: normal}", "- {name: in-2, action: Allow, from: [in-2-seen], ports: [{protocol: TCP, port: 8081}], maxLevel: normal}"}},
		"generalised within its rule": {deny + "  network: {ingress: [{name: never, action: Deny, from: [bad]}, {name: in, action: Allow, from: [near]}]}\n",
			[]question{from("10.0.0.1", 8080, ""), from("10.0.0.2", 8080, ""), from("10.0.0.5", 8080, "")}, 1,
			[]string{"- {name: bad, cidrs: [10.0.0.3/32]}", "- {name: unused, cidrs: [10.9.0.0/16]}", "- {name: ten, cidrs: [10.0.0.0/8]}", "- {name: in-seen, cidrs: [10.0.0.0/29]}"},
			[]string{"- {name: never, action: Deny, from: [bad]}", "- {name: in, action: Allow, from: [in-seen], ports: [{protocol: TCP, port: 8080}]}"}},
		"by default": {"  default: {network: Allow, authorization: Deny}\n" + ends, []question{from("10.0.0.1", 8080, "normal"), from("10.0.0.2", 8080, "high")}, 4,
			[]string{"- {name: bad, cidrs: [10.0.0.3/32]}", "- {name: unused, cidrs: [10.9.0.0/16]}", "- {name: near, cidrs: [10.0.0.0/24]}", "- {name: ten, cidrs: [10.0.0.0/8]}", "- {name: learnt-network-seen, cidrs: [10.0.0.1/32]}", "- {name: learnt-network-2-seen, cidrs: [10.0.0.2/32]}"},
			[]string{"- {name: learnt-network, action: Allow, from: [learnt-network-seen], ports: [{protocol: TCP, port: 8080}], maxLevel: normal}", "- {name: learnt-network-2, action: Allow, from: [learnt-network-2-seen], ports: [{protocol: TCP, port: 8080}]}"}},
		// The second covers what the first is for, and the third what the second is for, but not at the level of the first.
		"superfluous in a chain": {deny + "  network: {ingress: [{name: a, action: Allow, from: [bad]}, {name: b, action: Allow, from: [near]}, {name: c, action: Allow, from: [ten], maxLevel: normal}]}\n",
			[]question{from("10.0.0.3", 8080, "high"), from("10.0.0.1", 8080, ""), from("10.0.0.2", 8080, ""), from("10.0.1.1", 8080, ""), from("10.1.0.1", 8080, "")}, 1,
			[]string{"- {name: unused, cidrs: [10.9.0.0/16]}", "- {name: b-seen, cidrs: [10.0.0.0/30]}", "- {name: c-seen, cidrs: [10.0.0.0/15]}"},
			[]string{"- {name: b, action: Allow, from: [b-seen], ports: [{protocol: TCP, port: 8080}]}", "- {name: c, action: Allow, from: [c-seen], ports: [{protocol: TCP, port: 8080}], maxLevel: normal}"}},
		"tried": {deny + "  network: {ingress: [{name: never, action: Deny, from: [near], enforcement: DryRun}, {name: soon, action: Allow, from: [any], enforcement: DryRun}, {name: in, action: Allow, from: [ten]}]}\n",
			[]question{from("10.0.0.1", 8080, "")}, 4,
			[]string{"- {name: bad, cidrs: [10.0.0.3/32]}", "- {name: unused, cidrs: [10.9.0.0/16]}", "- {name: near, cidrs: [10.0.0.0/24]}", "- {name: in-seen, cidrs: [10.0.0.1/32]}"},
			[]string{"- {name: never, action: Deny, from: [near], enforcement: DryRun}", "- {name: soon, action: Allow, from: [any], enforcement: DryRun}", "- {name: in, action: Allow, from: [in-seen], ports: [{protocol: TCP, port: 8080}]}"}},
		"as it was": {deny + "  network: {ingress: [{name: one, action: Allow, from: [bad], ports: [{protocol: TCP, port: 8080}]}]}\n", []question{from("10.0.0.3", 8080, "")}, 4,
			[]string{"- {name: bad, cidrs: [10.0.0.3/32]}", "- {name: unused, cidrs: [10.9.0.0/16]}", "- {name: near, cidrs: [10.0.0.0/24]}", "- {name: ten, cidrs: [10.0.0.0/8]}"}, []string{"- {name: one, action: Allow, from: [bad], ports: [{protocol: TCP, port: 8080}]}"}},
	} {
		doc := document(c.settings, rules)
		d := load(t, doc)
		var log []record.Decision
		for _, q := range c.asked {
			log = append(log, recorded(d, q))
		}
		o := defaults
		o.Prefixes = c.most
		p, err := propose(t, doc, o, log)
		if err != nil || p.Learnt != len(log) {
			t.Errorf("%s: %v, %v", name, err, p)
			continue
		}
		if got := lines(p, "endpoints"); !slices.Equal(got, c.ends) {
			t.Errorf("%s: endpoints\n%s", name, strings.Join(got, "\n"))
		}
		if got := lines(p, "network.ingress"); !slices.Equal(got, c.rules) {
			t.Errorf("%s: rules\n%s", name, strings.Join(got, "\n"))
		}
		if len(p.Against.Allowed) > 0 {
			t.Errorf("%s: newly allowed: %v", name, p.Against.Allowed)
		}
	}
}

// What becomes of present rules.
func TestWhatIsKeptOfRules(t *testing.T) {
	with := func(fallback, rules string, change ...string) string {
		return strings.NewReplacer(change...).Replace(document("  default: {network: Allow, authorization: "+fallback+"}\n", rules))
	}
	type facts = map[string]string
	ask := func(who, route, level string, f facts, groups ...string) question {
		return question{who: who, groups: groups, route: route, level: level, from: "10.0.0.1", hour: 9, facts: f}
	}
	for name, c := range map[string]struct {
		doc   string
		asked []question
		want  []string
	}{
		// The second covers what the first is for, and the third what the second is for, but not that of the first.
		"superfluous in a chain": {with("Deny", `@id("a") permit (principal, action, resource == Route::"one") when { context has f && context.f };
@id("b") permit (principal, action, resource == Route::"one") when { context has n };
@id("c") permit (principal, action, resource == Route::"one");`),
			[]question{ask("u", "one", "", facts{"f": "true", "n": "5"}, "g"), ask("v", "one", "", facts{"n": "3"}, "g", "h"), ask("v", "one", "", facts{"n": "7"}, "g", "h"), ask("w", "one", "", nil, "h")},
			[]string{`@id("b") permit (principal in Group::"g", resource == Route::"one") when { context has f && context has n && context.n >= 3 && context.n <= 7 };`, `@id("c") permit (principal in Group::"h", resource == Route::"one") when { context has f };`}},
		// Who does not say s is denied for that, now as then.
		"what is required": {with("Deny", `@id("a") permit (principal, action, resource == Route::"one");
@id("b") permit (principal, action, resource == Route::"one") when { context.s == "x" };`, `"s"?:`, `"s":`),
			[]question{ask("u", "one", "", facts{"s": "1"}, "g"), ask("u", "one", "", facts{"s": "2"}, "g"), ask("u", "one", "", facts{"s": "3"}, "g")},
			[]string{`@id("a") permit (principal in Group::"g", resource == Route::"one") when { context has s };`}},
		"what asks more": {with("Deny", `@id("a") permit (principal, action, resource == Route::"one") when { principal has rank && principal.rank > 2 } unless { principal in Group::"blue" };`),
			[]question{ask("ada", "one", "", nil, "g")},
			[]string{`@id("a") permit (principal in Group::"g", resource == Route::"one") when { principal has rank && principal.rank > 2 } unless { principal in Group::"blue" };`}},
		"what the default allowed": {with("Allow", `@id("f") forbid (principal in Group::"blue", action, resource) when { context.lvl == "high" };`),
			[]question{ask("u", "one", "normal", nil, "g"), ask("u", "three", "high", nil, "g")},
			[]string{`@id("learnt-one") permit (principal in Group::"g", resource == Route::"one") when { ["normal"].contains(context.lvl) };`, `@id("learnt-three") permit (principal in Group::"g", resource == Route::"three");`,
				`@id("f") forbid (principal in Group::"blue", action, resource) when { context.lvl == "high" };`}},
		// What is tried decides nothing, and goes on to be tried.
		"what is tried": {with("Deny", `@id("a") permit (principal, action, resource == Route::"one");
@id("t") @enforcement("DryRun") permit (principal, action, resource == Route::"three");
@id("f") @enforcement("DryRun") forbid (principal, action, resource == Route::"one");`),
			[]question{ask("u", "one", "", nil, "g")},
			[]string{`@id("a") permit (principal in Group::"g", resource == Route::"one");`, `@id("t") @enforcement("DryRun") permit (principal, action, resource == Route::"three");`, `@id("f") @enforcement("DryRun") forbid (principal, action, resource == Route::"one");`}},
		"a rule without a name": {with("Deny", `permit (principal, action, resource); forbid (principal in Group::"blue", action, resource);`), []question{ask("u", "three", "", nil, "g")},
			[]string{`@id("cedar-1") permit (principal in Group::"g", resource == Route::"three");`, `@id("cedar-2") forbid ( principal in Group::"blue", action, resource );`}},
		"a group with another route": {with("Deny", `@id("all") permit (principal, action, resource);`, `[{"uid": {"type": "User"`, `[{"uid": {"type": "Route", "id": "three"}, "attrs": {}, "parents": [{"type": "RouteGroup", "id": "some"}]}, {"uid": {"type": "User"`),
			[]question{ask("u", "one", "", nil, "g"), ask("u", "two", "", nil, "g")},
			[]string{`@id("all-one") permit (principal in Group::"g", resource == Route::"one");`, `@id("all-two") permit (principal in Group::"g", resource == Route::"two");`}},
	} {
		d := load(t, c.doc)
		var log []record.Decision
		for _, q := range c.asked {
			log = append(log, recorded(d, q))
		}
		o := defaults
		o.Values = 2
		p, err := propose(t, c.doc, o, log)
		if err != nil || p.Learnt != len(log) {
			t.Errorf("%s: %v, %+v", name, err, p)
			continue
		}
		if got := rulesOf(p); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		if len(p.Against.Allowed)+len(p.Against.NotAnalysed) > 0 {
			t.Errorf("%s: newly allowed: %v %v", name, p.Against.Allowed, p.Against.NotAnalysed)
		}
	}
}

// Of a policy that is tried as a whole, what it would have denied is denied, and the
// proposal is held to what it would allow.
func TestAPolicyThatIsTried(t *testing.T) {
	doc := document("  enforcement: DryRun\n  default: {network: Allow, authorization: Deny}\n", `@id("a") permit (principal in Group::"g", action, resource == Route::"one");
@id("f") forbid (principal, action, resource) when { context.lvl == "high" };
@id("m") forbid (principal == User::"mallory", action, resource);`)
	d := load(t, doc)
	var log []record.Decision
	for _, q := range []question{{who: "u", groups: []string{"g"}, route: "one"}, {who: "u", groups: []string{"g"}, route: "two"}, {who: "u", groups: []string{"g"}, route: "three", level: "high"}, {who: "mallory", groups: []string{"g"}, route: "one"}} {
		q.from, q.hour = "10.0.0.1", 9
		log = append(log, recorded(d, q))
	}
	p, err := propose(t, doc, defaults, log)
	if err != nil || p.Learnt != 1 || p.Denied != 3 || len(p.LeftOut) > 0 || rulesOf(p)[0] != `@id("a") permit (principal in Group::"g", resource == Route::"one");` {
		t.Errorf("%v, %+v", err, p)
	}
	o := defaults
	o.Denied = true
	if p, err = propose(t, doc, o, log); err != nil {
		t.Fatal(err)
	}
	var why []string
	for _, x := range p.LeftOut {
		why = append(why, x.Why)
	}
	if want := []string{"denied by m, which is not that nothing matched", "denied by f, which is kept: --fresh keeps no rule"}; p.Learnt != 2 || !slices.Equal(why, want) {
		t.Errorf("%+v", p.Counts)
	}
	if got := rulesOf(p); len(got) != 4 || got[1] != `@id("learnt-two") permit (principal in Group::"g", resource == Route::"two") when { ["normal"].contains(context.lvl) };` {
		t.Errorf("%q", got)
	}
	if len(p.Against.Allowed) != 1 || p.Against.Allowed[0].New.Rule != "learnt-two" {
		t.Errorf("newly allowed: %v", p.Against.Allowed)
	}
}
