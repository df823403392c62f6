package unikernel

import (
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// A shelf is a sink with room for so many records, which it demands.
type shelf struct {
	mu      sync.Mutex
	room    int
	demands bool
	records []audit.Record
	started bool
	drained chan struct{}
}

func (s *shelf) Prepare(*pep.Input) (pep.SinkState, error) { return s, nil }
func (s *shelf) Start(pep.Keeper)                          { s.started = true }
func (s *shelf) Demands() bool                             { return s.demands }
func (s *shelf) Enforce()                                  {}

func (s *shelf) Drain(context.Context) error {
	close(s.drained)
	return io.ErrNoProgress
}

func (s *shelf) Keep(r audit.Record, _ bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.records) == s.room {
		return pep.ErrNoRoom
	}
	s.records = append(s.records, r)
	return nil
}

func (s *shelf) Report() control.Sink { return control.Sink{Name: "shelf", Lost: 7} }

// withShelf is an image with the channel and a shelf.
func withShelf(t *testing.T, s *shelf, app string) *rig {
	img := rigImage(TLS{}, nil)
	img.Audit.Sinks = append(img.Audit.Sinks, Sink{Module: s})
	return bootImage(t, img, nil, testProgram(1, testLimits()), text(app)).run()
}

// Where a sink demands a record and has no room for it, the request is denied before the
// application sees it; the other sinks have the denial and nothing of what was not done.
// Room again is service again. At the end the sink is drained, and what it says is in the log.
func TestWithoutRoomForItsRecordNothingPasses(t *testing.T) {
	s := &shelf{room: 1, demands: true, drained: make(chan struct{})}
	r := withShelf(t, s, "ok")
	if !s.started {
		t.Error("the sink was not started")
	}
	ask := func() (int, string, string) {
		c := r.dial()
		defer c.Close()
		io.WriteString(c, getApp)
		resp, body, err := answer(c)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body, resp.Header.Get(pep.HeaderDecision)
	}
	if status, body, _ := ask(); status != 200 || body != "ok" {
		t.Fatalf("with room: %d %q", status, body)
	}
	status, body, id := ask()
	if status != 503 || body == "ok" {
		t.Errorf("without room: %d %q", status, body)
	}
	eventually(t, "the other sink has it", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.ContainsFunc(r.records, func(x audit.Record) bool { return x.ID == id })
	})
	r.mu.Lock()
	for _, x := range r.records {
		if x.ID == id && (x.Verdict != abi.Deny || x.Rule.ID != abi.RuleAudit || x.Stage != abi.StageAudit || x.Status != 503) {
			t.Errorf("%+v", x)
		}
	}
	if n := len(r.records); n != 2 {
		t.Errorf("%d records", n)
	}
	r.mu.Unlock()
	s.mu.Lock()
	s.room = 10
	s.mu.Unlock()
	if status, _, _ := ask(); status != 200 {
		t.Errorf("with room again: %d", status)
	}
	if st := r.life.stats(); len(st.Sinks) != 1 || st.Sinks[0].Lost != 7 {
		t.Errorf("%+v", st.Sinks)
	}
	r.send(control.Drain{}.Frame())
	<-s.drained
	for f := r.next(); f != control.KindDrained; f = r.next() {
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.logs, io.ErrNoProgress.Error()) {
		t.Errorf("the log says %q", r.logs)
	}
}

// A connection whose record must have a place, and has none, is not let in; one that needs
// no record is.
func TestConnectionsWithoutRoom(t *testing.T) {
	s := &shelf{demands: true, drained: make(chan struct{})}
	r := withShelf(t, s, "ok")
	g := r.life.server.pin()
	defer g.unpin()
	c := &conn{server: r.life.server}
	for record, want := range map[bool]abi.Verdict{true: abi.Deny, false: abi.Allow} {
		d, err := r.life.server.note(g, c, pep.Decision{Verdict: abi.Allow, Record: record})
		if err != nil || d.Verdict != want {
			t.Errorf("record %v: %+v, %v", record, d, err)
		}
	}
	if err := r.life.server.alert(g, &pep.Exchange{}, pep.Decision{Stage: "x"}); err != nil {
		t.Errorf("an alert without room ends the image: %v", err)
	}
}

// An opinion is a gate that has one of everybody.
type opinion abi.Verdict

func (o opinion) Admit(flow.Flow) pep.Decision {
	return pep.Decision{Verdict: abi.Verdict(o), Stage: "firewall", Rule: abi.Rule{ID: "web"}}
}

// A connection that a new program lets stay, and that needs a record of it, does not stay
// by asking twice.
func TestConnectionsThatStayHaveTheirRecord(t *testing.T) {
	s := &shelf{demands: true, drained: make(chan struct{})}
	r := withShelf(t, s, "ok")
	live := r.life.server.pin()
	defer live.unpin()
	g := &generation{serial: live.serial + 1, audit: live.audit, sinks: []pep.SinkState{s}, gates: []gate{{"firewall", opinion(abi.Allow), opinion(abi.Deny)}}}
	c := &conn{server: r.life.server}
	for i, want := range []bool{false, false, true, true} {
		if i == 2 {
			s.mu.Lock()
			s.room = 5
			s.mu.Unlock()
		}
		if got, err := r.life.server.remains(g, c, time.Now()); got != want || err != nil {
			t.Errorf("try %d: %v, %v", i, got, err)
		}
	}
	if len(s.records) != 1 || s.records[0].DryRun == nil {
		t.Errorf("%+v", s.records)
	}
}

func TestAnImageWithoutASink(t *testing.T) {
	img := rigImage(TLS{}, nil)
	img.Audit.Sinks = nil
	o := opener{img: &img}
	p := testProgram(1, testLimits())
	p.Sections = p.Sections[:3]
	if err := o.prepare(&generation{}, p, nil); err == nil {
		t.Error("it is accepted")
	}
}
