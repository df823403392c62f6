package policy

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// A decoder turns the nodes of one file into values and reports what does not
// fit. It goes on after an error, so that all are reported at once.
type decoder struct {
	*report
	src *source
	bad map[string]bool // fields that were not read as written: do not judge what follows from them

	drawing *drawing // not nil: nothing is read; what would be is written down
}

func (d *decoder) pos(n *yaml.Node) api.Pos {
	return api.Pos{File: d.src.name, Line: n.Line, Column: n.Column}
}

func (d *decoder) fail(n *yaml.Node, fix, format string, args ...any) {
	d.add(d.src, d.pos(n), fix, format, args...)
}

// failAt is fail for what is no longer a node.
func (d *decoder) failAt(p api.Pos, fix, format string, args ...any) {
	d.add(d.src, p, fix, format, args...)
}

// A field of an object. Those that are notYet are known and refused.
type field struct {
	name   string
	must   bool
	notYet bool
	never  bool // read refuses it, with words of its own
	read   func(*yaml.Node)
}

// object reads a mapping by its table of fields; path names it in messages.
func (d *decoder) object(n *yaml.Node, path string, fields ...field) {
	if d.drawing != nil {
		d.drawObject(n, path, fields)
		return
	}
	what, prefix := path, path+"."
	if path == "" {
		what, prefix = "a resource", ""
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, "write fields: "+strings.Join(supported(fields), ", "), "%s must be a mapping, not %s", what, kindOf(n))
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		before := d.count()
		at := slices.IndexFunc(fields, func(f field) bool { return f.name == k.Value })
		switch {
		case at < 0:
			known := supported(fields)
			d.fail(k, didYouMean(k.Value, known), "%s%s is unknown", prefix, clip(k.Value))
			if near, ok := nearest(k.Value, known); ok {
				seen[near], d.bad[prefix+near] = true, true
			}
			continue
		case fields[at].notYet:
			d.fail(k, "remove it", "%s%s is not supported yet", prefix, k.Value)
		case v.Tag == "!!null":
			d.fail(k, "write a value or remove the field", "%s%s is empty", prefix, k.Value)
		default:
			fields[at].read(v)
		}
		seen[k.Value] = true
		if d.count() > before {
			d.bad[prefix+k.Value] = true
		}
	}
	for _, f := range fields {
		if f.must && !seen[f.name] {
			d.fail(n, "add "+f.name, "%s%s is missing", prefix, f.name)
		}
	}
}

// written reports how many of some fields a mapping has, for what must have one of them;
// what is no mapping was reported, and has one. exactly is what a schema says of it.
func (d *decoder) written(n *yaml.Node, exactly bool, names ...string) int {
	if d.drawing != nil {
		d.drawChoice(n, exactly, names)
		return 1
	}
	if n.Kind != yaml.MappingNode {
		return 1
	}
	count := 0
	for _, name := range names {
		if value(n, name) != n {
			count++
		}
	}
	return count
}

// supported names the fields that can be written.
func supported(fields []field) []string {
	var s []string
	for _, f := range fields {
		if !f.notYet {
			s = append(s, f.name)
		}
	}
	return s
}

// entries reads a mapping whose keys are the user's own, in file order; the values of
// special ones have another form than those of all others.
func (d *decoder) entries(n *yaml.Node, path string, each func(k, v *yaml.Node), special ...string) {
	if d.drawing != nil {
		d.drawEntries(n, each, special)
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, "write name: value", "%s must be a mapping, not %s", path, kindOf(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i+1].Tag == "!!null" {
			d.fail(n.Content[i], "write a value or remove the line", "%s.%s is empty", path, clip(n.Content[i].Value))
			continue
		}
		each(n.Content[i], n.Content[i+1])
	}
}

// list reads a sequence.
func (d *decoder) list(path string, each func(*yaml.Node)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawing != nil {
			d.drawList(n, each)
			return
		}
		if n.Kind != yaml.SequenceNode {
			d.fail(n, "write [...], or one line with a dash for each", "%s must be a list, not %s", path, kindOf(n))
			return
		}
		for _, c := range n.Content {
			each(c)
		}
	}
}

// each reads a value, or a list of them.
func (d *decoder) each(n *yaml.Node, path string, read func(*yaml.Node)) {
	if n.Kind == yaml.SequenceNode {
		d.list(path, read)(n)
		return
	}
	read(n)
}

// str reads text. Numbers and booleans are not text: what looks like one is
// put in quotes, so that no value changes its meaning with its spelling.
func (d *decoder) str(dst *string, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "string"}) {
			return
		}
		switch {
		case n.Kind != yaml.ScalarNode:
			d.fail(n, "write a word or quoted text", "%s must be text, not %s", path, kindOf(n))
		case n.Tag != "!!str":
			d.fail(n, fmt.Sprintf("write %q in quotes", clip(n.Value)), "%s must be text, not %s", path, kindOf(n))
		default:
			*dst = n.Value
		}
	}
}

var (
	wordForm  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	labelForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// word reads a name that decisions and records will carry.
func (d *decoder) word(dst *string, path string) func(*yaml.Node) {
	return d.form(dst, path, wordForm, "letters, digits, '.', '_' and '-', at most 63, with a letter or digit at both ends")
}

func (d *decoder) form(dst *string, path string, form *regexp.Regexp, says string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "string", "pattern": form.String()}) {
			return
		}
		var s string
		d.str(&s, path)(n)
		switch {
		case s == "" && n.Tag == "!!str":
			d.fail(n, "write "+says, "%s is empty", path)
		case s != "" && !form.MatchString(s):
			d.fail(n, "use "+says, "%s cannot be %q", path, clip(s))
		default:
			*dst = s
		}
	}
}

