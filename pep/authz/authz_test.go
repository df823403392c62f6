package authz

import (
	"fmt"
	"io"
	"math"
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

// A step is an instruction: an operation, or a constant that is pushed.
type step struct {
	op authz.Op
	a  uint32
	v  authz.Value
}

// write appends the code of a rule to s: that of its scope, of a condition if there is one.
func write(s *authz.Section, scope []authz.Instruction, condition []step) authz.Span {
	first := uint32(len(s.Code))
	s.Code = append(s.Code, scope...)
	for _, x := range condition {
		if x.op == 0 {
			s.Values = append(s.Values, x.v)
			x.op, x.a = authz.OpValue, uint32(len(s.Values)-1)
		}
		s.Code = append(s.Code, authz.Instruction{Op: x.op, A: x.a})
	}
	if len(condition) > 0 {
		s.Code = append(s.Code, authz.Instruction{Op: authz.OpEnsure})
	}
	return authz.Span{First: first, Count: uint32(len(s.Code)) - first}
}

// section has one route, r, whose rules read all attributes. The first rule
// permits members of ops where the condition holds; stop, if any, forbids.
func section(attrs []authz.Attribute, permit []step, stop ...step) *authz.Section {
	s := &authz.Section{
		Strings: strs, Principal: str("User"), Group: str("Group"), Action: entCall,
		Rule:       abi.Rule{ID: abi.RuleAuthz, Line: "policy.yaml:3"},
		Attributes: attrs,
		Routes:     []authz.Route{{Name: str("r"), Resource: entR, Reads: 1<<len(attrs) - 1}},
		Nodes:      []authz.Node{{Rules: authz.Span{Count: 1}}},
		Lists:      []uint32{0, 1},
	}
	for _, e := range [][2]string{{"Action", "call"}, {"Group", "ops"}, {"Route", "r"}, {"User", "ada"}} {
		s.Entities = append(s.Entities, authz.Entity{Type: str(e[0]), ID: str(e[1]), Members: authz.None, Tags: authz.None})
	}
	inOps := []authz.Instruction{{Op: authz.OpScopeIn, A: authz.ScopePrincipal, B: entOps}}
	s.Rules = []authz.Rule{{ID: str("permit-it"), Line: str("line"), Code: write(s, inOps, permit)}}
	if len(stop) > 0 {
		s.Rules = append(s.Rules, authz.Rule{ID: str("stop-it"), Line: str("line"), Forbid: true, Code: write(s, nil, stop)})
		s.Nodes[0].Rules.Count = 2
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
	s := prepare(t, section(nil, nil, step{v: authz.Value{Kind: authz.ValueEntity, A: entAda}}, step{op: authz.OpPrincipal}, step{op: authz.OpEq}))
	x := ask("GET", "/", "")
	check(t, s.Judge(x), abi.Allow, "permit-it")
	x.Principal = "ada"
	check(t, s.Judge(x), abi.Deny, "stop-it")
}

func TestARuleThatFailsDenies(t *testing.T) {
	for name, nodes := range map[string][]step{
		"overflow":        {{v: authz.NumberValue(authz.ValueLong, math.MaxInt64)}, {v: authz.NumberValue(authz.ValueLong, int64(1))}, {op: authz.OpAdd}, {v: authz.NumberValue(authz.ValueLong, 0)}, {op: authz.OpLt}},
		"a wrong type":    {{v: authz.NumberValue(authz.ValueLong, 0)}, {op: authz.OpNot}},
		"not a condition": {{v: authz.NumberValue(authz.ValueLong, 0)}},
		"absent":          {{op: authz.OpAttr}},
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
	sec := section(attrs, nil, step{op: authz.OpAttr}, step{v: authz.Value{Kind: authz.ValueString, A: str("elevated")}}, step{op: authz.OpEq})
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
	hello := []step{{op: authz.OpAttr}, {v: authz.Value{Kind: authz.ValueString, A: str("hello")}}, {op: authz.OpEq}}
	seven := []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueLong, int64(7))}, {op: authz.OpEq}}
	half := []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueDecimal, int64(5000))}, {op: authz.OpEq}}
	isTrue := []step{{op: authz.OpAttr}}
	isV4 := []step{{op: authz.OpAttr}, {op: authz.OpIsIPv4}}
	for _, c := range []struct {
		name string
		typ  authz.Type
		kind authz.SourceKind
		arg  string
		cond []step
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
		{"body decimal without a point", authz.TypeDecimal, authz.SourceBody, "/n", []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueDecimal, int64(50000))}, {op: authz.OpEq}}, ask("POST", "/", `{"n": 5}`, js...), ok},
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
	s := prepare(t, section(attrs, []step{{op: authz.OpAttr}, {op: authz.OpIsIPv4}}))
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
	s := prepare(t, section(attrs, []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueLong, int64(500))}, {op: authz.OpLt}}))
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
