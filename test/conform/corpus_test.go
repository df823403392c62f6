package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	public "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/policy"
)

// TestCorpus judges those requests of the Cedar project's corpus whose world
// has the shape that images know: a principal in groups of one type, a resource
// in at most one parent, scalars in the context, and policies of the supported
// language. cedar-go sees the same world.
func TestCorpus(t *testing.T) {
	files := map[string][]byte{}
	for name, b := range must(unpack(must(moduleCorpus()))) {
		files[path.Base(name)] = b
	}
	var names []string
	for name := range files {
		if strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".entities.json") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	compared, total := 0, 0
	for _, name := range names {
		var c struct {
			Requests []struct {
				Principal, Action, Resource uid
				Context                     cedar.Record
			}
		}
		var entities types.EntityMap
		base := strings.TrimSuffix(name, ".json")
		if err := json.Unmarshal(files[name], &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := json.Unmarshal(files[base+".entities.json"], &entities); err != nil {
			continue // values that need the schema to be read
		}
		list, err := cedar.NewPolicyListFromBytes(base, files[base+".cedar"])
		if err != nil {
			continue
		}
		for _, q := range c.Requests {
			total++
			w, ok := newSmallWorld(list, entities, q.Principal.entity(), q.Action.entity(), q.Resource.entity(), q.Context)
			if ok {
				compared += w.compare(t, name)
			}
		}
	}
	t.Logf("%d of %d requests compared", compared, total)
	if compared < 1000 {
		t.Errorf("only %d requests of the corpus could be compared", compared)
	}
}

// A smallWorld is one request of the corpus as an image sees it.
type smallWorld struct {
	d       *policy.Deployment
	set     *cedar.PolicySet
	store   types.EntityMap
	request cedar.Request
	x       *pep.Exchange
}

func newSmallWorld(list cedar.PolicyList, entities types.EntityMap, who, action, what cedar.EntityUID, context cedar.Record) (*smallWorld, bool) {
	groups, parents := ancestors(entities, who), ancestors(entities, what)
	if len(ancestors(entities, action)) > 0 || len(parents) > 1 || who.ID == "" {
		return nil, false
	}
	a := &policy.Authorization{Principal: who.Type, Resource: what.Type, Action: action}
	r := api.Route{Name: string(what.ID)}
	x := &pep.Exchange{Principal: string(who.ID), MaxBody: 1 << 20, Route: &route.Route{Name: r.Name}}
	for _, g := range groups {
		if a.Group != "" && a.Group != g.Type {
			return nil, false
		}
		a.Group = g.Type
		x.Groups = append(x.Groups, string(g.ID))
	}
	for _, p := range parents {
		if a.RouteGroup, r.Group = p.Type, string(p.ID); r.Group == "" {
			return nil, false
		}
	}
	body, ok := facts(a, context)
	if !ok {
		return nil, false
	}
	x.Request = must(http.NewRequest("POST", "/", strings.NewReader(string(body))))
	x.Request.Header.Set("Content-Type", "application/json")
	w := &smallWorld{set: cedar.NewPolicySet(), x: x, request: cedar.Request{Principal: who, Action: action, Resource: what, Context: context},
		store: types.EntityMap{ // the corpus often asks whether an entity may act on itself
			who:  {UID: who, Parents: cedar.NewEntityUIDSet(groups...)},
			what: {UID: what, Parents: cedar.NewEntityUIDSet(parents...)},
		}}
	for i, p := range list {
		rule := policy.CedarRule{ID: fmt.Sprintf("policy%d", i), Policy: (*ast.Policy)(p.AST())}
		a.Rules = append(a.Rules, rule)
		w.set.Add(cedar.PolicyID(rule.ID), cedar.NewPolicyFromAST((*public.Policy)(rule.Policy)))
	}
	w.d = deployment(nil, "", abi.Deny)
	w.d.Authorization, w.d.Policy.Routes = a, []api.Route{r}
	return w, true
}

// ancestors returns everything that e is in, without itself.
func ancestors(entities types.EntityMap, e cedar.EntityUID) []cedar.EntityUID {
	var list []cedar.EntityUID
	todo := []cedar.EntityUID{e}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		for p := range entities[next].Parents.All() {
			if p != e && !slices.Contains(list, p) {
				list, todo = append(list, p), append(todo, p)
			}
		}
	}
	return list
}

// facts writes the context as a JSON body with an attribute for each member; ok
// is false where it holds more than scalars.
func facts(a *policy.Authorization, context cedar.Record) (body []byte, ok bool) {
	members := map[string]any{}
	for k, v := range context.All() {
		name := string(k)
		for other := range members {
			if strings.EqualFold(other, name) {
				return nil, false // images refuse such bodies
			}
		}
		x := authz.Attribute{Name: name, Optional: true, Source: authz.Source{Kind: authz.SourceBody,
			Arg: "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)}}
		switch v := v.(type) {
		case cedar.String:
			x.Type, members[name] = authz.TypeString, string(v)
		case cedar.Long:
			x.Type, members[name] = authz.TypeLong, int64(v)
		case cedar.Boolean:
			x.Type, members[name] = authz.TypeBool, bool(v)
		case types.Decimal:
			x.Type, members[name] = authz.TypeDecimal, v.String()
		case types.IPAddr:
			x.Type, members[name] = authz.TypeIP, v.String()
			if strings.Count(v.String(), ":") > 0 && strings.Contains(v.String(), ".") {
				return nil, false // no spelling that Cedar would read
			}
		default:
			return nil, false
		}
		a.Attributes = append(a.Attributes, x)
	}
	slices.SortFunc(a.Attributes, func(x, y authz.Attribute) int { return strings.Compare(x.Name, y.Name) })
	return must(json.Marshal(members)), true
}

// compare returns 1 where the policies compile.
func (w *smallWorld) compare(t *testing.T, name string) int {
	t.Helper()
	out, err := compiler.Compile(w.d)
	var refused policy.Errors
	if errors.As(err, &refused) {
		return 0 // with its place: not supported yet, or a literal that Cedar refuses too
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	state, err := guard(w.d, &out.Levels[0])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	verdict, rule := decide(w.d, w.set, w.store, w.request)
	if got := state.Judge(w.x); got.Verdict != verdict || got.Rule.ID != rule {
		t.Errorf("%s: %v: compiled says %s by %s (%s), cedar-go says %s by %s", name, w.request, got.Verdict, got.Rule.ID, got.Reason, verdict, rule)
	}
	return 1
}
