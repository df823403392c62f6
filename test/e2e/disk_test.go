package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
)

// disk mounts a file system of its own, of some KiB, or says that it cannot and
// returns nothing.
func disk(t *testing.T, what string, kib int) (dir string, resize func(kib int)) {
	t.Helper()
	dir = t.TempDir()
	options := func(kib int) string { return fmt.Sprintf("size=%dk,mode=700", kib) }
	if err := syscall.Mount("lorica-test", dir, "tmpfs", 0, options(kib)); err != nil {
		notrun.Say(t, what, fmt.Sprintf("a small file system cannot be mounted here (%v): run the tests as root", err))
		return "", nil
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func(kib int) {
		t.Helper()
		if err := syscall.Mount("lorica-test", dir, "tmpfs", syscall.MS_REMOUNT, options(kib)); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that is full when decisions are to be kept: nobody is answered any more,
// everybody who was is recorded, and with room again the service goes on.
func TestAFullDiskStopsAnswers(t *testing.T) {
	dir, resize := disk(t, "a full disk under the decisions", 256)
	if dir == "" {
		return
	}
	u := newUser(t)
	u.settings = append(u.settings, "XDG_RUNTIME_DIR="+dir)
	port := freePort(t)
	addr := "127.0.0.1:" + port
	e := u.evidence()
	x, first := u.up(u.example(port))
	end := e.load(addr, "/accounts/7", staff)
	eventually(t, "the image is ended", func() bool {
		s, err := ask(u.folders()[0])
		return err == nil && s.Restarts > 0
	})
	s, err := ask(u.folders()[0])
	if err != nil || !strings.Contains(s.LastError, "decisions cannot be kept") || !strings.Contains(s.LastError, "no space left on device") {
		t.Errorf("it ended with %q (%v)", s.LastError, err)
	}
	if s.TenderPID != first.TenderPID {
		t.Errorf("another tender: %+v", s)
	}
	// While the disk is full nobody is answered.
	e.mu.Lock()
	before := len(e.asked)
	e.mu.Unlock()
	eventually(t, "it is tried again", func() bool { s, err := ask(u.folders()[0]); return err == nil && s.Restarts > 2 })
	e.mu.Lock()
	// What fits into the rest of the last block may still be kept.
	if grown := len(e.asked) - before; grown > 16 {
		t.Errorf("%d requests were answered with a full disk", grown)
	}
	e.mu.Unlock()
	resize(64 << 10)
	e.answered(addr, "/accounts/7", staff, 200)
	time.Sleep(200 * time.Millisecond)
	end()
	x.interrupt()
	e.check()
}
