package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/catalog/lock"
	"lorica.dev/lorica/policy"
)

// A shop is a machine, and the documents of a workload with modules of the user's own.
type shop struct {
	t       *testing.T
	machine *Machine
	dir     string
}

const shopPolicy = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  default: {network: Allow, authorization: Allow}
`

func newShop(t *testing.T, modules string) *shop {
	t.Helper()
	base := t.TempDir()
	m, err := Open(Paths{Data: filepath.Join(base, "data"), Runtime: filepath.Join(base, "run"), Config: filepath.Join(base, "config.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t, m, filepath.Join(base, "shop")}
	s.put("policy.yaml", shopPolicy)
	s.put("public/index.html", "shop\n")
	s.modules(modules)
	s.guard("guard", "")
	return s
}

func (s *shop) put(name, text string) {
	s.t.Helper()
	name = filepath.Join(s.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

// modules writes the workload.
func (s *shop) modules(modules string) {
	s.t.Helper()
	s.put("workload.yaml", fmt.Sprintf(`apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: shop, labels: {app: shop}}
spec:
  app: {static: {dir: ./public}}
  listen: [{name: web, port: 8080}]
  modules: %s
`, modules))
}

// guard writes a module, with more lines of its manifest.
func (s *shop) guard(name, more string) {
	s.t.Helper()
	s.put(name+"/go.mod", "module example.com/"+name+"\n\ngo 1.26.3\n")
	s.put(name+"/guard.go", "package guard\n\nimport \"lorica.dev/lorica/pep\"\n\nfunc New() pep.Guard { return nil }\n")
	s.put(name+"/module.yaml", fmt.Sprintf("id: example.com/%s\nversion: \"1\"\nsummary: a guard\nclass: guard\norder: 50\n%s", name, more))
}

func (s *shop) deployment() *policy.Deployment {
	s.t.Helper()
	b, err := policy.Load(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return b.Deployments[0]
}

func (s *shop) plan() (*Plan, error) { return s.machine.Plan(s.t.Context(), s.deployment()) }

// write proposes a plan and writes its lock.
func (s *shop) write(o LockOptions) ([]Written, error) {
	s.t.Helper()
	p, err := s.machine.Propose(s.t.Context(), s.deployment())
	if err != nil {
		s.t.Fatal(err)
	}
	return WriteLocks([]*Plan{p}, o)
}

func (s *shop) lock() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, lock.Name))
	return string(b)
}

// refused wants a *LockError that says so.
func (s *shop) refused(what string, err error, want string) {
	s.t.Helper()
	var e *LockError
	if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), filepath.Join(s.dir, lock.Name)+": ") || !strings.Contains(err.Error(), want) {
		s.t.Errorf("%s: %v\nwant %s", what, err, want)
	}
}

// What builds obeys the lock, and nothing but an update replaces what was accepted.
func TestWhatWasAcceptedIsWhatIsBuilt(t *testing.T) {
	s := newShop(t, "[{path: ./guard}]")
	_, err := s.plan()
	s.refused("without a lock", err, `there is no such file, which would pin example.com/guard ("lorica plan" writes it)`)
	_, err = s.write(LockOptions{Locked: true})
	s.refused("locked, without a lock", err, "module example.com/guard (./guard) is not in it (without --locked it is written)")
	if s.lock() != "" {
		t.Error("it was written")
	}
	if w, err := s.write(LockOptions{}); err != nil || len(w) != 1 || len(w[0].New) != 1 || w[0].New[0].ID != "example.com/guard" {
		t.Fatalf("written: %+v, %v", w, err)
	}
	first := s.lock()
	if info, err := os.Stat(filepath.Join(s.dir, lock.Name)); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if w, err := s.write(LockOptions{Locked: true}); err != nil || w != nil || s.lock() != first {
		t.Errorf("again: %+v, %v", w, err)
	}
	if _, err := s.plan(); err != nil {
		t.Errorf("what was accepted: %v", err)
	}

	s.put("guard/guard.go", "package guard\n\nimport \"lorica.dev/lorica/pep\"\n\nfunc New() pep.Guard { return nil } // allows all\n")
	_, err = s.plan()
	s.refused("another file", err, `module example.com/guard (./guard) has changed: its digest is h1:`)
	for _, o := range []LockOptions{{}, {Locked: true}, {Locked: true, Update: true}} {
		_, err := s.write(o)
		s.refused(fmt.Sprintf("another file, %+v", o), err, `"lorica plan --update" accepts it`)
	}
	if s.lock() != first {
		t.Error("what was accepted was replaced")
	}
	if w, err := s.write(LockOptions{Update: true}); err != nil || len(w) != 1 || len(w[0].Changed) != 1 || s.lock() == first {
		t.Errorf("accepted: %+v, %v", w, err)
	}
	if _, err := s.plan(); err != nil {
		t.Errorf("what was accepted: %v", err)
	}

	digest, err := catalog.Digest(os.DirFS(".."))
	if err != nil || !strings.Contains(s.lock(), "catalog: "+digest+"\n") {
		t.Errorf("the catalog of this version is %s, %v; the lock says\n%s", digest, err, s.lock())
	}
	s.put(lock.Name, strings.Replace(s.lock(), digest, "sha256:"+strings.Repeat("0", 64), 1))
	_, err = s.plan()
	s.refused("another version of Lorica", err, "the modules of Lorica itself are others than those that were accepted")
	if w, err := s.write(LockOptions{Update: true}); err != nil || len(w) != 1 {
		t.Errorf("accepted: %+v, %v", w, err)
	}

	s.put(lock.Name, s.lock()+"<<<<<<<\n")
	var malformed *lock.Error
	if _, err := s.plan(); !errors.As(err, &malformed) {
		t.Errorf("a lock that is none: %v", err)
	}
	if _, err := s.write(LockOptions{}); !errors.As(err, &malformed) {
		t.Errorf("a lock that is none is written over: %v", err)
	}
	if w, err := s.write(LockOptions{Update: true}); err != nil || len(w) != 1 {
		t.Errorf("accepted: %+v, %v", w, err)
	}
	if _, err := s.plan(); err != nil {
		t.Errorf("what was accepted: %v", err)
	}

	name := filepath.Join(s.dir, lock.Name)
	if err := errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.plan(); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a pipe in the place of the lock: %v", err)
	}
}

func TestModulesThatComeAndGo(t *testing.T) {
	s := newShop(t, "[]")
	if w, err := s.write(LockOptions{}); err != nil || w != nil || s.lock() != "" {
		t.Errorf("without modules: %+v, %v", w, err)
	}
	if _, err := s.plan(); err != nil {
		t.Errorf("without modules: %v", err)
	}
	s.modules("[{path: ./guard}]")
	s.guard("second", "")
	if _, err := s.write(LockOptions{}); err != nil {
		t.Fatal(err)
	}
	s.modules("[{path: ./guard}, {path: ./second}]")
	_, err := s.plan()
	s.refused("one more", err, `module example.com/second (./second) is not in it ("lorica plan" writes it)`)
	if w, err := s.write(LockOptions{}); err != nil || len(w) != 1 || len(w[0].New) != 1 || w[0].New[0].Source != "./second" {
		t.Errorf("one more: %+v, %v", w, err)
	}
	s.modules("[{path: ./second}]")
	whole := s.lock()
	if _, err := s.plan(); err != nil {
		t.Errorf("one less: %v", err)
	}
	for _, o := range []LockOptions{{}, {Locked: true}, {Update: true}} { // another workload of the folder may name it
		if w, err := s.write(o); err != nil || w != nil || s.lock() != whole {
			t.Errorf("one less, %+v: %+v, %v", o, w, err)
		}
	}
	if w, err := s.write(LockOptions{Update: true, Whole: true}); err != nil || len(w) != 1 || len(w[0].Gone) != 1 || strings.Contains(s.lock(), "guard\n") {
		t.Errorf("one less in the whole folder: %+v, %v\n%s", w, err, s.lock())
	}
}

// What the configuration calls as a workload calls another module has a name of its own in
// the lock.
func TestTwoModulesOfOneRelativePath(t *testing.T) {
	s := newShop(t, "[{path: ./guard}]")
	s.guard("guard", "requires: [example.com/lists/names]\n")
	s.guard("../guard", "provides: [example.com/lists/names]\n")
	base := filepath.Dir(s.dir)
	for _, name := range []string{"go.mod", "module.yaml"} {
		b, err := os.ReadFile(filepath.Join(base, "guard", name))
		if err != nil {
			t.Fatal(err)
		}
		s.put("../guard/"+name, strings.ReplaceAll(string(b), "example.com/../guard", "example.com/lists"))
	}
	if err := os.WriteFile(s.machine.paths.Config, []byte("modules:\n- path: ./guard\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.write(LockOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.plan(); err != nil || !strings.Contains(s.lock(), `source: "./guard"`) || !strings.Contains(s.lock(), `source: "`+filepath.Join(base, "guard")+`"`) {
		t.Errorf("%v\n%s", err, s.lock())
	}
}

// Of two versions of one module the image would have either, and the other's settings would
// be for nothing.
func TestAModuleInTwoPlaces(t *testing.T) {
	s := newShop(t, "[{path: ./guard}, {path: ./copy}]")
	s.guard("copy", "")
	for _, name := range []string{"go.mod", "module.yaml"} {
		b, err := os.ReadFile(filepath.Join(s.dir, "copy", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "example.com/copy", "example.com/guard")
		s.put("copy/"+name, strings.Replace(text, `version: "1"`, `version: "2"`, 1))
	}
	_, err := s.machine.Propose(t.Context(), s.deployment())
	var source *builder.SourceError
	if !errors.As(err, &source) || !strings.Contains(err.Error(), "module ./copy is example.com/guard, and so is ./guard: name one of them") {
		t.Errorf("%v", err)
	}
}

// A module of the configuration is part of an image, and of its lock, only where
// something requires it, and gives way to one that the workload names.
func TestModulesOfTheConfiguration(t *testing.T) {
	s := newShop(t, "[{path: ./guard}]")
	s.guard("lists", "provides: [example.com/lists/names]\n")
	if err := os.WriteFile(s.machine.paths.Config, []byte("modules:\n- path: "+filepath.Join(s.dir, "lists")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	has := func(p *Plan) (list []string) {
		for _, o := range p.Levels[0].Own {
			list = append(list, o.ID)
		}
		return list
	}
	if _, err := s.write(LockOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := s.plan()
	if err != nil {
		t.Fatal(err)
	}
	if got := has(p); !slices.Equal(got, []string{"example.com/guard"}) || strings.Contains(s.lock(), "lists") {
		t.Errorf("not asked for: %v\n%s", got, s.lock())
	}
	s.guard("guard", "requires: [example.com/lists/names]\n")
	if w, err := s.write(LockOptions{Update: true}); err != nil || len(w) != 1 || len(w[0].New) != 1 {
		t.Fatalf("%+v, %v", w, err)
	}
	if p, err = s.plan(); err != nil {
		t.Fatal(err)
	}
	if got := has(p); !slices.Equal(got, []string{"example.com/guard", "example.com/lists"}) || !strings.Contains(s.lock(), "source: \""+filepath.Join(s.dir, "lists")) {
		t.Errorf("asked for: %v\n%s", got, s.lock())
	}
	s.modules("[{path: ./guard}, {path: ./lists, optional: true}]")
	if _, err := s.write(LockOptions{Update: true, Whole: true}); err != nil {
		t.Fatal(err)
	}
	if p, err = s.plan(); err != nil {
		t.Fatal(err)
	}
	if got := has(p); !slices.Equal(got, []string{"example.com/guard", "example.com/lists"}) || !strings.Contains(s.lock(), `source: "./lists"`) || strings.Contains(s.lock(), s.dir) {
		t.Errorf("named: %v\n%s", got, s.lock())
	}
	if err := os.WriteFile(s.machine.paths.Config, []byte("modules: none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.plan(); err == nil || !strings.Contains(err.Error(), "config.yaml:1:10: modules must be a list") {
		t.Errorf("a configuration that is none: %v", err)
	}
}

// Settings are data: another value is another program for the same image.
func TestSettingsArePartOfTheProgram(t *testing.T) {
	const config = "config: [{name: most, kind: number, summary: how many, default: \"5\", most: 9}]\nsyscalls: [{name: sysinfo}, {name: getpid}]\n"
	s := newShop(t, "[{path: ./guard}]")
	s.guard("guard", config)
	if _, err := s.write(LockOptions{}); err != nil {
		t.Fatal(err)
	}
	given := func() (*Plan, int64) {
		t.Helper()
		p, err := s.plan()
		if err != nil {
			t.Fatal(err)
		}
		signed := p.Levels[0].Program(p.Deployment, p.Levels[0].Build.ID, 1)
		got, err := settings.Decode(signed.Section("example.com/guard"))
		if err != nil || got.Line != "workload.yaml:7" {
			t.Fatalf("%+v, %v", got, err)
		}
		return p, got.Number("most")
	}
	one, most := given()
	if most != 5 {
		t.Errorf("the default is %d", most)
	}
	if w := one.Levels[0].Widens(one.Levels[0].Own[0]); !slices.Equal(w, []string{"sysinfo"}) {
		t.Errorf("widens the seal by %v", w)
	}
	s.modules("[{path: ./guard, settings: {most: 7}}]")
	two, most := given()
	if most != 7 || two.Levels[0].Build.ID != one.Levels[0].Build.ID || two.Levels[0].content(two.Deployment) == one.Levels[0].content(one.Deployment) {
		t.Errorf("%d, plans %v and %v", most, one.Levels[0].Build.ID, two.Levels[0].Build.ID)
	}
	s.modules("[{path: ./guard, settings: {most: 17}}]")
	if _, err := s.plan(); err == nil || !strings.Contains(err.Error(), "workload.yaml:7:46: setting most of module example.com/guard: want a whole number, from 0 to 9") {
		t.Errorf("a setting that is not taken: %v", err)
	}
}
