package authz

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
)

// Strings and entities of the sections of these tests.
var strs = []string{"", "Action", "Group", "Route", "User", "a*", "ada", "call", "elevated", "hello", "line", "ops", "permit-it", "r", "stop-it"}

func str(s string) uint32 { return uint32(slices.Index(strs, s)) }

const (
	entCall = iota
	entOps
	entR
	entAda
)

// section has one route, r, whose rules read all attributes. The first rule
// permits members of ops where the condition holds; stop, if any, forbids.
func section(attrs []authz.Attribute, permit []authz.Node, stop ...authz.Node) *authz.Section {
	s := &authz.Section{
		Strings: strs, Principal: str("User"), Group: str("Group"), Action: entCall,
		Rule:       abi.Rule{ID: abi.RuleAuthz, Line: "policy.yaml:3"},
		Attributes: attrs,
		Entities:   []authz.Entity{{Type: str("Action"), ID: str("call")}, {Type: str("Group"), ID: str("ops")}, {Type: str("Route"), ID: str("r")}, {Type: str("User"), ID: str("ada")}},
		Nodes:      permit,
		Lists:      []uint32{0},
		Rules:      []authz.Rule{{ID: str("permit-it"), Line: str("line"), Condition: uint32(len(permit) - 1)}},
		Routes: []authz.Route{{Name: str("r"), Resource: entR, Parent: authz.None, Reads: 1<<len(attrs) - 1,
			Buckets: []authz.Bucket{{Key: entOps, First: 0, Count: 1}}}},
	}
	if len(permit) == 0 {
		s.Rules[0].Condition = authz.None
	}
	if len(stop) > 0 {
		s.Nodes = append(s.Nodes, stop...)
		s.Rules = append(s.Rules, authz.Rule{ID: str("stop-it"), Line: str("line"), Forbid: true, Condition: uint32(len(s.Nodes) - 1)})
		s.Lists = append(s.Lists, 1)
		s.Routes[0].Buckets = append(s.Routes[0].Buckets, authz.Bucket{Key: authz.None, First: 1, Count: 1})
	}
	return s
}

