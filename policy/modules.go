package policy

import (
	"regexp"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// moduleForm is that of the id of a module or of a capability. Which there are, the
// catalog knows, which whoever plans has.
var moduleForm = regexp.MustCompile(`^[a-z][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$`)

const (
	maxModuleNames   = 256
	maxAttackSurface = 1_000_000_000
)

func (d *decoder) modules(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const p = "spec.modules."
		m := &api.Modules{Pos: d.pos(n)}
		var limit uint64
		d.object(n, "spec.modules",
			field{name: "require", read: d.moduleNames(&m.Require, p+"require")},
			field{name: "forbid", read: d.moduleNames(&m.Forbid, p+"forbid")},
			field{name: "maxAttackSurface", read: func(n *yaml.Node) {
				m.MaxAttackSurfacePos = d.pos(n)
				d.number(&limit, p+"maxAttackSurface", 1, maxAttackSurface)(n)
			}})
		if d.written(n, false, "require", "forbid", "maxAttackSurface") == 0 {
			d.fail(n, "write require: [...], forbid: [...] or maxAttackSurface: N, or remove it", "spec.modules says nothing")
		}
		m.MaxAttackSurface = int(limit)
		s.Modules = m
	}
}

func (d *decoder) moduleNames(dst *[]api.ModuleName, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d.list(path, func(n *yaml.Node) {
			x := api.ModuleName{Pos: d.pos(n)}
			if d.form(&x.Name, path, moduleForm, "the id of a module, such as pep/firewall, or a capability, such as authn/basic")(n); x.Name != "" {
				*dst = append(*dst, x)
			}
		})(n)
		if n.Kind == yaml.SequenceNode && (len(n.Content) == 0 || len(n.Content) > maxModuleNames) {
			d.fail(n, "name modules or capabilities, or remove the field", "%s has %d entries", path, len(n.Content))
		}
	}
}

// checkModules refuses what is named twice, and what is wanted and not.
func (p *parsing) checkModules(s *securityPolicy) {
	if s.Modules == nil {
		return
	}
	required := make(map[string]api.Pos)
	for _, x := range s.Modules.Require {
		if at, twice := required[x.Name]; twice {
			s.failAt(x.Pos, "name it once", "modules.require names %q already, at line %d", x.Name, at.Line)
		}
		required[x.Name] = x.Pos
	}
	forbidden := make(map[string]api.Pos)
	for _, x := range s.Modules.Forbid {
		if at, twice := forbidden[x.Name]; twice {
			s.failAt(x.Pos, "name it once", "modules.forbid names %q already, at line %d", x.Name, at.Line)
		} else if at, both := required[x.Name]; both {
			s.failAt(x.Pos, "remove it here or there", "modules.forbid names %q, which modules.require asks for at line %d", x.Name, at.Line)
		}
		forbidden[x.Name] = x.Pos
	}
}
