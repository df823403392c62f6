package policy

import (
	"net/netip"
	"regexp"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// defaultTenant is the tenant of resources that name none.
const defaultTenant = "default"

// Bounds of a workload's memory, in bytes: a Go image with the password hash of
// one user does not live in less.
const (
	defaultMemory = 64 << 20
	minMemory     = 32 << 20
	maxMemory     = 1 << 40
)

const labelSays = "lower-case letters, digits and '-', at most 63, with a letter or digit at both ends"

func (d *decoder) metadata(m *api.Metadata) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*m = api.Metadata{Pos: d.pos(n), Tenant: defaultTenant}
		d.object(n, "metadata",
			// A DNS label (RFC 1123): names become names of files and hosts.
			field{name: "name", must: true, read: d.form(&m.Name, "metadata.name", labelForm, labelSays)},
			field{name: "tenant", read: d.form(&m.Tenant, "metadata.tenant", labelForm, labelSays)},
			field{name: "labels", read: d.labels(&m.Labels, "metadata.labels")},
			field{name: "annotations", notYet: true},
			field{name: "namespace", notYet: true})
	}
}

// labels reads words to words, at most 32.
func (d *decoder) labels(dst *map[string]string, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		m := make(map[string]string)
		d.entries(n, path, func(k, v *yaml.Node) {
			var key, val string
			d.word(&key, path)(k)
			if d.word(&val, path+"."+clip(k.Value))(v); key != "" && val != "" {
				m[key] = val
			}
		})
		if len(m) > 32 {
			d.fail(n, "keep those that a selector needs", "%s has %d labels; the limit is 32", path, len(m))
		}
		*dst = m
	}
}

func (d *decoder) workload(n *yaml.Node, w *api.Workload) {
	w.Target, w.Memory, w.Minimum = api.TargetProcess, defaultMemory, api.TierFull
	d.object(n, "spec",
		field{name: "app", must: true, read: d.app(&w.App)},
		field{name: "listen", must: true, read: d.list("spec.listen", func(n *yaml.Node) { w.Listen = append(w.Listen, d.listen(n)) })},
		field{name: "target", read: func(n *yaml.Node) {
			w.TargetPos = d.pos(n)
			d.choice(&w.Target, "spec.target", api.Targets())(n)
		}},
		field{name: "network", read: d.link(w)},
		field{name: "modules", read: d.list("spec.modules", func(n *yaml.Node) { w.Modules = d.module(w.Modules, n, "spec.modules") })},
		field{name: "resources", read: func(n *yaml.Node) {
			d.object(n, "spec.resources",
				field{name: "memory", read: d.size(&w.Memory, "spec.resources.memory", minMemory, maxMemory)},
				field{name: "cpu", notYet: true})
		}},
		field{name: "confinement", read: func(n *yaml.Node) {
			d.object(n, "spec.confinement", field{name: "minimum", must: true, read: d.tier(&w.Minimum)})
		}})
	d.listenAt(w)
}

func (d *decoder) tier(dst *api.Tier) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s := dst.String()
		d.choice(&s, "spec.confinement.minimum", []string{api.TierFull.String(), api.TierNoUserns.String(), api.TierNoLandlock.String()})(n)
		*dst, _ = api.ParseTier(s)
	}
}

var funcForm = regexp.MustCompile(`^[A-Z][A-Za-z0-9_]{0,99}$`)

func (d *decoder) app(a *api.App) func(*yaml.Node) {
	return func(n *yaml.Node) {
		before := d.count()
		a.Pos = d.pos(n)
		d.object(n, "spec.app",
			field{name: "static", read: func(n *yaml.Node) {
				a.Static = &api.StaticApp{Pos: d.pos(n)}
				compression := string(api.CompressionOptional)
				d.object(n, "spec.app.static", field{name: "dir", must: true, read: d.path(&a.Static.Dir, "spec.app.static.dir")},
					field{name: "compression", read: d.choice(&compression, "spec.app.static.compression", api.Compressions())})
				a.Static.Compression = api.Compression(compression)
			}},
			field{name: "handler", read: func(n *yaml.Node) {
				a.Handler = &api.HandlerApp{Pos: d.pos(n), Package: ".", Func: "New"}
				d.object(n, "spec.app.handler",
					field{name: "module", must: true, read: d.path(&a.Handler.Module, "spec.app.handler.module")},
					field{name: "package", read: d.path(&a.Handler.Package, "spec.app.handler.package")},
					field{name: "func", read: d.form(&a.Handler.Func, "spec.app.handler.func", funcForm, "the name of an exported Go function, such as New")})
			}},
			field{name: "proxy", read: d.proxy(a)})
		if d.written(n, true, "static", "handler", "proxy") != 1 && d.count() == before {
			d.fail(n, "write static: {dir: ./public}, handler: {module: ./app, func: New} or proxy: {upstream: \"http://127.0.0.1:9000\"}", "spec.app must have exactly one of static, handler and proxy")
		}
	}
}

// path reads the name of a file or folder, as written.
func (d *decoder) path(dst *string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if d.drawn(n, sketch{"type": "string", "minLength": 1}) {
			return
		}
		var s string
		if d.str(&s, what)(n); s == "" {
			if n.Tag == "!!str" {
				d.fail(n, "write a path, relative to this file", "%s is empty", what)
			}
			return
		}
		if len(s) > 1024 || !printable(s) {
			d.fail(n, "write a path of printable characters", "%s %q cannot be a path", what, clip(s))
			return
		}
		*dst = s
	}
}

func printable(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return false
		}
	}
	return true
}

func (d *decoder) listen(n *yaml.Node) api.Listen {
	l := api.Listen{Pos: d.pos(n)} // what has no address gets one when the network is known
	var port uint64
	d.object(n, "spec.listen",
		field{name: "name", must: true, read: d.word(&l.Name, "spec.listen.name")},
		field{name: "port", must: true, read: d.number(&port, "spec.listen.port", 1, 65535)},
		field{name: "address", read: d.address(&l.Address, "spec.listen.address")})
	l.Port = uint16(port)
	return l
}

func (d *decoder) address(dst *netip.Addr, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s string
		if d.str(&s, path)(n); s == "" {
			return
		}
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			d.fail(n, "write an IP address such as 127.0.0.1 or \"::1\"", "%s %q is not an IP address", path, clip(s))
		case a.Is4In6():
			d.fail(n, "write "+a.Unmap().String(), "%s %s is IPv4 in disguise", path, s)
		case a.Zone() != "":
			d.fail(n, "write the address without %"+a.Zone(), "%s: zones are not supported yet", path)
		default:
			*dst = a
		}
	}
}