func prepare(t testing.TB, s *authz.Section, levels ...string) *state {
	t.Helper()
	if levels == nil {
		levels = []string{"normal"}
	}
	g, err := New().Prepare(&pep.Input{Level: levels[len(levels)-1], Levels: levels, Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	return g.(*state)
}

// ask makes the exchange of a member of ops, as the filter and authentication
// leave it.
func ask(method, target, body string, header ...string) *pep.Exchange {
	r, err := http.NewRequest(method, "http://app"+target, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return &pep.Exchange{Request: r, Principal: "bob", Groups: []string{"ops"}, Route: &route.Route{Name: "r"}, MaxBody: 4096,
		Flow: flow.Flow{Src: netip.MustParseAddr("10.1.2.3")}, Now: time.Date(2026, 1, 2, 11, 59, 59, 0, time.UTC)}
}

func check(t *testing.T, d pep.Decision, verdict abi.Verdict, rule string) {
	t.Helper()
	if d.Verdict != verdict || d.Rule.ID != rule || d.Stage != abi.StageAuthz || (verdict == abi.Deny) != (d.Reason != "") {
		t.Errorf("%+v; expected %s by %s", d, verdict, rule)
	}
}

func TestPrepareFailsClosed(t *testing.T) {
	s, err := New().Prepare(&pep.Input{Level: "normal", Levels: []string{"normal"}})
	if err != nil {
		t.Fatal(err)
	}
	check(t, s.Judge(ask("GET", "/", "")), abi.Deny, abi.RuleAuthz)

	one := func(typ authz.Type, src authz.SourceKind, arg string) []byte {
		return section([]authz.Attribute{{Name: "x", Type: typ, Source: authz.Source{Kind: src, Arg: arg}}}, nil).Encode()
	}
	for name, b := range map[string][]byte{
		"empty":                {},
		"malformed":            section(nil, nil).Encode()[1:],
		"a level that is long": one(authz.TypeLong, authz.SourceLevel, ""),
		"an hour that is text": one(authz.TypeString, authz.SourceHour, ""),
		"a peer that is text":  one(authz.TypeString, authz.SourcePeer, ""),
		"a pointer that is no": one(authz.TypeString, authz.SourceBody, "amount"),
	} {
		if s, err := New().Prepare(&pep.Input{Levels: []string{"normal"}, Section: b}); err == nil || s != nil {
			t.Errorf("%s: prepared (%v)", name, err)
		}
	}
	if s, err := New().Prepare(&pep.Input{Section: section(nil, nil).Encode()}); err == nil || s != nil {
		t.Error("a program without levels is prepared")
	}
}

func TestWhoIsNotKnownIsDenied(t *testing.T) {
	sec := section(nil, nil)
	sec.Default = abi.Allow
	s := prepare(t, sec)
	check(t, s.Judge(ask("GET", "/", "")), abi.Allow, "permit-it")
	x := ask("GET", "/", "")
	x.Groups = nil
	check(t, s.Judge(x), abi.Allow, abi.RuleAuthz)
	for name, spoil := range map[string]func(*pep.Exchange){
		"nobody":           func(x *pep.Exchange) { x.Principal = "" },
		"no route":         func(x *pep.Exchange) { x.Route = nil },
		"an unknown route": func(x *pep.Exchange) { x.Route = &route.Route{Name: "call"} },
	} {
		x := ask("GET", "/", "")
		spoil(x)
		if d := s.Judge(x); d.Verdict != abi.Deny {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestForbidWins(t *testing.T) {
	s := prepare(t, section(nil, nil, authz.Node{Op: authz.OpEntity, A: entAda}, authz.Node{Op: authz.OpPrincipal}, authz.Node{Op: authz.OpEq, A: 0, B: 1}))
	x := ask("GET", "/", "")
	check(t, s.Judge(x), abi.Allow, "permit-it")
	x.Principal = "ada"
	check(t, s.Judge(x), abi.Deny, "stop-it")
}

func TestARuleThatFailsDenies(t *testing.T) {
	for name, nodes := range map[string][]authz.Node{
		"overflow":        {{Op: authz.OpLong, A: ^uint32(0), B: 1<<31 - 1}, {Op: authz.OpLong, A: 1}, {Op: authz.OpAdd, A: 0, B: 1}, {Op: authz.OpLong}, {Op: authz.OpLt, A: 2, B: 3}},
		"a wrong type":    {{Op: authz.OpLong}, {Op: authz.OpNot, A: 0}},
		"not a condition": {{Op: authz.OpLong}},
		"absent":          {{Op: authz.OpAttr}},
	} {
		t.Run(name, func(t *testing.T) {
			optional := []authz.Attribute{{Name: "x", Type: authz.TypeBool, Optional: true, Source: authz.Source{Kind: authz.SourceQuery, Arg: "x"}}}
			check(t, prepare(t, section(optional, nil, nodes...)).Judge(ask("GET", "/", "")), abi.Deny, "stop-it")
			check(t, prepare(t, section(optional, nodes)).Judge(ask("GET", "/", "")), abi.Deny, "permit-it")
		})
	}
}

func TestEveryLevelMustAllow(t *testing.T) {
	attrs := []authz.Attribute{{Name: "level", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceLevel}}}
	sec := section(attrs, nil, authz.Node{Op: authz.OpAttr}, authz.Node{Op: authz.OpString, A: str("elevated")}, authz.Node{Op: authz.OpEq, A: 0, B: 1})
	levels := []string{"normal", "elevated", "lockdown"}
	for i, want := range []abi.Verdict{abi.Allow, abi.Deny, abi.Deny} {
		d := prepare(t, sec, levels[:i+1]...).Judge(ask("GET", "/", ""))
		if d.Verdict != want || strings.Contains(d.Reason, `at level "elevated"`) != (i == 2) {
			t.Errorf("at %s: %+v", levels[i], d)
		}
	}
}

// A fact is one way to write an attribute in a request.
func TestFacts(t *testing.T) {
	const deny, absentRule, ok = abi.RuleRequest, abi.RuleAttribute, "permit-it"
	js := []string{"Content-Type", "application/json"}
	hello := []authz.Node{{Op: authz.OpAttr}, {Op: authz.OpString, A: str("hello")}, {Op: authz.OpEq, A: 0, B: 1}}
	seven := []authz.Node{{Op: authz.OpAttr}, {Op: authz.OpLong, A: 7}, {Op: authz.OpEq, A: 0, B: 1}}
	half := []authz.Node{{Op: authz.OpAttr}, {Op: authz.OpDecimal, A: 5000}, {Op: authz.OpEq, A: 0, B: 1}}
	isTrue := []authz.Node{{Op: authz.OpAttr}}
	isV4 := []authz.Node{{Op: authz.OpAttr}, {Op: authz.OpIsIPv4, A: 0}}
	for _, c := range []struct {
		name string
		typ  authz.Type
		kind authz.SourceKind
		arg  string
		cond []authz.Node
		x    *pep.Exchange
		rule string
	}{
		{"query", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?a=1&n=7", ""), ok},
		{"query escaped", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?%6e=%37", ""), ok},
		{"query twice", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?n=7&n=7", ""), deny},
		{"query twice, once escaped", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?n=7&%6E=8", ""), deny},
		{"query missing", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?m=7", ""), absentRule},
		{"query empty", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?n=", ""), deny},
		{"query not a number", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?n=7x", ""), deny},
		{"query with a semicolon", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?a=1;n=8&n=7", ""), deny},
		{"query ill-formed elsewhere", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?%zz=1&n=7", ""), deny},
		{"query plus", authz.TypeLong, authz.SourceQuery, "n", seven, ask("GET", "/?n=%2b7", ""), deny},
		{"header", authz.TypeString, authz.SourceHeader, "X-Tag", hello, ask("GET", "/", "", "x-tag", "hello"), ok},
		{"header twice", authz.TypeString, authz.SourceHeader, "X-Tag", hello, ask("GET", "/", "", "X-Tag", "hello", "x-tag", "hello"), deny},
		{"header missing", authz.TypeString, authz.SourceHeader, "X-Tag", hello, ask("GET", "/", ""), absentRule},
		{"truth", authz.TypeBool, authz.SourceHeader, "X-Ok", isTrue, ask("GET", "/", "", "X-Ok", "true"), ok},
		{"truth in another case", authz.TypeBool, authz.SourceHeader, "X-Ok", isTrue, ask("GET", "/", "", "X-Ok", "True"), deny},
		{"method", authz.TypeString, authz.SourceMethod, "", hello, ask("hello", "/", ""), ok},
		{"route parameter missing", authz.TypeString, authz.SourceRoute, "id", hello, ask("GET", "/", ""), absentRule},
		{"peer", authz.TypeIP, authz.SourcePeer, "", isV4, ask("GET", "/", ""), ok},
		{"body", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`, js...), ok},
		{"body with a charset", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`, "Content-Type", "Application/JSON; charset=UTF-8"), ok},
		{"body decimal", authz.TypeDecimal, authz.SourceBody, "/n", half, ask("POST", "/", `{"n": 0.50}`, js...), ok},
		{"body decimal as text", authz.TypeDecimal, authz.SourceBody, "/n", half, ask("POST", "/", `{"n": "0.5"}`, js...), ok},
		{"body decimal without a point", authz.TypeDecimal, authz.SourceBody, "/n", []authz.Node{{Op: authz.OpAttr}, {Op: authz.OpDecimal, A: 50000}, {Op: authz.OpEq, A: 0, B: 1}}, ask("POST", "/", `{"n": 5}`, js...), ok},
		{"body decimal with an exponent", authz.TypeDecimal, authz.SourceBody, "/n", half, ask("POST", "/", `{"n": 5e0}`, js...), deny},
		{"body decimal too fine", authz.TypeDecimal, authz.SourceBody, "/n", half, ask("POST", "/", `{"n": 0.50001}`, js...), deny},
		{"body address", authz.TypeIP, authz.SourceBody, "/n", isV4, ask("POST", "/", `{"n": "10.0.0.0/8"}`, js...), ok},
		{"body number as text", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": "7"}`, js...), deny},
		{"body text as number", authz.TypeString, authz.SourceBody, "/n", hello, ask("POST", "/", `{"n": 7}`, js...), deny},
		{"body fraction", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7.0}`, js...), deny},
		{"body exponent", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7e0}`, js...), deny},
		{"body out of range", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 9223372036854775808}`, js...), deny},
		{"body null", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": null}`, js...), deny},
		{"body missing", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", ``, js...), absentRule},
		{"body without the member", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{}`, js...), absentRule},
		{"body key twice", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7, "n": 7}`, js...), deny},
		{"body key in two cases", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7, "N": 8}`, js...), deny},
		{"body of no type", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`), deny},
		{"body of another type", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`, "Content-Type", "text/plain"), deny},
		{"body of two types", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`, append(js, "Content-Type", "text/plain")...), deny},
		{"body in another charset", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`, "Content-Type", "application/json; charset=utf-16"), deny},
		{"body compressed", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`, append(js, "Content-Encoding", "gzip")...), deny},
		{"body too large", authz.TypeLong, authz.SourceBody, "/n", seven, ask("POST", "/", `{"n": 7}`+strings.Repeat(" ", 5000), js...), deny},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := prepare(t, section([]authz.Attribute{{Name: "x", Type: c.typ, Source: authz.Source{Kind: c.kind, Arg: c.arg}}}, c.cond))
			d := s.Judge(c.x)
			verdict := abi.Deny
			if c.rule == ok {
				verdict = abi.Allow
			}
			check(t, d, verdict, c.rule)
			if verdict == abi.Deny && !strings.Contains(d.Reason, `"x"`) {
				t.Errorf("the reason does not name the attribute: %q", d.Reason)
			}
		})
	}
}

func TestAPeerThatIsMappedIsIPv4(t *testing.T) {
	attrs := []authz.Attribute{{Name: "x", Type: authz.TypeIP, Source: authz.Source{Kind: authz.SourcePeer}}}
	s := prepare(t, section(attrs, []authz.Node{{Op: authz.OpAttr}, {Op: authz.OpIsIPv4, A: 0}}))
	x := ask("GET", "/", "")
	x.Flow.Src = netip.MustParseAddr("::ffff:10.1.2.3")
	check(t, s.Judge(x), abi.Allow, "permit-it")
	x.Flow.Src = netip.MustParseAddr("fe80::1%eth0")
	check(t, s.Judge(x), abi.Deny, abi.RuleAuthz)
	x.Flow.Src = netip.Addr{}
	check(t, s.Judge(x), abi.Deny, abi.RuleAttribute)
}

// untouchable is a body that nobody may read.
type untouchable struct{ t *testing.T }

func (u untouchable) Read([]byte) (int, error) { u.t.Error("the body was read"); return 0, io.EOF }
func (u untouchable) Close() error             { return nil }

func TestOnlyWhatRulesReadIsGathered(t *testing.T) {
	attrs := []authz.Attribute{{Name: "x", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceBody, Arg: "/n"}}}
	sec := section(attrs, nil)
	sec.Routes[0].Reads = 0
	x := ask("POST", "/", "")
	x.Request.Body = untouchable{t}
	check(t, prepare(t, sec).Judge(x), abi.Allow, "permit-it")
}

func TestTheApplicationGetsTheBytesThatWereJudged(t *testing.T) {
	attrs := []authz.Attribute{{Name: "x", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceBody, Arg: "/n"}}}
	x := ask("POST", "/", `{"n": 7}`, "Content-Type", "application/json")
	check(t, prepare(t, section(attrs, nil)).Judge(x), abi.Allow, "permit-it")
	if b, err := io.ReadAll(x.Request.Body); err != nil || string(b) != `{"n": 7}` {
		t.Errorf("%q, %v", b, err)
	}
}

func TestConcurrentDecisionsDoNotMix(t *testing.T) {
	attrs := []authz.Attribute{{Name: "x", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceQuery, Arg: "n"}}}
	s := prepare(t, section(attrs, []authz.Node{{Op: authz.OpAttr}, {Op: authz.OpLong, A: 500}, {Op: authz.OpLt, A: 0, B: 1}}))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				n := (i*7 + w) % 1000
				d := s.Judge(ask("GET", fmt.Sprintf("/?n=%d", n), ""))
				if (d.Verdict == abi.Allow) != (n < 500) {
					t.Errorf("n=%d: %+v", n, d)
					return
				}
			}
		})
	}
	wg.Wait()
}
