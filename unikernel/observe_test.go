package unikernel

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/obligations"
)

// watcher is a guard that watches and admits as well.
type watcher struct {
	mu    sync.Mutex
	seen  []pep.Decision
	gate  pep.Decision
	alert func(pep.Decision) (pep.Decision, bool)
}

func (w *watcher) Prepare(*pep.Input) (pep.GuardState, error) { return w, nil }
func (w *watcher) Judge(*pep.Exchange) pep.Decision           { return pep.Decision{Verdict: abi.Allow} }
func (w *watcher) Admit(flow.Flow) pep.Decision {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gate
}
func (w *watcher) shut(d pep.Decision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gate = d
}
func (w *watcher) Observe(_ *pep.Exchange, d pep.Decision) (pep.Decision, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, d)
	if w.alert == nil {
		return pep.Decision{}, false
	}
	return w.alert(d)
}

func (w *watcher) rules() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.seen {
		list = append(list, d.Verdict.String()+" "+d.Rule.ID)
	}
	return list
}

func TestObserversAreToldOfEveryDecision(t *testing.T) {
	w := &watcher{gate: pep.Decision{Verdict: abi.Allow}, alert: func(d pep.Decision) (pep.Decision, bool) {
		return pep.Decision{Stage: "watch", Rule: abi.Rule{ID: "seen"}, Reason: d.Rule.ID}, d.Rule.ID == abi.RuleRoute
	}}
	r := newRig(t, testLimits(), text("ok"), w).run()
	r.ask(getApp)
	r.ask(strings.Replace(getApp, "/app/x", "/nowhere", 1))
	r.ask("nonsense\r\n\r\n")
	k := r.kept(t, 4)
	if a := k[2]; a.Stage != "watch" || a.Rule.ID != "seen" || a.Reason != abi.RuleRoute || a.Verdict != abi.Deny || a.ID == k[1].ID ||
		a.Source != "127.0.0.1" || a.Path != "" || a.Status != 0 {
		t.Errorf("the alert is %+v", a)
	}
	// A guard that is a gate is asked after the gates, whose rule an allow keeps.
	w.shut(pep.Decision{Rule: abi.Rule{ID: "shut"}, Stage: "watch"})
	if !cutOff(r.dial()) {
		t.Error("a connection that the guard refuses stays open")
	}
	if k := r.kept(t, 5)[4]; k.Rule.ID != "shut" || k.Verdict != abi.Deny {
		t.Errorf("recorded %+v", k)
	}
	if got := strings.Join(w.rules(), ", "); got != "Allow any, Deny default:route, Deny default:request, Deny shut" {
		t.Errorf("told of %s", got)
	}
	g := r.life.server.current()
	w.shut(pep.Decision{Verdict: abi.Allow})
	if d := g.admit(flow.Flow{Src: netip.MustParseAddr("127.0.0.1"), DstPort: 1, Protocol: flow.TCP}); d.Verdict != abi.Allow || d.Rule.ID != "local" {
		t.Errorf("admitted by %+v", d)
	}
}

