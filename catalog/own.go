package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ManifestName is the file that makes a folder a module.
const ManifestName = manifestName

// Names of modules and capabilities of the user's own begin with a host, as Go module
// paths do: a dot in their first word. Lorica's have none, so that neither can be taken
// for the other.
var (
	ownForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_~-]*(\.[A-Za-z0-9_~-]+)+(/[A-Za-z0-9_~][A-Za-z0-9._~-]*)+$`)
	anyForm = regexp.MustCompile(capabilityForm.String() + "|" + ownForm.String())
)

// OwnName reports whether a module or a capability is one of the user's own, by its name.
func OwnName(name string) bool { return ownForm.MatchString(name) }

// Own reports whether m is a module of the user's own.
func (m *Module) Own() bool { return OwnName(m.ID) }

// ParseOwn reads the manifest of a module of the user's own, which is called as its Go
// module. It is read as strictly as Lorica's are, and may say less: it judges
// connections or requests, provides nothing of Lorica's names, takes the section of its
// settings and no other, has no device, and makes only calls that look at the process
// itself. Its error, if any, is an *Error.
func ParseOwn(name string, data []byte, module string) (*Module, error) {
	p := &parser{name: name, capability: anyForm, own: module}
	m := p.manifest(data)
	if p.err != nil {
		return nil, p.err
	}
	m.Section = m.ID
	return m, nil
}

// restrict has the readers of a manifest refuse what a module of the user's own must
// not say.
func (p *parser) restrict(m *Module, readers map[string]func(*yaml.Node)) {
	after := func(field string, check func(*yaml.Node)) {
		read := readers[field]
		readers[field] = func(n *yaml.Node) {
			if read(n); p.err == nil {
				check(n)
			}
		}
	}
	never := func(why string) func(*yaml.Node) {
		return func(n *yaml.Node) { p.fail(n, "%s", why) }
	}
	readers["id"] = func(n *yaml.Node) {
		switch m.ID = p.text(n, anyForm); {
		case p.err != nil:
		case m.ID != p.own:
			p.fail(n, "the id is %q, and the go.mod says %q: a module of your own is called as its Go module", m.ID, p.own)
		case strings.HasSuffix(m.ID, ".dryrun"):
			p.fail(n, "%q ends as a section of what is tried does: give the Go module another name", m.ID)
		case !OwnName(m.ID):
			p.fail(n, "%q begins with no host, such as example.com: names without one are Lorica's", m.ID)
		}
	}
	after("class", func(n *yaml.Node) {
		if m.Class != ClassGate && m.Class != ClassGuard {
			p.fail(n, "class %q: a module of your own is a gate, which judges connections, or a guard, which judges requests", m.Class)
		}
	})
	after("provides", func(n *yaml.Node) {
		for i, c := range m.Provides {
			if !OwnName(c) {
				p.fail(n.Content[i], "%q begins with no host, such as example.com: a module of your own provides nothing in the place of Lorica's", c)
			}
		}
	})
	after("syscalls", func(n *yaml.Node) {
		for i, s := range m.Syscalls {
			if !slices.Contains(ownCalls, s.Name) {
				p.fail(n.Content[i], "a module of your own must not make the call %s: those that it may make are %s", s.Name, strings.Join(ownCalls, ", "))
			}
		}
	})
	readers["code"] = never("code is counted in the module itself: remove it")
	readers["section"] = never("a module of your own takes the section of its settings, and no other: remove it")
	readers["devices"] = never("a module of your own has no devices: remove it")
}

// ownCalls are what a module of the user's own may ask for: they look at the process
// itself, at its clocks and at its machine, and change nothing that outlives the call.
var ownCalls = []string{
	"clock_getres", "clock_gettime", "clock_nanosleep", "getcpu", "getegid", "geteuid", "getgid", "getpid", "getppid", "getrandom", "getrusage",
	"gettid", "gettimeofday", "getuid", "nanosleep", "sched_getaffinity", "sched_yield", "sysinfo", "time", "times", "uname",
}

// With returns a catalog that has modules of the user's own as well.
func (c *Catalog) With(own ...*Module) (*Catalog, error) {
	if len(own) == 0 {
		return c, nil
	}
	return New(slices.Concat(c.Modules, own)...)
}

// Digest returns the digest of all manifests below the root of fsys, as Load reads
// them.
func Digest(fsys fs.FS) (string, error) {
	h := sha256.New()
	err := manifests(context.Background(), fsys, func(name string, _ fs.DirEntry) error {
		data, err := read(fsys, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%d %s %d\n", len(name), name, len(data))
		h.Write(data)
		return nil
	})
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), err
}
