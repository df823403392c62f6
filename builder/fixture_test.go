package builder

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// What policies of the two kinds of application require.
var (
	accountsNeeds = []string{"image/process", "net", "firewall", "filter", "authn/basic", "authn/basic/argon2id", "ratelimit/principal", "authz/cedar", "audit", "app/handler"}
	siteNeeds     = []string{"image/process", "net", "firewall", "filter", "audit", "app/files"}
	frontNeeds    = []string{"image/process", "net", "firewall", "filter", "audit", "egress", "app/proxy"}
	securedNeeds  = []string{"image/process", "net", "tls/server", "filter", "audit", "app/files"}
	machineNeeds  = []string{"image/microvm", "net", "firewall", "filter", "audit", "egress", "app/proxy"}
	directNeeds   = []string{"image/process", "net/direct", "firewall", "filter", "audit", "egress", "app/proxy"}
	leasedNeeds   = []string{"image/process", "net/direct", "net/ipv6", "net/dhcp", "firewall", "filter", "audit", "app/files"}
	// More than one provider, and not the one that would be chosen.
	chosenNeeds   = []string{"image/process", "net", "filter", "authn/basic", "authn/basic/bcrypt", "authn/basic/pbkdf2", "audit", "app/files/compressed"}
	smallNeeds    = []string{"image/process", "net", "filter", "audit", "app/handler"}
	recordedNeeds = []string{"image/process", "net", "filter", "audit", "audit/syslog", "audit/otlp", "app/files"}
)

func selection(t testing.TB, needs []string) *solver.Selection {
	t.Helper()
	c, err := catalog.Load(lorica.Source())
	if err != nil {
		t.Fatal(err)
	}
	var reqs []catalog.Requirement
	for _, capability := range needs {
		reqs = append(reqs, catalog.Requirement{Any: catalog.Clause{capability}, Why: "the test asks for it"})
	}
	target := api.TargetProcess
	if slices.Contains(needs, "image/microvm") {
		target = api.TargetMicroVM
	}
	sel, err := solver.Solve(context.Background(), c, solver.Request{Requirements: reqs, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

// tree writes files below a new folder and returns it.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shop is the smallest handler module, with the given files instead of or beside
// its own.
func shop(more map[string]string) map[string]string {
	files := map[string]string{
		"shop/go.mod": "module example.com/shop\n\ngo 1.26\n",
		"shop/shop.go": `package shop

import "net/http"

func New() (http.Handler, error) { return http.NewServeMux(), nil }
`,
	}
	for name, text := range more {
		files[name] = text
	}
	return files
}

func handlerIn(dir string) *api.Workload {
	pos := api.Pos{File: "workload.yaml", Line: 7, Column: 5}
	return &api.Workload{Dir: dir, Target: "process", App: api.App{Handler: &api.HandlerApp{Pos: pos, Module: "./shop", Package: ".", Func: "New"}}}
}

func siteIn(dir string) *api.Workload {
	pos := api.Pos{File: "workload.yaml", Line: 7, Column: 5}
	return &api.Workload{Dir: dir, Target: "process", App: api.App{Static: &api.StaticApp{Pos: pos, Dir: "./public"}}}
}

// frontIn is a proxy to an https upstream that is verified with ca.pem.
func frontIn(dir string) *api.Workload {
	pos := api.Pos{File: "workload.yaml", Line: 7, Column: 5}
	return &api.Workload{Dir: dir, Target: "process", App: api.App{Proxy: &api.ProxyApp{Pos: pos, TLS: true, Host: "api.example.com", Port: 443, Trust: "./ca.pem",
		ServerName: "api.example.com", ConnectTimeout: 5 * time.Second, ResponseTimeout: 30 * time.Second, IdleTimeout: 30 * time.Second, MaxConnections: 64}}}
}

func accounts() *api.Workload {
	w := handlerIn("../examples/accounts")
	w.App.Handler.Module = "./api"
	return w
}

func plan(t testing.TB, needs []string, w *api.Workload) *Plan {
	t.Helper()
	p, err := new(Planner).Plan(context.Background(), selection(t, needs), w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func store(t testing.TB) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// snapshot lists all that is in a folder: names, modes and contents.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s", info.Mode(), name)
		if d.Type().IsRegular() {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d bytes %x", len(data), data[:min(len(data), 100)])
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// golden compares got with a committed file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was; if that is meant, run go test ./builder -update and review the change\ngot:\n%s", name, got)
	}
}

// buildFor is set for the copy of this test that another user runs: it builds
// the workload in this folder and prints the digest.
const buildFor = "LORICA_TEST_BUILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(buildFor); dir != "" {
		b := buildSmall("", dir)
		if b.err != nil {
			fmt.Fprintln(os.Stderr, b.err)
			os.Exit(1)
		}
		fmt.Println(os.Getuid(), b.image.Plan, b.image.Digest)
		os.Exit(0)
	}
	code := m.Run()
	os.RemoveAll(smallFolder())
	os.Exit(code)
}

// smallBuild is a store with one image in it.
type smallBuild struct {
	store *Store
	plan  *Plan
	image *Image
	err   error
}

// small builds the smallest handler once.
var small = sync.OnceValue(func() smallBuild {
	dir := smallFolder()
	for name, text := range shop(nil) {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			return smallBuild{err: err}
		}
	}
	return buildSmall(filepath.Join(dir, "store"), dir)
})

func smallFolder() string {
	return filepath.Join(os.TempDir(), fmt.Sprint("lorica-builder-test-", os.Getpid()))
}

func buildSmall(storeDir, dir string) (b smallBuild) {
	c, err := catalog.Load(lorica.Source())
	if err != nil {
		return smallBuild{err: err}
	}
	var reqs []catalog.Requirement
	for _, capability := range smallNeeds {
		reqs = append(reqs, catalog.Requirement{Any: catalog.Clause{capability}})
	}
	sel, err := solver.Solve(context.Background(), c, solver.Request{Requirements: reqs, Target: "process"})
	if err != nil {
		return smallBuild{err: err}
	}
	if b.plan, b.err = new(Planner).Plan(context.Background(), sel, handlerIn(dir)); b.err != nil {
		return b
	}
	if b.store, b.err = OpenStore(storeDir); b.err != nil {
		return b
	}
	b.image, b.err = b.store.Build(context.Background(), b.plan, nil)
	return b
}
