package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	public "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/pep"
	pepauthz "lorica.dev/lorica/pep/authz"
	"lorica.dev/lorica/policy"
)

// The world that generated policies and requests are about. Every attribute of
// the context has a source of its own kind.
var (
	users      = []string{"ada", "bob", "cyd", `e"\*e`}
	groups     = []string{"staff", "ops", "night watch", ""}
	levels     = []string{"normal", "elevated", "lockdown"}
	routes     = []api.Route{{Name: "r0", Group: "g0"}, {Name: "r1", Group: "g1"}, {Name: "r2"}, {Name: "r3", Group: "g0"}}
	attributes = []authz.Attribute{
		{Name: "acr", Type: authz.TypeString, Optional: true, Source: authz.Source{Kind: authz.SourceClaim, Arg: "/acr"}},
		{Name: "amount", Type: authz.TypeLong, Optional: true, Source: authz.Source{Kind: authz.SourceBody, Arg: "/amount"}},
		{Name: "dns", Type: authz.TypeString, Optional: true, Source: authz.Source{Kind: authz.SourceDNS}},
		{Name: "flag", Type: authz.TypeBool, Optional: true, Source: authz.Source{Kind: authz.SourceBody, Arg: "/x/0/flag"}},
		{Name: "from", Type: authz.TypeIP, Optional: true, Source: authz.Source{Kind: authz.SourceBody, Arg: "/x/0/from"}},
		{Name: "hour", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceHour}},
		{Name: "id", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceRoute, Arg: "id"}},
		{Name: "ip", Type: authz.TypeIP, Source: authz.Source{Kind: authz.SourcePeer}},
		{Name: "level", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceLevel}},
		{Name: "limit", Type: authz.TypeDecimal, Optional: true, Source: authz.Source{Kind: authz.SourceClaim, Arg: "/limits/0"}},
		{Name: "method", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceMethod}},
		{Name: "mfa", Type: authz.TypeBool, Optional: true, Source: authz.Source{Kind: authz.SourceClaimHas, Arg: "/amr", Has: "mfa"}},
		{Name: "minute", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceMinute}},
		{Name: "price", Type: authz.TypeDecimal, Optional: true, Source: authz.Source{Kind: authz.SourceBody, Arg: "/price"}},
		{Name: "q", Type: authz.TypeLong, Optional: true, Source: authz.Source{Kind: authz.SourceQuery, Arg: "q"}},
		{Name: "rank", Type: authz.TypeLong, Optional: true, Source: authz.Source{Kind: authz.SourceClaim, Arg: "/rank"}},
		{Name: "spiffe", Type: authz.TypeString, Optional: true, Source: authz.Source{Kind: authz.SourceSPIFFE}},
		{Name: "subject", Type: authz.TypeString, Optional: true, Source: authz.Source{Kind: authz.SourceSubject}},
		{Name: "tag", Type: authz.TypeString, Optional: true, Source: authz.Source{Kind: authz.SourceHeader, Arg: "X-Tag"}},
		{Name: "verified", Type: authz.TypeBool, Optional: true, Source: authz.Source{Kind: authz.SourceClaim, Arg: "/verified"}},
		{Name: "weekday", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceWeekday}},
	}
)

// claims are the attributes that a token gives.
var claims = []string{"acr", "limit", "mfa", "rank", "verified"}

// A request is one question, in the words of both sides.
type request struct {
	user   string
	groups []string
	route  int
	level  int
	values map[string]cedar.Value // by attribute, without the level
}

