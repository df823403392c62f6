// Package e2e runs the lorica command as a user would, and watches what comes
// out from outside: over sockets, in its output, and in what it leaves behind.
package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/test/freeport"
)

// binary is the command under test, built once. shared has the images that users have
// built so far.
var binary, shared string

func TestMain(m *testing.M) {
	if from := os.Getenv(inside); from != "" {
		binary, shared = filepath.Join(from, "lorica"), filepath.Join(from, "shared")
		os.Exit(runAlone(m))
	}
	dir, err := os.MkdirTemp("", "lorica-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary, shared = filepath.Join(dir, "lorica"), filepath.Join(dir, "shared")
	build := exec.Command("go", "build", "-o", binary, "lorica.dev/lorica/cmd/lorica")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	code := 1
	switch err := build.Run(); {
	case err != nil:
	case network == "direct" && os.Geteuid() == 0:
		if alone(dir, os.Args[1:]...) == nil {
			code = 0
		}
	default:
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// A user has a home of her own, and the module and build caches of this machine.
type user struct {
	t        *testing.T
	home     string
	settings []string // more of her environment
}

func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{t: t, home: t.TempDir()}
	store := filepath.Join(u.home, ".local", "share", "lorica")
	link(shared, store)
	t.Cleanup(func() { link(store, shared) })
	return u
}

// link gives a store the images of another, by plan. An image is what its plan says,
// and the command looks at its digest each time: what is saved is the time to make it
// again. Where that cannot be done, the user makes them.
func link(from, to string) {
	for _, dir := range []string{"images", "plans"} { // in this order: an index leads to a whole image
		filepath.WalkDir(filepath.Join(from, dir), func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(from, name)
			if err != nil {
				return err
			}
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(to, rel), 0o700)
			}
			os.Link(name, filepath.Join(to, rel))
			return nil
		})
	}
	os.Chmod(to, 0o700)
}

func (u *user) env() []string {
	env := []string{"HOME=" + u.home, "PATH=" + os.Getenv("PATH")}
	out, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		u.t.Fatal(err)
	}
	dirs := strings.Fields(string(out))
	return append(append(env, "GOCACHE="+dirs[0], "GOMODCACHE="+dirs[1]), u.settings...)
}

// target and network are what everything here runs on, and with; empty: what the
// workloads say.
var target, network = os.Getenv("LORICA_TARGET"), os.Getenv("LORICA_NET")

