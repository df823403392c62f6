package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"lorica.dev/lorica/api"
)

// Bounds of Cedar text. The parser recurses into brackets and else-branches, so
// both are bounded before it runs.
const (
	maxStatement = 64 << 10 // bytes of one policy or of the schema
	maxBrackets  = 48       // brackets open at a time
	maxRules     = 20_000
)

// authorization parses and checks the Cedar part of a policy. cedar-go skips a
// forbid whose condition has an error, so policies are validated strictly here
// and every error denies when they are evaluated.
func (p *parsing) authorization(s *securityPolicy) {
	a := &Authorization{}
	s.auth = a
	before := len(p.errs)
	rs := p.schema(s)
	if rs != nil {
		p.shapes(s, a, rs)
	}
	shaped := len(p.errs) == before
	p.rules(s, a)
	if shaped && p.attributes(s, rs.Actions[a.Action].AppliesTo.Context) {
		v := validate.New(rs, validate.WithStrict())
		for i := range a.Rules {
			p.validate(s, v, i)
		}
	}
	if len(p.errs) > before {
		s.bad["spec.authorization"] = true
	}
}

func (p *parsing) schema(s *securityPolicy) *resolved.Schema {
	t := newBlock(s.src, s.Authorization.Schema)
	if t.Value == "" {
		return nil
	}
	if len(t.Value) > maxStatement {
		s.failAt(t.Pos, "keep what policies read", "the schema has %d bytes; the limit is %d", len(t.Value), maxStatement)
		return nil
	}
	if at, deep := brackets(t.Value); deep {
		s.failAt(t.pos(at), "write flat types", "brackets are nested more than %d deep", maxBrackets)
		return nil
	}
	var sch schema.Schema
	if err := guard(func() error { return sch.UnmarshalCedar([]byte(t.Value)) }); err != nil {
		at, msg := cedarProblem(err)
		s.failAt(t.pos(at), "see https://docs.cedarpolicy.com/schema/human-readable-schema.html", "Cedar schema: %s", msg)
		return nil
	}
	rs, err := sch.Resolve()
	if err != nil {
		s.failAt(t.pos(find(t.Value, quoted(err.Error()))), "declare it, or correct its name", "Cedar schema: %s", err)
		return nil
	}
	return rs
}

// shapes checks that the schema describes what the image knows: one action, a
// principal with its groups, a route with its group, and a flat context.
func (p *parsing) shapes(s *securityPolicy, a *Authorization, rs *resolved.Schema) {
	t := newBlock(s.src, s.Authorization.Schema)
	at := func(word, fix, format string, args ...any) {
		s.failAt(t.pos(find(t.Value, word)), fix, "Cedar schema: "+format, args...)
	}
	for _, ns := range sortedKeys(rs.Namespaces) {
		if ns != "" {
			at("namespace", "declare types without a namespace", "namespace %s is not supported yet", ns)
		}
	}
	for _, e := range sortedKeys(rs.Enums) {
		at(string(e), "write entity "+string(e)+";", "enumerated entity %s is not supported yet", e)
	}
	a.Action = cedar.NewEntityUID("Action", "call")
	for uid := range rs.Actions {
		if uid != a.Action {
			at(string(uid.ID), `declare action "call" only; routes tell requests apart`, "action %s is not supported yet", uid)
		}
	}
	act, ok := rs.Actions[a.Action]
	switch {
	case !ok:
		at("", `add action "call" appliesTo { principal: User, resource: Route, context: {...} };`, `there is no action "call"`)
		return
	case act.AppliesTo == nil || len(act.AppliesTo.Principals) != 1 || len(act.AppliesTo.Resources) != 1:
		at("call", "write appliesTo { principal: User, resource: Route, context: {...} }", `action "call" must apply to one principal type and one resource type`)
		return
	case act.Entity.Parents.Len() > 0:
		at("call", "remove in", "action groups are not supported yet")
	}
	a.Principal, a.Resource = act.AppliesTo.Principals[0], act.AppliesTo.Resources[0]
	a.Group, a.RouteGroup = p.parent(s, rs, a.Principal, at), p.parent(s, rs, a.Resource, at)
	known := []cedar.EntityType{a.Principal, a.Group, a.Resource, a.RouteGroup}
	for i, x := range known {
		if x != "" && slices.Contains(known[:i], x) {
			at(string(x), "declare one entity for each: User, Group, Route, RouteGroup", "entity %s is used for two things", x)
		}
	}
	for _, name := range sortedKeys(rs.Entities) {
		e := rs.Entities[name]
		switch {
		case !slices.Contains(known, name):
			at(string(name), "remove it", "entity %s is neither the principal nor the resource of the action, nor a parent of one", name)
		case len(e.Shape) > 0 || e.Tags != nil:
			at(string(name), "use an attribute of the context: spec.attributes says where it comes from", "attributes of entity %s are not supported yet", name)
		case len(e.ParentTypes) > 0 && name != a.Principal && name != a.Resource:
			at(string(name), "remove in", "groups within groups (entity %s) are not supported yet", name)
		}
	}
}

