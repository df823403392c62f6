package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

func (c *cli) catalogCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "catalog",
		GroupID: "write",
		Short:   "Look at the modules that images are made of, and check them",
		Long: `Shows the modules that images are made of: what each provides, needs and excludes, and
its attack surface, by which the minimal set is chosen. docs/catalog.md says what a
manifest holds, and how the attack surface follows from it.

--catalog DIR looks at the module.yaml files below a folder instead of the modules that
this command builds images from.`,
		Example: `  lorica catalog list
  lorica catalog show pep/authn/jwt
  lorica catalog check --catalog ./modules`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&dir, "catalog", "", "look at the module.yaml files below this folder")
	_ = cmd.MarkPersistentFlagDirname("catalog")
	cmd.AddCommand(c.catalogListCommand(&dir), c.catalogShowCommand(&dir), c.catalogCheckCommand(&dir), c.catalogGraphCommand(&dir), c.catalogWeighCommand(&dir))
	return cmd
}

// modules reads the catalog in a folder, or the one that images are built from for "".
// What is wrong with manifests is moduleShown as check shows it.
func (c *cli) modules(ctx context.Context, dir string) (*catalog.Catalog, error) {
	var tree fs.FS = lorica.Source()
	if dir != "" {
		info, err := os.Stat(dir)
		if err != nil {
			return nil, fmt.Errorf("--catalog %s: %w", dir, errors.Unwrap(err))
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("--catalog %s: not a folder", dir)
		}
		tree = os.DirFS(dir)
	}
	all, err := catalog.LoadContext(ctx, tree)
	var wrong catalog.Errors
	switch {
	case err == nil:
		for _, m := range all.Modules {
			m.File = filepath.Join(dir, m.File)
		}
		return all, nil
	case !errors.As(err, &wrong):
		return nil, err
	}
	var list policy.Errors
	for _, e := range wrong {
		x := &policy.Error{Pos: e.Pos, Message: e.Message}
		x.Pos.File = filepath.Join(dir, e.Pos.File)
		list = append(list, x)
	}
	return nil, c.explain(list)
}

// module finds the newest version of a module, or the one behind "@".
func module(all *catalog.Catalog, name string) (*catalog.Module, error) {
	id, version, exact := strings.Cut(name, "@")
	for _, m := range all.Modules {
		if m.ID == id && (!exact || m.Version == version) {
			return m, nil
		}
	}
	if len(all.Providers(id)) > 0 {
		return nil, fmt.Errorf("%s is a capability and no module: %s", name, providers(all, id, "", "provide"))
	}
	return nil, fmt.Errorf("there is no module %s: `lorica catalog list` shows all", name)
}

// completeModules completes ids.
func (c *cli) completeModules(dir *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, done []string, _ string) ([]string, cobra.ShellCompDirective) {
		var list []string
		quiet := &cli{out: io.Discard, err: io.Discard, format: "text"}
		if all, err := quiet.modules(cmd.Context(), *dir); err == nil {
			for _, m := range all.Modules {
				if !slices.Contains(done, m.ID) {
					list = append(list, m.ID)
				}
			}
		}
		return slices.Compact(list), cobra.ShellCompDirectiveNoFileComp
	}
}

// moduleListed is a module as list and show answer it in JSON.
type moduleListed struct {
	ID        string            `json:"id"`
	Version   string            `json:"version"`
	Summary   string            `json:"summary"`
	Class     catalog.Class     `json:"class"`
	Surface   int               `json:"surface"`
	Breakdown catalog.Breakdown `json:"breakdown"`
	Provides  []string          `json:"provides"` // its id first
	Requires  []catalog.Clause  `json:"requires,omitempty"`
	Conflicts []string          `json:"conflicts,omitempty"`
	Available []string          `json:"available,omitempty"` // empty: everywhere
	Section   string            `json:"section,omitempty"`
	Syscalls  []catalog.Syscall `json:"syscalls,omitempty"`
	Devices   []string          `json:"devices,omitempty"`
	Inputs    []catalog.Input   `json:"inputs,omitempty"`
	Config    []catalog.Option  `json:"config,omitempty"`
}

func listModule(m *catalog.Module) moduleListed {
	l := moduleListed{m.ID, m.Version, m.Summary, m.Class, m.Surface, m.Breakdown(), append([]string{m.ID}, m.Provides...),
		m.Requires, m.Conflicts, m.Targets, m.Section, m.Syscalls, m.Devices, nil, m.Config}
	for _, name := range m.Inputs {
		l.Inputs = append(l.Inputs, *catalog.FindInput(name))
	}
	return l
}

func (c *cli) catalogListCommand(dir *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the modules, with their attack surface",
		Long: `Lists the modules in the order in which they stand in an image, with their class,
attack surface in points, and what they provide besides their own id.`,
		Example: "  lorica catalog list -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := c.modules(cmd.Context(), *dir)
			if err != nil {
				return err
			}
			var out []moduleListed
			for _, m := range slices.SortedFunc(slices.Values(all.Modules), catalog.Chain) {
				out = append(out, listModule(m))
			}
			return c.print(out, func(w io.Writer) { printModules(w, out) })
		},
	}
	return cmd
}

