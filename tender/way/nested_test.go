package way

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openNested makes a link; nil where this machine gives none.
func openNested(t testing.TB) Way {
	t.Helper()
	w, err := OpenNested(Spec{MTU: testMTU, Raw: true})
	if err != nil {
		missing(t, "links of images in user namespaces", err)
		return nil
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func TestANestedLinkCarriesConnections(t *testing.T) {
	if w := openNested(t); w != nil {
		testWay(t, w)
	}
}

func TestAClientReusesItsPortOnANestedLink(t *testing.T) {
	if w := openNested(t); w != nil {
		testReuse(t, w)
	}
}

func TestTheHelperHasNothingLeft(t *testing.T) {
	open, err := unix.Open(t.TempDir(), unix.O_RDONLY, 0) // as one that was handed down to the tender
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(open)
	w := openNested(t)
	if w == nil {
		return
	}
	h := w.(*dialled).sockets.(*helper)
	f, err := h.socket(unix.AF_INET6) // the helper has handed over the device before
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	pid := h.pid
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatal(len(tasks), err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(string(b), want+"\n") {
				t.Errorf("%s is not in\n%s", want, b)
			}
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if !strings.HasPrefix(to, "socket:") && !strings.HasPrefix(to, "anon_inode:") && to != os.DevNull {
			t.Errorf("it has %s", to)
		}
	}
	w.Close()
	w.Close()
	if c, err := w.Dial(t.Context(), netip.AddrPort{}, 80); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v, %v", c, err)
	}
	checkGone(t, pid)
}

// checkGone waits for a process to end.
func checkGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

// stop stops a process, and waits until none of its threads runs any more: one may go on
// for a moment after the signal, and answer.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	runs := func(name string) bool {
		b, err := os.ReadFile(name)
		_, state, _ := strings.Cut(string(b), ") ")
		return err != nil || !strings.HasPrefix(state, "T")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, runs) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not stop", pid)
		}
	}
}

func TestAHelperThatDiesIsNamed(t *testing.T) {
	w := openNested(t)
	if w == nil {
		return
	}
	h := w.(*dialled).sockets.(*helper)
	if err := unix.Kill(h.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	checkGone(t, h.pid)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if c, err := w.Dial(ctx, netip.AddrPort{}, 80); err == nil || !strings.Contains(err.Error(), "helper") {
		t.Errorf("%v, %v", c, err)
	}
}

// A helper that hangs is not waited for, and ends: else nobody could end what waits for it.
func TestAHelperThatHangsIsEnded(t *testing.T) {
	w := openNested(t)
	if w == nil {
		return
	}
	h := w.(*dialled).sockets.(*helper)
	h.patience = 100 * time.Millisecond
	stop(t, h.pid)
	if c, err := w.Dial(t.Context(), netip.AddrPort{}, 80); !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "the helper does not answer") {
		t.Errorf("%v, %v", c, err)
	}
	checkGone(t, h.pid)
	select {
	case <-w.(*dialled).Done():
	case <-time.After(patience):
		t.Error("the link is not said to be over")
	}
}

func TestTheHelperIsNotForHands(t *testing.T) {
	if out, err := exec.Command("/proc/self/exe", HelperCommand).CombinedOutput(); err == nil || !strings.Contains(string(out), "not by hand") {
		t.Errorf("%v: %s", err, out)
	}
}

func BenchmarkNestedDial(b *testing.B) {
	if w := openNested(b); w != nil {
		benchmarkDial(b, w)
	}
}
