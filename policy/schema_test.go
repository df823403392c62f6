package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// structural are errors of the decoder that a schema is to find as well: unknown and missing
// fields, types, words of a list, numbers out of bounds.
var structural = regexp.MustCompile(` is unknown$| is missing$| must be (a mapping|a list|text|true or false), not | must have exactly one of | has no method$|` +
	` has both a file and a development secret$|: an entry has exactly one of cidrs and names$|: \S+ is not supported yet$|^\S+ is not supported yet$| is empty$|` +
	`^apiVersion ".*" is unknown$|^kind \S+ is not supported yet$|require is about all methods together$|audiences has 0 entries$| must hold networks or names, not |^spec\.\S+(port|port|count|requests|attempts|max\w+|memory|sampleAllowed) cannot be `)

// semantic are errors that no schema is asked for: about what a text says, about several
// fields at once, about a list that is empty, about what YAML has and JSON has not.
var semantic = []string{
	`^spec\.tests\.packet\.port is missing$`, // ICMP has none
	` cannot be "`,                           // names, times, durations and sizes
	` is not an IP address$`, ` is not a network$`, ` does not name a secret$`, ` is not a method$`, ` is not a request$`, ` does not start with /$`, ` is not a media type$`,
	` cannot be the name of a user or a group$`, ` is neither a lower-case DNS name nor an IP address$`, ` is not a lower-case DNS name$`,
	`spec\.app\.proxy\.(upstream|trust)`, `spec\.audit\.sinks\.(syslog\.server|otlp\.url) "`, `spec\.obligations\.for is missing`, ` is empty: `, ` is empty and would `, `without an interface: `,
}

// decoded returns what the decoder alone says of a document.
func decoded(n *yaml.Node) Errors {
	p := parsing{}
	d := &decoder{report: &p.report, src: newSource(File{Name: "doc.yaml"}), bad: make(map[string]bool)}
	p.resource(d, n)
	return p.errs
}

// asJSON is a document as an editor reads it.
func asJSON(n *yaml.Node) any {
	switch {
	case n.Kind == yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = asJSON(n.Content[i+1])
		}
		return m
	case n.Kind == yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			list = append(list, asJSON(c))
		}
		return list
	case n.Tag == "!!null":
		return nil
	case n.Tag == "!!bool":
		return n.Value == "true"
	case n.Tag == "!!int" || n.Tag == "!!float":
		if _, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return json.Number(n.Value)
		}
	}
	return n.Value
}

func compiledSchema(t testing.TB, kind string) *jsonschema.Schema {
	t.Helper()
	b, err := Schema(kind)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(kind+".json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(kind + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// documentsOf returns every document of the examples, the starter and the test data.
func documentsOf(t *testing.T) map[string]*yaml.Node {
	t.Helper()
	var paths []string
	for _, pattern := range []string{"../examples/*/*.yaml", "../cmd/lorica/starter/*.yaml", "testdata/*.yaml", "testdata/*/*.yaml"} {
		list, err := filepath.Glob(pattern)
		if err != nil || len(list) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(list), err)
		}
		paths = append(paths, list...)
	}
	all := make(map[string]*yaml.Node)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		docs, err := decodeYAML(data)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range docs {
			if k := value(n, "kind").Value; k == api.KindWorkload || k == api.KindSecurityPolicy {
				all[fmt.Sprintf("%s#%d", path, i)] = n
			}
		}
	}
	all["more.yaml"] = parsed(t, moreFields)
	all["interface.yaml"] = parsed(t, moreOfWorkloads)
	all["handler.yaml"] = parsed(t, strings.Replace(moreOfWorkloads, `{proxy: {upstream: "https://127.0.0.1:9000", trust: ./ca.pem, serverName: a.example, connectTimeout: 1s, responseTimeout: 2s, idleTimeout: 3s, maxConnections: 4}}`, "{handler: {module: ./api, package: ., func: New}}", 1))
	all["static.yaml"] = parsed(t, "apiVersion: lorica.dev/v1alpha1\nkind: Workload\nmetadata: {name: a}\nspec:\n  app: {static: {dir: ./public, compression: Required}}\n  listen: [{name: l, port: 80}]\n")
	return all
}