func printModules(w io.Writer, list []moduleListed) {
	var rows [][]string
	sum := 0
	for _, m := range list {
		rows = append(rows, []string{m.ID, m.Version, string(m.Class), fmt.Sprint(m.Surface), words(m.Available, "everywhere"), words(m.Provides[1:], "-")})
		sum += m.Surface
	}
	table(w, "MODULE|VERSION|CLASS|SURFACE|AVAILABLE|PROVIDES", rows)
	fmt.Fprintf(w, "%s, %d points in all\n", count(len(list), "module"), sum)
}

// words joins them, or says what stands for none.
func words(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

// moduleShown is what show answers in JSON.
type moduleShown struct {
	moduleListed
	Needs      []moduleNeed `json:"needs,omitempty"`      // by clause
	RequiredBy []string     `json:"requiredBy,omitempty"` // modules that it is one of the providers for
	Excludes   []string     `json:"excludes,omitempty"`   // modules that cannot be with it
}

type moduleNeed struct {
	Any       catalog.Clause `json:"any"`
	Providers []string       `json:"providers"`
}

func (c *cli) catalogShowCommand(dir *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show MODULE[@VERSION]",
		Short: "Show a module: what it needs, who needs it, and its attack surface",
		Long: `Shows all that a manifest says of a module, and what follows from the others: which
modules provide what it requires, which require it, and which cannot be in an image with
it. The attack surface is taken apart by the formula of docs/catalog.md.`,
		Example:           "  lorica catalog show pep/authn/jwt",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeModules(dir),
		RunE: func(cmd *cobra.Command, given []string) error {
			all, err := c.modules(cmd.Context(), *dir)
			if err != nil {
				return err
			}
			m, err := module(all, given[0])
			if err != nil {
				return err
			}
			s := showModule(all, m)
			return c.print(s, func(w io.Writer) { printShown(w, m, &s) })
		},
	}
	return cmd
}

func showModule(all *catalog.Catalog, m *catalog.Module) moduleShown {
	s := moduleShown{moduleListed: listModule(m)}
	for _, clause := range m.Requires {
		n := moduleNeed{Any: clause, Providers: []string{}}
		for _, p := range all.Meeting(clause) {
			n.Providers = append(n.Providers, all.Name(p))
		}
		s.Needs = append(s.Needs, n)
	}
	for _, o := range all.Modules {
		if o != m && slices.ContainsFunc(o.Requires, func(x catalog.Clause) bool { return x.MetBy(m) }) {
			s.RequiredBy = append(s.RequiredBy, all.Name(o))
		}
		if m.ConflictsWith(o) {
			s.Excludes = append(s.Excludes, all.Name(o))
		}
	}
	return s
}

// providers says which modules provide a capability.
func providers(all *catalog.Catalog, capability, none, verb string) string {
	var ids []string
	for _, m := range all.Providers(capability) {
		ids = append(ids, m.ID)
	}
	switch ids = slices.Compact(ids); len(ids) {
	case 0:
		return none
	case 1:
		return ids[0] + " " + verb + "s it"
	}
	return strings.Join(ids, ", ") + " " + verb + " it"
}

func printShown(w io.Writer, m *catalog.Module, s *moduleShown) {
	fmt.Fprintf(w, "%s  version %s\n%s\n\n", m.ID, m.Version, plain(m.Summary))
	rows := [][]string{{"class", string(m.Class)}, {"available", words(m.Targets, "everywhere")}, {"provides", strings.Join(s.Provides, ", ")}}
	if m.Section != "" {
		rows = append(rows, []string{"section", m.Section + ", of the program"})
	}
	for i, n := range s.Needs {
		rows = append(rows, []string{label("requires", i), n.Any.String() + ": " + words(n.Providers, "nothing provides it")})
	}
	for _, x := range []struct {
		name string
		list []string
	}{{"conflicts", m.Conflicts}, {"excludes", s.Excludes}, {"needed by", s.RequiredBy}} {
		if len(x.list) > 0 {
			rows = append(rows, []string{x.name, strings.Join(x.list, ", ")})
		}
	}
	for i, o := range m.Config {
		text := fmt.Sprintf("%s (%s): %s", o.Name, o.Kind, o.Summary)
		switch {
		case o.Required:
			text += "; required"
		case o.Default != "":
			text += "; default " + o.Default
		}
		rows = append(rows, []string{label("config", i), text})
	}
	table(w, "", rows)
	b := m.Breakdown()
	fmt.Fprintf(w, "\nattack surface: %d points\n", b.Total())
	rows = [][]string{{"  code", fmt.Sprint(b.Code), "one point for each KiB"}}
	for i, x := range m.Syscalls {
		text := x.String()
		if x.With != "" {
			text += ", with " + x.With
		}
		rows = append(rows, []string{label("  system calls", i), fmt.Sprint(x.Points()), text})
	}
	if len(m.Syscalls) > 0 {
		rows = append(rows, []string{"", fmt.Sprint(b.Syscalls), "in all; of a call with alternatives, the highest"})
	}
	for i, d := range m.Devices {
		rows = append(rows, []string{label("  devices", i), fmt.Sprint(b.Devices / len(m.Devices)), d})
	}
	for i, in := range s.Inputs {
		rows = append(rows, []string{label("  inputs", i), fmt.Sprint(in.Points()), fmt.Sprintf("%s: %s (%s, from %s)", in.Name, in.Summary, in.Form, in.From)})
	}
	table(w, "", rows)
}

// label is a name, in the first of several rows.
func label(name string, i int) string {
	if i > 0 {
		return ""
	}
	return name
}