// An observer that fails has missed a decision: nothing goes on behind it.
func TestAnObserverThatFailsLetsNothingPass(t *testing.T) {
	w := &watcher{gate: pep.Decision{Verdict: abi.Allow}, alert: func(pep.Decision) (pep.Decision, bool) { panic("blind") }}
	r := newRig(t, testLimits(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the application was called") }), w).run()
	c := r.dial()
	io.WriteString(c, getApp)
	if !cutOff(c) {
		t.Error("got an answer")
	}
	eventually(t, "it is logged", func() bool { return r.logged("observer: panic: blind") })
}

// obliged is a rig with the real module and one obligation.
func obliged(t *testing.T, o obligation.Obligation, app http.Handler) *rig {
	t.Helper()
	r := newRig(t, testLimits(), app)
	img := r.life.img
	img.Guards = append([]Guard{{Section: obligation.Name, Module: obligations.New()}}, img.Guards...)
	r.life.used[0].Store(false)
	if err := r.life.first(control.Prepare{Length: r.put(0, obligedProgram(1, o))}, 1); err != nil {
		t.Fatal(err)
	}
	return r.run()
}

func obligedProgram(revision uint64, list ...obligation.Obligation) *program.Program {
	return testProgram(revision, testLimits(), program.Section{Name: obligation.Name, Data: (&obligation.Section{Obligations: list}).Encode()})
}

var scanning = obligation.Obligation{Rule: abi.Rule{ID: "scanning", Line: "p.yaml:9"}, On: obligation.Request, Count: 3,
	Window: time.Minute, Alert: true, Block: time.Hour}

// A source that is denied too often is reported once, refused on the connections
// that it has and closed unread on new ones, over a change of program, until its
// obligation is gone.
func TestABlockedSourceIsRefusedEverywhere(t *testing.T) {
	r := obliged(t, scanning, text("ok"))
	open, idle := r.dial(), r.dial()
	for _, c := range []net.Conn{open, idle} {
		io.WriteString(c, getApp)
		if _, body, err := answer(c); body != "ok" {
			t.Fatal(body, err)
		}
	}
	for range 3 {
		r.ask(strings.Replace(getApp, "/app/x", "/nowhere", 1))
	}
	if k := r.kept(t, 6)[5]; k.Stage != abi.StageObligations || k.Rule != scanning.Rule || k.Source != "127.0.0.1" ||
		k.Reason != "3 denials (request) within 1m0s from this source: blocked for 1h0m0s" {
		t.Errorf("the alert is %+v", k)
	}
	io.WriteString(open, getApp)
	if resp, body, err := answer(open); err != nil || resp.StatusCode != 403 || !resp.Close || strings.Contains(body, "ok") {
		t.Errorf("on an open connection: %+v, %q, %v", resp, body, err)
	}
	fresh := r.dial()
	io.WriteString(fresh, getApp)
	if !cutOff(fresh) {
		t.Error("a new connection is read")
	}
	for i, k := range r.kept(t, 8)[6:] {
		if k.Verdict != abi.Deny || k.Rule != scanning.Rule || k.Stage != abi.StageObligations || k.Path != "" {
			t.Errorf("refusal %d is recorded as %+v", i, k)
		}
	}

	moved := scanning
	moved.Rule.Line = "p.yaml:10"
	r.swap(1, 1, obligedProgram(2, moved))
	if !cutOff(idle) || !cutOff(r.dial()) {
		t.Error("a change of program lifts the block")
	}
	if m, ok := r.next().(control.Released); !ok {
		t.Fatalf("got %+v", m)
	}
	r.swap(2, 2, obligedProgram(3))
	if _, body := r.ask(getApp); body != "ok" {
		t.Errorf("without the obligation: %q", body)
	}
}

// Who waits in vain while others hold every place for a large head has done
// nothing that counts against it.
func TestTheWaitForAPlaceCountsAgainstNobody(t *testing.T) {
	o := scanning
	o.Count = 1
	r := newRig(t, testLimits(), text("ok"))
	r.life.server.memory = 1 << 20
	img := r.life.img
	img.Guards = append([]Guard{{Section: obligation.Name, Module: obligations.New()}}, img.Guards...)
	p := obligedProgram(1, o)
	l := testLimits()
	l.HeaderTimeout = 300 * time.Millisecond
	for i, s := range testProgram(1, l).Sections {
		p.Sections[i] = s
	}
	r.life.used[0].Store(false)
	if err := r.life.first(control.Prepare{Length: r.put(0, p)}, 1); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.ask(getApp)
	front := r.life.server.front
	for range cap(front.heads) {
		front.heads <- struct{}{}
	}
	c := r.dial()
	io.WriteString(c, large())
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if resp, _, err := answer(c); err != nil || resp.StatusCode != 503 {
		t.Errorf("got %+v, %v", resp, err)
	}
	r.kept(t, 2)
	if _, body := r.ask(getApp); body != "ok" {
		t.Errorf("it is blocked: %q", body)
	}
}
