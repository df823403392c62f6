package diff

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/policy"
)

func load(t *testing.T, text string) *policy.Deployment {
	t.Helper()
	b, err := policy.Parse([]policy.File{{Name: "p.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return b.Deployments[0]
}

func compared(t *testing.T, before, after *policy.Deployment) *Deployment {
	t.Helper()
	d, err := Deployments(context.Background(), before, after, 20_000_000)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// brief is what changed, in few words.
func brief(d *Deployment) []string {
	var out []string
	for _, list := range [][]Change{d.Allowed, d.Denied} {
		for _, c := range list {
			mark, how := "-", c.Witness
			if c.Allows() {
				mark = "+"
			}
			if len(c.WhyNew) > 0 {
				how = strings.Join(c.WhyNew, " ")
			}
			out = append(out, fmt.Sprintf("%s %s -> %s%s: %s", mark, c.Old.Rule, c.New.Rule, strings.Join(append([]string{""}, c.Levels...), " @"), how))
		}
	}
	for _, x := range d.NotAnalysed {
		out = append(out, "? "+x.What+": "+x.Why)
	}
	return out
}

// What a rule is named, how it is written and where it stands makes no difference; what
// requests may do does.
func TestWhatChangesMean(t *testing.T) {
	const only = `permit (principal in Group::"staff", action, resource == Route::"one");`
	authorization := document[strings.Index(document, "  attributes:\n"):strings.Index(document, "  rateLimits:")]
	for name, c := range map[string]struct {
		base, change []string
		want         []string
	}{
		"nothing":         {nil, nil, nil},
		"another comment": {nil, []string{"spec: {app", "# what runs\nspec: {app"}, nil},
		"another name":    {nil, []string{`@id("all")`, `@id("everything")`}, nil},
		"a route with another name": {[]string{`permit (principal in Group::"staff", action, resource)`, only + "\n      " + `@id("x") forbid (principal, action, resource == Route::"two")`},
			[]string{"name: one,", "name: uno,", `Route::"one"`, `Route::"uno"`, "routes: [one]", "routes: [uno]"}, nil},
		"routes that change places": {[]string{`permit (principal in Group::"staff", action, resource) unless { context has n };`, only}, []string{"path: /one", "path: /two", "path: /two", "path: /one"},
			[]string{"+ default:authorization -> all: GET /two --as somebody --groups staff", "- all -> default:authorization: GET /one --as somebody --groups staff"}},
		"a path": {nil, []string{"path: /one", "path: \"/one/{x}\""},
			[]string{"+ default:route -> all: GET /one/1 --as somebody --groups staff", "- all -> default:route: GET /one --as somebody --groups staff"}},
		"a method": {nil, []string{"{method: GET, path: /one}", "{method: '*', path: /one}"},
			[]string{"+ default:method -> all: POST /one --as somebody --groups staff"}},
		"a route that nobody may take": {[]string{`resource) unless`, `resource == Route::"one") unless`}, []string{"path: /two", "path: /three"}, nil},
		"a route taken from another": {[]string{`resource) unless`, `resource == Route::"one") unless`, "path: /one", `path: "/{any}"`}, []string{"path: /two", "path: /three"},
			[]string{"+ default:authorization -> all: GET /two --as somebody --groups staff", "- all -> default:authorization: GET /three --as somebody --groups staff"}},
		"without credentials": {[]string{`principal in Group::"staff"`, "principal"}, []string{"require: true", "require: false"},
			[]string{"+ default:authentication -> all: GET /one"}},
		"without credentials and groups": {nil, []string{"require: true", "require: false"}, nil},
		"no authorization": {nil, []string{authorization, "", "authorization: Deny", "authorization: Allow", ", group: some", ""},
			[]string{"+ default:authorization -> idp: GET /one --as somebody"}},
		"no authorization, which forbade": {[]string{"unless { context has n };", "unless { context has n };\n      @id(\"never\") forbid (principal in Group::\"crew\", action, resource);"},
			[]string{authorization[:strings.Index(authorization, "@id")], "", "@id(\"all\") permit (principal in Group::\"staff\", action, resource) unless { context has n };\n      @id(\"never\") forbid (principal in Group::\"crew\", action, resource);\n", "", "authorization: Deny", "authorization: Allow", ", group: some", ""},
			[]string{"+ never -> idp: GET /one --as somebody --groups crew", "+ default:authorization -> idp: GET /one --as somebody"}},
		"HEAD alone": {[]string{"action, resource)", `action, resource == Route::"one")`}, []string{"    - {name: two,", "    - {name: head, match: {method: HEAD, path: /one}}\n    - {name: two,"},
			[]string{"- all -> default:authorization: HEAD /one --as somebody --groups staff"}},
		"below a path": {[]string{"path: /one", `path: "/one/{rest...}"`}, []string{`{name: one, match: {method: GET, path: "/one/{rest...}"}}`, `{name: one, match: {method: GET, path: "/one/{x}"}}` + "\n    - {name: three, match: {method: GET, path: /one}}"},
			[]string{"- all -> default:route: GET /one/1/1 --as somebody --groups staff"}},
		"a path that ends with a slash": {[]string{"path: /one", `path: "/one/{rest...}"`}, []string{`{name: one, match: {method: GET, path: "/one/{rest...}"}}`, `{name: one, match: {method: GET, path: "/one/{x}"}}` + "\n    - {name: three, match: {method: GET, path: /one}}" + "\n    - {name: four, match: {method: GET, path: \"/one/{x}/{rest...}\"}}"},
			[]string{"- all -> default:route: GET /one/ --as somebody --groups staff"}},
		"a group that leaves another": {[]string{"entity Group;", "entity Group in [Group];", "    cedar: |", "    entities: |\n      [{\"uid\": {\"type\": \"Group\", \"id\": \"night\"}, \"parents\": [{\"type\": \"Group\", \"id\": \"staff\"}], \"attrs\": {}}]\n    cedar: |"},
			[]string{`[{"type": "Group", "id": "staff"}]`, "[]"}, []string{"- all -> default:authorization: GET /one --as somebody --groups night"}},
		"what is in a query": {[]string{"body.json:/n", "query.n"}, []string{"context has n }", "context has n && context.n != 7 }"},
			[]string{"+ default:authorization -> all: GET /one?n=7 --as somebody --groups staff"}},
		"what is in a path": {[]string{"body.json:/n", "route.n", "path: /one", `path: "/one/{n}"`}, []string{"context has n }", "context has n && context.n != 7 }"},
			[]string{"+ default:authorization -> all: GET /one/7 --as somebody --groups staff"}},
		"what is in a path that is written otherwise": {[]string{"body.json:/n", "route.n", "path: /one", `path: "/one/{n}"`}, []string{`path: "/one/{n}"`, `path: "/one/{n...}"`},
			[]string{"? requests: route one: the rules read what is in the path, and the paths are written differently"}},
		"what nobody in particular has": {[]string{"body.json:/n", "jwt.n", "unless { context has n }", "when { context has n }", `principal in Group::"staff"`, "principal"}, []string{"require: true", "require: false"}, nil},
		"no routes and no authorization": {nil, []string{authorization, "", "authorization: Deny", "authorization: Allow", document[strings.Index(document, "  routes:\n"):strings.Index(document, "  attributes:\n")], "", "routes: [one], ", ""},
			[]string{"+ default:route -> idp: GET / --as somebody", "+ default:authorization -> idp: GET /one --as somebody", "+ default:method -> idp: POST /one --as somebody"}},
		"what is required": {[]string{"unless { context has n }", "when { true || (context has n && context.n > 0) }"}, []string{`"n"?`, `"n"`},
			[]string{"- all -> default:missing-attribute: GET /one --as somebody --groups staff"}},
		"what has another type": {nil, []string{`"n"?: Long`, `"n"?: String`},
			[]string{"? requests: route one: the attribute n has another type in the one policy than in the other", "? requests: route two: the attribute n has another type in the one policy than in the other"}},
		"what one schema alone has": {nil, []string{`"n"?: Long }`, `"n"?: Long, "m"?: Long }`, "    n: ", "    m: \"body.json:/m\"\n    n: ", "unless { context has n }", "unless { context has n || context has m }"},
			[]string{"- all -> default:authorization: GET /one --as somebody --groups staff --set m=0"}},
		"another source": {nil, []string{"body.json:/n", "body.json:/m", "context has n", "context has n && context.n > 5"},
			[]string{"+ default:authorization -> all: GET /one --as somebody --groups staff --set n=4",
				"? requests: route one: at level low: the attribute n has another source in the one policy than in the other", "? requests: route two: at level low: the attribute n has another source in the one policy than in the other"}},
		"levels with other names": {nil, []string{"names: [low, high], initial: low", "names: [calm, wild], initial: calm"},
			[]string{"? packets and requests: the policies have no level in common", "? requests: route one: the policies have no level in common", "? requests: route two: the policies have no level in common"}},
		"at one level": {nil, []string{"audit: true}", "audit: true}\n      - {name: late, action: Deny, from: [any], minLevel: high}"},
			[]string{"- default:network -> late @high: --packet tcp 10.0.0.1 -> :443 --level high"}},
	} {
		base := document
		if c.base != nil {
			base = strings.NewReplacer(c.base...).Replace(base)
		}
		before := load(t, base)
		after := load(t, strings.NewReplacer(c.change...).Replace(base))
		d := compared(t, before, after)
		if got := brief(d); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		back := brief(compared(t, after, before))
		if len(back) != len(c.want) {
			t.Errorf("%s, and back:\n%s", name, strings.Join(back, "\n"))
		}
		if same := d.Same(); same != (len(c.want) == 0 && len(d.Differences) == 0) {
			t.Errorf("%s: the same: %v", name, same)
		}
	}
}

// What may be connected to is compared by targets, each of which the image's own rules were
// asked about.
func TestConnections(t *testing.T) {
	with := func(rules ...string) *policy.Deployment {
		rules = append([]string{`{name: up, action: Allow, to: [{cidrs: [203.0.113.9/32]}], ports: [{protocol: TCP, port: 80}]}`}, rules...)
		return load(t, strings.NewReplacer("    ingress:\n", "    egress:\n      - "+strings.Join(rules, "\n      - ")+"\n    ingress:\n", "static: {dir: ./public}", `proxy: {upstream: "http://203.0.113.9:80"}`).Replace(document))
	}
	web := `{name: web, action: Allow, to: [{cidrs: [192.0.2.0/24]}], ports: [{protocol: TCP, port: 443}]}`
	for _, c := range []struct {
		name     string
		old, new *policy.Deployment
		want     []string
	}{
		{"nothing", with(web), with(web), nil},
		{"a port", with(web), with(strings.Replace(web, "443", "444", 1)), []string{"+ default:egress -> web: 192.0.2.0:444", "- web -> default:egress: 192.0.2.0:443"}},
		{"one port more", with(strings.Replace(web, "port: 443", "portRange: 443-445", 1)), with(strings.Replace(web, "port: 443", "portRange: 443-446", 1)), []string{"+ default:egress -> web: 192.0.2.0:446"}},
		{"a wider network", with(web), with(strings.Replace(web, "2.0/24", "2.0/23", 1)), []string{"+ default:egress -> web: 192.0.3.0:443"}},
		{"what one rule says in two", with(web), with(strings.Replace(web, "2.0/24", "2.0/25", 1), strings.NewReplacer("web", "more", "2.0/24", "2.128/25").Replace(web)), nil},
		{"a name", with(web), with(web, `{name: api, action: Allow, to: [{names: [api.example.com]}], ports: [{protocol: TCP, port: 443}]}`),
			[]string{"+ default:egress -> api: api.example.com:443, which is 0.0.0.1"}},
		{"where a name leads", with(`{name: api, action: Allow, to: [{names: [api.example.com]}]}`), with(`{name: not, action: Deny, to: [{cidrs: [198.51.100.0/24]}]}`, `{name: api, action: Allow, to: [{names: [api.example.com]}]}`),
			[]string{"- api -> not: api.example.com:1, which is 198.51.100.0"}},
		{"at one level", with(web), with(strings.Replace(web, "}]}", "}], maxLevel: low}", 1)), []string{"- web -> default:egress @high: 192.0.2.0:443"}},
	} {
		if got := brief(compared(t, c.old, c.new)); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
	s := policy.EgressSection(with(web).Policy, 0)
	if target, err := egress.ParseTarget("192.0.2.0", 443); err != nil || s.Decide(target).Rule.ID != "web" {
		t.Error(target, err)
	}
}

// A budget that does not suffice is said, and nothing is then called equal.
func TestBeyondTheBudget(t *testing.T) {
	before, after := load(t, document), load(t, strings.NewReplacer("127.0.0.1/32", "127.0.0.0/8", "context has n", "context has n && context.n > 5").Replace(document))
	d, err := Deployments(context.Background(), before, after, 1)
	if err != nil || d.Same() || len(d.NotAnalysed) < 2 {
		t.Errorf("%+v, %v", d, err)
	}
	for _, x := range d.NotAnalysed {
		if !strings.Contains(x.Why, "steps were not enough") {
			t.Errorf("%+v", x)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if d, err := Deployments(ctx, before, after, 1000); err != context.Canceled {
		t.Errorf("%+v, %v", d, err)
	}
}
