package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// maxDepth bounds the nesting of a document; ours need eight.
const maxDepth = 24

// documents reads the YAML documents of a file. What makes YAML ambiguous or
// explosive (anchors, aliases, merge keys, tags, duplicate keys) is refused.
func (p *parsing) documents(src *source, data []byte) []*yaml.Node {
	at := func(line, col int, fix, format string, args ...any) {
		p.broken = true
		p.add(src, api.Pos{File: src.name, Line: line, Column: col}, fix, format, args...)
	}
	if line, col, what := unreadable(data); what != "" {
		at(line, col, "save the file as UTF-8 text with ordinary line ends", "%s", what)
		return nil
	}
	docs, err := decodeYAML(data)
	if err != nil {
		line, msg := yamlProblem(err)
		if m := unknownAnchor.FindStringSubmatch(msg); m != nil {
			at := find(string(data), "*"+m[1])
			p.broken = true
			p.add(src, api.Pos{File: src.name, Line: at.line, Column: at.col}, "write the value out", "aliases are not allowed: *%s", clip(m[1]))
			return nil
		}
		text := src.line(line)
		fix := "see this line and its neighbours"
		if strings.HasPrefix(strings.TrimLeft(text, " "), "\t") {
			fix = "indent with spaces: YAML does not allow tabs"
		} else if strings.HasSuffix(msg, "did not find expected key") { // the line is where the fields begin
			fix = "one of the lines from here on, to the end of what is indented below, is no field: see what stands behind a bracket"
		}
		at(line, 1+len(text)-len(strings.TrimLeft(text, " \t")), fix, "this is not YAML: %s", msg)
		return nil
	}
	if len(docs) == 0 {
		at(1, 1, "write a resource: apiVersion, kind, metadata and spec", "the file is empty")
	}
	d := &decoder{report: &p.report, src: src, bad: make(map[string]bool)}
	var good []*yaml.Node
	for _, n := range docs {
		if d.vet(n, 0) {
			good = append(good, n)
		} else {
			p.broken = true
		}
	}
	return good
}

// unreadable finds bytes for which YAML, editors and Cedar disagree about where
// lines begin, or that are no text at all.
func unreadable(data []byte) (line, col int, what string) {
	if !utf8.Valid(data) {
		n := 0
		for n < len(data) {
			r, size := utf8.DecodeRune(data[n:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			n += size
		}
		return place(data, n, "a byte that is not UTF-8")
	}
	if i := bytes.IndexAny(data, "\x00\u0085\u2028\u2029\ufeff"); i >= 0 {
		return place(data, i, "a control character")
	}
	for i := range data {
		if data[i] == '\r' && (i+1 == len(data) || data[i+1] != '\n') {
			return place(data, i, "a carriage return without a line feed")
		}
	}
	return 0, 0, ""
}

func place(data []byte, at int, what string) (line, col int, _ string) {
	start := bytes.LastIndexByte(data[:at], '\n') + 1
	return 1 + bytes.Count(data[:at], []byte{'\n'}), 1 + utf8.RuneCount(data[start:at]), what
}

// decodeYAML reads all documents; the library bounds its own recursion. It reports what it did
// not expect by a panic; on the input of a stranger that is an error like others.
func decodeYAML(data []byte) (docs []*yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			docs, err = nil, fmt.Errorf("yaml: %v", r)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		n := new(yaml.Node)
		if err := dec.Decode(n); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, err
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
			docs = append(docs, n.Content[0])
		}
	}
}

var unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func yamlProblem(err error) (line int, msg string) {
	m := yamlLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
	if m == nil {
		return 1, err.Error()
	}
	if line, _ = strconv.Atoi(m[1]); line == 0 {
		line = 1
	}
	return line, m[2]
}

// vet reports everything below n that strict YAML does not have, and whether
// there was nothing.
func (d *decoder) vet(n *yaml.Node, depth int) bool {
	before := d.count()
	switch {
	case depth > maxDepth:
		d.fail(n, "a policy never needs so many levels", "the document is nested more than %d deep", maxDepth)
		return false
	case n.Kind == yaml.AliasNode:
		d.fail(n, "write the value out", "aliases are not allowed: *%s", n.Value)
	case n.Anchor != "":
		d.fail(n, "write the value where it is used", "anchors are not allowed: &%s", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, "remove the tag; put text in quotes", "tags are not allowed: %s", n.Tag)
	}
	if n.Kind == yaml.MappingNode {
		d.vetKeys(n)
	}
	for _, c := range n.Content {
		d.vet(c, depth+1)
	}
	return d.count() == before
}

func (d *decoder) vetKeys(n *yaml.Node) {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch first, dup := seen[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			d.fail(k, "write a word", "a field name must be a word")
		case k.Tag == "!!merge":
			d.fail(k, "write the fields out", "merge keys are not allowed: <<")
		case dup:
			d.fail(k, "keep one of them", "%q is written twice; the first is at line %d", k.Value, first)
		default:
			seen[k.Value] = k.Line
		}
	}
}

// anyResource reports whether a document looks as if it were for us, spelling
// mistakes included.
func anyResource(docs []*yaml.Node) bool {
	for _, n := range docs {
		if n.Kind != yaml.MappingNode {
			continue
		}
		for i := 0; i < len(n.Content); i += 2 {
			if _, near := nearest(n.Content[i].Value, []string{"apiVersion", "kind"}); near {
				return true
			}
		}
	}
	return false
}

// value returns the value of a field, or n where it has none.
func value(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return n
}
