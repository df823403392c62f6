package learn

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A section is one key of a spec, and what is to stand there: lines at the indentation of
// the key.
type section struct {
	path  []string
	lines []string
}

// edited replaces sections of a policy, and takes tests out of it. What stands elsewhere
// stays as it is, comments included, where sections are blocks; else the file is written
// anew, and straight is false.
func edited(f policy.File, p *api.SecurityPolicy, sections []section, drop []api.Pos) (data []byte, straight bool, err error) {
	docs, err := documents(f.Data)
	if err != nil {
		return nil, false, err
	}
	spec, last := find(docs, p)
	if spec == nil {
		return nil, false, errors.New("the policy is not in " + f.Name)
	}
	e := &editor{lines: strings.SplitAfter(string(f.Data), "\n"), last: last}
	straight = true
	for _, s := range sections {
		straight = straight && e.section(spec, s)
	}
	straight = straight && e.tests(spec, drop)
	if straight {
		return e.apply(), true, nil
	}
	for _, s := range sections {
		if err := put(spec, s); err != nil {
			return nil, false, err
		}
	}
	if i := key(spec, "tests"); i >= 0 {
		list := spec.Content[i+1]
		list.Content = slices.DeleteFunc(list.Content, func(n *yaml.Node) bool { return dropped(n, drop) })
		if len(list.Content) == 0 {
			spec.Content = slices.Delete(spec.Content, i, i+2)
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	for _, n := range docs {
		if err := enc.Encode(n); err != nil {
			return nil, false, err
		}
	}
	return b.Bytes(), false, enc.Close()
}

func documents(data []byte) (docs []*yaml.Node, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		n := new(yaml.Node)
		if err := dec.Decode(n); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, err
		}
		docs = append(docs, n)
	}
}

// find returns the spec of a policy, and the line of the key behind it; 0 where there is
// none.
func find(docs []*yaml.Node, p *api.SecurityPolicy) (spec *yaml.Node, next int) {
	for _, d := range docs {
		if d.Kind != yaml.DocumentNode || len(d.Content) != 1 || d.Content[0].Kind != yaml.MappingNode {
			continue
		}
		root := d.Content[0]
		k, m, s := key(root, "kind"), key(root, "metadata"), key(root, "spec")
		if k < 0 || m < 0 || s < 0 || root.Content[k+1].Value != api.KindSecurityPolicy {
			continue
		}
		meta := root.Content[m+1]
		text := func(name string) string {
			if i := key(meta, name); i >= 0 {
				return meta.Content[i+1].Value
			}
			return ""
		}
		tenant := text("tenant")
		if text("name") != p.Metadata.Name || tenant != p.Metadata.Tenant && (tenant != "" || p.Metadata.Tenant != "default") {
			continue
		}
		if root.Style&yaml.FlowStyle == 0 && s+2 < len(root.Content) {
			next = root.Content[s+2].Line
		}
		return root.Content[s+1], next
	}
	return nil, 0
}

// key returns where a mapping has a key; -1 where it has not.
func key(m *yaml.Node, name string) int {
	if m.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(m.Content); i += 2 {
			if m.Content[i].Value == name {
				return i
			}
		}
	}
	return -1
}

// An editor replaces lines.
type editor struct {
	lines []string
	last  int // of the key behind the spec; 0: none
	edits []edit
}

type edit struct {
	from, to int // lines that are replaced: the first, and the one behind the last
	lines    []string
}

// end returns the line behind the value of key i of a block that ends at a line.
func (e *editor) end(m *yaml.Node, i, outer int) int {
	to := outer
	if i+2 < len(m.Content) {
		to = m.Content[i+2].Line
	}
	return e.stripped(m.Content[i].Line, to, m.Content[i].Column)
}

// stripped leaves lines to what comes next that are blank, or comments not deeper than a column.
func (e *editor) stripped(from, to, column int) int {
	for to-1 > from {
		line := e.lines[to-2]
		text := strings.TrimSpace(line)
		if text != "" && (text[0] != '#' || strings.IndexByte(line, '#') >= column) {
			break
		}
		to--
	}
	return to
}

