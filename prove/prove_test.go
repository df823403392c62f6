package prove

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/solver"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/way"
	"lorica.dev/lorica/verify"
)

// The test binary is also the tender and its stage, as cmd/lorica is.
func TestMain(m *testing.M) {
	body := map[string]func() error{"tender": tender.Main, process.StageCommand: tender.Stage, way.HelperCommand: tender.WayHelper}
	if len(os.Args) == 2 && body[os.Args[1]] != nil {
		if err := body[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// planned plans testdata/site, with a requirement more where one is named.
func planned(t *testing.T, capability string) (*run.Machine, *policy.Deployment, *run.Level) {
	t.Helper()
	dir := t.TempDir()
	m, err := run.Open(run.Paths{Data: filepath.Join(dir, "data"), Runtime: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Load("testdata/site")
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	p, err := m.Plan(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	l := p.Levels[0]
	if capability == "" {
		return m, d, l
	}
	l.Request.Requirements = append(l.Request.Requirements, catalog.Requirement{Any: catalog.Clause{capability}, Why: "the test asks for it"})
	if l.Selection, err = solver.Solve(t.Context(), m.Catalog(), l.Request); err == nil {
		l.Build, err = new(builder.Planner).Plan(t.Context(), l.Selection, d.Workload)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m, d, l
}

// A module that is asked for and that nothing breaks without is found, and so is what was
// smuggled into the image; each other module is needed, for what really happens.
func TestWhatIsNotNeededIsFound(t *testing.T) {
	const needless = "netstack/direct" // which an image with sockets does not call
	m, d, l := planned(t, needless)
	l.Build.Main = strings.Replace(l.Build.Main, "import (", "import (\n\t_ \"text/template\"", 1)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var said []string
	r, err := Run(t.Context(), m, d, l, Options{Progress: func(s string) { said = append(said, s) }})
	if err != nil {
		t.Fatal(err)
	}
	if r.Untried != "" || r.Verdict() != Refuted {
		t.Errorf("the image is as it should be, or was not tried: %q", r.Untried)
	}
	if text := strings.Join(r.Outside, "\n"); !strings.HasPrefix(text, "package text/template (") || !strings.Contains(text, "\npackage text/template/parse (") || r.Packages < 100 {
		t.Errorf("of %d packages these are outside:\n%s", r.Packages, text)
	}
	want := map[string]Module{
		"unikernel":       {Build: "main.go imports lorica.dev/lorica/unikernel"},
		"unikernel/linux": {Start: "the image has no platform to run on"},
		"netstack/socket": {Start: "the image has no network"},
		"pep/firewall": {Start: `the first program: section "firewall" has no module in this image`,
			Case: &Case{Rule: "default:network", Expected: "Deny by default:network", Got: "let in, and answered "}},
		"pep/filter":        {Start: `the first program: section "filter" has no module in this image`, Bare: "the first program: no module bounds the server"},
		"pep/audit":         {Start: "the image has nothing that records decisions", Bare: "the image has nothing that records decisions"},
		"pep/audit/channel": {Start: `the first program: section "audit-channel" has no module in this image`, Bare: "the first program: the image keeps no records"},
		"app/static":        {Start: "the application: there is none"},
		needless:            {},
	}
	if len(r.Modules) != len(want) || len(said) < len(want) {
		t.Errorf("%d modules, and said was %q", len(r.Modules), said)
	}
	for _, m := range r.Modules {
		w, ok := want[m.ID]
		if !ok {
			t.Errorf("%+v", m)
			continue
		}
		state := Needed
		if m.ID == needless {
			state = Needless
		}
		if m.State != state || m.Build != w.Build || m.Start != w.Start || !strings.HasPrefix(m.Bare, w.Bare) || m.Unshown != "" || (m.Case != nil) != (w.Case != nil) || !strings.HasPrefix(m.Order, map[bool]string{true: "chosen: without it ", false: "necessary: "}[m.ID == "app/static"]) {
			t.Errorf("got  %+v\nwant %+v", m, w)
		}
		if c := m.Case; c != nil && (c.Rule != w.Case.Rule || c.Line == "" || c.Witness == "" || c.Expected != w.Case.Expected || !strings.HasPrefix(c.Got, w.Case.Got)) {
			t.Errorf("%s: %+v", m.ID, c)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if images, err := m.Store().Images(); err != nil || len(images) > 0 {
		t.Errorf("in the store: %v, %v", images, err)
	}
}

// What cannot be told from an image that lacks a module is no proof.
func TestWhatWasNotTriedIsNotShown(t *testing.T) {
	for _, c := range []struct {
		m    Module
		want State
	}{
		{Module{}, Needless},
		{Module{Unshown: "the port is taken"}, NotShown},
		{Module{Start: "refused", Unshown: "a limit"}, Needed},
		{Module{Case: &Case{}}, Needed},
	} {
		m := c.m
		m.State = NotShown
		if m.conclude(); m.State != c.want {
			t.Errorf("%+v: want %s", m, c.want)
		}
	}
}

// A report is no proof where one module is not shown to be needed, however the others are.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		states  []State
		outside []string
		want    Verdict
	}{
		{[]State{Needed, Needed}, nil, Proven},
		{[]State{Needed, NotShown}, nil, Unproven},
		{[]State{NotShown, Needless}, nil, Refuted},
		{[]State{NotShown, Needed}, []string{"package os/exec"}, Refuted},
		{[]State{Needed}, []string{"package os/exec"}, Refuted},
	} {
		r := &Report{Outside: c.outside}
		for _, s := range c.states {
			r.Modules = append(r.Modules, Module{State: s})
		}
		if got := r.Verdict(); got != c.want {
			t.Errorf("%v, outside %v: %s, want %s", c.states, c.outside, got, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	shown := verify.Result{Rule: "a", State: verify.Shown, Witness: "GET /", Expected: "Allow by a"}
	unshown := verify.Result{Rule: "a", State: verify.NotShown, Why: "nobody answers"}
	trial := func(expected, got string, ok bool) verify.Result {
		return verify.Result{Rule: "b", Sent: []verify.Trial{{Witness: "GET /b", Expected: expected, Got: got, OK: ok}}}
	}
	for _, c := range []struct {
		name     string
		whole, r []verify.Result
		want     *Case
	}{
		{"the same", []verify.Result{shown, trial("Deny by b", "Deny by b", true)}, []verify.Result{shown, trial("Deny by b", "Deny by b", true)}, nil},
		{"neither is shown", []verify.Result{unshown}, []verify.Result{unshown}, nil},
		{"nothing is shown any more", []verify.Result{shown}, []verify.Result{unshown}, &Case{Rule: "a", Witness: "GET /", Expected: "Allow by a", Got: "nobody answers"}},
		{"another rule", []verify.Result{shown}, []verify.Result{trial("Deny by b", "Deny by c", false)}, &Case{Rule: "b", Witness: "GET /b", Expected: "Deny by b", Got: "Deny by c"}},
		{"let in counts more than another rule", []verify.Result{shown, shown}, []verify.Result{trial("Deny by b", "Deny by c", false), trial("Deny by b", "Allow by d", false)},
			&Case{Rule: "b", Witness: "GET /b", Expected: "Deny by b", Got: "Allow by d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := compare(&verify.Report{Results: c.whole}, &verify.Report{Results: c.r})
			if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestSaid(t *testing.T) {
	for text, want := range map[string]string{
		"tender: the image ended: exit status 1; it said: lorica image: there is none": "there is none",
		"tender: the image ended: exit status 2; it said: panic: x\ngoroutine 1":       "panic: x",
		"tender: the image ended: killed by SIGSYS":                                    "the image ended: killed by SIGSYS",
	} {
		if got := said(&tender.ImageError{Text: text}); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// That something else keeps an image from being tried tells nothing of the image.
func TestATakenPortIsNoWordOfTheImage(t *testing.T) {
	m, d, l := planned(t, "")
	taken, err := net.Listen("tcp4", fmt.Sprint("0.0.0.0:", d.Workload.Listen[0].Port))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	if err := os.WriteFile(path, self, 0o500); err != nil {
		t.Fatal(err)
	}
	img := &builder.Image{Path: path, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(self)), Plan: l.Build.ID.String()}
	p := &prover{machine: m, deployment: d, level: l, dir: dir}
	s := p.open(t.Context(), img)
	if !strings.Contains(s.closed, "in use") {
		t.Errorf("images can be tried: %q", s.closed)
	}
	x := Module{State: NotShown}
	if err := s.try(t.Context(), &x, &catalog.Module{}, img, dir); err != nil || x.State != NotShown || x.Unshown != s.closed {
		t.Errorf("%+v, %v", x, err)
	}
	s.closed = "" // it was not before
	if err := s.try(t.Context(), &x, &catalog.Module{}, img, dir); err == nil || x.State != NotShown || x.Start != "" {
		t.Errorf("%+v, %v", x, err)
	}
}
