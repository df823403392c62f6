package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder/pvh"
	"lorica.dev/lorica/internal/notrun"
)

// The packages of an image are committed: growth shows in review.
func TestWhatIsLinkedIntoTheImages(t *testing.T) {
	site := tree(t, map[string]string{"public/index.html": "<p>hello\n", "public/long.txt": strings.Repeat("hello\n", 100)})
	s := store(t)
	six := []string{"gvisor.dev/gvisor/pkg/tcpip/network/ipv6", "lorica.dev/lorica/netstack/ip6"} // of networks alone that need IPv6
	host := []string{"lorica.dev/lorica/kernel", "lorica.dev/lorica/virtio", "lorica.dev/lorica/netstack/direct", "lorica.dev/lorica/netstack/tap", "gvisor.dev/", "github.com/"}
	for _, c := range []struct {
		golden string
		plan   *Plan
		never  []string // prefixes
	}{
		// The example's own code imports encoding/json, as does the log of gVisor.
		{"packages-accounts.txt", plan(t, accountsNeeds, accounts()), host},
		{"packages-front.txt", plan(t, frontNeeds, frontIn("testdata")), append(host[:len(host):len(host)], "encoding/json", "golang.org/x/", "lorica.dev/lorica/pep/auth")},
		{"packages-site.txt", plan(t, siteNeeds, siteIn(site)), append(host[:len(host):len(host)], "encoding/json", "golang.org/x/", "lorica.dev/lorica/pep/auth", "lorica.dev/lorica/pep/tls", "lorica.dev/lorica/abi/transport")},
		{"packages-secured.txt", plan(t, securedNeeds, siteIn(site)), append(host[:len(host):len(host)], "encoding/json", "golang.org/x/", "testing", "lorica.dev/lorica/abi/transport/certtest")},
		{"packages-chosen.txt", plan(t, chosenNeeds, siteIn(site)), append(host[:len(host):len(host)], "encoding/json", "golang.org/x/crypto/argon2", "lorica.dev/lorica/app/static", "lorica.dev/lorica/pep/authn/basic/argon2id")},
		{"packages-recorded.txt", plan(t, recordedNeeds, siteIn(site)), append(host[:len(host):len(host)], "encoding/json", "golang.org/x/", "google.golang.org/", "log/syslog", "testing", "lorica.dev/lorica/pep/auth", "lorica.dev/lorica/pep/tls",
			"lorica.dev/lorica/pep/audit/channel", "lorica.dev/lorica/pep/delivery/collectortest")},
		{"packages-direct.txt", plan(t, directNeeds, frontIn("testdata")), append(six[:len(six):len(six)], "golang.org/x/crypto", "lorica.dev/lorica/netstack/socket", "lorica.dev/lorica/netstack/card",
			"lorica.dev/lorica/kernel", "lorica.dev/lorica/virtio", "lorica.dev/lorica/unikernel/microvm", "lorica.dev/lorica/pep/auth")},
		{"packages-leased.txt", plan(t, leasedNeeds, siteIn(site)), []string{"golang.org/x/crypto", "lorica.dev/lorica/netstack/socket", "lorica.dev/lorica/pep/auth"}},
		{"packages-machine.txt", plan(t, machineNeeds, frontIn("testdata")), append(six[:len(six):len(six)], "golang.org/x/crypto", "lorica.dev/lorica/netstack/socket", "lorica.dev/lorica/netstack/tap", "lorica.dev/lorica/unikernel/linux",
			"lorica.dev/lorica/kernel/selftest", "lorica.dev/lorica/pep/auth")},
	} {
		t.Run(c.golden, func(t *testing.T) {
			img, err := s.Build(t.Context(), c.plan, nil)
			if err != nil {
				t.Fatal(err)
			}
			list := slices.Sorted(slices.Values(img.Packages))
			goldenPackages(t, c.golden, list)
			never := append(c.never, "os/exec", "net/http/pprof", "plugin", "runtime/cgo", "go.yaml.in/", "text/template", "lorica.dev/lorica/policy", "lorica.dev/lorica/compiler", "lorica.dev/lorica/tender", "lorica.dev/lorica/builder")
			for _, pkg := range list {
				for _, prefix := range never {
					if strings.HasPrefix(pkg, prefix) {
						t.Errorf("%s is linked", pkg)
					}
				}
			}
			if c.plan.Target == api.TargetProcess {
				checkELF(t, s, img)
				return
			}
			b, err := os.ReadFile(img.Path)
			if err != nil || pvh.Check(b) != nil || len(img.Syscalls) > 0 || !slices.Equal(img.Devices, c.plan.Devices()) || len(img.Devices) < 5 {
				t.Errorf("the image of a machine has %v and %v: %v, %v", img.Devices, img.Syscalls, err, pvh.Check(b))
			}
		})
	}
}

