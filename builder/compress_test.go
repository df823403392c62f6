package builder

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// filesOf returns the files of an application in a plan, by name.
func filesOf(p *Plan) map[string][]byte {
	all := map[string][]byte{}
	for _, f := range p.files {
		if strings.HasPrefix(f.name, contentFolder+"/") || strings.HasPrefix(f.name, packedFolder+"/") {
			all[f.name] = f.data
		}
	}
	return all
}

func TestFilesThatCompressAreThereTwice(t *testing.T) {
	long := strings.Repeat("the same words again and again\n", 50)
	dir := tree(t, map[string]string{
		"public/index.html": long, "public/docs/a b.css": long + "x", "public/.hidden/x.html": long,
		"public/short.txt": "short", "public/empty.txt": "", "public/photo.jpg": long, "public/ARCHIVE.GZ": long,
	})
	planner := new(Planner)
	needs := []string{"image/process", "net", "filter", "audit", "app/files/compressed"}
	p, err := planner.Plan(context.Background(), selection(t, needs), siteIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	all := filesOf(p)
	want := []string{"content/ARCHIVE.GZ", "content/docs/a b.css", "content/empty.txt", "content/index.html", "content/photo.jpg", "content/short.txt", "packed/docs/a b.css", "packed/index.html"}
	if got := slices.Sorted(maps.Keys(all)); !slices.Equal(got, want) {
		t.Fatalf("files %q", got)
	}
	for _, name := range want[6:] {
		r, err := gzip.NewReader(bytes.NewReader(all[name]))
		if err != nil {
			t.Fatal(err)
		}
		back, err := io.ReadAll(r)
		original := all[contentFolder+strings.TrimPrefix(name, packedFolder)]
		if err != nil || !bytes.Equal(back, original) || len(all[name]) >= len(original) || !r.ModTime.IsZero() || r.Name != "" {
			t.Errorf("%s: %v, %d of %d bytes, %+v", name, err, len(all[name]), len(original), r.Header)
		}
	}
	if !strings.Contains(p.Main, `compressed.New(content, "content", "packed")`) {
		t.Error(p.Main)
	}

	// The same again, from what it remembers and from nothing, and after a change.
	again, err := planner.Plan(context.Background(), selection(t, needs), siteIn(dir))
	if err != nil || again.ID != p.ID {
		t.Errorf("%v: another plan for the same", err)
	}
	if fresh := plan(t, needs, siteIn(dir)); fresh.ID != p.ID {
		t.Error("another planner, another plan")
	}
	if err := os.WriteFile(filepath.Join(dir, "public/index.html"), []byte("short"), 0o644); err != nil {
		t.Fatal(err)
	}
	after, err := planner.Plan(context.Background(), selection(t, needs), siteIn(dir))
	if err != nil || after.ID == p.ID || filesOf(after)["packed/index.html"] != nil || len(planner.small.done) != 3 {
		t.Errorf("after a change: %v, %q, %d remembered", err, slices.Sorted(maps.Keys(filesOf(after))), len(planner.small.done))
	}

	plain := plan(t, siteNeeds, siteIn(dir))
	for name := range filesOf(plain) {
		if strings.HasPrefix(name, packedFolder) {
			t.Errorf("%s, and nobody asked for it", name)
		}
	}
}

func TestWhatSavesLittleIsLeftAlone(t *testing.T) {
	noise := make([]byte, 2000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	for text, want := range map[string]bool{string(noise) + strings.Repeat("x", 150): false, string(noise) + strings.Repeat("x", 400): true, "": false, "x": false, strings.Repeat("x", 21): false, strings.Repeat("x", 100): true} {
		small, err := squeeze([]byte(text))
		if err != nil || (small != nil) != want {
			t.Errorf("%d bytes: %d (%v)", len(text), len(small), err)
		}
	}
}
