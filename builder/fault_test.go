package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
)

// fill leaves nothing of a file system but some bytes, and returns what takes the
// filling away.
func fill(t *testing.T, dir string, left int) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filling")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(0)
	for b := make([]byte, 4<<10); err == nil; {
		var n int
		n, err = f.Write(b)
		size += int64(n)
	}
	if err := f.Truncate(size - int64(left)); err != nil {
		t.Fatal(err)
	}
	return func() { os.Remove(name) }
}

// A disk that is full from any step of a build on: the build says so, leaves nothing
// that could be taken for an image, and works as soon as there is room.
func TestAFullDiskEndsABuild(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("lorica-test", dir, "tmpfs", 0, "size=192m,mode=700"); err != nil {
		notrun.Say(t, "a full disk at each step of a build", fmt.Sprintf("a small file system cannot be mounted here (%v): run the tests as root", err))
		return
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	s, err := OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	p := plan(t, smallNeeds, handlerIn(tree(t, shop(nil))))
	before := snapshot(t, s.dir)
	for _, c := range []struct {
		name StepName
		left int
	}{{StepGenerate, 64 << 10}, {StepCompile, 0}, {StepSymbols, 0}, {StepStore, 0}} {
		t.Run(fmt.Sprint(c.name, " ", c.left), func(t *testing.T) {
			empty := func() {}
			img, err := s.Build(t.Context(), p, func(step Step) {
				if step.Name == c.name {
					empty = fill(t, dir, c.left)
				}
			})
			if err == nil || !strings.Contains(err.Error(), "no space left on device") {
				t.Errorf("built %v, %v", img, err)
			}
			if errors.As(err, new(*SourceError)) {
				t.Errorf("a line of the workload is to blame: %v", err)
			}
			empty()
			if after := snapshot(t, s.dir); after != before {
				t.Errorf("the store changed from\n%sto\n%s", before, after)
			}
		})
	}
	// The manifest fits and the index of plans does not: the image that is there is
	// whole, and nothing leads to it.
	data := len(manifestOf(t, small()))
	empty := func() {}
	_, err = s.Build(t.Context(), p, func(step Step) {
		if step.Name == StepStore {
			empty = fill(t, dir, (data+4095)/4096*4096)
		}
	})
	empty()
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("without room for the index: %v", err)
	}
	if img, err := s.Find(p.ID); img != nil || err != nil {
		t.Errorf("without an index: %v, %v", img, err)
	}
	list, err := s.Images()
	if err != nil || len(list) != 1 {
		t.Fatalf("%d images: %v", len(list), err)
	}
	if _, err := s.Open(list[0].Digest); err != nil {
		t.Error(err)
	}
	img, err := s.Build(t.Context(), p, nil)
	if err != nil || img.Digest != list[0].Digest {
		t.Errorf("with room: %v, %v", img, err)
	}
}

func manifestOf(t *testing.T, b smallBuild) []byte {
	t.Helper()
	if b.err != nil {
		t.Fatal(b.err)
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(b.image.Path), "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A bit that flips anywhere in a manifest or in the index of plans: what is found is
// what was built, or nothing, or an error.
func TestAFlippedBitIsNoticed(t *testing.T) {
	s, p, img := built(t)
	for _, name := range []string{filepath.Join(filepath.Dir(img.Path), "manifest.json"), s.path("plans", strings.TrimPrefix(img.Plan, "plan:"))} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			whole, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(name, 0o600); err != nil {
				t.Fatal(err)
			}
			noticed := 0
			step := 1 + len(whole)/300 // each hashes the image
			for at := 0; at < len(whole); at += step {
				b := append([]byte(nil), whole...)
				b[at] ^= 1 << (at / step % 8)
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
				got, err := s.Find(p.ID)
				if err != nil || got == nil {
					noticed++
					continue
				}
				if got.Created = img.Created; !reflect.DeepEqual(got, img) {
					t.Fatalf("byte %d: %q became %q, and is found as\n%+v", at, whole[at], b[at], got)
				}
			}
			if noticed < 100 && noticed < len(whole)/2 {
				t.Errorf("%d flipped bits were noticed", noticed)
			}
			if err := os.WriteFile(name, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A module whose source changed in the module cache is not compiled.
func TestAModuleThatChangedInTheCacheIsRefused(t *testing.T) {
	r := newRegistry(t)
	r.publish(t, "example.com/dep", "v1.0.0", "module example.com/dep\n\ngo 1.26\n", map[string]string{"dep.go": depSource + "\n// a comment\n"})
	dir := tree(t, dependent("v1.0.0", r.sums(t, "example.com/dep", "v1.0.0")))
	p := plan(t, smallNeeds, handlerIn(dir))
	s := store(t)
	first, err := s.Build(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.cache, "example.com", "dep@v1.0.0", "dep.go")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(file, "a comment", "a cmoment"); err != nil {
		t.Fatal(err)
	}
	if img, err := store(t).Build(t.Context(), p, nil); err == nil || !strings.Contains(err.Error(), "example.com/dep v1.0.0 in the module cache is not what go.sum says") {
		t.Errorf("built %v, %v", img, err)
	}
	if err := rewrite(file, "a cmoment", "a comment"); err != nil {
		t.Fatal(err)
	}
	if again, err := store(t).Build(t.Context(), p, nil); err != nil || again.Digest != first.Digest {
		t.Errorf("built %v, %v", again, err)
	}
}

// A download that breaks off, wherever it does, is said to have failed, and the next
// build downloads again.
func TestADownloadThatBreaksOff(t *testing.T) {
	r := newRegistry(t)
	r.publish(t, "example.com/dep", "v1.0.0", "module example.com/dep\n\ngo 1.26\n",
		map[string]string{"dep.go": depSource, "long.txt": strings.Repeat("not the same twice: "+time.Now().String(), 1000)})
	dir := tree(t, dependent("v1.0.0", r.sums(t, "example.com/dep", "v1.0.0")))
	var cut atomic.Value // the suffix of what is broken off half way
	var broken atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		data, err := fs.ReadFile(os.DirFS(r.dir), strings.TrimPrefix(q.URL.Path, "/"))
		if err != nil {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if strings.HasSuffix(q.URL.Path, cut.Load().(string)) {
			broken.Add(1)
			w.Write(data[:len(data)/2])
			panic(http.ErrAbortHandler)
		}
		w.Write(data)
	}))
	defer proxy.Close()
	t.Setenv("GOPROXY", strings.Replace(os.Getenv("GOPROXY"), "file://"+r.dir, proxy.URL, 1))
	s := store(t)
	before := snapshot(t, s.dir)
	for _, suffix := range []string{".zip", ".mod"} {
		cut.Store(suffix)
		img, err := s.Build(t.Context(), plan(t, smallNeeds, handlerIn(dir)), nil)
		if err == nil || !strings.Contains(err.Error(), "modules are missing and cannot be downloaded: ") || !strings.Contains(err.Error(), "example.com/dep@v1.0.0") {
			t.Errorf("%s: built %v, %v", suffix, img, err)
		}
		if broken.Swap(0) == 0 {
			t.Errorf("%s: nothing was broken off", suffix)
		}
		if out, err := exec.Command("go", "clean", "-modcache").CombinedOutput(); err != nil { // with what came before
			t.Fatalf("%v: %s", err, out)
		}
	}
	if after := snapshot(t, s.dir); after != before {
		t.Errorf("the store changed from\n%sto\n%s", before, after)
	}
	cut.Store("nothing")
	if _, err := s.Build(t.Context(), plan(t, smallNeeds, handlerIn(dir)), nil); err != nil {
		t.Error(err)
	}
}
