package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// maxManifest bounds a manifest in bytes.
const maxManifest = 64 << 10

// An Error is what is wrong with a manifest, and where.
type Error struct {
	Pos     api.Pos
	Message string
}

func (e *Error) Error() string { return e.Pos.String() + ": " + e.Message }

// Forms that values of a manifest take.
var (
	idForm         = regexp.MustCompile(`^[a-z][a-z0-9]*(/[a-z][a-z0-9]*)*$`)
	capabilityForm = regexp.MustCompile(`^[a-z][a-z0-9-]*(/[a-z][a-z0-9-]*)*$`)
	versionForm    = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$`)
	inputForm      = regexp.MustCompile(`^[a-z0-9./-]+$`)
	wordForm       = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	optionForm     = regexp.MustCompile(`^[a-z][a-zA-Z0-9]{0,31}$`)
	syscallForm    = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,31}$`)
)

// Parse reads one manifest strictly: unknown and repeated fields, aliases and
// values of the wrong form are errors. The name stands in positions. Its error,
// if any, is an *Error.
func Parse(name string, data []byte) (*Module, error) {
	p := &parser{name: name, capability: capabilityForm}
	m := p.manifest(data)
	if p.err != nil {
		return nil, p.err
	}
	return m, nil
}

// A parser keeps the first error; every method is a no-op after it.
type parser struct {
	name       string
	capability *regexp.Regexp // form of capabilities
	own        string         // the Go module, where the manifest is of one of the user's own
	err        error
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	if p.err != nil {
		return
	}
	e := &Error{Pos: api.Pos{File: p.name, Line: 1, Column: 1}, Message: fmt.Sprintf(format, args...)}
	if n != nil && n.Line > 0 {
		e.Pos.Line, e.Pos.Column = n.Line, n.Column
	}
	p.err = e
}

func (p *parser) manifest(data []byte) *Module {
	if len(data) > maxManifest {
		p.fail(nil, "longer than the %d bytes that a manifest may have", maxManifest)
		return nil
	}
	doc := p.document(data)
	if doc == nil {
		return nil
	}
	m := &Module{}
	var provides, requires, conflicts *yaml.Node
	readers := map[string]func(*yaml.Node){
		"id":        func(n *yaml.Node) { m.ID = p.text(n, idForm) },
		"version":   func(n *yaml.Node) { m.Version = p.text(n, versionForm) },
		"summary":   func(n *yaml.Node) { m.Summary = p.summary(n) },
		"class":     func(n *yaml.Node) { m.Class = p.class(n) },
		"order":     func(n *yaml.Node) { m.Order = p.number(n) },
		"code":      func(n *yaml.Node) { m.Code = p.number(n) },
		"provides":  func(n *yaml.Node) { m.Provides, provides = p.list(n, p.capability), n },
		"requires":  func(n *yaml.Node) { m.Requires, requires = p.clauses(n), n },
		"conflicts": func(n *yaml.Node) { m.Conflicts, conflicts = p.list(n, p.capability), n },
		"available": func(n *yaml.Node) { m.Targets = p.list(n, wordForm) },
		"section":   func(n *yaml.Node) { m.Section = p.section(n) },
		"syscalls":  func(n *yaml.Node) { m.Syscalls = p.syscalls(n) },
		"devices":   func(n *yaml.Node) { m.Devices = p.list(n, wordForm) },
		"inputs":    func(n *yaml.Node) { m.Inputs = p.inputs(n) },
		"config":    func(n *yaml.Node) { m.Config = p.config(n) },
	}
	if p.own != "" {
		p.restrict(m, readers)
	}
	seen := p.fields(doc.Content[0], readers)
	for _, field := range []string{"id", "version", "summary", "class", "code"} {
		if !seen[field] && (field != "code" || p.own == "") {
			p.fail(doc.Content[0], "the field %q is missing", field)
		}
	}
	if p.err == nil {
		p.itself(m, provides, requires, conflicts)
	}
	m.Surface = m.Breakdown().Total()
	return m
}

