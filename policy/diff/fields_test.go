package diff

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// filled gives every field a value: of lists one entry.
func filled(v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *api.Pos:
		*x = api.Pos{File: "p.yaml", Line: 3, Column: 1}
		return
	case *netip.Addr:
		*x = netip.MustParseAddr("192.0.2.1")
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("192.0.2.0/24")
		return
	case *time.Time:
		*x = time.Unix(1, 0)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			filled(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		filled(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf("v"))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(false)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	default:
		v.SetUint(1)
	}
}

// other gives a value that differs.
func other(v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = netip.MustParseAddr("192.0.2.2")
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("192.0.3.0/24")
		return
	case *time.Time:
		*x = time.Unix(2, 0)
		return
	}
	switch v.Kind() {
	case reflect.Map:
		v.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf("w"))
	case reflect.String:
		v.SetString("y")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(0.75)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(2)
	default:
		v.SetUint(2)
	}
}

// leaves calls f with every value below one that can be set otherwise, and its path.
func leaves(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	switch v.Addr().Interface().(type) {
	case *api.Pos:
		return
	case *netip.Addr, *netip.Prefix, *time.Time:
		f(path, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		leaves(v.Elem(), path, f)
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(v.Field(i), path+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Slice:
		leaves(v.Index(0), path, f)
	default:
		f(path, v)
	}
}

// What decides about packets, requests and connections is compared by what it decides; names
// of routes and of other entries tell them apart.
var shownOtherwise = []string{
	".Default.", ".Endpoints.", ".Network.Ingress.", ".Network.Egress.", ".Authorization.", ".Tests.", ".Metadata.", ".Authentication.Basic.Schemes", ".Dir", ".Selector", "workload.Metadata.", "workload.Dir",
}

// Whatever field of the language differs is said, those as well that will come.
func TestEveryFieldIsCompared(t *testing.T) {
	fresh := func() *policy.Deployment {
		d := &policy.Deployment{Policy: &api.SecurityPolicy{}, Workload: &api.Workload{}}
		filled(reflect.ValueOf(d.Policy).Elem())
		filled(reflect.ValueOf(d.Workload).Elem())
		return d
	}
	var all []string
	paths := func(d *policy.Deployment, f func(string, reflect.Value)) {
		leaves(reflect.ValueOf(d.Policy).Elem(), "", f)
		leaves(reflect.ValueOf(d.Workload).Elem(), "workload", f)
	}
	paths(fresh(), func(p string, _ reflect.Value) { all = append(all, p) })
	if len(all) < 100 {
		t.Fatal(all)
	}
	if list := differences(fresh(), fresh()); len(list) > 0 {
		t.Fatal(list)
	}
	for i, path := range all {
		if slices.ContainsFunc(shownOtherwise, func(p string) bool { return strings.HasPrefix(path, p) }) {
			continue
		}
		changed, n := fresh(), 0
		paths(changed, func(_ string, v reflect.Value) {
			if n == i {
				other(v)
			}
			n++
		})
		list := differences(fresh(), changed)
		if len(list) == 0 {
			t.Errorf("%s: nothing is said", path)
		}
		for _, d := range list {
			if d.OldLine == "" && d.NewLine == "" || !strings.EqualFold(d.Field[:3], strings.TrimPrefix(path, ".")[:3]) {
				t.Errorf("%s: %+v", path, d)
			}
		}
	}
	// What may not be there, too.
	for i := range reflect.TypeFor[api.SecurityPolicy]().NumField() {
		f := reflect.TypeFor[api.SecurityPolicy]().Field(i)
		if f.Type.Kind() != reflect.Pointer || f.Name == "Network" || f.Name == "Authorization" {
			continue
		}
		without := fresh()
		reflect.ValueOf(without.Policy).Elem().Field(i).SetZero()
		if len(differences(fresh(), without)) == 0 || len(differences(without, fresh())) == 0 {
			t.Errorf("no %s: nothing is said", f.Name)
		}
	}
	for field := range senses {
		if field != "levels.initial" && !strings.HasPrefix(field, "workload") && !slices.ContainsFunc(all, func(p string) bool {
			return strings.HasPrefix(strings.ToLower(strings.TrimPrefix(p, ".")), strings.ToLower(field))
		}) {
			t.Errorf("there is no field %s", field)
		}
	}
}

// Each side of a field says whether more is allowed.
func TestDirections(t *testing.T) {
	load := func(change ...string) *policy.Deployment {
		t.Helper()
		b, err := policy.Parse([]policy.File{{Name: "p.yaml", Data: []byte(strings.NewReplacer(change...).Replace(document))}})
		if err != nil {
			t.Fatal(err)
		}
		return b.Deployments[0]
	}
	for _, c := range []struct{ old, new, field, effect string }{
		{"mode: SIMPLE", "mode: SIMPLE, minVersion: \"1.2\"", "tls.minVersion", Loosens},
		{"require: true", "require: false", "authentication.require", Loosens},
		{"audiences: [a, b]", "audiences: [a]", "authentication.jwt.idp.audiences", Tightens},
		{"audiences: [a, b]", "audiences: [a, c]", "authentication.jwt.idp.audiences", Changes},
		{"issuer: \"https://i", "issuer: \"https://j", "authentication.jwt.idp.issuer", Changes},
		{"jwks: secret/keys}]", "jwks: secret/keys}, {name: two, issuer: \"https://two.example\", audiences: [a], jwks: secret/keys}]", "authentication.jwt.two", Loosens},
		{"requests: 5,", "requests: 6,", "rateLimits.few.requests", Loosens},
		{"per: 1m", "per: 2m", "rateLimits.few.per", Tightens},
		{"key: source", "key: principal", "rateLimits.few.key", Changes},
		{"routes: [one]", "routes: [one, two]", "rateLimits.few.routes", Tightens},
		{"routes: [one], ", "", "rateLimits.few.routes", Tightens},
		{"requests: 5,", "requests: 5, minLevel: high,", "rateLimits.few.minLevel", Loosens},
		{"  rateLimits: [{name: few, key: source, routes: [one], requests: 5, per: 1m}]\n", "", "rateLimits.few", Loosens},
		{"count: 3", "count: 4", "obligations.guess.count", Loosens},
		{"for: 2m", "for: 3m", "obligations.guess.block", Tightens},
		{"maxBodyBytes: 100,", "maxBodyBytes: 101,", "requestFilter.maxBodyBytes", Loosens},
		{", contentTypes: [application/json]", "", "requestFilter.contentTypes", Loosens},
		{"contentTypes: [application/json]", "contentTypes: [application/json], rejectEncodedSlash: false", "requestFilter.rejectEncodedSlash", Loosens},
		{"initial: low", "initial: high", "levels.initial", Tightens},
		{"names: [low, high]", "names: [low, high, top]", "levels.names", Changes},
		{"n: \"body.json:/n\"", "n: \"body.json:/m\"", "attributes.n.source", Changes},
		{"\"n\"?: Long", "\"n\"?: String", "attributes.n.type", Changes},
		{"audit: true", "audit: false", "network.ingress.in.audit", Changes},
		{"port: 8080}]}\n---", "port: 8080}, {name: more, port: 8081}]}\n---", "workload.listen.more", Loosens},
		{"target: process", "target: microvm", "workload.target", Changes},
		{"keys: {file: ./keys}", "keys: {file: ./other}", "secrets.keys.file", Changes},
	} {
		list := differences(load(), load(c.old, c.new))
		if len(list) != 1 || list[0].Field != c.field || list[0].Effect != c.effect {
			t.Errorf("%s -> %s: %+v", c.old, c.new, list)
		}
		reverse := map[string]string{Loosens: Tightens, Tightens: Loosens, Changes: Changes}
		if list := differences(load(c.old, c.new), load()); len(list) != 1 || list[0].Field != c.field || list[0].Effect != reverse[c.effect] {
			t.Errorf("back from %s: %+v", c.new, list)
		}
	}
}

// What is not written is what there is without it.
func TestDefaultsAreNoDifference(t *testing.T) {
	written := strings.NewReplacer("  requestFilter: {maxBodyBytes: 100, contentTypes: [application/json]}\n", "  requestFilter: {maxHeaders: 100}\n  audit: {decisions: all}\n", `jwks: secret/keys}`, `jwks: secret/keys, leeway: 30s}`).Replace(document)
	none := strings.Replace(document, "  requestFilter: {maxBodyBytes: 100, contentTypes: [application/json]}\n", "", 1)
	if list := differences(load(t, none), load(t, written)); len(list) > 0 {
		t.Errorf("%+v", list)
	}
}

const document = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec: {app: {static: {dir: ./public}}, target: process, listen: [{name: web, port: 8080}]}
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: w}
spec:
  selector: {matchLabels: {app: w}}
  default: {network: Allow, authorization: Deny}
  levels: {names: [low, high], initial: low}
  endpoints: [{name: here, cidrs: [127.0.0.1/32]}]
  network:
    ingress:
      - {name: in, action: Allow, from: [here], audit: true}
  tls: {mode: SIMPLE}
  authentication: {require: true, jwt: [{name: idp, issuer: "https://idp.example", audiences: [a, b], jwks: secret/keys}]}
  secrets: {keys: {file: ./keys}}
  routes:
    - {name: one, match: {method: GET, path: /one}}
    - {name: two, group: some, match: {method: GET, path: /two}}
  attributes:
    groups: jwt.groups
    n: "body.json:/n"
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity RouteGroup;
      entity Route in [RouteGroup];
      action "call" appliesTo { principal: User, resource: Route, context: { "n"?: Long } };
    cedar: |
      @id("all") permit (principal in Group::"staff", action, resource) unless { context has n };
  rateLimits: [{name: few, key: source, routes: [one], requests: 5, per: 1m}]
  obligations: [{name: guess, on: authentication.deny, count: 3, window: 1m, do: [blockSource], for: 2m}]
  requestFilter: {maxBodyBytes: 100, contentTypes: [application/json]}
`

// A limit that is new is tighter than none, and one that is gone looser.
func TestALimitOfSurfaceThatIsNotThereIsNone(t *testing.T) {
	with := func(n int) *policy.Deployment {
		return &policy.Deployment{Workload: &api.Workload{}, Policy: &api.SecurityPolicy{Modules: &api.Modules{Pos: api.Pos{File: "p.yaml", Line: 3}, MaxAttackSurface: n}}}
	}
	for _, c := range []struct {
		before, after int
		effect        string
	}{{0, 500, Tightens}, {500, 0, Loosens}, {500, 400, Tightens}, {400, 500, Loosens}} {
		list := differences(with(c.before), with(c.after))
		if len(list) != 1 || list[0].Effect != c.effect {
			t.Errorf("%d to %d: %+v", c.before, c.after, list)
		}
	}
}
