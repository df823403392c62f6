package run

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// No revision is given out twice, whoever asks at the same moment, and none is
// given out again after a crash between two of them.
func TestRevisionsOnlyRise(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var got []uint64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				l, err := openLedger(context.Background(), dir, "acme.shop")
				if err != nil {
					t.Error(err)
					return
				}
				r, err := l.next()
				l.close()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got = append(got, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(got)
	for i, r := range got {
		if r != uint64(i+1) {
			t.Fatalf("revisions %v", got)
		}
	}
}

// A high-water mark that cannot be read is no high-water mark: nothing is signed.
func TestADamagedLedgerIsAnError(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "cut": `{"revi`, "text": "7", "negative": `{"revision": -1}`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := openLedger(context.Background(), dir, "acme.shop")
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if err := os.WriteFile(l.path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if r, err := l.next(); err == nil || !strings.Contains(err.Error(), l.path) {
				t.Errorf("revision %d, %v", r, err)
			}
		})
	}
}

func TestOneProcessChangesADeployment(t *testing.T) {
	dir := t.TempDir()
	l, err := openLedger(context.Background(), dir, "acme.shop")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := openLedger(ctx, dir, "acme.shop"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v", err)
	}
	other, err := openLedger(context.Background(), dir, "acme.other")
	if err != nil {
		t.Fatalf("another deployment: %v", err)
	}
	other.close()
}

// A change is reported once it has settled, wherever it was: a file, a new one,
// one that is gone, a folder that is watched only since a moment ago.
func TestWatch(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "sub", "a")
	put := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(file, "1")
	var mu sync.Mutex
	paths := []string{dir}
	list := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return paths
	}
	ctx, cancel := context.WithCancel(context.Background())
	changes := watch(ctx, stampOf(paths), list)
	expect := func(what string, change bool) {
		t.Helper()
		wait := 10 * time.Second
		if !change {
			wait = 4 * watchInterval
		}
		select {
		case <-changes:
			if !change {
				t.Errorf("%s: a change was reported", what)
			}
		case <-time.After(wait):
			if change {
				t.Errorf("%s: no change was reported", what)
			}
		}
	}
	expect("nothing happened", false)
	put(file, "22")
	expect("another size", true)
	expect("nothing more happened", false)
	put(filepath.Join(dir, "b"), "")
	expect("a new file", true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expect("a file is gone", true)
	put(filepath.Join(other, "c"), "1")
	expect("a folder that is not watched", false)
	mu.Lock()
	paths = []string{dir, other}
	mu.Unlock()
	expect("more is watched", true)
	mu.Lock()
	paths = []string{dir, other, filepath.Join(other, "c")}
	mu.Unlock()
	expect("a file that was watched already", false)
	cancel()
	for range changes {
		t.Error("a change after the end")
	}
}

