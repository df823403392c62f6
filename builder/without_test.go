package builder

import (
	"go/format"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

func withoutModule(t *testing.T, p *Plan, id string) *Plan {
	t.Helper()
	i := slices.IndexFunc(p.Modules, func(m *catalog.Module) bool { return m.ID == id })
	if i < 0 {
		t.Fatalf("the image has no %s", id)
	}
	q, err := p.Without(p.Modules[i])
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// What calls a module goes with it, and nothing else.
func TestAMainWithoutAModule(t *testing.T) {
	site := siteIn(tree(t, map[string]string{"public/index.html": "<p>hello\n"}))
	for _, c := range []struct {
		name, module string
		needs        []string
		app          *api.Workload
		gone, added  []string // lines
	}{
		{"an element of a list", "pep/firewall", siteNeeds, site, []string{`"lorica.dev/lorica/pep/firewall"`, `Gates: []unikernel.Gate{`, `{Section: "firewall", Module: firewall.New()},`}, []string{`Gates:    []unikernel.Gate{},`}},
		{"a field with a section", "pep/tls", securedNeeds, site, []string{`"lorica.dev/lorica/pep/tls"`, `TLS:      unikernel.TLS{Section: "tls", Module: tls.New()},`}, nil},
		{"a field", "unikernel/linux", siteNeeds, site, []string{`"lorica.dev/lorica/unikernel/linux"`, `Platform: linux.New(),`}, nil},
		{"the application", "app/static", siteNeeds, site, []string{`"lorica.dev/lorica/app/static"`, `App: static.New(content, "content"),`}, nil},
		{"an argument", "netstack/dhcp", leasedNeeds, site, []string{`"lorica.dev/lorica/netstack/dhcp"`, `network := tap.New(ip6.New(), dhcp.New())`}, []string{`network := tap.New(ip6.New())`}},
		{"a network that others are given", "netstack/socket", siteNeeds, site, []string{`"lorica.dev/lorica/netstack/socket"`, `network := socket.New()`}, []string{`var network unikernel.Net`}},
		{"a statement", "pep/egress", frontNeeds, frontIn("testdata"), []string{`"lorica.dev/lorica/pep/egress"`, `out := egress.New(network)`}, nil},
		{"what main does not name", "netstack/direct", directNeeds, frontIn("testdata"), nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t, c.needs, c.app)
			q := withoutModule(t, p, c.module)
			if q.ID == p.ID || !strings.Contains(q.Main, strings.TrimPrefix(q.ID.String(), "plan:")) || len(q.Modules) != len(p.Modules)-1 {
				t.Errorf("%s without a module is %s: %s", p.ID, q.ID, q.Main)
			}
			for _, f := range q.files {
				if strings.HasPrefix(f.name, "lorica/"+c.module+"/") && strings.Count(f.name, "/") == strings.Count(c.module, "/")+2 {
					t.Errorf("%s is there to import", f.name)
				}
			}
			gone, added := difference(p.Main, q.Main), difference(q.Main, p.Main)
			if !slices.Equal(gone, c.gone) || !slices.Equal(added, c.added) {
				t.Errorf("gone:\n%s\nadded:\n%s", strings.Join(gone, "\n"), strings.Join(added, "\n"))
			}
			if b, err := format.Source([]byte(q.Main)); err != nil || string(b) != q.Main {
				t.Errorf("%v: %s", err, q.Main)
			}
			if _, err := parser.ParseFile(token.NewFileSet(), "", q.Main, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// difference returns the lines of a that are not in b, but for how they are aligned and
// for the plan.
func difference(a, b string) (list []string) {
	tidy := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	var lines []string
	for line := range strings.Lines(b) {
		lines = append(lines, tidy(line))
	}
	for line := range strings.Lines(a) {
		if s := tidy(line); s != "" && !slices.Contains(lines, s) && !strings.HasPrefix(s, "const plan") {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// An image holds what its modules import, and what is smuggled into its main is seen:
// whether the image is stripped, and whether any code of it is left.
func TestWhatIsSmuggledIntoAnImageIsSeen(t *testing.T) {
	site := siteIn(tree(t, map[string]string{"public/index.html": "<p>hello\n"}))
	for _, c := range []struct {
		name, from, to string
		want           []string // packages; none: nothing is outside
	}{
		{name: "nothing"},
		{"an import for its effect", `import (`, "import (\n_ \"text/template\"\n", []string{"package text/template (", "package text/template/parse ("}},
		{"a module that is not needed", `import (`, "import (\n_ \"golang.org/x/crypto/blake2b\"\n", []string{"package golang.org/x/crypto/blake2b (", "module golang.org/x/crypto v"}},
		{"a function that is inlined", `func main() {`, "func main() { if html.EscapeString(plan) == \"\" { return }", []string{"package html ("}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t, siteNeeds, site)
			p.Main = strings.Replace(p.Main, c.from, c.to, 1)
			if strings.Contains(c.to, "html.") {
				p.Main = strings.Replace(p.Main, "import (", "import (\n\"html\"\n", 1)
			}
			dir := t.TempDir()
			img, err := p.BuildIn(t.Context(), dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			closure, err := p.Closure(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{img.Path, img.Debug} {
				l, err := ReadLinked(name)
				if err != nil {
					t.Fatal(err)
				}
				out := closure.Outside(l)
				if len(l.Packages) < 100 || len(c.want) == 0 && len(out) > 0 {
					t.Errorf("%s has %d packages, and outside of the closure %q", name, len(l.Packages), out)
				}
				for _, want := range c.want {
					if !slices.ContainsFunc(out, func(s string) bool { return strings.HasPrefix(s, want) }) {
						t.Errorf("%s: %q does not tell of %s", name, out, want)
					}
				}
			}
		})
	}
}
