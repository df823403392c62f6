package builder

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/program"
)

// built returns a store that holds one small image, and its plan. The image is
// built once; each test gets a copy of the store.
func built(t *testing.T) (*Store, *Plan, *Image) {
	t.Helper()
	b := small()
	if b.err != nil {
		t.Fatal(b.err)
	}
	s := clone(t, b.store)
	img, err := s.Find(b.plan.ID)
	if err != nil || img == nil {
		t.Fatalf("the copy does not work: %v, %v", img, err)
	}
	return s, b.plan, img
}

func TestTheManifestSaysWhatIsInTheImage(t *testing.T) {
	s, p, img := built(t)
	got, err := s.Open(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if got.Plan != p.ID.String() || got.Target != "process" || got.GoVersion != p.Toolchain || got.Created.IsZero() {
		t.Errorf("got %+v", got)
	}
	var modules []string
	for _, m := range got.Modules {
		modules = append(modules, m.ID)
	}
	if want := "unikernel unikernel/linux netstack/socket pep/filter pep/audit pep/audit/channel app/handler"; strings.Join(modules, " ") != want {
		t.Errorf("modules %v, want %s", modules, want)
	}
	if len(got.Syscalls) == 0 || len(got.Syscalls) != len(p.Syscalls()) {
		t.Fatalf("%d system calls, planned %d", len(got.Syscalls), len(p.Syscalls()))
	}
	for i, c := range p.Syscalls() {
		if !got.Syscalls[i].Equal(c) {
			t.Errorf("system call %v, planned %v", got.Syscalls[i], c)
		}
	}
	list, err := s.Images()
	if err != nil || len(list) != 1 || list[0].Digest != img.Digest {
		t.Errorf("listed %v, %v", list, err)
	}
}

func TestAnImageThatWasAlteredIsRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(s *Store, p *Plan, img *Image) error
		want  string
	}{
		{"one bit", func(s *Store, p *Plan, img *Image) error {
			data, err := os.ReadFile(img.Path)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return errors.Join(os.Chmod(img.Path, 0o755), os.WriteFile(img.Path, data, 0o755))
		}, "was altered"},
		{"cut short", func(s *Store, p *Plan, img *Image) error { return os.Truncate(img.Path, img.Size-1) }, "was altered"},
		{"another manifest", func(s *Store, p *Plan, img *Image) error {
			return rewrite(filepath.Join(filepath.Dir(img.Path), "manifest.json"), img.Digest, "sha256:"+strings.Repeat("0", 64))
		}, "is about sha256:000"},
		{"a manifest with more in it", func(s *Store, p *Plan, img *Image) error {
			return rewrite(filepath.Join(filepath.Dir(img.Path), "manifest.json"), `"plan"`, `"plann"`)
		}, "unknown field"},
		{"a system call that no manifest can hold", func(s *Store, p *Plan, img *Image) error {
			return rewrite(filepath.Join(filepath.Dir(img.Path), "manifest.json"), "arg0 == self", "always")
		}, "condition"},
		{"the index of another plan", func(s *Store, p *Plan, img *Image) error {
			return rewrite(filepath.Join(filepath.Dir(img.Path), "manifest.json"), img.Plan, "plan:"+strings.Repeat("0", 64))
		}, "is indexed for"},
		{"an index that leads out of the store", func(s *Store, p *Plan, img *Image) error {
			return rewrite(s.path("plans", strings.TrimPrefix(img.Plan, "plan:")), "sha256:", "sha256:../../")
		}, "is not a digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p, img := built(t)
			if err := c.alter(s, p, img); err != nil {
				t.Fatal(err)
			}
			got, err := s.Find(p.ID)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v, %v", got, err)
			}
			if got, err := s.Build(t.Context(), p, nil); err == nil {
				t.Errorf("built %v", got)
			}
		})
	}
}