// document reads the one that a manifest is, or nil. What the library did not expect it
// says by a panic: that is an error like others.
func (p *parser) document(data []byte) (doc *yaml.Node) {
	defer func() {
		if r := recover(); r != nil {
			p.fail(nil, "not YAML: %v", r)
			doc = nil
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	doc = &yaml.Node{}
	var rest yaml.Node
	if err := dec.Decode(doc); errors.Is(err, io.EOF) {
		p.fail(nil, "there is no manifest in it")
		return nil
	} else if err != nil {
		at, text := yaml.Node{Column: 1}, strings.TrimPrefix(err.Error(), "yaml: ")
		if _, err := fmt.Sscanf(text, "line %d: ", &at.Line); err == nil {
			_, text, _ = strings.Cut(text, ": ")
		}
		p.fail(&at, "%s", text)
		return nil
	}
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		p.fail(&rest, "a manifest is one document")
		return nil
	}
	return doc
}

// itself refuses what a module says about itself and that means nothing. A conflict with
// a capability that it provides does mean something: it is the only provider.
func (p *parser) itself(m *Module, provides, requires, conflicts *yaml.Node) {
	if i := slices.Index(m.Provides, m.ID); i >= 0 {
		p.fail(provides.Content[i], "every module provides its own id without saying so")
	}
	if i := slices.Index(m.Conflicts, m.ID); i >= 0 {
		p.fail(conflicts.Content[i], "a module that conflicts with itself could never be installed; its versions exclude each other without saying so")
	}
	if i := slices.IndexFunc(m.Requires, func(c Clause) bool { return c.MetBy(m) }); i >= 0 {
		p.fail(requires.Content[i], "the module itself provides what meets %q: leave it out", m.Requires[i])
	}
}

// fields calls the reader of each field of a mapping and returns which were there.
func (p *parser) fields(n *yaml.Node, readers map[string]func(*yaml.Node)) map[string]bool {
	seen := map[string]bool{}
	if n.Kind != yaml.MappingNode {
		p.fail(n, "want fields with values")
		return seen
	}
	for i := 0; i+1 < len(n.Content) && p.err == nil; i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := readers[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !ok:
			p.fail(key, "unknown field %q", key.Value)
		case seen[key.Value]:
			p.fail(key, "the field %q is there twice", key.Value)
		default:
			seen[key.Value] = true
			read(value)
		}
	}
	return seen
}

func (p *parser) text(n *yaml.Node, form *regexp.Regexp) string {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || !form.MatchString(n.Value) {
		p.fail(n, "%q: want a string of the form %s", n.Value, form)
		return ""
	}
	return n.Value
}

func (p *parser) summary(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Value == "" || len(n.Value) > 120 || strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		p.fail(n, "want one line of text of at most 120 bytes")
		return ""
	}
	return n.Value
}

func (p *parser) class(n *yaml.Node) Class {
	c := Class(n.Value)
	if n.Kind != yaml.ScalarNode || c.Rank() < 0 {
		p.fail(n, "class %q: want %s", n.Value, join(classes[:]))
	}
	return c
}

func join[T ~string](words []T) string {
	var list []string
	for _, w := range words {
		list = append(list, string(w))
	}
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

func (p *parser) section(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value == "" {
		return ""
	}
	return p.text(n, wordForm)
}

// number reads a count: at most nine decimal digits, so that sums cannot overflow.
func (p *parser) number(n *yaml.Node) int {
	v, err := strconv.ParseUint(n.Value, 10, 32)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || v > 999_999_999 {
		p.fail(n, "%q: want a whole number from 0 to 999999999", n.Value)
	}
	return int(v)
}

func (p *parser) items(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		p.fail(n, "want a list")
		return nil
	}
	return n.Content
}

func (p *parser) list(n *yaml.Node, form *regexp.Regexp) []string {
	var list []string
	for _, item := range p.items(n) {
		s := p.text(item, form)
		if p.err == nil && slices.Contains(list, s) {
			p.fail(item, "%q is there twice", s)
		}
		list = append(list, s)
	}
	return list
}

func (p *parser) inputs(n *yaml.Node) []string {
	list := p.list(n, inputForm)
	for i, name := range list {
		if p.err == nil && FindInput(name) == nil {
			var known []string
			for _, in := range inputs {
				known = append(known, in.Name)
			}
			p.fail(n.Content[i], "input %q: want %s", name, join(known))
		}
	}
	return list
}