func parsed(t *testing.T, text string) *yaml.Node {
	t.Helper()
	docs, err := decodeYAML([]byte(text))
	if err != nil || len(docs) != 1 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	return docs[0]
}

// What no example has.
const moreFields = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: more, tenant: t, labels: {a: b}}
spec:
  selector: {matchLabels: {app: more}}
  coverage: Optional
  tls: {mode: MUTUAL, minVersion: "1.2", http2: false, certificate: secret/c, key: secret/k, clientTrust: secret/t}
  network:
    ingress: [{name: a, action: Allow, from: [any], ports: [{protocol: TCP, portRange: "1-2"}], audit: true, enforcement: DryRun, minLevel: normal, maxLevel: normal}]
    egress: [{name: b, action: Allow, to: [{names: [a.example]}], ports: [{protocol: TCP, portRange: "1-2"}], minLevel: normal, maxLevel: normal}]
  authentication:
    require: false
    jwt: [{name: j, issuer: i, audiences: [a], jwks: secret/j, algorithms: [ES256], principal: sub, leeway: 5s}]
    basic: {name: l, realm: r, users: secret/u, attempts: 5, window: 1m}
    mtls: {name: m, principal: spiffe, trustDomain: acme.internal}
  secrets: {c: {file: ./c}, j: {development: jwks}}
  routes: [{name: r, group: g, match: {method: GET, path: /}, upgrade: websocket}]
  attributes: {a: query.a, groups: [jwt.groups, basic.groups]}
  authorization: {schema: s, entities: "[]", cedar: p}
  requestFilter: {maxHeaderBytes: 16Ki, maxHeaders: 5, maxBodyBytes: 100, maxPathBytes: 1Ki, maxConnections: 5, maxStreams: 5, contentTypes: [image/*],
    handshakeTimeout: 1s, headerTimeout: 1s, bodyTimeout: 1s, writeTimeout: 1s, idleTimeout: 1s, rejectEncodedSlash: false}
  rateLimits: [{name: l, key: [source, route], routes: [r], requests: 5, per: 1m, scope: instance, enforcement: Enforce, minLevel: normal}]
  obligations: [{name: o, on: any.deny, count: 5, window: 1m, do: [alert, blockSource], for: 1m, enforcement: DryRun, minLevel: normal}]
  audit:
    decisions: denied
    sampleAllowed: 0.5
    redact: [path]
    sinks:
      channel: true
      syslog: {server: "logs.example:6514", trust: secret/l, serverName: a.example, certificate: secret/c, key: secret/k, onLoss: Deny, queue: {records: 5, memory: 64Ki}, enterprise: 5}
      otlp: {url: "https://otel.example:4318", trust: secret/l, serverName: a.example, certificate: secret/c, key: secret/k, token: secret/o, onLoss: Count, queue: {records: 5, memory: 64Ki}}
  modules: {require: [net], forbid: [app/proxy, authn/basic/bcrypt], maxAttackSurface: 500}
  tests:
    - {name: t, level: normal, as: {user: u, groups: [g]}, request: GET /, context: {a: 5, b: x, c: true}, body: {a: [1, null]}, at: 2026-11-25T12:00:00Z, from: 10.0.0.1, expect: Deny, by: r}
    - {name: t, call: r, body: text, at: "2026-11-25T12:00:00Z", expect: Allow, dryRun: Deny}
    - {name: t, packet: {from: 10.0.0.1, protocol: UDP, port: 53}, expect: Allow}
`

const moreOfWorkloads = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: more}
spec:
  app: {proxy: {upstream: "https://127.0.0.1:9000", trust: ./ca.pem, serverName: a.example, connectTimeout: 1s, responseTimeout: 2s, idleTimeout: 3s, maxConnections: 4}}
  listen: [{name: web, port: 8080}]
  target: process
  network: {mode: direct, interface: tap7, addresses: [dhcp, 192.0.2.10/24], gateway: [192.0.2.1]}
  modules: [{path: ./guard, optional: true, settings: {header: X, most: 5, strict: true, names: [a]}}, {module: example.com/guard@v1.2.3}]
  resources: {memory: 67108864}
  confinement: {minimum: no-userns}
`

var anyIndex = regexp.MustCompile(`\[\d+\]`)

// A mutant is a document with one thing changed.
type mutant struct {
	what string
	doc  *yaml.Node
}

func clone(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = nil
	for _, x := range n.Content {
		c.Content = append(c.Content, clone(x))
	}
	return &c
}

// mutants changes each value of a document, and each mapping, in every way that there is.
// What looks like a value that was changed before, by its place and fields, is left as it is.
func mutants(root *yaml.Node, before map[string]bool, each func(mutant)) {
	scalar := func(tag, v string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v} }
	others := []struct {
		what string
		n    *yaml.Node
	}{
		{"nothing", scalar("!!null", "null")}, {"a boolean", scalar("!!bool", "true")}, {"a number", scalar("!!int", "7")}, {"a large number", scalar("!!int", "99999999999999")}, {"a fraction", scalar("!!float", "0.25")},
		{"a word", scalar("!!str", "nonsense")}, {"an empty text", scalar("!!str", "")}, {"a mapping", &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}}, {"a list", &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}},
		{"a list of a word", &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{scalar("!!str", "nonsense")}}},
		{"a mapping of a word", &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{scalar("!!str", "nonsense"), scalar("!!str", "nonsense")}}},
	}
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		keep := *n
		looks := value(root, "kind").Value + anyIndex.ReplaceAllString(path, "") + " " + n.Tag
		for i := 0; i < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
			looks += " " + n.Content[i].Value
		}
		change := func(what string) { each(mutant{path + what, root}) }
		if before[looks] {
			change = func(string) {}
		}
		before[looks] = true
		for _, o := range others {
			*n = *o.n
			change(" is " + o.what)
		}
		*n = keep
		if n.Kind == yaml.MappingNode {
			n.Content = append(append([]*yaml.Node{}, keep.Content...), scalar("!!str", "nonsense"), scalar("!!int", "1"))
			change(" has another field")
			for i := 0; i+1 < len(keep.Content); i += 2 {
				n.Content = append(append([]*yaml.Node{}, keep.Content[:i]...), keep.Content[i+2:]...)
				change(" has no " + keep.Content[i].Value)
			}
			*n = keep
			for i := 0; i+1 < len(n.Content); i += 2 {
				walk(n.Content[i+1], path+"."+n.Content[i].Value)
			}
		}
		if n.Kind == yaml.SequenceNode {
			for i, c := range n.Content {
				walk(c, fmt.Sprintf("%s[%d]", path, i))
			}
		}
	}
	walk(root, "")
}

// Whatever the schema refuses, check refuses; and what check refuses for its structure, the
// schema refuses. Every other error of the decoder is one of those that are listed.
func TestTheSchemaAndCheckAgree(t *testing.T) {
	schemas := map[string]*jsonschema.Schema{api.KindWorkload: compiledSchema(t, "workload"), api.KindSecurityPolicy: compiledSchema(t, "policy")}
	all := compiledSchema(t, "all")
	used := make([]bool, len(semantic))
	var meant []*regexp.Regexp
	for _, form := range semantic {
		meant = append(meant, regexp.MustCompile(form))
	}
	docs, changed, refused, shown := documentsOf(t), 0, 0, 0
	before := make(map[string]bool)
	complain := func(format string, args ...any) {
		if shown++; shown <= 40 {
			t.Errorf(format, args...)
		}
	}
	judge := func(name, what string, kind string, n *yaml.Node) {
		v := asJSON(n)
		err := schemas[kind].Validate(v)
		errs := decoded(n)
		if changed%20 > 0 {
		} else if both := all.Validate(v); (both == nil) != (err == nil) && !strings.HasPrefix(what, ".kind") && what != " has no kind" {
			complain("%s: %s: the schema of all says %v, that of its kind %v", name, what, both, err)
		}
		if err != nil {
			refused++
			if len(errs) == 0 {
				complain("%s: %s: the schema alone refuses it: %v", name, what, err)
			}
			return
		}
		for _, e := range errs {
			if structural.MatchString(e.Message) && !meant[0].MatchString(e.Message) {
				complain("%s: %s: the schema accepts it, and check says: %s", name, what, e.Message)
				continue
			}
			met := false
			for i, form := range meant {
				if form.MatchString(e.Message) {
					met, used[i] = true, true
				}
			}
			if !met {
				complain("%s: %s: neither structural nor listed: %s", name, what, e.Message)
			}
		}
	}
	for _, name := range sortedKeys(docs) {
		n := docs[name]
		kind := value(n, "kind").Value
		err := schemas[kind].Validate(asJSON(n))
		if errs := decoded(n); (err == nil) != (len(errs) == 0) {
			t.Errorf("%s: the schema says %v, check says %v", name, err, errs)
		}
		mutants(clone(n), before, func(m mutant) {
			changed++
			judge(name, m.what, kind, m.doc)
		})
	}
	for _, c := range []struct{ kind, text, old, new string }{
		{api.KindSecurityPolicy, moreFields, "{file: ./c}", "{file: ./c, development: jwks}"},
		{api.KindSecurityPolicy, moreFields, "call: r,", "call: r, request: GET /,"},
		{api.KindSecurityPolicy, moreFields, "{names: [a.example]}", "{names: [a.example], cidrs: [10.0.0.0/8]}"},
		{api.KindWorkload, moreOfWorkloads, "{proxy: {", "{static: {dir: x}, proxy: {"},
	} {
		n := parsed(t, strings.Replace(c.text, c.old, c.new, 1))
		if err := schemas[c.kind].Validate(asJSON(n)); err == nil || len(decoded(n)) == 0 {
			t.Errorf("%s: the schema says %v, check says %v", c.new, err, decoded(n))
		}
	}
	for i, form := range semantic {
		if !used[i] {
			t.Errorf("nothing that the schema accepts is refused with %q: take it from the list", form)
		}
	}
	t.Logf("%d documents, %d changes, %d of them refused by the schema", len(docs), changed, refused)
	if len(docs) < 10 || changed < 3000 || refused < changed/2 {
		t.Errorf("%d documents, %d changes, %d of them refused by the schema: too few to tell", len(docs), changed, refused)
	}
}

// Each field of the decoder has a mutant above, but for those that are listed.
func TestEveryFieldIsInADocument(t *testing.T) {
	seen := make(map[string]bool)
	for _, n := range documentsOf(t) {
		kind := value(n, "kind").Value
		var walk func(n *yaml.Node, path string)
		walk = func(n *yaml.Node, path string) {
			for i, c := range n.Content {
				switch {
				case n.Kind == yaml.SequenceNode:
					walk(c, path)
				case n.Kind == yaml.MappingNode && i%2 == 1:
					at := strings.TrimPrefix(path+"."+n.Content[i-1].Value, ".")
					if path == "spec.secrets" {
						at = "spec.secrets."
					}
					seen[kind+" "+at] = true
					walk(c, at)
				}
			}
		}
		walk(n, "")
	}
	for _, kind := range []string{api.KindWorkload, api.KindSecurityPolicy} {
		for _, path := range sortedKeys(fieldTexts(kind)) {
			if !seen[kind+" "+path] {
				t.Errorf("no document has %s of %s", path, kind)
			}
		}
	}
}

// A field that a reader says nothing about, or that nobody described, is no schema.
func TestFieldsThatCannotBeDrawn(t *testing.T) {
	for _, c := range []struct {
		name string
		f    func(d *decoder) field
		want string
	}{
		{"one of its own", func(d *decoder) field { return field{name: "tests", read: func(*yaml.Node) {}} }, "spec.tests: its reader says nothing of what it accepts"},
		{"one without words", func(d *decoder) field { return field{name: "colour", read: d.str(new(string), "spec.colour")} }, "spec.colour is not described in fieldtexts.go"},
		{"words without one", func(d *decoder) field { return field{name: "levels", notYet: true} }, "spec.levels is described, and there is no such field"},
	} {
		_, err := drawKind(api.KindSecurityPolicy, func(d *decoder, n *yaml.Node) { d.object(n, "spec", c.f(d)) })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := Schema("polcy"); err == nil || !strings.Contains(err.Error(), `did you mean "policy"?`) {
		t.Error(err)
	}
}

// docs/schema.json is the schema of all documents, for editors that fetch it.
func TestThePublishedSchema(t *testing.T) {
	const path = "../docs/schema.json"
	b, err := Schema("all")
	if err != nil {
		t.Fatal(err)
	}
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
		t.Error(errors.Join(err, fmt.Errorf("%s is not what the decoder reads: go test ./policy -update", path)))
	}
}
