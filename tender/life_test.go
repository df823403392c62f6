package tender_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender"
)

var background = context.Background()

// What the image finds around it, seen from outside.
func TestConfinement(t *testing.T) {
	c := start(t, configure(t))
	s := status(t, c)
	if s.State != tender.Ready || s.Tier != image.tier.String() || s.Revision != 1 || s.Level != "normal" || s.Policy != "p" ||
		s.ImageDigest != image.digest || s.Plan != plan || s.Restarts != 0 || s.Listen[0].Port == 0 {
		t.Errorf("status is %+v", s)
	}
	if code, body := get(t, s, "/hello"); code != 200 || body != "hello\n" {
		t.Errorf("got %d %q", code, body)
	}
	proc := func(name string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.PID, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := proc("cmdline"); got != "lorica-image\x00" {
		t.Errorf("its arguments are %q", got)
	}
	if got := proc("environ"); got != "" {
		t.Errorf("its environment is %q", got)
	}
	state := proc("status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(state, want+"\n") {
			t.Errorf("its status lacks %q", want)
		}
	}
	if os.Geteuid() == 0 && !strings.Contains(state, "Uid:\t65534\t65534\t65534\t65534\n") {
		t.Errorf("it is somebody: %s", state)
	}
	limits := strings.Join(strings.Fields(proc("limits")), " ")
	for _, want := range []string{"Max core file size 0 0", "Max file size 0 0", "Max data size 369098752 369098752"} {
		if !strings.Contains(limits, want) {
			t.Errorf("its limits lack %q: %s", want, limits)
		}
	}
	descriptors(t, s.PID)
	if image.tier != api.TierFull {
		notrun.Say(t, "what an image sees in its namespaces", "this machine gives tier "+image.tier.String())
		return
	}
	if !strings.Contains(state, "CapBnd:\t0000000000000000\n") {
		t.Errorf("its bounding set is not empty: %s", state)
	}
	if !strings.Contains(limits, "Max processes 1024 1024") {
		t.Errorf("its limits are %s", limits)
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		theirs, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.PID, ns))
		ours, err2 := os.Readlink("/proc/self/ns/" + ns)
		if err1 != nil || err2 != nil || theirs == ours {
			t.Errorf("%s namespace: %q, ours %q (%v, %v)", ns, theirs, ours, err1, err2)
		}
	}
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", s.PID)); err != nil || len(entries) != 0 {
		t.Errorf("its root holds %v (%v)", entries, err)
	}
	if mounts := proc("mountinfo"); strings.Count(mounts, "\n") != 1 || !strings.Contains(mounts, " / / ro,") {
		t.Errorf("its mounts are %s", mounts)
	}
}

// A workload starts where the machine gives what it asks for at least, and says
// what is missing elsewhere. The tiers below this machine's are weakened to.
func TestTheMinimumIsKept(t *testing.T) {
	tiers := []api.Tier{api.TierFull, api.TierNoUserns, api.TierNoLandlock}
	for _, weak := range tiers {
		given := max(weak, image.tier)
		for _, minimum := range tiers {
			t.Run(fmt.Sprintf("%s of %s", minimum, given), func(t *testing.T) {
				t.Parallel()
				cfg := configure(t)
				cfg.Minimum, cfg.Weaken = minimum, weak
				if given <= minimum {
					if s := status(t, start(t, cfg)); s.State != tender.Ready || s.Tier != given.String() {
						t.Errorf("status is %+v", s)
					}
					return
				}
				c, err := tender.Start(background, []string{"/proc/self/exe", "tender"}, cfg, nil)
				if err == nil {
					c.Stop(background)
					t.Fatal("it runs")
				}
				if want := fmt.Sprintf("confines images at tier %q, the workload asks for %q at least", given, minimum); !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q", err, want)
				}
			})
		}
	}
}

