package weigh

import (
	"go/version"
	"os"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/internal/notrun"
)

func real(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func scale(t *testing.T, c *catalog.Catalog) *Scale {
	t.Helper()
	s, err := New(t.Context(), c, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// measuredGo is the release that the manifests were measured with.
const measuredGo = "go1.26"

// A sample of what `lorica catalog weigh --check` holds the manifests to, of few images:
// the core, what is always with it, a guard, and what brings code of the standard library;
// LORICA_WEIGH=all takes every module.
func TestManifestsSayWhatIsMeasured(t *testing.T) {
	c := real(t)
	s := scale(t, c)
	if version.Lang(s.Toolchain()) != measuredGo {
		notrun.Say(t, "the code of modules", "the manifests are of "+measuredGo+"; this is "+s.Toolchain())
		return
	}
	sample := []string{"unikernel", "pep/audit", "pep/filter", "pep/tls", "kernel", "virtio", "unikernel/microvm"}
	if os.Getenv("LORICA_WEIGH") == "all" {
		sample = nil
		for _, m := range c.Modules {
			sample = append(sample, m.ID)
		}
	}
	for _, id := range sample {
		w, err := s.Weigh(t.Context(), id)
		if err != nil {
			t.Error(err)
			continue
		}
		if w.Off() {
			t.Errorf("%s/module.yaml says code: %d, and it is %d (%d bytes): if that is meant, run `lorica catalog weigh --write .`", id, w.Recorded, w.Code, w.Bytes)
		}
		if w.Code == 0 || w.Surface < w.Code || slices.Contains(w.With, id) {
			t.Errorf("%+v", w)
		}
	}
	// What is measured of a module is what its image has more of, as a whole: no code is
	// lost, and none is counted twice.
	with, without, err := s.sets(t.Context(), s.catalog.Module("pep/tls"))
	if err != nil {
		t.Fatal(err)
	}
	sum := func(set []*catalog.Module) (n int) {
		all, err := s.functions(t.Context(), set)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			n += f.Size
		}
		return n
	}
	w, err := s.Weigh(t.Context(), "pep/tls")
	if err != nil {
		t.Fatal(err)
	}
	if more := sum(with) - sum(without); max(more-w.Bytes, w.Bytes-more) > more/50 {
		t.Errorf("pep/tls has %d bytes; the image has %d more", w.Bytes, more)
	}
}

func TestWhatAModuleIsComparedWith(t *testing.T) {
	s := scale(t, real(t))
	for _, c := range []struct{ of, with, without string }{
		{"unikernel", "unikernel", ""},
		{"pep/audit", "unikernel pep/audit pep/audit/channel", "unikernel pep/audit/channel"},
		{"pep/filter", "unikernel pep/filter pep/audit pep/audit/channel", "unikernel pep/audit pep/audit/channel"},
		{"unikernel/microvm", "kernel virtio unikernel unikernel/microvm pep/audit pep/audit/channel", "unikernel pep/audit pep/audit/channel"},
	} {
		with, without, err := s.sets(t.Context(), s.catalog.Module(c.of))
		if err != nil {
			t.Error(err)
			continue
		}
		if got := ids(with); got != c.with {
			t.Errorf("%s: with %s", c.of, got)
		}
		if got := ids(without); got != c.without {
			t.Errorf("%s: without it %s", c.of, got)
		}
	}
	for machine, want := range map[string]string{"kernel": "unikernel/microvm", "virtio": "unikernel/microvm", "netstack/direct": "netstack/tap"} {
		if m, err := s.caller(t.Context(), s.catalog.Module(machine)); err != nil || m.ID != want {
			t.Errorf("%s is linked by %v, %v", machine, m, err)
		}
	}
}

func ids(set []*catalog.Module) string {
	var list []string
	for _, m := range set {
		list = append(list, m.ID)
	}
	return strings.Join(list, " ")
}

func TestWeighRefuses(t *testing.T) {
	c := real(t)
	s := scale(t, c)
	if _, err := s.Weigh(t.Context(), "pep/nothing"); err == nil || !strings.Contains(err.Error(), "no module pep/nothing") {
		t.Errorf("got %v", err)
	}
	var modules []*catalog.Module
	for _, m := range c.Modules {
		switch m.ID {
		case "unikernel/microvm", "netstack/card", "virtio":
			continue
		case "pep/filter":
			copied := *m
			copied.Requires = append([]catalog.Clause{{"nothing"}}, m.Requires...)
			m = &copied
		}
		modules = append(modules, m)
	}
	broken, err := catalog.New(modules...)
	if err != nil {
		t.Fatal(err)
	}
	s = scale(t, broken)
	if _, err := s.Weigh(t.Context(), "kernel"); err == nil || !strings.Contains(err.Error(), "no module requires it") {
		t.Errorf("got %v", err)
	}
	if _, err := s.Weigh(t.Context(), "pep/filter"); err == nil || !strings.Contains(err.Error(), "no image holds pep/filter") {
		t.Errorf("got %v", err)
	}
	none, err := catalog.New(c.Module("pep/filter"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), none, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no module of class core") {
		t.Errorf("got %v", err)
	}
}

func TestTolerance(t *testing.T) {
	for _, c := range []struct {
		recorded, code int
		off            bool
	}{{0, 2, false}, {0, 3, true}, {10, 12, false}, {10, 7, true}, {100, 105, false}, {100, 94, true}, {2000, 2100, false}, {2000, 2101, true}} {
		w := Weight{Recorded: c.recorded, Code: c.code}
		if w.Off() != c.off {
			t.Errorf("recorded %d, measured %d: off %v", c.recorded, c.code, w.Off())
		}
	}
}