func (p *parsing) parent(s *securityPolicy, rs *resolved.Schema, of cedar.EntityType, at func(word, fix, format string, args ...any)) cedar.EntityType {
	switch ps := rs.Entities[of].ParentTypes; len(ps) {
	case 0:
		return ""
	case 1:
		return ps[0]
	default:
		at(string(of), "keep one", "entity %s has %d parent types; one is supported", of, len(ps))
		return ps[0]
	}
}

// rules parses the policies one by one, so that one bad policy does not hide the
// errors of the next.
func (p *parsing) rules(s *securityPolicy, a *Authorization) {
	t := newBlock(s.src, s.Authorization.Cedar)
	s.cedar, s.written = t, nil
	for _, st := range statements(t.Value) {
		if len(st.text) > maxStatement {
			s.failAt(t.pos(st.at(1, 1)), "split it", "the policy has %d bytes; the limit is %d", len(st.text), maxStatement)
			continue
		}
		if at, deep := brackets(st.text); deep {
			s.failAt(t.pos(st.at(at.line, at.col)), "split the condition over several policies", "brackets are nested more than %d deep", maxBrackets)
			continue
		}
		var list cedar.PolicyList
		if err := guard(func() error { return list.UnmarshalCedar([]byte(st.text)) }); err != nil {
			at, msg := cedarProblem(err)
			at, msg = offender(st.text, at, msg)
			s.failAt(t.pos(st.at(at.line, at.col)), "see https://docs.cedarpolicy.com/policies/syntax-policy.html", "Cedar: %s", msg)
			continue
		}
		for _, pol := range list {
			r := CedarRule{ID: "cedar-" + strconv.Itoa(len(a.Rules)+1), Policy: (*ast.Policy)(pol.AST())}
			r.Pos = t.pos(st.at(pol.Position().Line, pol.Position().Column))
			if id, ok := pol.Annotations()["id"]; ok {
				r.ID = string(id)
			}
			if !wordForm.MatchString(r.ID) {
				s.failAt(r.Pos, "use letters, digits, '.', '_' and '-', at most 63", "@id %q is not a name", clip(r.ID))
			}
			a.Rules = append(a.Rules, r)
			s.written = append(s.written, st)
		}
	}
	if len(a.Rules) > maxRules {
		s.failAt(t.Pos, "split the workload", "there are %d policies; the limit is %d", len(a.Rules), maxRules)
	}
}

func (p *parsing) validate(s *securityPolicy, v *validate.Validator, i int) {
	r := &s.auth.Rules[i]
	var err error
	if perr := guard(func() error { err = v.Policy("", r.Policy); return nil }); perr != nil {
		err = perr
	}
	all := flatten(err)
	for _, e := range all {
		if len(all) > 1 && strings.Contains(e.Error(), "unable to find an applicable action") {
			continue // what follows from a type that does not exist
		}
		word := quoted(e.Error())
		s.failAt(s.within(i, word), s.validationFix(e.Error(), word), "policy %s: %s", r.ID, e)
	}
	p.checkLiterals(s, i)
	p.checkExpressions(s, i)
}