func TestImagesHaveAGroupWhereThatIsDelegated(t *testing.T) {
	c := start(t, configure(t))
	s := status(t, c)
	dir, ok := strings.CutPrefix(s.Limits, "cgroup ")
	if !ok {
		if s.Limits != "RLIMIT_DATA" {
			t.Fatalf("its limits are %q", s.Limits)
		}
		notrun.Say(t, "the memory limit of a cgroup", "none is delegated here: see lorica doctor")
		return
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(procs)) != fmt.Sprint(s.PID) {
		t.Fatalf("the group holds %q, %v; the image is %d", procs, err, s.PID)
	}
	// Less than it uses already: the kernel has to kill.
	if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte("1M"), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a death for want of memory", func() bool { return status(t, c).Restarts > 0 })
	if s := status(t, c); !strings.Contains(s.LastError, "of its cgroup") {
		t.Errorf("it died of %q", s.LastError)
	}
	if err := c.Stop(background); err != nil {
		t.Fatal(err)
	}
	ends(t, c)
	eventually(t, "the end of its group", func() bool { _, err := os.Stat(dir); return errors.Is(err, os.ErrNotExist) })
}

// descriptors checks that the image holds what it was handed and what its own
// runtime made, and nothing else of ours.
func descriptors(t *testing.T, pid int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		what, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) { // closed since
			continue
		}
		known := what == os.DevNull || strings.HasPrefix(what, "pipe:") || strings.HasPrefix(what, "socket:") || strings.HasPrefix(what, "anon_inode:[event")
		if err != nil || !known {
			t.Errorf("descriptor %s is %s (%v)", e.Name(), what, err)
		}
	}
}

func TestReplace(t *testing.T) {
	cfg := configure(t)
	c := start(t, cfg)
	s := status(t, c)
	if s.Program != program.Sum(cfg.Program).String() {
		t.Errorf("the program of the launch is said to be %s", s.Program)
	}
	if code, _ := get(t, s, "/new"); code != 404 {
		t.Fatalf("got %d before the change", code)
	}
	refused := map[string][]byte{
		"signature":  append([]byte{1}, signed(t, 2, "/new")...),
		"revision 1": signed(t, 1, "/new"),
		"0 bytes":    {},
	}
	for want, b := range refused {
		if _, err := c.Replace(background, tender.Batch{Program: b}); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, tender.ErrNotReady) {
			t.Errorf("got %v, want %q, for good", err, want)
		}
	}
	if after := status(t, c); after.Program != s.Program || after.Restarts != 0 {
		t.Errorf("a refused program changed %+v", after)
	}
	large := []control.Secret{{Name: "large", Value: make([]byte, 40<<20)}}
	if _, err := c.Replace(background, tender.Batch{Program: signed(t, 2, "/new"), Secrets: large}); err == nil || errors.Is(err, tender.ErrNotReady) {
		t.Errorf("too much: got %v, want a refusal for good", err)
	}
	for revision := uint64(2); revision < 12; revision++ { // more often than there are slots
		b := signed(t, revision, "/hello", "/new")
		a, err := c.Replace(background, tender.Batch{Program: b})
		if err != nil || a.Revision != revision || a.Program != program.Sum(b).String() {
			t.Fatalf("revision %d: %+v, %v", revision, a, err)
		}
	}
	if code, _ := get(t, s, "/new"); code != 404 { // of the application: the route exists
		t.Errorf("got %d", code)
	}
	if after := status(t, c); after.Revision != 11 || after.Program == s.Program || after.PID != s.PID {
		t.Errorf("status is %+v", after)
	}
}