// clauses reads requirements: each a capability, or several with | between them, of which
// any one is enough.
func (p *parser) clauses(n *yaml.Node) []Clause {
	var list []Clause
	for _, item := range p.items(n) {
		c := p.clause(item)
		if p.err == nil && slices.ContainsFunc(list, func(o Clause) bool { return slices.Equal(o, c) }) {
			p.fail(item, "%q is there twice", c)
		}
		list = append(list, c)
	}
	return list
}

func (p *parser) clause(n *yaml.Node) Clause {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		p.fail(n, "%q: want a capability, or several with | between them", n.Value)
		return nil
	}
	var c Clause
	for word := range strings.SplitSeq(n.Value, "|") {
		word = strings.Trim(word, " ")
		switch {
		case !p.capability.MatchString(word):
			p.fail(n, "%q: want a capability, or several with | between them, each of the form %s", n.Value, p.capability)
		case slices.Contains(c, word):
			p.fail(n, "%q: %q is there twice", n.Value, word)
		}
		c = append(c, word)
	}
	return c
}

var optionKinds = []OptionKind{Text, Number, Switch, Texts, Seconds}

func (p *parser) config(n *yaml.Node) []Option {
	var list []Option
	for _, item := range p.items(n) {
		var o Option
		seen := p.fields(item, map[string]func(*yaml.Node){
			"name":    func(n *yaml.Node) { o.Name = p.text(n, optionForm) },
			"summary": func(n *yaml.Node) { o.Summary = p.summary(n) },
			"kind": func(n *yaml.Node) {
				if o.Kind = OptionKind(n.Value); n.Kind != yaml.ScalarNode || !slices.Contains(optionKinds, o.Kind) {
					p.fail(n, "kind %q: want %s", n.Value, join(optionKinds))
				}
			},
			"required": func(n *yaml.Node) {
				if o.Required = n.Value == "true"; n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || !o.Required && n.Value != "false" {
					p.fail(n, "%q: want true or false", n.Value)
				}
			},
			"default": func(n *yaml.Node) { o.Default = p.summary(n) },
			"least":   func(n *yaml.Node) { o.Least = p.bound(n) },
			"most":    func(n *yaml.Node) { o.Most = p.bound(n) },
			"oneOf": func(n *yaml.Node) {
				for _, c := range p.items(n) {
					o.OneOf = append(o.OneOf, p.summary(c))
				}
			},
		})
		switch {
		case !seen["name"] || !seen["kind"] || !seen["summary"]:
			p.fail(item, "an option has a name, a kind and a summary")
		case o.Required && seen["default"]:
			p.fail(item, "the option %q is required, so its default is never used", o.Name)
		case slices.ContainsFunc(list, func(other Option) bool { return other.Name == o.Name }):
			p.fail(item, "the option %q is there twice", o.Name)
		case p.err == nil:
			if err := o.check(); err != nil {
				p.fail(item, "the option %q: %s", o.Name, err)
			}
		}
		list = append(list, o)
	}
	return list
}

// bound reads a whole number, which may be negative.
func (p *parser) bound(n *yaml.Node) *int64 {
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
		p.fail(n, "%q: want a whole number", n.Value)
	}
	return &v
}

func (p *parser) syscalls(n *yaml.Node) []Syscall {
	var list []Syscall
	for _, item := range p.items(n) {
		var s Syscall
		seen := p.fields(item, map[string]func(*yaml.Node){
			"name": func(n *yaml.Node) { s.Name = p.text(n, syscallForm) },
			"with": func(n *yaml.Node) { s.With = p.text(n, p.capability) },
			"when": func(n *yaml.Node) {
				for _, c := range p.items(n) {
					s.When = append(s.When, p.condition(c))
				}
			},
		})
		if !seen["name"] {
			p.fail(item, "a system call without a name")
		}
		if p.err == nil && slices.ContainsFunc(list, func(o Syscall) bool { return o.Equal(s) }) {
			p.fail(item, "%s is there twice", s)
		}
		list = append(list, s)
	}
	return list
}

func (p *parser) condition(n *yaml.Node) Condition {
	if n.Kind != yaml.ScalarNode {
		p.fail(n, "want a condition, for example \"arg0 == self\"")
		return Condition{}
	}
	c, err := ParseCondition(n.Value)
	if err != nil {
		p.fail(n, "%s", err)
	}
	return c
}