// goldenGo is the release whose standard library the golden lists show.
const goldenGo = "go1.26"

// goldenPackages compares with the committed list; with another release of Go only
// what is not in its standard library.
func goldenPackages(t *testing.T, name string, list []string) {
	t.Helper()
	tools, err := findToolchain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if version.Lang(tools.version) == goldenGo {
		golden(t, name, strings.Join(list, "\n")+"\n")
		return
	}
	notrun.Say(t, "packages of the standard library in "+name, "it is the list of "+goldenGo+"; this is "+tools.version)
	ours := func(list []string) []string {
		return slices.DeleteFunc(list, func(pkg string) bool {
			first, _, _ := strings.Cut(pkg, "/")
			return !strings.Contains(first, ".")
		})
	}
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ours(list), ours(strings.Fields(string(data))); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// checkELF looks at what was built with other eyes than the builder's.
func checkELF(t *testing.T, s *Store, img *Image) {
	t.Helper()
	data, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the image is not static: it has %s", p.Type)
		}
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil || f.Section(".zdebug_info") != nil {
		t.Error("the image has symbols")
	}
	if f.Machine != elf.EM_X86_64 || img.Size != int64(len(data)) {
		t.Errorf("machine %s, size %d of %d", f.Machine, img.Size, len(data))
	}
	plan := strings.TrimPrefix(img.Plan, "plan:")
	if !bytes.Contains(data, []byte(plan)) {
		t.Error("the plan id is not in the image")
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{s.dir, filepath.Dir(wd), os.Getenv("HOME") + "/"} {
		if bytes.Contains(data, []byte(private)) {
			t.Errorf("the image names a folder of the machine that built it: %s", private)
		}
	}
	debug, err := elf.Open(img.Debug)
	if err != nil {
		t.Fatal(err)
	}
	defer debug.Close()
	if _, err := debug.DWARF(); err != nil || debug.Section(".symtab") == nil {
		t.Errorf("the twin has no symbols: %v", err)
	}
	if info, err := os.Stat(img.Path); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// The same application in another folder, another store, another home and
// temporary folder, a hostile environment, and another user: the same bytes.
func TestAnyoneBuildsTheSameImage(t *testing.T) {
	first := tree(t, shop(nil))
	img, err := store(t).Build(t.Context(), plan(t, smallNeeds, handlerIn(first)), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := img.Plan + " " + img.Digest

	home, tmp := t.TempDir(), t.TempDir()
	tools, err := findToolchain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), tools.folders...) // the caches stay, for speed
	env = append(env,
		buildFor+"="+tree(t, shop(map[string]string{"shop/README": "another folder"})),
		"HOME="+home, "XDG_DATA_HOME="+home+"/data", "XDG_CONFIG_HOME="+home+"/config", "TMPDIR="+tmp, "USER=eve", "LOGNAME=eve", "LANG=de_DE.UTF-8", "TZ=Asia/Tokyo",
		"GOFLAGS=-race -tags=netgo,osusergo -gcflags=-N", "GOAMD64=v3", "GOEXPERIMENT=jsonv2", "GODEBUG=http2client=0", "CGO_ENABLED=1", "GOWORK="+home+"/go.work",
		"GOTOOLCHAIN=go1.99.0+auto", "GO_LDFLAGS=-X main.plan=0", "GOOS=plan9", "GOARCH=arm64", "GOENV="+home+"/goenv", "GOFIPS140=latest")
	if err := os.WriteFile(home+"/goenv", []byte("GOAMD64=v4\nGOFLAGS=-msan\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// The go command of the test itself would go on writing there in the background.
	mode := home + "/config/go/telemetry/mode"
	if err := errors.Join(os.MkdirAll(filepath.Dir(mode), 0o755), os.WriteFile(mode, []byte("off\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		attr *syscall.SysProcAttr
		uid  int
	}{
		{"another environment", nil, os.Getuid()},
		{"another user", &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 4242, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 4242, HostID: os.Getgid(), Size: 1}},
		}, 4242},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.RemoveAll(home + "/data"); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env, cmd.SysProcAttr = env, c.attr
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if c.attr != nil && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL)) {
				notrun.Say(t, "image of another user", "user namespaces are not allowed here: "+err.Error())
				return
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr.String())
			}
			if got := strings.TrimSpace(string(out)); got != fmt.Sprint(c.uid, " ", want) {
				t.Errorf("got  %s\nwant %d %s", got, c.uid, want)
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left in the temporary folder: %v, %v", left, err)
			}
		})
	}
}

