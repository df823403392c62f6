package policy

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/api"
)

// maxModules bounds the modules of the user's own that a document names.
const maxModules = 64

var (
	// versionedForm is a Go module path with a version.
	versionedForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~/-]{0,199}@v[0-9][0-9A-Za-z.+-]{0,99}$`)
	settingForm   = regexp.MustCompile(`^[a-z][A-Za-z0-9]{0,39}$`)
)

// module reads one module of the user's own, and adds it to those before it.
func (d *decoder) module(list []api.Module, n *yaml.Node, path string) []api.Module {
	before := d.count()
	m := api.Module{Pos: d.pos(n), Dir: d.src.dir}
	var source string
	fields := []field{
		{name: "path", read: d.path(&m.Path, path+".path")},
		{name: "module", read: d.form(&source, path+".module", versionedForm, "a Go module path and a version, such as example.com/guard@v1.2.3")},
		{name: "settings", read: func(n *yaml.Node) {
			d.entries(n, path+".settings", func(k, v *yaml.Node) { m.Settings = d.setting(m.Settings, k, v, path+".settings") })
		}},
	}
	if path == "spec.modules" { // those of a configuration always are
		fields = append(fields, field{name: "optional", read: d.boolean(&m.Optional, path+".optional")})
	}
	d.object(n, path, fields...)
	if d.written(n, true, "path", "module") != 1 && d.count() == before {
		d.fail(n, "write path: ./guard, or module: example.com/guard@v1.2.3", "a module of %s must have exactly one of path and module", path)
	}
	m.Module, m.Version, _ = strings.Cut(source, "@")
	switch {
	case d.count() > before || d.drawing != nil:
	case slices.ContainsFunc(list, func(o api.Module) bool { return o.Source() == m.Source() }):
		d.fail(n, "keep one of them", "%s names %s twice", path, clip(m.Source()))
	case len(list) == maxModules:
		d.fail(n, "keep those that are used", "%s has more than %d modules", path, maxModules)
	}
	return append(list, m)
}

// setting reads a value in its own type; whether the module takes it, its manifest says.
func (d *decoder) setting(list []api.Setting, k, n *yaml.Node, path string) []api.Setting {
	if d.drawn(n, sketch{"type": []string{"string", "integer", "boolean"}}) {
		if n.Kind == yaml.SequenceNode {
			d.take(sketch{"type": "array", "items": sketch{"type": "string"}})
		}
		return list
	}
	path += "." + clip(k.Value)
	s := api.Setting{Pos: d.pos(n), Value: settings.Value{Name: k.Value}}
	switch {
	case !settingForm.MatchString(k.Value):
		d.fail(k, "use a letter of a to z and letters and digits after it, at most 40", "%s: the name of a setting cannot be %q", path, clip(k.Value))
		return list
	case n.Kind == yaml.SequenceNode:
		s.Kind = settings.List
		for _, e := range n.Content {
			var text string
			d.str(&text, path)(e)
			s.List = append(s.List, text)
		}
	case n.Kind == yaml.ScalarNode && n.Tag == "!!bool" && (n.Value == "true" || n.Value == "false"):
		s.Kind, s.Flag = settings.Flag, n.Value == "true"
	case n.Kind == yaml.ScalarNode && n.Tag == "!!int":
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil || strconv.FormatInt(v, 10) != n.Value {
			d.fail(n, "write a decimal number of at most 64 bits, or quotes where text is meant", "%s cannot be %s", path, shown(n))
			return list
		}
		s.Kind, s.Number = settings.Number, v
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		s.Kind, s.Text = settings.Text, n.Value
	default:
		d.fail(n, "write text in quotes, a whole number, true or false, or a list of text", "%s cannot be %s", path, kindOf(n))
		return list
	}
	if err := s.Check(); err != nil {
		d.fail(n, "shorten it", "%s: %s", path, err)
	}
	if len(list) == settings.MaxValues {
		d.fail(n, "remove some", "%s: there are more than %d settings", path, settings.MaxValues)
	}
	return append(list, s)
}

// ConfigModules reads the modules that a user's configuration names, each of which is
// part of an image only where something requires what it provides. Where there is no
// such file there are none. Its error, if any, is Errors.
func ConfigModules(file string) ([]api.Module, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	f, err := readFile(file)
	if err != nil {
		return nil, err
	}
	f.Name = file // it lies in no folder that the user has named
	if f.Dir, err = filepath.Abs(f.Dir); err != nil {
		return nil, fileError(file, err)
	}
	list, err := parseConfig(f)
	for i := range list {
		// As it is called in locks, beside what workloads name in folders of their own.
		if m := &list[i]; m.Path != "" && !filepath.IsAbs(m.Path) {
			m.Path = filepath.Join(m.Dir, m.Path)
		}
	}
	return list, err
}

func parseConfig(f File) (list []api.Module, err error) {
	if docs, err := decodeYAML(f.Data); err == nil && len(docs) == 0 {
		return nil, nil // comments, or nothing
	}
	var p parsing
	src := newSource(f)
	docs := p.documents(src, f.Data)
	d := &decoder{report: &p.report, src: src, bad: make(map[string]bool)}
	for i, n := range docs {
		if i > 0 {
			d.fail(n, "keep one document", "a configuration is one document")
			break
		}
		d.object(n, "", field{name: "modules", read: d.list("modules", func(n *yaml.Node) { list = d.module(list, n, "modules") })})
	}
	for i := range list {
		list[i].Optional = true
	}
	if es := p.sorted(); len(es) > 0 {
		return nil, es
	}
	return list, nil
}

// Own returns the modules of the user's own that may be in an image of the deployment, as
// its workload and its policy name them. They judge besides the policy: what they decide,
// nothing here knows.
func (d *Deployment) Own() []api.ModuleName {
	var list []api.ModuleName
	for i := range d.Workload.Modules {
		m := &d.Workload.Modules[i]
		list = append(list, api.ModuleName{Pos: m.Pos, Name: m.Source()})
	}
	if p := d.Policy.Modules; p != nil {
		for _, x := range p.Require {
			if host, _, _ := strings.Cut(x.Name, "/"); strings.Contains(host, ".") { // Lorica's names have none
				list = append(list, x)
			}
		}
	}
	return list
}