// While one file is being written, the end of another does not ring.
func TestTheBellWaitsForEveryWriter(t *testing.T) {
	dir := t.TempDir()
	b := newBell()
	if b == nil {
		notrun.Say(t, "changes that are told by the kernel", "inotify is not to be had here")
		return
	}
	defer b.close()
	b.hang([]string{dir})
	slow, err := os.Create(filepath.Join(dir, "slow.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.WriteString("half of a policy"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "quick.yaml"), []byte("whole"), 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.heard():
		t.Error("it rings while a file is half written")
	case <-time.After(100 * time.Millisecond):
	}
	slow.Close()
	select {
	case <-b.heard():
	case <-time.After(time.Minute):
		t.Error("it does not ring when the last writer has finished")
	}
}

// What up is told to write beside the documents is no change of them.
func TestOnlyDocumentsAreWatched(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"policy.yaml", "more.yml", "up.log", "note.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{filepath.Join(dir, "more.yml"), filepath.Join(dir, "policy.yaml")}
	if got := documents(dir); !slices.Equal(got, want) {
		t.Errorf("watched: %v", got)
	}
	for _, one := range []string{want[0], filepath.Join(dir, "gone")} {
		if got := documents(one); !slices.Equal(got, []string{one}) {
			t.Errorf("watched: %v", got)
		}
	}
}

// An instance that ends, or that reached less than is asked for now, is not what
// the documents ask for, whatever it enforces.
func TestWhatLeavesIsReplaced(t *testing.T) {
	d := &policy.Deployment{Workload: &api.Workload{Minimum: api.TierFull}, Policy: &api.SecurityPolicy{}}
	l := &Level{Level: &compiler.Level{}, Build: &builder.Plan{}}
	for _, x := range []struct {
		state tender.State
		tier  string
		want  Change
	}{{tender.Ready, "full", ChangeNone}, {tender.Draining, "full", ChangeLaunch}, {tender.Stopped, "full", ChangeLaunch}, {tender.Ready, "no-userns", ChangeLaunch}} {
		for _, target := range api.Targets() {
			p := &Plan{Deployment: d, Running: &tender.Status{Plan: planText(l.Build.ID), Content: l.content(d), Batch: tender.BatchContent(nil), State: x.state, Tier: x.tier, Target: target}}
			if got := p.Change(l); got != x.want {
				t.Errorf("%s, %s, %s: %s", target, x.state, x.tier, got)
			}
		}
	}
}

// A microVM's image is the same whether clients' packets are routed to it or not; only
// a new tender can route them. That a process has sockets is nothing to ask for.
func TestAnotherNetworkIsAnotherLaunch(t *testing.T) {
	for _, x := range []struct {
		written, runs string
		want          Change
	}{
		{"", "", ChangeNone}, {api.NetSocket, "", ChangeNone}, {api.NetDirect, api.NetDirect, ChangeNone},
		{api.NetDirect, "", ChangeLaunch}, {"", api.NetDirect, ChangeLaunch}, {api.NetSocket, api.NetDirect, ChangeLaunch},
	} {
		d := &policy.Deployment{Workload: &api.Workload{Network: x.written}, Policy: &api.SecurityPolicy{}}
		l := &Level{Level: &compiler.Level{}, Build: &builder.Plan{}}
		p := &Plan{Deployment: d, Running: &tender.Status{Plan: planText(l.Build.ID), Content: l.content(d), Batch: tender.BatchContent(nil), State: tender.Ready, Tier: "full", Net: x.runs}}
		if got := p.Change(l); got != x.want {
			t.Errorf("%q is written and %q runs: %s", x.written, x.runs, got)
		}
	}
}

// An image that is on an interface is launched again where it is to have another, or other
// addresses there.
func TestAnotherInterfaceIsAnotherLaunch(t *testing.T) {
	tap := func(name string, dhcp bool) *api.Interface {
		return &api.Interface{Name: name, DHCP: dhcp, SLAAC: true}
	}
	for _, x := range []struct {
		written, runs *api.Interface
		want          Change
		contend       bool
	}{
		{nil, nil, ChangeNone, false}, {tap("tap7", true), tap("tap7", true), ChangeNone, true}, {tap("tap7", true), nil, ChangeLaunch, false}, {nil, tap("tap7", true), ChangeLaunch, false},
		{tap("tap7", true), tap("tap8", true), ChangeLaunch, false}, {tap("tap7", true), tap("tap7", false), ChangeLaunch, true},
	} {
		d := &policy.Deployment{Workload: &api.Workload{Network: api.NetDirect, Interface: x.written}, Policy: &api.SecurityPolicy{}}
		l := &Level{Level: &compiler.Level{}, Build: &builder.Plan{}}
		s := &tender.Status{Plan: planText(l.Build.ID), Content: l.content(d), Batch: tender.BatchContent(nil), State: tender.Ready, Tier: "full", Net: api.NetDirect, Interface: x.runs}
		if got := (&Plan{Deployment: d, Running: s}).Change(l); got != x.want {
			t.Errorf("%v is written and %v runs: %s", x.written, x.runs, got)
		}
		if got := contend(s, d.Workload); got != x.contend {
			t.Errorf("%v is written and %v runs: the one ends before the other is there: %t", x.written, x.runs, got)
		}
	}
}

func TestPathsFollowXDG(t *testing.T) {
	t.Setenv("HOME", "/home/ada")
	t.Setenv("XDG_DATA_HOME", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	for config, want := range map[string]string{"": "/home/ada/.config/lorica/config.yaml", "relative": "/home/ada/.config/lorica/config.yaml", "/config": "/config/lorica/config.yaml"} {
		t.Setenv("XDG_CONFIG_HOME", config)
		if p, err := DefaultPaths(); err != nil || p.Config != want {
			t.Errorf("%q: %+v, %v", config, p, err)
		}
	}
	for _, x := range []struct{ data, runtime, wantData, wantRuntime string }{
		{"", "", "/home/ada/.local/share/lorica", "/home/ada/.local/share/lorica/run"},
		{"/data", "", "/data/lorica", "/data/lorica/run"},
		{"", "/run/user/7", "/home/ada/.local/share/lorica", "/run/user/7/lorica"},
		{"relative", "relative", "/home/ada/.local/share/lorica", "/home/ada/.local/share/lorica/run"},
	} {
		t.Setenv("XDG_DATA_HOME", x.data)
		t.Setenv("XDG_RUNTIME_DIR", x.runtime)
		p, err := DefaultPaths()
		if err != nil || p.Data != x.wantData || p.Runtime != x.wantRuntime {
			t.Errorf("%q, %q: %+v, %v", x.data, x.runtime, p, err)
		}
	}
}

// A tender that runs and cannot be asked keeps its deployment to itself, and takes nothing from
// others: not from one of a longer name either. When it has ended it is nobody's.
func TestATenderThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	m := &Machine{paths: Paths{Runtime: t.TempDir()}}
	dir := filepath.Join(m.paths.Runtime, "acme.shop.01")
	free := occupied(t, dir, deaf)
	ctx := context.Background()
	for _, name := range []string{"acme/shopping", "shopping", "other/shop", "shop-02"} {
		if _, err := m.Find(ctx, name); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var asked sync.WaitGroup
	for what, ask := range map[string]func() error{
		"sweep":     func() error { return m.sweep(ctx, "acme/shop", nil) },
		"newest":    func() error { _, err := m.newest(ctx, "acme/shop"); return err },
		"find":      func() error { _, err := m.Find(ctx, "shop-01"); return err },
		"recorded":  func() error { return m.Recorded(ctx, "shop", nil) },
		"instances": func() error { _, err := m.Instances(ctx); return err },
	} {
		asked.Go(func() {
			if err := ask(); !errors.Is(err, tender.ErrNotReady) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	asked.Wait()
	if err := m.sweep(ctx, "acme/shopping", nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("its folder is gone: %v", err)
	}
	free()
	if err := m.sweep(ctx, "acme/shop", nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder of one that has ended is left")
	}
}