func TestAPlanIsCompiledOnce(t *testing.T) {
	s := store(t)
	p := plan(t, smallNeeds, handlerIn(tree(t, shop(nil))))
	if img, err := s.Find(p.ID); img != nil || err != nil {
		t.Fatalf("found %v, %v in an empty store", img, err)
	}
	var mu sync.Mutex
	steps := map[StepName]int{}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			// A store of its own for each, as in another process.
			own, err := OpenStore(s.dir)
			if err != nil {
				t.Error(err)
				return
			}
			img, err := own.Build(t.Context(), p, func(s Step) {
				mu.Lock()
				defer mu.Unlock()
				steps[s.Name]++
			})
			if err != nil || img.Plan != p.ID.String() {
				t.Errorf("got %v, %v", img, err)
			}
		})
	}
	wg.Wait()
	if steps[StepCompile] != 1 || steps[StepWait] != 2 {
		t.Errorf("steps %v: want one compile, two waits", steps)
	}
	img, err := s.Find(p.ID)
	if err != nil || img == nil {
		t.Fatalf("got %v, %v", img, err)
	}
	again, err := s.Build(t.Context(), p, func(st Step) { t.Errorf("step %v for an image that is there", st) })
	if err != nil || again.Digest != img.Digest || !again.Created.Equal(img.Created) {
		t.Errorf("got %v, %v", again, err)
	}
	if left, err := os.ReadDir(s.path("tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestACancelledBuildLeavesNothingBehind(t *testing.T) {
	s := store(t)
	// A file large enough that the compiler is at work for a while.
	var b strings.Builder
	b.WriteString("package shop\n")
	for i := range 60_000 {
		fmt.Fprintf(&b, "func F%d(a, b int) int { if a > b { return a*%d + b }; return b*%d ^ a }\n", i, i, i)
	}
	p := plan(t, smallNeeds, handlerIn(tree(t, shop(map[string]string{"shop/large.go": b.String()}))))
	before := snapshot(t, s.dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	_, err := s.Build(ctx, p, func(step Step) {
		if step.Name == StepCompile {
			go func() {
				err := awaitCompiler(s.dir)
				cancel()
				ended <- err
			}()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, s.dir); after != before {
		t.Errorf("the store changed from\n%sto\n%s", before, after)
	}
	deadline := time.Now().Add(time.Minute)
	for compilers(t, s.dir) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("a compiler still runs")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// awaitCompiler waits for a process of the build in dir.
func awaitCompiler(dir string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if n, err := countCompilers(dir); n > 0 || err != nil {
			return err
		}
	}
	return errors.New("no compiler was seen")
}

func compilers(t *testing.T, dir string) int {
	t.Helper()
	n, err := countCompilers(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// countCompilers counts processes other than go itself that name dir.
func countCompilers(dir string) (int, error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, name := range lines {
		line, err := os.ReadFile(name)
		if err == nil && bytes.Contains(line, []byte("/tool/")) && bytes.Contains(line, []byte(dir)) {
			n++
		}
	}
	return n, nil
}

func TestAModuleThatWasLeftOutIsNotThereToImport(t *testing.T) {
	sel := selection(t, smallNeeds)
	source := copySource(t)
	source["pep/filter/more.go"] = source["abi/abi.go"]
	more := *source["abi/abi.go"]
	more.Data = []byte("package filter\n\nimport _ \"lorica.dev/lorica/pep/firewall\"\n")
	source["pep/filter/more.go"] = &more
	tools, err := findToolchain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	app, err := readApplication(tools, handlerIn(tree(t, shop(nil))))
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(tools, sel, app, source)
	if err != nil {
		t.Fatal(err)
	}
	if img, err := store(t).Build(t.Context(), p, nil); err == nil || !strings.Contains(err.Error(), "lorica.dev/lorica/pep/firewall") {
		t.Errorf("got %v, %v", img, err)
	}
}

func TestAFileNameThatCannotBeEmbeddedIsShown(t *testing.T) {
	s := store(t)
	before := snapshot(t, s.dir)
	p := plan(t, siteNeeds, siteIn(tree(t, map[string]string{"public/index.html": "", "public/a'b.html": ""})))
	img, err := s.Build(t.Context(), p, nil)
	refused(t, img, err, "workload.yaml:7:5: ", "a'b.html")
	if after := snapshot(t, s.dir); after != before {
		t.Errorf("the store changed from\n%sto\n%s", before, after)
	}
}
