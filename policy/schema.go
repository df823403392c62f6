package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// SchemaKinds are what Schema knows: a kind of document, or all of them.
func SchemaKinds() []string { return []string{"workload", "policy", "all"} }

const (
	schemaDialect = "https://json-schema.org/draft/2020-12/schema"
	schemaID      = "https://" + api.Version + "/"
)

// Schema returns the JSON Schema (draft 2020-12) of a kind of document, for editors. It is drawn
// from the decoder itself, and so cannot know other fields.
func Schema(kind string) ([]byte, error) {
	w, err := drawKind(api.KindWorkload, func(d *decoder, n *yaml.Node) { d.workload(n, &api.Workload{}) })
	if err != nil {
		return nil, err
	}
	p, err := drawKind(api.KindSecurityPolicy, func(d *decoder, n *yaml.Node) { d.securityPolicy(n, &api.SecurityPolicy{}) })
	if err != nil {
		return nil, err
	}
	var s sketch
	switch kind {
	case "workload":
		s = w
	case "policy":
		s = p
	case "all":
		of := func(kind string) sketch {
			return sketch{"if": sketch{"properties": sketch{"kind": sketch{"const": kind}}}, "then": sketch{"$ref": "#/$defs/" + kind}}
		}
		s = sketch{"title": "A document of Lorica", "type": "object", "required": []string{"kind"},
			"properties": sketch{"kind": sketch{"enum": []string{api.KindWorkload, api.KindSecurityPolicy}}},
			"allOf":      []sketch{of(api.KindWorkload), of(api.KindSecurityPolicy)},
			"$defs":      sketch{api.KindWorkload: w, api.KindSecurityPolicy: p}}
	default:
		return nil, fmt.Errorf("there is no schema %q: %s", clip(kind), didYouMean(kind, SchemaKinds()))
	}
	s["$schema"], s["$id"] = schemaDialect, schemaID+kind+".json"
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// A sketch is a part of a JSON Schema.
type sketch map[string]any

// A drawing is what readers are told to accept while nothing is read. Each is run on a blank
// of every kind of node, and takes those that it would read further; what it says of them
// are its alternatives.
type drawing struct {
	texts        map[string]string // of fields, by path
	described    map[string]bool   // those that were met
	alternatives []sketch
	wrong        []string
}

// drawKind draws a kind of document.
func drawKind(kind string, spec func(*decoder, *yaml.Node)) (sketch, error) {
	d := &decoder{report: &report{}, src: newSource(File{}), bad: make(map[string]bool), drawing: &drawing{texts: fieldTexts(kind), described: make(map[string]bool)}}
	whole := d.draw(func(n *yaml.Node) {
		constant := func(s string) func(*yaml.Node) { return func(n *yaml.Node) { d.drawn(n, sketch{"const": s}) } }
		d.document(n, constant(api.Version), constant(kind), d.metadata(&api.Metadata{}), func(n *yaml.Node) { spec(d, n) })
	})
	whole["title"] = kind
	for _, path := range sortedKeys(d.drawing.texts) {
		if !d.drawing.described[path] {
			d.drawing.wrong = append(d.drawing.wrong, fmt.Sprintf("%s: %s is described, and there is no such field", kind, path))
		}
	}
	if len(d.drawing.wrong) > 0 {
		return nil, fmt.Errorf("the schema cannot be drawn: %s", strings.Join(d.drawing.wrong, "; "))
	}
	return whole, nil
}

// draw returns what a reader accepts; nil where that is nothing.
func (d *decoder) draw(read func(*yaml.Node)) sketch {
	outer, errs := d.drawing.alternatives, d.report.errs
	defer func() { d.drawing.alternatives, d.report.errs = outer, errs }() // errors are about blanks
	d.drawing.alternatives = nil
	for _, kind := range []yaml.Kind{yaml.MappingNode, yaml.SequenceNode, yaml.ScalarNode} {
		refused := d.count()
		if read(&yaml.Node{Kind: kind}); kind == yaml.SequenceNode && d.count() > refused {
			// The blank is an empty list.
			for _, s := range d.drawing.alternatives {
				if s["type"] == "array" {
					s["minItems"] = 1
				}
			}
		}
	}
	list := d.drawing.alternatives
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return sketch{"anyOf": list}
}

// take adds an alternative, once.
func (d *decoder) take(s sketch) {
	if !slices.ContainsFunc(d.drawing.alternatives, func(x sketch) bool { return reflect.DeepEqual(x, s) }) {
		d.drawing.alternatives = append(d.drawing.alternatives, s)
	}
}

// drawn writes down what a reader of scalars accepts, and reports whether nothing is to be read.
func (d *decoder) drawn(n *yaml.Node, s sketch) bool {
	if d.drawing != nil && n.Kind == yaml.ScalarNode {
		d.take(s)
	}
	return d.drawing != nil
}

func (d *decoder) drawObject(n *yaml.Node, path string, fields []field) {
	if n.Kind != yaml.MappingNode {
		return
	}
	properties, required := sketch{}, []string{}
	for _, f := range fields {
		if f.notYet || f.never {
			continue
		}
		at := strings.TrimPrefix(path+"."+f.name, ".")
		s := d.draw(f.read)
		if s == nil {
			d.drawing.wrong = append(d.drawing.wrong, at+": its reader says nothing of what it accepts")
			continue
		}
		text := d.drawing.texts[at]
		if text == "" {
			d.drawing.wrong = append(d.drawing.wrong, at+" is not described in fieldtexts.go")
		}
		d.drawing.described[at] = true
		s["description"] = text
		properties[f.name] = s
		if f.must {
			required = append(required, f.name)
		}
	}
	s := sketch{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	d.take(s)
}

// drawChoice says that the object that was drawn last has one of some fields, or at least one.
func (d *decoder) drawChoice(n *yaml.Node, exactly bool, names []string) {
	if n.Kind != yaml.MappingNode {
		return
	}
	var each []sketch
	for _, name := range names {
		each = append(each, sketch{"required": []string{name}})
	}
	how := "anyOf"
	if exactly {
		how = "oneOf"
	}
	d.drawing.alternatives[len(d.drawing.alternatives)-1][how] = each
}

func (d *decoder) drawEntries(n *yaml.Node, each func(k, v *yaml.Node), special []string) {
	if n.Kind != yaml.MappingNode {
		return
	}
	of := func(name string) sketch {
		return d.draw(func(n *yaml.Node) { each(&yaml.Node{Value: name}, n) })
	}
	s := sketch{"type": "object", "additionalProperties": of("")}
	for _, name := range special {
		s["properties"] = sketch{name: of(name)}
	}
	d.take(s)
}

func (d *decoder) drawList(n *yaml.Node, each func(*yaml.Node)) {
	if n.Kind == yaml.SequenceNode {
		d.take(sketch{"type": "array", "items": d.draw(each)})
	}
}