// clone copies a store.
func clone(t *testing.T, s *Store) *Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := errors.Join(os.CopyFS(dir, os.DirFS(s.dir)), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	c, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rewrite replaces text in a file.
func rewrite(name, old, text string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !bytes.Contains(data, []byte(old)) {
		return errors.New("the case changes nothing: " + old)
	}
	return errors.Join(os.Chmod(name, 0o644), os.WriteFile(name, bytes.Replace(data, []byte(old), []byte(text), 1), 0o644))
}

func TestWhatIsMissingIsBuiltAgain(t *testing.T) {
	s, p, first := built(t)
	name := strings.TrimPrefix(first.Digest, "sha256:")
	for _, lost := range []string{
		filepath.Join("plans", strings.TrimPrefix(first.Plan, "plan:")),
		filepath.Join("images", name),
		filepath.Join("images", name, "image"),
	} {
		t.Run(filepath.Base(lost), func(t *testing.T) {
			if err := os.RemoveAll(s.path(lost)); err != nil {
				t.Fatal(err)
			}
			if img, err := s.Find(p.ID); img != nil || err != nil {
				t.Fatalf("found %v, %v", img, err)
			}
			img, err := s.Build(t.Context(), p, nil)
			if err != nil || img.Digest != first.Digest {
				t.Fatalf("got %v, %v", img, err)
			}
			if found, err := s.Find(p.ID); err != nil || found == nil || found.Digest != first.Digest {
				t.Errorf("found %v, %v", found, err)
			}
		})
	}
}

func TestWhatAKilledBuildLeftIsRemoved(t *testing.T) {
	s := store(t)
	left := s.path("tmp", "build", "lorica", "pep")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "evil.go"), []byte("package pep\n\nvar _ = missing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Build(t.Context(), plan(t, smallNeeds, handlerIn(tree(t, shop(nil)))), nil); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.path("tmp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestTheStoreIsForItsOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := OpenStore(dir); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"", "images", "debug", "plans", "programs", "tmp"} {
		info, err := os.Stat(filepath.Join(dir, sub))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%q: %v, %v", sub, info, err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a store that others may enter: %v", err)
	}
}

func TestWhereTheStoreIs(t *testing.T) {
	for _, c := range []struct{ name, xdg, home, want string }{
		{"XDG_DATA_HOME", "/data", "/home/eve", "/data/lorica"},
		{"HOME", "", "/home/eve", "/home/eve/.local/share/lorica"},
		{"a relative XDG_DATA_HOME does not count", "data", "/home/eve", "/home/eve/.local/share/lorica"},
		{"neither", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("XDG_DATA_HOME", c.xdg)
			t.Setenv("HOME", c.home)
			got, err := DefaultStore()
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestProgramsAreKeptByTheirDigest(t *testing.T) {
	s := store(t)
	signed := []byte("a signed program")
	d, err := s.PutProgram(signed)
	if err != nil || d != program.Sum(signed) {
		t.Fatalf("got %v, %v", d, err)
	}
	if _, err := s.PutProgram(signed); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if got, err := s.Program(d); err != nil || !bytes.Equal(got, signed) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Program(program.Digest{1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
	name := s.path("programs", strings.TrimPrefix(d.String(), "sha256:"))
	if err := os.WriteFile(name, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Program(d); err == nil || !strings.Contains(err.Error(), "altered") {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestADigestThatIsNoneIsRefused(t *testing.T) {
	s := store(t)
	for _, d := range []string{"", "sha256:", "sha256:..", "../../etc", "sha256:" + strings.Repeat("0", 63), "sha256:" + strings.Repeat("A", 64), "md5:" + strings.Repeat("0", 64)} {
		if img, err := s.Open(d); err == nil || !strings.Contains(err.Error(), "is not a digest") {
			t.Errorf("%q: %v, %v", d, img, err)
		}
	}
}

func TestTheNewestImageIsListedFirst(t *testing.T) {
	s, _, old := built(t)
	p := plan(t, smallNeeds, handlerIn(tree(t, shop(map[string]string{"shop/more.go": "package shop\n"}))))
	img, err := s.Build(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(filepath.Dir(old.Path), "manifest.json"), past, past); err != nil {
		t.Fatal(err)
	}
	list, err := s.Images()
	if err != nil || len(list) != 2 || list[0].Digest != img.Digest || list[1].Digest != old.Digest {
		t.Errorf("got %v, %v", list, err)
	}
}