// bottom is the line behind the spec.
func (e *editor) bottom(spec *yaml.Node) int {
	if e.last > 0 {
		return e.last
	}
	for i := spec.Line; i < len(e.lines); i++ {
		if strings.HasPrefix(e.lines[i], "---") || strings.HasPrefix(e.lines[i], "...") {
			return i + 1
		}
	}
	n := len(e.lines)
	if e.lines[n-1] == "" {
		n--
	}
	return n + 1
}

// section notes the replacement of one. It reports whether that can be done by lines.
func (e *editor) section(spec *yaml.Node, s section) bool {
	m, outer := spec, e.bottom(spec)
	for depth, name := range s.path {
		if m.Kind != yaml.MappingNode || m.Style&yaml.FlowStyle != 0 || len(m.Content) == 0 {
			return false
		}
		column := m.Content[0].Column
		i := key(m, name)
		if i < 0 {
			lines := s.lines
			for d := len(s.path) - 2; d >= depth; d-- {
				lines = nested(s.path[d], lines)
			}
			at := e.end(m, len(m.Content)-2, outer)
			e.edits = append(e.edits, edit{at, at, indented(lines, column)})
			return true
		}
		to := e.end(m, i, outer)
		if depth == len(s.path)-1 {
			e.edits = append(e.edits, edit{m.Content[i].Line, to, indented(s.lines, column)})
			return true
		}
		m, outer = m.Content[i+1], to
	}
	return false
}

func nested(name string, lines []string) []string {
	out := []string{name + ":"}
	for _, l := range lines {
		out = append(out, "  "+l)
	}
	return out
}

func indented(lines []string, column int) []string {
	var out []string
	for _, l := range lines {
		if l != "" {
			l = strings.Repeat(" ", column-1) + l
		}
		out = append(out, l+"\n")
	}
	return out
}

func dropped(n *yaml.Node, drop []api.Pos) bool {
	return slices.ContainsFunc(drop, func(p api.Pos) bool { return p.Line == n.Line && p.Column == n.Column })
}

// tests notes that tests are taken out.
func (e *editor) tests(spec *yaml.Node, drop []api.Pos) bool {
	if len(drop) == 0 {
		return true
	}
	i := key(spec, "tests")
	if i < 0 || spec.Style&yaml.FlowStyle != 0 || spec.Content[i+1].Style&yaml.FlowStyle != 0 {
		return false
	}
	list := spec.Content[i+1]
	outer := e.end(spec, i, e.bottom(spec))
	if len(drop) == len(list.Content) {
		e.edits = append(e.edits, edit{spec.Content[i].Line, outer, nil})
		return true
	}
	for j, n := range list.Content {
		if !dropped(n, drop) {
			continue
		}
		to := outer
		if j+1 < len(list.Content) {
			to = list.Content[j+1].Line
		}
		e.edits = append(e.edits, edit{n.Line, e.stripped(n.Line, to, list.Column), nil})
	}
	return true
}

func (e *editor) apply() []byte {
	slices.SortStableFunc(e.edits, func(a, b edit) int { return b.from - a.from })
	for _, x := range e.edits {
		if n := x.from - 2; n >= 0 && !strings.HasSuffix(e.lines[n], "\n") {
			e.lines[n] += "\n"
		}
		e.lines = slices.Replace(e.lines, x.from-1, x.to-1, x.lines...)
	}
	return []byte(strings.Join(e.lines, ""))
}

// put sets a section in a tree.
func put(spec *yaml.Node, s section) error {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(strings.Join(s.lines, "\n")+"\n"), &doc); err != nil {
		return err
	}
	m := spec
	for _, name := range s.path[:len(s.path)-1] {
		i := key(m, name)
		if i < 0 {
			m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, &yaml.Node{Kind: yaml.MappingNode})
			i = len(m.Content) - 2
		}
		m = m.Content[i+1]
		m.Style &^= yaml.FlowStyle
	}
	m.Style &^= yaml.FlowStyle
	pair := doc.Content[0].Content
	if i := key(m, s.path[len(s.path)-1]); i >= 0 {
		m.Content[i+1] = pair[1]
	} else {
		m.Content = append(m.Content, pair...)
	}
	return nil
}