// A program that comes as the image dies, or when its tender has, was not refused for good.
func TestAProgramForAnImageThatDies(t *testing.T) {
	c := start(t, configure(t))
	failed := make(chan error)
	put := func(revision uint64) {
		_, err := c.Replace(background, tender.Batch{Program: signed(t, revision, "/new")})
		failed <- err
	}
	err, revision := error(nil), uint64(2)
	for ; revision < 7 && err == nil; revision++ { // on a busy machine it may come too late
		var s tender.Status
		eventually(t, "it is ready", func() bool { s = status(t, c); return s.State == tender.Ready })
		stop(t, s.PID)
		go put(revision)
		time.Sleep(100 * time.Millisecond)
		syscall.Kill(s.PID, syscall.SIGKILL)
		err = <-failed
	}
	if !errors.Is(err, tender.ErrNotReady) {
		t.Errorf("the image died: %v", err)
	}
	eventually(t, "a program for the next image", func() bool { go put(revision); return <-failed == nil })
	if err := c.Stop(background); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(background); err != nil {
		t.Fatal(err)
	}
	go put(revision + 1)
	if err := <-failed; !errors.Is(err, tender.ErrNotReady) {
		t.Errorf("the tender is gone: %v", err)
	}
}

func TestDecisions(t *testing.T) {
	c := start(t, configure(t))
	s := status(t, c)
	get(t, s, "/hello")
	get(t, s, "/nothing")
	var seen []tender.Decision
	eventually(t, "two decisions", func() bool { // records travel beside answers
		seen = nil
		err := c.Decisions(background, 0, false, func(d tender.Decision) error { seen = append(seen, d); return nil })
		return err == nil && len(seen) == 2
	})
	if d := seen[0]; d.Seq != 1 || d.Decision != "Allow" || d.Path != "/hello" || d.Tier != s.Tier || d.Program != s.Program || d.Instance != "test-1" {
		t.Errorf("the first is %+v", d)
	}
	if d := seen[1]; d.Seq != 2 || d.Decision != "Deny" || d.Status != 404 || d.Reason == "" {
		t.Errorf("the second is %+v", d)
	}
	ctx, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	var late sync.WaitGroup
	late.Go(func() {
		time.Sleep(50 * time.Millisecond)
		get(t, s, "/slow")
	})
	defer late.Wait()
	enough := errors.New("enough")
	err := c.Decisions(ctx, 2, true, func(d tender.Decision) error {
		if d.Seq == 3 && d.Path == "/slow" {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("following: %v", err)
	}
	var lines []string
	if err := c.Logs(background, 0, false, func(l tender.LogLine) error { lines = append(lines, l.From+": "+l.Line); return nil }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(lines, "\n"), "output: a line on standard output") {
		t.Errorf("the log is %q", lines)
	}
}

func TestRestart(t *testing.T) {
	c := start(t, configure(t))
	s := status(t, c)
	if _, err := c.Replace(background, tender.Batch{Program: signed(t, 2, "/hello", "/open")}); err != nil {
		t.Fatal(err)
	}
	one := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	one.Get(fmt.Sprintf("http://127.0.0.1:%d/open", s.Listen[0].Port)) // dies of it
	if code, _ := get(t, s, "/hello"); code != 200 {                   // waits in the backlog
		t.Errorf("got %d", code)
	}
	eventually(t, "one restart, ready", func() bool { s := status(t, c); return s.Restarts == 1 && s.State == tender.Ready })
	after := status(t, c)
	if !strings.Contains(after.LastError, "SIGSYS") || after.Revision != 2 || after.PID == s.PID {
		t.Errorf("status is %+v", after)
	}
	syscall.Kill(after.PID, syscall.SIGKILL)
	if code, _ := get(t, s, "/hello"); code != 200 {
		t.Errorf("got %d", code)
	}
	eventually(t, "two restarts", func() bool { return status(t, c).Restarts == 2 })
}

// stop has a process do nothing more, with none of its threads: on a busy machine they
// accept connections for a while after the signal.
func stop(t *testing.T, pid int) {
	t.Helper()
	if pid <= 0 { // would be groups of processes, of this one too
		t.Fatal("it has no process")
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "none of its threads runs any more", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, func(name string) bool {
			b, err := os.ReadFile(name)
			_, state, _ := strings.Cut(string(b), ") ")
			return err != nil || !strings.HasPrefix(state, "T")
		})
	})
}