func (s *securityPolicy) validationFix(msg, word string) string {
	a := s.auth
	var known []string
	switch {
	case strings.Contains(msg, "optional attribute"):
		return fmt.Sprintf("ask first: context has %s && ...", word)
	case strings.Contains(msg, "in context"):
		for _, x := range a.Attributes {
			known = append(known, x.Name)
		}
	case strings.Contains(msg, "unrecognized entity type"):
		for _, t := range []cedar.EntityType{a.Principal, a.Group, a.Resource, a.RouteGroup} {
			if t != "" {
				known = append(known, string(t))
			}
		}
	case strings.Contains(msg, "applicable action"):
		return fmt.Sprintf("principal is a %s, action is %s, resource is a %s", a.Principal, a.Action, a.Resource)
	default:
		return "the schema declares the types"
	}
	return didYouMean(word, known)
}

// within returns the place of a word inside rule i, or the rule's own.
func (s *securityPolicy) within(i int, word string) api.Pos {
	st := s.written[i]
	if at, ok := locate(st.text, word); ok {
		return s.cedar.pos(st.at(at.line, at.col))
	}
	return s.auth.Rules[i].Pos
}

// checkLiterals finds names of routes and groups that do not exist: a rule about
// them would silently decide nothing.
func (p *parsing) checkLiterals(s *securityPolicy, i int) {
	a, r := s.auth, &s.auth.Rules[i]
	var routes, groups []string
	for _, x := range s.Routes {
		routes = append(routes, x.Name)
		if x.Group != "" && !slices.Contains(groups, x.Group) {
			groups = append(groups, x.Group)
		}
	}
	if len(routes) == 0 {
		return
	}
	for _, uid := range literals(r.Policy) {
		id, what, known := string(uid.ID), "", []string(nil)
		switch uid.Type {
		case a.Resource:
			what, known = "route", routes
		case a.RouteGroup:
			what, known = "group of routes", groups
		default:
			continue
		}
		if !slices.Contains(known, id) {
			s.failAt(s.within(i, strconv.Quote(id)), didYouMean(id, known), "policy %s: there is no %s %q", r.ID, what, clip(id))
		}
	}
}

// literals returns the entities that a policy names.
func literals(p *ast.Policy) []cedar.EntityUID {
	var out []cedar.EntityUID
	for _, scope := range []any{p.Principal, p.Action, p.Resource} {
		switch x := scope.(type) {
		case ast.ScopeTypeEq:
			out = append(out, x.Entity)
		case ast.ScopeTypeIn:
			out = append(out, x.Entity)
		case ast.ScopeTypeInSet:
			out = append(out, x.Entities...)
		case ast.ScopeTypeIsIn:
			out = append(out, x.Entity)
		}
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				out = append(out, entitiesIn(v.Value)...)
			}
			return true
		})
	}
	return out
}

func entitiesIn(v cedar.Value) []cedar.EntityUID {
	var out []cedar.EntityUID
	switch x := v.(type) {
	case cedar.EntityUID:
		out = append(out, x)
	case cedar.Set:
		for e := range x.All() {
			out = append(out, entitiesIn(e)...)
		}
	}
	return out
}

// laterCalls are extension functions whose types the image does not have yet.
var laterCalls = []string{"datetime", "duration", "offset", "durationSince", "toDate", "toTime", "toMilliseconds", "toSeconds", "toMinutes", "toHours", "toDays"}

// checkExpressions refuses what Cedar has and images do not yet.
func (p *parsing) checkExpressions(s *securityPolicy, i int) {
	r := &s.auth.Rules[i]
	later := func(word, what string) {
		s.failAt(s.within(i, word), "write the condition with attributes of the context", "policy %s: %s not supported yet", r.ID, what)
	}
	for _, c := range r.Policy.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch x := n.(type) {
			case ast.NodeTypeAccess:
				return !isContext(x.Arg)
			case ast.NodeTypeHas:
				return !isContext(x.Arg)
			case ast.NodeTypeVariable:
				if isContext(x) {
					later("context", "context as a whole is")
				}
			case ast.NodeTypeExtensionCall:
				if slices.Contains(laterCalls, string(x.Name)) {
					later(string(x.Name), string(x.Name)+" is")
				}
			case ast.NodeTypeRecord:
				later("{", "records in conditions are")
			case ast.NodeTypeGetTag:
				later("getTag", "tags are")
			case ast.NodeTypeHasTag:
				later("hasTag", "tags are")
			}
			return true
		})
	}
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

