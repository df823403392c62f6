package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/pep"
	pepauthz "lorica.dev/lorica/pep/authz"
	"lorica.dev/lorica/pep/filter"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/policy"
)

// An image is the modules of one level, as an image of it would hold them.
type image struct {
	firewall pep.GateState
	filter   pep.GuardState
	authz    pep.GuardState
}

func images(t testing.TB, d *policy.Deployment) []image {
	t.Helper()
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	var list []image
	for _, l := range out.Levels {
		p := l.Program(d, program.PlanID{}, 1)
		in := func(section string) *pep.Input {
			return &pep.Input{Level: l.Name, Levels: p.Levels, Section: p.Section(section)}
		}
		list = append(list, image{
			firewall: must(firewall.New().Prepare(in(flow.Name))),
			filter:   must(filter.New().Prepare(in(route.Name))),
			authz:    must(pepauthz.New().Prepare(in(authz.Name))),
		})
	}
	return list
}

func load(t testing.TB, doc string) *policy.Deployment {
	t.Helper()
	b, err := policy.Parse([]policy.File{{Name: "policy.yaml", Data: []byte(doc), Dir: "testdata"}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b.Deployments[0]
}

func example(t testing.TB) *policy.Deployment {
	t.Helper()
	b, err := policy.Load("../../examples/accounts")
	if err != nil {
		t.Fatal(err)
	}
	return b.Deployments[0]
}

// TestConnectionsAreJudgedAsTheReferenceSays asks the firewall and package
// policy about the same connections at every level.
func TestConnectionsAreJudgedAsTheReferenceSays(t *testing.T) {
	d := example(t)
	seen := map[abi.Verdict]int{}
	for i, img := range images(t, d) {
		level := d.Policy.Levels.Names[i]
		for _, src := range []string{"127.0.0.1", "127.0.0.2", "10.20.1.1", "10.21.1.1", "2001:db8:20::1", "2001:db8:21::1", "::1", "::ffff:10.20.1.1", "::ffff:127.0.0.1"} {
			for _, port := range []uint16{22, 80, 8445, 65535} {
				addr := netip.MustParseAddr(src)
				want := d.Classify(level, api.Packet{From: addr, Protocol: "TCP", Port: port})
				got := img.firewall.Admit(flow.Flow{Src: addr, DstPort: port, Protocol: flow.TCP})
				if got.Verdict != want.Verdict || got.Rule != want.Rule {
					t.Errorf("%s to %d at %s: the image says %s by %v, the reference %s by %v", src, port, level, got.Verdict, got.Rule, want.Verdict, want.Rule)
				}
				seen[got.Verdict]++
			}
		}
	}
	if seen[abi.Allow] == 0 || seen[abi.Deny] == 0 {
		t.Errorf("one-sided: %v", seen)
	}
}

// TestRequestsAreJudgedAsTheReferenceSays sends whole requests through filter
// and authorization and asks package policy the same.
func TestRequestsAreJudgedAsTheReferenceSays(t *testing.T) {
	d := example(t)
	seen := map[string]int{}
	amounts := []string{"", "-1", "0", "1", "999", "1000", "1001", "5000", "5001", "10000", "10001", "9223372036854775807"}
	for i, img := range images(t, d) {
		level := d.Policy.Levels.Names[i]
		for _, who := range [][]string{{"staff-3", "staff"}, {"teller-7", "tellers"}, {"both", "staff", "tellers"}, {"neither"}, {"staff"}} {
			for _, call := range []struct{ route, method, path string }{
				{"listAccounts", "GET", "/accounts"}, {"readAccount", "GET", "/accounts/7"}, {"transfer", "POST", "/accounts/7/transfers"},
			} {
				for hour := range 24 {
					for _, amount := range amounts {
						facts := map[string]cedar.Value{"hour": cedar.Long(hour)}
						body := `{"to": "1"}`
						if amount != "" {
							body = fmt.Sprintf(`{"to": "1", "amount": %s}`, amount)
							n, err := strconv.ParseInt(amount, 10, 64)
							if err != nil {
								t.Fatal(err)
							}
							facts["amount"] = cedar.Long(n)
						}
						want := d.Authorize(policy.Call{Level: level, Principal: who[0], Groups: who[1:], Route: call.route, Context: facts})
						got := img.judge(t, call.method, call.path, body, who[0], who[1:], hour)
						if got.Verdict != want.Verdict || got.Rule != want.Rule {
							t.Fatalf("%v %s amount %q at %d, %s: the image says %s by %v (%s), the reference %s by %v (%s)",
								who, call.route, amount, hour, level, got.Verdict, got.Rule, got.Reason, want.Verdict, want.Rule, want.Reason)
						}
						seen[got.Rule.ID]++
					}
				}
			}
		}
	}
	for _, r := range d.Authorization.Rules {
		if seen[r.ID] == 0 {
			t.Errorf("rule %s never decided", r.ID)
		}
	}
	if seen[abi.RuleAuthz] == 0 {
		t.Error("the default never decided")
	}
}

func (img image) judge(t testing.TB, method, target, body, who string, groups []string, hour int) pep.Decision {
	t.Helper()
	r, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host, r.RequestURI = "app", target // as a server receives it
	r.Header.Set("Content-Type", "application/json")
	x := &pep.Exchange{Request: r, Header: http.Header{}, Now: time.Date(2026, 1, 2, hour, 0, 0, 0, time.UTC),
		Flow: flow.Flow{Src: netip.MustParseAddr("127.0.0.1"), DstPort: 8445, Protocol: flow.TCP}}
	if d := img.filter.Judge(x); d.Verdict != abi.Allow {
		t.Fatalf("the filter denies %s %s: %+v", method, target, d)
	}
	x.Principal, x.Groups = who, groups
	return img.authz.Judge(x)
}

// head begins a document: a workload, and a policy that selects it.
const head = `
apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec:
  app: {static: {dir: public}}
  listen: [{name: api, port: 8080}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: p}
spec:
  selector: {matchLabels: {app: w}}
`

// everything reads an attribute of each source, so that one document shows that
// the loader, the compiler and the image mean the same.
const everything = head + `  levels: {names: [low, high], initial: low}
  network: {ingress: [{name: in, action: Allow, from: [any]}]}
  authentication: {require: true, basic: {name: login, realm: r, users: secret/users}}
  secrets: {users: {file: users.txt}}
  routes:
    - {name: get, group: g, match: {method: GET, path: "/a/{id}"}}
    - {name: put, match: {method: PUT, path: "/a/{id}/b"}}
  attributes:
    level: level
    hour: clock.hour
    peer: peer.address
    method: request.method
    id: route.id
    page: query.page
    tag: header.x-tag
    price: "body.json:/items/0/price"
    net: "body.json:/net"
    sure: "body.json:/sure"
    groups: basic.groups
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity RouteGroup;
      entity Route in [RouteGroup];
      type Request = { level: String, hour: Long, peer: ipaddr, method: String, id: Long, page?: Long, tag?: String, price: decimal, net?: ipaddr, sure: Bool };
      action "call" appliesTo { principal: User, resource: Route, context: Request };
    cedar: |
      @id("by-page")
      permit (principal in Group::"ops", action, resource in RouteGroup::"g")
      when { context has page && context.page < 10 && context.hour < 20 && context.peer.isInRange(ip("10.0.0.0/8")) };
      @id("tagged")
      permit (principal, action, resource == Route::"get")
      when { context has tag && context.tag like "v*" && context.id > 100 } unless { context.method == "HEAD" };
      @id("cheap")
      permit (principal == User::"ada", action, resource == Route::"put")
      when { context.price.lessThan(decimal("10.0")) && (if context has net then context.net.isIpv4() else true) };
      @id("unsure")
      forbid (principal, action, resource == Route::"put") unless { context.sure || [1, 2].contains(context.id) };
      @id("high-is-careful")
      forbid (principal, action, resource) when { context.level == "high" && !(principal in [Group::"ops", Group::"admins"]) };
      @id("overflows")
      forbid (principal, action, resource == Route::"get") when { context has page && context.page * 4611686018427387904 > 0 };
`

func TestEverySourceMeansTheSameToBothSides(t *testing.T) {
	d := load(t, everything)
	imgs := images(t, d)
	g := seeded(7)
	seen := map[string]int{}
	for range 6000 {
		level, hour := g.IntN(2), g.IntN(24)
		who, groups := pick(g, "ada", "bob"), pick(g, nil, []string{"ops"}, []string{"admins", "x"})
		id, page, tag := pick(g, "1", "7", "101"), pick(g, "", "0", "1", "2", "11"), pick(g, "", "v1", "w")
		price, net, sure := pick(g, "", "9.99", "10.0", "1"), pick(g, "", "10.0.0.0/8", "::1"), pick(g, "", "true", "false")
		peer := netip.MustParseAddr(pick(g, "10.1.1.1", "::ffff:10.1.1.1", "192.0.2.1"))

		facts := map[string]cedar.Value{"hour": cedar.Long(hour), "id": must(policy.ParseValue(authz.Attribute{Type: authz.TypeLong}, id)),
			"peer": types.IPAddr(netip.PrefixFrom(peer.Unmap(), peer.Unmap().BitLen()))}
		target, name, method := "/a/"+id, "get", pick(g, "GET", "HEAD")
		if g.IntN(2) == 0 {
			target, name, method = "/a/"+id+"/b", "put", "PUT"
		}
		facts["method"] = cedar.String(method)
		if page != "" {
			target += "?page=" + page
			facts["page"] = must(policy.ParseValue(authz.Attribute{Type: authz.TypeLong}, page))
		}
		var body []string
		if price != "" {
			body = append(body, `"items": [{"price": `+price+`}]`)
			if !strings.Contains(price, ".") {
				price += ".0" // JSON has no decimals; Cedar wants the point
			}
			facts["price"] = must(policy.ParseValue(authz.Attribute{Type: authz.TypeDecimal}, price))
		}
		if net != "" {
			body = append(body, `"net": "`+net+`"`)
			facts["net"] = must(policy.ParseValue(authz.Attribute{Type: authz.TypeIP}, net))
		}
		if sure != "" {
			body = append(body, `"sure": `+sure)
			facts["sure"] = cedar.Boolean(sure == "true")
		}
		if tag != "" {
			facts["tag"] = cedar.String(tag)
		}

		want := d.Authorize(policy.Call{Level: d.Policy.Levels.Names[level], Principal: who, Groups: groups, Route: name, Context: facts})
		r := must(http.NewRequest(method, target, strings.NewReader("{"+strings.Join(body, ", ")+"}")))
		r.Host, r.RequestURI = "app", target
		r.Header.Set("Content-Type", "application/json")
		if tag != "" {
			r.Header.Set("X-Tag", tag)
		}
		x := &pep.Exchange{Request: r, Header: http.Header{}, Now: time.Date(2026, 1, 2, hour, 59, 0, 0, time.UTC), Flow: flow.Flow{Src: peer}}
		if f := imgs[level].filter.Judge(x); f.Verdict != abi.Allow {
			t.Fatalf("the filter denies %s %s: %+v", method, target, f)
		}
		x.Principal, x.Groups = who, groups
		got := imgs[level].authz.Judge(x)
		if got.Verdict != want.Verdict || got.Rule != want.Rule {
			t.Fatalf("%s %v %s %s %v: the image says %s by %v (%s), the reference %s by %v (%s)", who, groups, method, target, facts,
				got.Verdict, got.Rule, got.Reason, want.Verdict, want.Rule, want.Reason)
		}
		seen[got.Rule.ID]++
	}
	t.Logf("%v", seen)
	for _, r := range d.Authorization.Rules {
		if seen[r.ID] == 0 {
			t.Errorf("rule %s never decided", r.ID)
		}
	}
	if seen[abi.RuleAttribute] == 0 || seen[abi.RuleAuthz] == 0 {
		t.Errorf("a default never decided: %v", seen)
	}
}