// An image that is there and does nothing is noticed without anybody asking for it.
func TestAnImageThatHangsIsReplaced(t *testing.T) {
	cfg := configure(t)
	cfg.Patience = 2 * time.Second
	c := start(t, cfg)
	s := status(t, c)
	stop(t, s.PID)
	if code, _ := get(t, s, "/hello"); code != 200 { // waits in the backlog
		t.Errorf("got %d", code)
	}
	if now := status(t, c); now.Restarts != 1 || now.PID == s.PID || !strings.Contains(now.LastError, "it hangs: no answer within 2s") {
		t.Errorf("status is %+v", now)
	}
}

func TestDrain(t *testing.T) {
	c := start(t, configure(t))
	s := status(t, c)
	slow := make(chan int, 1)
	go func() {
		code, _ := get(t, s, "/slow")
		slow <- code
	}()
	time.Sleep(100 * time.Millisecond)
	if err := c.Drain(background, 0, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if code := <-slow; code != 200 {
		t.Errorf("the open request got %d", code)
	}
	ends(t, c)
	if !gone(s.PID) {
		t.Error("the image is left")
	}
	if _, err := tender.Dial(filepath.Dir("/nonexistent/x")); err == nil {
		t.Error("a tender answers where there is none")
	}
}

// A successor takes the listener over while clients keep coming.
func TestHandOver(t *testing.T) {
	cfg := configure(t)
	dir := cfg.Dir
	first := start(t, cfg)
	s := status(t, first)
	var done, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
			defer c.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/hello", s.Listen[0].Port))
				if err == nil {
					io.Copy(io.Discard, r.Body)
					r.Body.Close()
				}
				if err != nil || r.StatusCode != 200 {
					t.Errorf("%v %v", r, err)
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	listeners, err := first.Listeners(background)
	if err != nil || len(listeners) != 1 {
		t.Fatalf("%d listeners: %v", len(listeners), err)
	}
	cfg = configure(t)
	// What the first listens on is handed over, what it does not is opened.
	cfg.Instance = "test-2"
	cfg.Listen = []tender.Listener{{Name: "new", Address: "127.0.0.1"}, {Name: "api", Address: "127.0.0.1", Port: s.Listen[0].Port}}
	second := start(t, cfg, nil, listeners[0])
	listeners[0].Close()
	if code, _ := get(t, status(t, second), "/hello"); code != 200 {
		t.Errorf("the listener that is new answers %d", code)
	}
	if err := first.Drain(background, 500*time.Millisecond, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	ends(t, first)
	if text := logged(t, dir); strings.Contains(text, "while draining") {
		t.Errorf("the first did not drain: %s", text)
	}
	before := done.Load()
	eventually(t, "the successor serves", func() bool { return done.Load() > before+20 })
	close(stop)
	wg.Wait()
	t.Logf("%d requests, %d failed", done.Load(), failed.Load())
	if st := status(t, second); st.Stats.Requests < 21 {
		t.Errorf("status is %+v", st)
	}
}

// Who follows the decisions gets all of them, those of the drain included, and
// then an end.
func TestFollowersGetTheLastRecords(t *testing.T) {
	c := start(t, configure(t))
	s := status(t, c)
	var got uint64
	followed := make(chan error, 1)
	go func() {
		followed <- c.Decisions(background, 0, true, func(d tender.Decision) error {
			time.Sleep(5 * time.Millisecond) // a reader that is behind
			got = d.Seq
			return nil
		})
	}()
	for range 100 {
		get(t, s, "/hello")
	}
	// An answer does not wait for its record to be in the spool.
	eventually(t, "the status counts every decision", func() bool { return status(t, c).Decisions >= 100 })
	if err := c.Drain(background, 0, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; err != nil || got < 100 {
		t.Errorf("followed up to number %d: %v", got, err)
	}
}

// A tender that is killed takes its image along, whatever the tier.
func TestNoImageIsLeftBehind(t *testing.T) {
	for _, tier := range []api.Tier{api.TierFull, api.TierNoUserns, api.TierNoLandlock} {
		t.Run(tier.String(), func(t *testing.T) {
			t.Parallel()
			cfg := configure(t)
			cfg.Minimum, cfg.Weaken = api.TierNoLandlock, tier
			c := start(t, cfg)
			s := status(t, c)
			if s.Tier != max(tier, image.tier).String() {
				t.Fatalf("the tier is %s", s.Tier)
			}
			if code, _ := get(t, s, "/hello"); code != 200 {
				t.Errorf("got %d", code)
			}
			syscall.Kill(s.TenderPID, syscall.SIGKILL)
			eventually(t, "both are gone", func() bool { return gone(s.PID) })
			ends(t, c)
			if again := start(t, cfg); status(t, again).State != tender.Ready {
				t.Error("the folder of a dead tender cannot be used again")
			}
		})
	}
}

// Nobody waits for ever for a tender that is stopped.
func TestATenderThatIsStopped(t *testing.T) {
	t.Parallel()
	c := start(t, configure(t))
	s := status(t, c)
	t.Cleanup(func() { syscall.Kill(s.TenderPID, syscall.SIGCONT) })
	stop(t, s.TenderPID)
	_, err := c.Status(background)
	syscall.Kill(s.TenderPID, syscall.SIGCONT)
	if !errors.Is(err, tender.ErrNotReady) || !strings.Contains(err.Error(), fmt.Sprintf("kill -CONT %d", s.TenderPID)) {
		t.Error(err)
	}
	status(t, c)
}

func TestLease(t *testing.T) {
	const grace = 500 * time.Millisecond
	configure := func(t *testing.T) tender.Config {
		cfg := configure(t)
		cfg.LeaseGrace = grace
		return cfg
	}
	take := func(t *testing.T, c *tender.Client) *tender.Lease {
		t.Helper()
		l, err := c.Lease(background)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	lives := func(t *testing.T, c *tender.Client) {
		t.Helper()
		time.Sleep(3 * grace)
		if s := status(t, c); s.State != tender.Ready {
			t.Errorf("status is %+v", s)
		}
	}
	t.Run("its end drains", func(t *testing.T) {
		t.Parallel()
		c := start(t, configure(t))
		take(t, c).Close()
		ends(t, c)
	})
	t.Run("there is time to take another", func(t *testing.T) {
		t.Parallel()
		cfg := configure(t)
		cfg.LeaseGrace = 0
		c := start(t, cfg)
		take(t, c).Close()
		time.Sleep(4 * time.Second) // less than a person needs
		if s := status(t, c); s.State != tender.Ready {
			t.Errorf("status is %+v", s)
		}
	})
	t.Run("another one keeps", func(t *testing.T) {
		t.Parallel()
		c := start(t, configure(t))
		one, two := take(t, c), take(t, c)
		one.Close()
		lives(t, c)
		two.Close()
	})
	t.Run("a release keeps", func(t *testing.T) {
		t.Parallel()
		c := start(t, configure(t))
		one, two := take(t, c), take(t, c)
		one.Close()
		if err := two.Release(); err != nil {
			t.Fatal(err)
		}
		lives(t, c)
	})
}

func TestStartFails(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*tender.Config)
		want   string
	}{
		"another image": {func(c *tender.Config) { c.ImageDigest = "sha256:" + strings.Repeat("0", 64) }, "expected sha256:0000"},
		"no image":      {func(c *tender.Config) { c.Image += "x" }, "no such file"},
		"a script": {func(c *tender.Config) {
			c.Image, c.ImageDigest = broken, "sha256:a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf"
		}, "execveat"},
		"another plan":       {func(c *tender.Config) { c.Plan = strings.Repeat("0", 64) }, "another plan"},
		"another trust root": {func(c *tender.Config) { c.Trust = bytes.Repeat([]byte{1}, 32) }, "trust root"},
		"an older revision":  {func(c *tender.Config) { c.MinRevision = 5 }, "takes 5 or later"},
		"no system calls":    {func(c *tender.Config) { c.Syscalls = nil }, "empty list"},
		"a call too many": {func(c *tender.Config) {
			c.Syscalls = append(c.Syscalls, image.calls[0])
			c.Syscalls[len(c.Syscalls)-1].Name = "openat"
		}, "may never call openat"},
		"an address not here":   {func(c *tender.Config) { c.Listen[0].Address = "203.0.113.7" }, "cannot assign"},
		"a name that is a path": {func(c *tender.Config) { c.Instance = "../x" }, "instance name"},
		"no listener":           {func(c *tender.Config) { c.Listen = nil }, "0 listeners"},
		"another target":        {func(c *tender.Config) { c.Target = "container" }, "target \"container\" is unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := configure(t)
			c.change(&cfg)
			client, err := tender.Start(background, []string{"/proc/self/exe", "tender"}, cfg, nil)
			if err == nil {
				client.Stop(background)
				t.Fatal("it runs")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q", err, c.want)
			}
		})
	}
	t.Run("a folder in use", func(t *testing.T) {
		cfg := configure(t)
		c := start(t, cfg)
		if _, err := tender.Start(background, []string{"/proc/self/exe", "tender"}, cfg, nil); err == nil || !strings.Contains(err.Error(), "another tender") {
			t.Errorf("got %v", err)
		}
		if s := status(t, c); s.State != tender.Ready {
			t.Errorf("status is %+v", s)
		}
	})
	t.Run("not a tender", func(t *testing.T) {
		if _, err := tender.Start(background, []string{"/proc/self/exe", "broken"}, configure(t), nil); err == nil || !strings.Contains(err.Error(), "no such luck") {
			t.Errorf("got %v", err)
		}
	})
}

// broken is a program that was given as a tender and is none.
func broken() error { return errors.New("no such luck") }

// An ordinary user gets the same confinement as root; and a user's tender talks
// to nobody else, not even to root.
func TestOrdinaryUser(t *testing.T) {
	dir, err := os.MkdirTemp("", "ordinary")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cfg := configure(t)
	cfg.Dir, cfg.Image = filepath.Join(dir, "run"), filepath.Join(dir, "image")
	b, err := os.ReadFile(image.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Image, b, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "ordinary")
	if root := os.Geteuid() == 0; root {
		const user = 64321
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		for _, p := range []string{dir, cfg.Image} {
			if err := os.Chown(p, user, user); err != nil {
				t.Fatal(err)
			}
		}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(in).Encode(cfg); err != nil {
		t.Fatal(err)
	}
	var s tender.Status
	if err := json.NewDecoder(out).Decode(&s); err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	if s.Tier != image.tier.String() {
		t.Errorf("status is %+v", s)
	}
	if code, body := get(t, s, "/hello"); code != 200 || body != "hello\n" {
		t.Errorf("got %d %q", code, body)
	}
	if os.Geteuid() == 0 {
		if _, err := tender.Dial(cfg.Dir); err == nil || !strings.Contains(err.Error(), "user 64321") {
			t.Errorf("root reached it: %v", err)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	if !gone(s.PID) {
		t.Error("the image is left")
	}
}

// ordinary is what the test binary does as that user: run an instance, say how
// it is, and stop it when standard input ends.
func ordinary() error {
	var cfg tender.Config
	if err := json.NewDecoder(os.Stdin).Decode(&cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(background, 20*time.Second)
	defer cancel()
	c, err := tender.Start(ctx, []string{"/proc/self/exe", "tender"}, cfg, nil)
	if err != nil {
		return err
	}
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return err
	}
	io.Copy(io.Discard, os.Stdin)
	if err := c.Stop(ctx); err != nil {
		return err
	}
	return c.Wait(ctx)
}

// logged returns the log of a runtime folder as it is written.
func logged(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "log-*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no log (%v)", err)
	}
	b, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