// guard turns a panic of the parser on hostile text into an error.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read: %v", r)
		}
	}()
	return f()
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return []error{err}
	}
	var out []error
	for _, e := range many.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// A spot is a line and a column of a text, counted from one.
type spot struct{ line, col int }

// A block is a text of another language inside a document.
type block struct {
	api.Text
	src   *source
	lines []string
}

func newBlock(src *source, t api.Text) *block {
	return &block{t, src, strings.Split(t.Value, "\n")}
}

// pos maps a place in the block to the document. Where the block is not written
// out line by line (a quoted or folded scalar), it is the scalar.
func (b *block) pos(at spot) api.Pos {
	if at.line >= 1 && at.line <= len(b.lines) {
		line := b.Pos.Line + at.line - 1
		if w := strings.TrimRight(b.src.fullLine(line), "\r"); strings.HasSuffix(w, b.lines[at.line-1]) {
			return api.Pos{File: b.Pos.File, Line: line, Column: b.Pos.Column + at.col - 1}
		}
	}
	return b.Pos
}

var cedarAt = regexp.MustCompile(`^(?:parser error: )?(?:parse error at )?(?:<input>:)?(\d+):(\d+):? ?(.*)$`)

// cedarProblem takes the position out of an error of cedar-go.
func cedarProblem(err error) (spot, string) {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	m := cedarAt.FindStringSubmatch(text)
	if m == nil {
		return spot{1, 1}, clip(strings.TrimPrefix(text, "parser error: "))
	}
	line, _ := strconv.Atoi(m[1])
	col, _ := strconv.Atoi(m[2])
	return spot{max(1, line), max(1, col)}, clip(strings.TrimPrefix(m[3], `"": `))
}

var unexpected = regexp.MustCompile(`^".*": (?:exact got (.*) want (.*)|(unexpected [a-z ]+): (.*))$`)

// offender finds the token that an error is about: cedar-go names the one after
// it. A text that ends too early is wrong at its end.
func offender(text string, at spot, msg string) (spot, string) {
	m := unexpected.FindStringSubmatch(msg)
	if m == nil {
		return at, msg
	}
	got := m[1] + m[4]
	if m[2] != "" {
		msg = fmt.Sprintf("found %q where %q is expected", m[1], m[2])
	} else {
		msg = m[3] + " " + strconv.Quote(got)
	}
	end := 0
	for line := 1; line < at.line && end < len(text); line++ {
		i := strings.IndexByte(text[end:], '\n')
		if i < 0 {
			break
		}
		end += i + 1
	}
	for col := 1; col < at.col && end < len(text); col++ {
		_, size := utf8.DecodeRuneInString(text[end:])
		end += size
	}
	i := strings.LastIndex(text[:end], got)
	if got == "" {
		i, msg = len(strings.TrimRight(text, " \t\r\n")), strings.Replace(msg, `found ""`, "the text ends", 1)
	}
	if i < 0 {
		return at, msg
	}
	return spotOf(text, i), msg
}

// spotOf returns the place of byte i of a text.
func spotOf(text string, i int) spot {
	start := strings.LastIndexByte(text[:i], '\n') + 1
	return spot{1 + strings.Count(text[:i], "\n"), 1 + utf8.RuneCountInString(text[start:i])}
}

var inQuotes = regexp.MustCompile("[`\"]([^`\"]+)[`\"]")

// quoted returns the first quoted word of a message.
func quoted(msg string) string {
	if m := inQuotes.FindStringSubmatch(msg); m != nil {
		return m[1]
	}
	return ""
}

// find is locate with the beginning of the text for words that are not there.
func find(text, word string) spot {
	at, ok := locate(text, word)
	if !ok {
		return spot{1, 1}
	}
	return at
}

// locate returns the place of the first occurrence of a whole word.
func locate(text, word string) (spot, bool) {
	if word == "" {
		return spot{}, false
	}
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return spot{}, false
		}
		i += from
		if !(i > 0 && wordByte(text[i-1]) && wordByte(word[0])) && !(i+len(word) < len(text) && wordByte(text[i+len(word)]) && wordByte(word[len(word)-1])) {
			return spotOf(text, i), true
		}
		from = i + 1
	}
}

func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