// words reads a list of names.
func (d *decoder) words(dst *[]string, path string) func(*yaml.Node) {
	return d.list(path, func(n *yaml.Node) {
		var s string
		if d.word(&s, path)(n); s != "" {
			*dst = append(*dst, s)
		}
	})
}

// choice reads one of the given words; later ones are refused as not supported
// yet.
func (d *decoder) choice(dst *string, path string, words []string, later ...string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"enum": words}) {
			return
		}
		if n.Kind == yaml.ScalarNode && n.Tag != "!!str" && !slices.Contains(words, n.Value) {
			d.fail(n, "known: "+strings.Join(words, ", "), "%s cannot be %s", path, kindOf(n)) // quotes would not help
			return
		}
		var s string
		d.str(&s, path)(n)
		switch {
		case s == "" && n.Tag != "!!str":
		case slices.Contains(words, s):
			*dst = s
		case slices.Contains(later, s):
			d.fail(n, "write "+strings.Join(words, " or "), "%s: %s is not supported yet", path, s)
		default:
			d.fail(n, didYouMean(s, words), "%s: %q is unknown", path, clip(s))
		}
	}
}

func (d *decoder) boolean(dst *bool, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "boolean"}) {
			return
		}
		if n.Tag != "!!bool" || n.Value != "true" && n.Value != "false" {
			d.fail(n, "write true or false", "%s must be true or false, not %s", path, kindOf(n))
			return
		}
		*dst = n.Value == "true"
	}
}

func (d *decoder) number(dst *uint64, path string, lo, hi uint64) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "integer", "minimum": lo, "maximum": hi}) {
			return
		}
		v, err := strconv.ParseUint(n.Value, 10, 64)
		if n.Tag != "!!int" || err != nil || len(n.Value) > 1 && n.Value[0] == '0' || v < lo || v > hi {
			d.fail(n, fmt.Sprintf("write a decimal number from %d to %d, without quotes", lo, hi), "%s cannot be %s", path, shown(n))
			return
		}
		*dst = v
	}
}

func (d *decoder) share(dst *float64, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "number", "minimum": 0, "maximum": 1}) {
			return
		}
		v, err := strconv.ParseFloat(n.Value, 64)
		if n.Tag != "!!float" && n.Tag != "!!int" || err != nil || math.IsNaN(v) || v < 0 || v > 1 {
			d.fail(n, "write a share from 0 to 1, for example 0.01", "%s cannot be %s", path, shown(n))
			return
		}
		*dst = v
	}
}

var sizeForm = regexp.MustCompile(`^([1-9][0-9]{0,15})(Ki|Mi|Gi|)$`)

// size reads a number of bytes: 65536, 64Ki, 1Mi.
func (d *decoder) size(dst *uint64, path string, lo, hi uint64) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"anyOf": []sketch{{"type": "integer", "minimum": lo, "maximum": hi}, {"type": "string", "pattern": sizeForm.String()}}}) {
			return
		}
		m := sizeForm.FindStringSubmatch(n.Value)
		var v uint64
		if n.Kind == yaml.ScalarNode && m != nil {
			v, _ = strconv.ParseUint(m[1], 10, 64)
			for _, unit := range []string{"Ki", "Mi", "Gi"} {
				if m[2] == "" || v > hi {
					break
				}
				v <<= 10
				if m[2] == unit {
					break
				}
			}
		}
		if v < lo || v > hi {
			d.fail(n, fmt.Sprintf("write bytes, or a number with Ki, Mi or Gi, from %s to %s", sizeText(lo), sizeText(hi)), "%s cannot be %s", path, shown(n))
			return
		}
		*dst = v
	}
}

func sizeText(v uint64) string {
	for _, unit := range []string{"", "Ki", "Mi"} {
		if v%1024 != 0 || v == 0 {
			return strconv.FormatUint(v, 10) + unit
		}
		v /= 1024
	}
	return strconv.FormatUint(v, 10) + "Gi"
}

// durationForm is what time.ParseDuration reads.
const durationForm = `^[+-]?(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`

func (d *decoder) duration(dst *time.Duration, path string, lo, hi time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "string", "pattern": durationForm}) {
			return
		}
		v, err := time.ParseDuration(n.Value)
		if n.Tag != "!!str" || err != nil || v < lo || v > hi {
			d.fail(n, fmt.Sprintf("write a duration from %s to %s, for example 30s or 5m", span(lo), span(hi)), "%s cannot be %s", path, shown(n))
			return
		}
		*dst = v
	}
}

// kindOf says what a node is, for people.
func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "the number " + clip(n.Value)
	case n.Tag == "!!bool":
		return "the boolean " + clip(n.Value)
	case n.Tag == "!!timestamp":
		return "the date " + clip(n.Value)
	}
	return fmt.Sprintf("the text %q", clip(n.Value))
}

// shown is a node as a message quotes it.
func shown(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return strconv.Quote(clip(n.Value))
	}
	return kindOf(n)
}

// clip bounds what a message quotes.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
