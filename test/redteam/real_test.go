package redteam

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica"
	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/solver"
	"lorica.dev/lorica/tender"
)

// hostile is a real image, built from documents as any other, whose application
// does what it is told; and the command whose tender launches it. Beside what its
// policy asks for it holds pep/egress, so that it is sealed with every call that
// any module lists.
var hostile struct {
	*built
	image  *builder.Image
	lorica string
}

// A built is what documents come to.
type built struct {
	deployment *policy.Deployment
	level      *compiler.Level
	plan       *builder.Plan
}

// planned plans the one workload of a folder. More names capabilities beside
// those that its policy asks for.
func planned(dir string, more ...string) (*built, error) {
	return plannedFor("", dir, more...)
}

// plannedFor is planned for a target that the documents do not say.
func plannedFor(target, dir string, more ...string) (*built, error) {
	c, err := catalog.Load(lorica.Source())
	if err != nil {
		return nil, err
	}
	bundle, err := policy.Load(dir)
	if err != nil {
		return nil, err
	}
	d := bundle.Deployments[0]
	if target != "" {
		d.Workload.Target = target
	}
	out, err := compiler.Compile(d)
	if err != nil {
		return nil, err
	}
	b := &built{deployment: d, level: &out.Levels[0]}
	needs := b.level.Requirements
	for _, capability := range more {
		needs = append(needs, catalog.Requirement{Any: catalog.Clause{capability}, Why: "the test asks for it"})
	}
	planner := new(builder.Planner)
	own, err := planner.Own(context.Background(), d.Workload.Modules)
	if err != nil {
		return nil, err
	}
	for _, o := range own {
		needs = append(needs, catalog.Requirement{Any: catalog.Clause{o.ID}, Why: "the workload names it"})
		if c, err = c.With(o.Module); err != nil {
			return nil, err
		}
	}
	sel, err := solver.Solve(context.Background(), c, solver.Request{Requirements: needs, Target: d.Workload.Target})
	if err != nil {
		return nil, err
	}
	b.plan, err = planner.Plan(context.Background(), sel, d.Workload, own...)
	return b, err
}

// prepareHostile builds the image through the store, and the command.
func prepareHostile(dir string) error {
	hostile.lorica = filepath.Join(dir, "lorica")
	cmd := exec.Command("go", "build", "-o", hostile.lorica, "../../cmd/lorica")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the command: %w\n%s", err, out)
	}
	var err error
	if hostile.built, err = planned("testdata/hostile", "egress"); err != nil {
		return err
	}
	hostile.image, err = hostile.build(dir)
	return err
}

// build makes the image of b, in the store of the tests.
func (b *built) build(dir string) (*builder.Image, error) {
	store, err := builder.OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		return nil, err
	}
	return store.Build(context.Background(), b.plan, nil)
}

// dialPort is where the rules of the hostile image let it connect to.
const dialPort = 9

// programOf signs the program of a revision, with rules for connections out.
func (b *built) programOf(revision uint64) ([]byte, error) {
	p := b.level.Program(b.deployment, b.plan.ID, revision)
	s := egress.Section{Lists: []egress.List{{Rule: abi.Rule{ID: abi.RuleEgress}, Rules: []egress.Rule{{Rule: abi.Rule{ID: "out"}, Verdict: abi.Allow,
		CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Ports: []egress.Ports{{Lo: dialPort, Hi: dialPort}}}}}}}
	p.Sections = append(p.Sections[:len(p.Sections):len(p.Sections)], program.Section{Name: egress.Name, Data: s.Encode()})
	return program.Sign(p, key)
}

// A life is one launch of the hostile image under the tender of the command.
type life struct {
	*tender.Client
	cfg  tender.Config
	port int
	dir  string
}

// live launches the hostile image. It is ended by end.
func live(change ...func(*tender.Config)) (*life, error) {
	signed, err := hostile.programOf(1)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(hostile.lorica), "life")
	if err != nil {
		return nil, err
	}
	w := hostile.deployment.Workload
	cfg := tender.Config{Instance: "hostile", Tenant: w.Metadata.Tenant, Workload: w.Metadata.Name, Dir: dir, Image: hostile.image.Path,
		ImageDigest: hostile.image.Digest, Plan: hex.EncodeToString(hostile.plan.ID[:]), Target: w.Target, Syscalls: hostile.image.Syscalls,
		Trust: attacker.trust, Program: signed, Memory: w.Memory, Minimum: attacker.tier, MaxProcs: 2, Patience: 5 * time.Second,
		Listen: []tender.Listener{{Name: w.Listen[0].Name, Address: "127.0.0.1", Port: w.Listen[0].Port}}}
	for _, f := range change {
		f(&cfg)
	}
	// The rules name the port of the document; the socket is on any free one, of
	// every address, so that strangers reach it too.
	ln, err := net.Listen("tcp4", ":0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l := &life{cfg: cfg, dir: dir, port: ln.Addr().(*net.TCPAddr).Port}
	if l.Client, err = tender.Start(ctx, []string{hostile.lorica, "tender"}, cfg, []*os.File{f}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, nil
}

// end stops the tender, which must be able to.
func (l *life) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l.Stop(ctx)
	if err := l.Wait(ctx); err != nil {
		return fmt.Errorf("the tender does not end: %w", err)
	}
	return os.RemoveAll(l.dir)
}

// A systemCall and an order are what the application of the image takes; see
// testdata/hostile/app.
type (
	systemCall struct {
		Entry string `json:",omitempty"`
		Nr    uint64
		Args  []string
	}
	order struct {
		Attack string       `json:",omitempty"`
		Calls  []systemCall `json:",omitempty"`
	}
	result struct {
		R     uint64
		Errno unix.Errno
		Text  string
	}
)

// errDied says that the image ended before it answered.
var errDied = errors.New("the image died")

// tell has the application carry out an order and returns what came of it.
func (l *life) tell(o order) ([]result, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Post(fmt.Sprintf("http://127.0.0.1:%d/attack", l.port), "application/json", bytes.NewReader(body))
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDied, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDied, err)
	}
	var list []result
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("the application answers %d %q", res.StatusCode, b)
	}
	return list, nil
}

// death waits until the tender knows how the image ended.
func (l *life) death() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		s, err := l.Status(ctx)
		if err != nil {
			return "", fmt.Errorf("waiting for the end of the image: %w", err)
		}
		if s.Restarts > 0 {
			return s.LastError, nil
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// once launches the image for one order: it returns the answers, or how the
// image ended.
func once(o order, change ...func(*tender.Config)) (answers []result, death string, err error) {
	l, err := live(change...)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	if answers, err = l.tell(o); errors.Is(err, errDied) {
		death, err = l.death()
	}
	return answers, death, err
}
