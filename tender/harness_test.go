package tender_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/way"
)

// A built image is the image of testdata, and the calls that its modules list. It is
// built for the first test that asks for a configuration: a fuzz target needs none.
type built struct {
	network      string // the module that it has
	once         sync.Once
	failed       error
	path, digest string
	calls        []catalog.Syscall
	tier         api.Tier // what this machine gives
}

var (
	dir    string // of what is built
	image  = built{network: "netstack/socket"}
	direct = built{network: "netstack/tap"}
)

// The test binary is also the tender and its stage, as cmd/lorica is, and, for
// one test, a user of them.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	body := map[string]func() error{"tender": tender.Main, process.StageCommand: tender.Stage, way.HelperCommand: tender.WayHelper,
		"ordinary": ordinary, "broken": broken}
	if len(os.Args) == 2 && body[os.Args[1]] != nil {
		if err := body[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	var err error
	if dir, err = os.MkdirTemp("", "tender"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	return m.Run()
}

func (i *built) build() error {
	kind := filepath.Base(i.network)
	if built := os.Getenv("LORICA_BUILT"); built != "" { // where there is no Go toolchain: make kernels
		i.path = filepath.Join(built, "image") // the one with sockets
	} else {
		i.path = filepath.Join(dir, kind)
		cmd := exec.Command("go", "build", "-trimpath", "-tags", map[string]string{"tap": "direct"}[kind], "-o", i.path, "./testdata/image")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building the image: %w\n%s", err, out)
		}
	}
	b, err := os.ReadFile(i.path)
	if err != nil {
		return err
	}
	i.digest = fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	c, err := catalog.Load(os.DirFS(".."))
	if err != nil {
		return err
	}
	var modules []*catalog.Module
	for _, id := range []string{"unikernel/linux", i.network, "pep/firewall", "pep/filter", "pep/audit", "app/handler"} {
		m := c.Module(id)
		if m == nil {
			return fmt.Errorf("no module %s", id)
		}
		modules = append(modules, m)
	}
	i.calls = catalog.Syscalls(modules)
	i.tier = process.Probe().Tier
	return nil
}

const plan = "74656e64657274656e64657274656e64657274656e64657274656e6465727465"

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// signed returns a program that lets GET reach the given paths.
func signed(t *testing.T, revision uint64, paths ...string) []byte {
	t.Helper()
	return signedAt(t, []string{"normal"}, revision, paths...)
}

// signedAt returns such a program for the last of some levels.
func signedAt(t *testing.T, levels []string, revision uint64, paths ...string) []byte {
	t.Helper()
	net := flow.Section{}
	for _, l := range levels {
		net.Lists = append(net.Lists, flow.List{Level: l, Default: abi.Allow})
	}
	filter := route.Section{Limits: route.Limits{MaxHeaderBytes: 16 << 10, MaxBodyBytes: 1 << 20, MaxPathBytes: 2048, MaxConnections: 256, MaxHeaders: 100,
		HeaderTimeout: 2 * time.Second, BodyTimeout: 2 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 10 * time.Second}}
	for _, p := range paths {
		filter.Routes = append(filter.Routes, route.Route{Name: p[1:], Method: "GET", Pattern: p})
	}
	record := audit.Section{AllowedPerMillion: audit.Million}
	id, err := program.ParsePlanID(plan)
	if err != nil {
		t.Fatal(err)
	}
	b, err := program.Sign(&program.Program{Plan: id, Revision: revision, Tenant: "acme", Workload: "test", Policy: "p", Levels: levels,
		Sections: []program.Section{{Name: flow.Name, Data: net.Encode()}, {Name: route.Name, Data: filter.Encode()}, {Name: audit.Name, Data: record.Encode()},
			{Name: audit.ChannelName, Data: (&audit.Channel{}).Encode()}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func configure(t *testing.T) tender.Config { return image.configure(t) }

func (i *built) configure(t *testing.T) tender.Config {
	t.Helper()
	if i.once.Do(func() { i.failed = i.build() }); i.failed != nil {
		t.Fatal(i.failed)
	}
	return tender.Config{Instance: "test-1", Tenant: "acme", Workload: "test", Dir: t.TempDir(), Image: i.path, ImageDigest: i.digest,
		Plan: plan, Syscalls: i.calls, Trust: key.Public().(ed25519.PublicKey), Program: signed(t, 1, "/hello", "/who", "/slow", "/open"),
		Listen: []tender.Listener{{Name: "api", Address: "127.0.0.1"}}, Memory: 48 << 20, Minimum: i.tier, MaxProcs: 2, Patience: 10 * time.Second}
}

// start runs a tender for cfg and stops it with the test.
func start(t *testing.T, cfg tender.Config, listeners ...*os.File) *tender.Client {
	t.Helper()
	return startAs(t, []string{"/proc/self/exe", "tender"}, cfg, listeners...)
}

func startAs(t *testing.T, exe []string, cfg tender.Config, listeners ...*os.File) *tender.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := tender.Start(ctx, exe, cfg, listeners)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c.Stop(ctx)
		if err := c.Wait(ctx); err != nil {
			t.Errorf("the tender does not end: %v", err)
		}
	})
	return c
}

func status(t *testing.T, c *tender.Client) tender.Status {
	t.Helper()
	s, err := c.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get returns the status and body of one request on a connection of its own.
func get(t *testing.T, s tender.Status, path string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", s.Listen[0].Port, path))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came to this: %s", what)
}

// ends fails the test unless the tender ends.
func ends(t *testing.T, c *tender.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Wait(ctx); err != nil {
		t.Fatalf("the tender does not end: %v", err)
	}
}

// gone reports whether the process has ended, reaped or not.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || bytes.Contains(b, []byte("State:\tZ")) || bytes.Contains(b, []byte("State:\tX"))
}