func (u *user) command(args ...string) *exec.Cmd {
	for flag, value := range map[string]string{"--target": target, "--net": network} {
		if value != "" && slices.Contains([]string{"plan", "build", "up", "selftest"}, args[0]) {
			args = append(args[:len(args):len(args)], flag, value)
		}
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = u.env()
	cmd.Dir = u.home
	return cmd
}

// run returns the output of a command that must succeed.
func (u *user) run(args ...string) string {
	u.t.Helper()
	out, err := u.command(args...).CombinedOutput()
	if err != nil {
		u.t.Fatalf("lorica %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// project writes files below a new folder of the user.
func (u *user) project(files map[string]string) string {
	u.t.Helper()
	dir, err := os.MkdirTemp(u.home, "project-")
	if err != nil {
		u.t.Fatal(err)
	}
	for name, text := range files {
		write(u.t, filepath.Join(dir, name), text)
	}
	return dir
}

// site is what 'init' writes, on a port.
func (u *user) site(port string) string {
	u.run("init", "site")
	dir := filepath.Join(u.home, "site")
	for _, f := range []string{"workload.yaml", "policy.yaml"} {
		edit(u.t, filepath.Join(dir, f), "port: 8080", "port: "+port)
	}
	edit(u.t, filepath.Join(dir, "policy.yaml"), "protocol: TCP, port: 8080}, expect: Allow", "protocol: TCP, port: "+port+"}, expect: Allow")
	return dir
}

// example copies examples/accounts with another port.
func (u *user) example(port string) string { return u.copied("accounts", "8445", port) }

// copied copies an example and replaces text in it, in pairs of old and new.
func (u *user) copied(name string, replace ...string) string {
	u.t.Helper()
	files := map[string]string{}
	root := filepath.Join("..", "..", "examples", name)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files[rel] = strings.NewReplacer(replace...).Replace(string(b))
		return err
	})
	if err != nil || len(files) == 0 {
		u.t.Fatalf("example %s: %d files, %v", name, len(files), err)
	}
	return u.project(files)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// edit replaces text in a file, which must be there.
func edit(t *testing.T, path, old, new string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not contain %q", path, old)
	}
	write(t, path, strings.Replace(string(b), old, new, 1))
}

// freePort returns a TCP port that nobody listens on at this moment.
func freePort(t *testing.T) string {
	t.Helper()
	p, err := freeport.Find()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(p)
}

// An event is what 'up -o json' writes.
type event struct {
	Event      string  `json:"event"`
	Text       string  `json:"text"`
	Change     string  `json:"change"`
	TookMillis float64 `json:"tookMillis"`
	Status     *status `json:"status"`
	Errors     []struct {
		Message string `json:"message"`
	} `json:"errors"`
	Decision *decision    `json:"decision"`
	Level    *levelChange `json:"level"`
}

type status struct {
	Instance    string `json:"instance"`
	PID         int    `json:"pid"`
	TenderPID   int    `json:"tenderPid"`
	Tier        string `json:"tier"`
	Way         string `json:"way"`
	State       string `json:"state"`
	ImageDigest string `json:"imageDigest"`
	Program     string `json:"program"`
	Level       string `json:"level"`
	Revision    uint64 `json:"revision"`
	Restarts    int    `json:"restarts"`
	LastError   string `json:"lastError"`
	Stats       struct {
		Packets   struct{ In, Denied, Malformed uint64 }
		Addresses []string
	} `json:"stats"`
}

type decision struct {
	Seq       uint64 `json:"seq"`
	ID        string `json:"id"`
	Decision  string `json:"decision"`
	Stage     string `json:"stage"`
	Rule      string `json:"rule"`
	Line      string `json:"line"`
	Reason    string `json:"reason"`
	Principal string `json:"principal"`
	Source    string `json:"source"`
	Method    string `json:"method"`
	Route     string `json:"route"`
	Path      string `json:"path"`
	Tier      string `json:"tier"`
	Level     string `json:"level"`
	Revision  uint64 `json:"revision"`
	Program   string `json:"program"`
}

// An upping is a running 'up -o json'.
type upping struct {
	t      *testing.T
	cmd    *exec.Cmd
	events chan event // but decisions
	done   chan struct{}
	first  *status   // as it was when everything served
	out    io.Closer // our end of its standard output

	mu        sync.Mutex
	decisions []decision
	stderr    strings.Builder
}

// up starts 'up' and waits until everything serves.
func (u *user) up(dir string, args ...string) (*upping, *status) {
	u.t.Helper()
	return u.follow(u.command(append([]string{"up", "-f", dir, "-o", "json"}, args...)...))
}

// follow starts a command that is 'up'.
func (u *user) follow(cmd *exec.Cmd) (*upping, *status) {
	u.t.Helper()
	x := &upping{t: u.t, cmd: cmd, events: make(chan event, 1000), done: make(chan struct{})}
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	x.out = out
	x.cmd.Stderr = &x.stderr
	if err := x.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	go func() {
		defer close(x.done)
		defer close(x.events)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				continue
			}
			if e.Decision != nil {
				x.mu.Lock()
				x.decisions = append(x.decisions, *e.Decision)
				x.mu.Unlock()
				continue
			}
			x.events <- e
		}
	}()
	u.t.Cleanup(x.interrupt)
	e := x.wait("ready")
	x.wait("up")
	return x, e.Status
}

// wait returns the next event of a kind; others before it are dropped.
func (x *upping) wait(kind string) event {
	x.t.Helper()
	late := time.After(patience)
	for {
		select {
		case e, ok := <-x.events:
			if !ok {
				x.t.Fatalf("up ended while %q was waited for: %s", kind, x.stderr.String())
			}
			if e.Event == kind {
				return e
			}
		case <-late:
			x.t.Fatalf("no %q within %v", kind, patience)
		}
	}
}

// interrupt sends Ctrl-C and waits for the end.
func (x *upping) interrupt() { x.ends(syscall.SIGINT) }

// hangUp does what a terminal does when it is closed.
func (x *upping) hangUp() { x.ends(syscall.SIGHUP) }

// ends sends a signal, also to one that a test has stopped, and waits for the end. One
// that hangs tells where.
func (x *upping) ends(signal syscall.Signal) {
	x.cmd.Process.Signal(signal)
	x.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-x.done:
		x.cmd.Wait()
	case <-time.After(patience):
		x.cmd.Process.Signal(syscall.SIGQUIT)
		<-x.done
		x.cmd.Wait()
		x.t.Errorf("up did not end within %v of %v:\n%s", patience, signal, x.stderr.String())
	}
}

// kill ends 'up' as a crash would.
func (x *upping) kill() {
	x.cmd.Process.Kill()
	<-x.done
	x.cmd.Wait()
}

// find waits for the record of a decision.
func (x *upping) find(id string) decision {
	x.t.Helper()
	for range 300 {
		x.mu.Lock()
		for _, d := range x.decisions {
			if d.ID == id {
				x.mu.Unlock()
				return d
			}
		}
		x.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	x.t.Fatalf("no record of decision %s", id)
	return decision{}
}

// alive reports whether a process exists and is more than a zombie that its
// parent has not waited for.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(state, "Z")
}

// patience is how long who waits for an image, or for a command, goes on before it counts
// as hung: a machine may be busy, with nothing compiled yet, and an image in a microVM without
// KVM is slow besides.
const patience = 5 * time.Minute

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within %v", what, patience)
}

// quiet is a log that nobody reads.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