// deployment wraps Cedar text in a policy, with the rules numbered in order.
func deployment(t testing.TB, text string, fallback abi.Verdict) *policy.Deployment {
	list, err := cedar.NewPolicyListFromBytes("policy.cedar", []byte(text))
	if err != nil {
		t.Fatalf("generated policies do not parse: %v\n%s", err, text)
	}
	a := &policy.Authorization{
		Attributes: attributes, Principal: "User", Group: "Group", Resource: "Route", RouteGroup: "RouteGroup",
		Action: cedar.NewEntityUID("Action", "call"),
	}
	for i, p := range list {
		a.Rules = append(a.Rules, policy.CedarRule{ID: fmt.Sprintf("p%d", i), Pos: api.Pos{File: "policy.yaml", Line: 10 + i}, Policy: (*ast.Policy)(p.AST())})
	}
	return &policy.Deployment{
		Workload: &api.Workload{Metadata: api.Metadata{Name: "w", Tenant: "t"}},
		Policy: &api.SecurityPolicy{
			Default:       api.Default{Pos: api.Pos{File: "policy.yaml", Line: 3}, Network: abi.Allow, Authorization: fallback},
			Levels:        api.Levels{Names: levels, Initial: levels[0]},
			Routes:        routes,
			Authorization: &api.Authorization{},
		},
		Authorization: a,
	}
}

// guards compiles d and prepares one guard for each level.
func guards(t testing.TB, d *policy.Deployment) []pep.GuardState {
	t.Helper()
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	var states []pep.GuardState
	for i := range out.Levels {
		s, err := guard(d, &out.Levels[i])
		if err != nil {
			t.Fatalf("prepare: %v", err)
		}
		states = append(states, s)
	}
	return states
}

func guard(d *policy.Deployment, l *compiler.Level) (pep.GuardState, error) {
	p := l.Program(d, program.PlanID{}, 1)
	return pepauthz.New().Prepare(&pep.Input{Level: l.Name, Levels: p.Levels, Section: p.Section(authz.Name)})
}

// exchange writes r as the request that a client would send.
func exchange(r request) *pep.Exchange {
	h := http.Header{}
	method, query, body := "GET", "", map[string]string{}
	x := &pep.Exchange{Principal: r.user, Groups: r.groups, MaxBody: 1 << 16, Now: time.Unix(0, 0),
		Route: &route.Route{Name: routes[r.route].Name, Group: routes[r.route].Group}}
	for name, v := range r.values {
		switch name {
		case "weekday": // 2026-01-05 is a Monday
			at := time.Duration(r.values["minute"].(cedar.Long)) * time.Minute
			x.Now = time.Date(2026, 1, 4+int(v.(cedar.Long)), 0, 0, 59, 0, time.UTC).Add(at).In(time.FixedZone("west", -7*3600))
		case "spiffe", "dns", "subject":
			if x.Peer == nil {
				x.Peer = &pep.Peer{}
			}
			switch text := string(v.(cedar.String)); name {
			case "spiffe":
				x.Peer.SPIFFE = text
			case "dns":
				x.Peer.DNS = []string{text, "second"}
			default:
				x.Peer.Subject = text
			}
		case "id":
			x.Params = []pep.Param{{Name: "id", Value: string(v.(cedar.String))}}
		case "ip":
			x.Flow = flow.Flow{Src: v.(types.IPAddr).Addr()}
		case "method":
			method = string(v.(cedar.String))
		case "q":
			query = "a=1&q=" + v.String()
		case "tag":
			h.Set("X-Tag", string(v.(cedar.String)))
		case "amount", "price", "flag":
			body[name] = v.String()
		case "from":
			p := v.(types.IPAddr).Prefix() // Cedar takes no dots inside IPv6, which String would write
			body[name] = fmt.Sprintf(`"%s/%d"`, p.Addr().StringExpanded(), p.Bits())
		}
	}
	x.Claims = token(r.values)
	var text strings.Builder
	text.WriteString(`{"x": [{"other": [1, {"flag": null}]`)
	for _, name := range []string{"flag", "from"} {
		if v, ok := body[name]; ok {
			fmt.Fprintf(&text, `, "%s": %s`, name, v)
		}
	}
	text.WriteString("}]")
	for _, name := range []string{"amount", "price"} {
		if v, ok := body[name]; ok {
			fmt.Fprintf(&text, `, "%s": %s`, name, v)
		}
	}
	text.WriteString("}")
	h.Set("Content-Type", "application/json")
	req, err := http.NewRequest(method, "http://app/?"+query, strings.NewReader(text.String()))
	if err != nil {
		panic(err)
	}
	req.Header = h
	x.Request = req
	return x
}

