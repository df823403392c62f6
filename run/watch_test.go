package run

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/policy"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at+".new", at); err != nil {
		t.Fatal(err)
	}
}

// What is read is watched, however it is reached, and a change shows whatever time
// it claims.
func TestAStampKnowsWhatIsRead(t *testing.T) {
	dir := t.TempDir()
	// A secret as Kubernetes mounts it: it is rotated by a rename of ..data.
	put(t, filepath.Join(dir, "secret", "..1", "tls.key"), "old")
	put(t, filepath.Join(dir, "secret", "..2", "tls.key"), "new")
	key := filepath.Join(dir, "secret", "tls.key")
	link(t, "..1", filepath.Join(dir, "secret", "..data"))
	link(t, "..data/tls.key", key)
	put(t, filepath.Join(dir, "public-1", "index.html"), "old")
	put(t, filepath.Join(dir, "public-1", "sub", "a"), "a")
	public := filepath.Join(dir, "public")
	link(t, "public-1", public)
	put(t, filepath.Join(dir, "plain"), "old")
	plain := filepath.Join(dir, "plain")

	paths := []string{key, public, plain}
	before := stampOf(paths)
	changed := func(what string) {
		t.Helper()
		now := stampOf(paths)
		if now == before {
			t.Errorf("%s: no change", what)
		}
		if before = now; stampOf(paths) != before {
			t.Errorf("%s: it never settles", what)
		}
	}
	link(t, "..2", filepath.Join(dir, "secret", "..data"))
	changed("a secret that was rotated by a link")
	put(t, filepath.Join(dir, "public-1", "sub", "a"), "bb")
	changed("a file of a folder behind a link")
	info, err := os.Stat(plain)
	if err != nil {
		t.Fatal(err)
	}
	put(t, plain, "new")
	if err := os.Chtimes(plain, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	changed("another text of the same size and time")
	link(t, "nowhere", filepath.Join(dir, "public"))
	changed("a link that leads nowhere")
}

// A folder that is deleted and made again is a new one to the kernel.
func TestTheBellFollowsAReplacedFolder(t *testing.T) {
	b := newBell()
	if b == nil {
		notrun.Say(t, "changes that are told by the kernel", "inotify is not to be had here")
		return
	}
	defer b.close()
	dir := filepath.Join(t.TempDir(), "policy")
	for i := range 3 {
		put(t, filepath.Join(dir, "a.yaml"), "1")
		b.hang([]string{dir})
		select {
		case <-b.heard(): // of what was before
		case <-time.After(100 * time.Millisecond):
		}
		put(t, filepath.Join(dir, "a.yaml"), "2")
		select {
		case <-b.heard():
		case <-time.After(time.Minute):
			t.Fatalf("folder %d: it does not ring", i+1)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// A log beside the documents, opened for each line, does not have everything
// looked at for each line.
func TestALogDoesNotKeepLooking(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a.yaml"), "1")
	paths := documents(dir)
	var looks atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	changes := watch(ctx, stampOf(paths), func() []string { looks.Add(1); return paths })
	start, lines := time.Now(), int64(0)
	for ; lines < 100; lines++ {
		put(t, filepath.Join(dir, "up.log"), "a line")
		time.Sleep(afterBell + 5*time.Millisecond)
	}
	cancel()
	for range changes {
		t.Error("a log is a change")
	}
	// A look at the tick, and one at the first ring after it, which takes two.
	if most := 5 * (int64(time.Since(start)/watchInterval) + 2); looks.Load() > most {
		t.Errorf("%d looks for %d lines; at most %d were due", looks.Load(), lines, most)
	}
}

// What a document does not say yet is not the folder that the document is in, where a log
// of 'up' may lie.
func TestWhatIsNotWrittenYetIsNotWatched(t *testing.T) {
	for what, app := range map[string]string{"files": "static: {}", "handler": "handler: {}", "dir": "static: {dir: }"} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "w.yaml"), "apiVersion: lorica.dev/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec:\n  app: {"+app+"}\n")
		for _, watched := range named(policy.Decoded(dir)) {
			if filepath.Clean(watched) == dir {
				t.Errorf("%s: the whole folder is watched", what)
			}
		}
	}
}