// token writes the claims of the values; nil where there are none.
func token(values map[string]cedar.Value) []byte {
	list := []string{`"sub": "somebody"`}
	for _, name := range claims {
		v, ok := values[name]
		if !ok {
			continue
		}
		switch name {
		case "acr":
			list = append(list, `"acr": `+string(must(json.Marshal(string(v.(cedar.String))))))
		case "limit":
			list = append(list, `"limits": [`+strings.TrimSuffix(v.String(), ".0")+`, "x"]`)
		case "mfa":
			if v == cedar.Value(cedar.True) {
				list = append(list, `"amr": ["pwd", "mfa"]`)
			} else {
				list = append(list, `"amr": "pwd"`)
			}
		default:
			list = append(list, fmt.Sprintf("%q: %s", name, v))
		}
	}
	if len(list) == 1 {
		return nil
	}
	return []byte("{" + strings.Join(list, ", ") + "}")
}

// oracle decides r with cedar-go, one level after the other.
func oracle(d *policy.Deployment, set *cedar.PolicySet, r request) (verdict abi.Verdict, rule string) {
	who := cedar.NewEntityUID("User", cedar.String(r.user))
	what := cedar.NewEntityUID("Route", cedar.String(routes[r.route].Name))
	var member []cedar.EntityUID
	for _, g := range r.groups {
		member = append(member, cedar.NewEntityUID("Group", cedar.String(g)))
	}
	entities := types.EntityMap{who: {UID: who, Parents: cedar.NewEntityUIDSet(member...)}}
	for _, x := range routes { // policies may name others than that of the request
		var part []cedar.EntityUID
		if x.Group != "" {
			part = append(part, cedar.NewEntityUID("RouteGroup", cedar.String(x.Group)))
		}
		uid := cedar.NewEntityUID("Route", cedar.String(x.Name))
		entities[uid] = types.Entity{UID: uid, Parents: cedar.NewEntityUIDSet(part...)}
	}
	for i := range r.level + 1 {
		context := cedar.RecordMap{"level": cedar.String(levels[i])}
		for k, v := range r.values {
			context[cedar.String(k)] = v
		}
		verdict, rule = decide(d, set, entities, cedar.Request{Principal: who, Action: d.Authorization.Action, Resource: what, Context: cedar.NewRecord(context)})
		if verdict == abi.Deny {
			break
		}
	}
	return verdict, rule
}

// decide asks cedar-go's authorizer once. A rule that fails denies, else Cedar's
// decision stands; the rule reported is the first in file order among those that
// cedar-go names.
func decide(d *policy.Deployment, set *cedar.PolicySet, entities types.EntityMap, r cedar.Request) (abi.Verdict, string) {
	dec, diag := cedar.Authorize(set, entities, r)
	var names []string
	for _, e := range diag.Errors {
		names = append(names, string(e.PolicyID))
	}
	if dec == cedar.Deny || len(names) == 0 {
		for _, x := range diag.Reasons {
			names = append(names, string(x.PolicyID))
		}
	}
	if len(names) == 0 {
		return d.Policy.Default.Authorization, abi.RuleAuthz
	}
	first := slices.MinFunc(names, func(a, b string) int { return order(d, a) - order(d, b) })
	if len(diag.Errors) == 0 && dec == cedar.Allow {
		return abi.Allow, first
	}
	return abi.Deny, first
}

func order(d *policy.Deployment, id string) int {
	return slices.IndexFunc(d.Authorization.Rules, func(r policy.CedarRule) bool { return r.ID == id })
}

// policySet gives the same rules to cedar-go.
func policySet(d *policy.Deployment) *cedar.PolicySet {
	set := cedar.NewPolicySet()
	for _, r := range d.Authorization.Rules {
		set.Add(cedar.PolicyID(r.ID), cedar.NewPolicyFromAST((*public.Policy)(r.Policy)))
	}
	return set
}
