package syslog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/delivery"
	"lorica.dev/lorica/pep/delivery/collectortest"
)

func target() *delivery.Target {
	return &delivery.Target{Collector: audit.Collector{Tenant: "acme", Workload: "shop", Enterprise: 32473}, Life: "0f"}
}

func TestAMessageAsTheRFCHasIt(t *testing.T) {
	e := &delivery.Entry{Number: 3, Record: collectortest.Record("0123")}
	p, err := parse(string(message(e, target(), 2)))
	if err != nil {
		t.Fatal(err)
	}
	if p.facility != 13 || p.severity != 4 || p.host != "shop" || p.app != "lorica" || p.proc != "0f" || p.id != "decision" || !p.bom {
		t.Errorf("%+v", p)
	}
	if want := time.Date(2026, 11, 26, 15, 4, 5, 678901000, time.UTC); !p.at.Equal(want) {
		t.Errorf("time %v, want %v", p.at, want)
	}
	const own = "lorica@32473"
	for _, c := range []struct {
		element, name string
		want          []string
	}{
		{"meta", "sequenceId", []string{"3"}}, {own, "tenant", []string{"acme"}}, {own, "workload", []string{"shop"}}, {own, "seq", []string{"3"}}, {own, "lost", []string{"2"}},
		{own, "id", []string{"0123"}}, {own, "decision", []string{"Deny"}}, {own, "rule", []string{`a "rule" \ ]`}}, {own, "line", []string{"policy.yaml:41"}},
		{own, "reason", []string{`forbidden\nby \x1b[31m\u202etext\xff`}}, {own, "status", []string{"403"}}, {own, "protocol", []string{"TCP"}}, {own, "port", []string{"8443"}},
		{own, "path", []string{"/accounts/\u00e9"}}, {own, "revision", []string{"7"}}, {own, "group", []string{"staff", "tellers"}}, {own, "fact", []string{`amount=5"00]`, `tags=["a`}},
		{own, "absent", []string{"note"}}, {own, "partial", []string{"attribute.tags", "attribute.bad", "path"}}, {own, "dryRun.decision", []string{"Allow"}}, {own, "dryRun.rule", []string{"tried"}},
	} {
		if got := p.param(c.element, c.name); !slices.Equal(got, c.want) {
			t.Errorf("%s of %s: %q, want %q", c.name, c.element, got, c.want)
		}
	}
	if want := "Deny GET /accounts/\u00e9 from 10.0.0.1 by a \"rule\" \\ ] (policy.yaml:41): forbidden"; !strings.HasPrefix(p.text, want) {
		t.Errorf("text %q", p.text)
	}
}

func TestHeadersAndNumbers(t *testing.T) {
	to := target()
	to.Workload, to.Life = "sh op\n\u00e9", ""
	for number, want := range map[uint64]string{1: "1", maxSequence: "2147483647", maxSequence + 1: "1", 1 << 40: "512"} {
		r := collectortest.Record("x")
		r.Verdict = abi.Allow
		p, err := parse(string(message(&delivery.Entry{Number: number, Record: r}, to, 0)))
		if err != nil {
			t.Fatal(err)
		}
		if p.host != "sh?op???" || p.proc != "-" || p.severity != 6 || !slices.Equal(p.param("meta", "sequenceId"), []string{want}) || len(p.param("lorica@32473", "lost")) != 0 {
			t.Errorf("%d: %+v", number, p)
		}
	}
}

// What is sent is read back by a reader that was written from the RFC alone, whatever
// clients have put into a record.
func FuzzMessage(f *testing.F) {
	f.Add("a", "b]", `c"\`, "d\xff", "e\u202e", "/f\n", "g=h", uint64(1), int64(1))
	f.Fuzz(func(t *testing.T, id, rule, reason, principal, workload, path, fact string, number uint64, at int64) {
		to := target()
		to.Workload = workload
		r := audit.Record{Time: at % (200 * 365 * 24 * int64(time.Hour)), ID: id, Rule: abi.Rule{ID: rule}, Reason: reason, Principal: principal, Path: path,
			Groups: []string{principal}, Facts: []audit.Fact{{Name: rule, Value: fact}, {Name: fact, State: audit.FactAbsent}}}
		e := &delivery.Entry{Number: max(number, 1), Record: r}
		framed := appendFrame(nil, e, to, number)
		in := bufio.NewReader(strings.NewReader(string(framed)))
		m, err := readFrame(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.ReadByte(); err != io.EOF {
			t.Fatal("the frame is longer than it says")
		}
		p, err := parse(m)
		if err != nil {
			t.Fatalf("%v: %q", err, m)
		}
		if !p.bom || len(m) > 128<<10 {
			t.Fatalf("%d bytes, BOM %v", len(m), p.bom)
		}
		for name, want := range map[string]string{"id": id, "rule": rule, "reason": reason, "principal": principal} {
			var list []string
			if want != "" {
				list = []string{audit.Printable(audit.Cut(want, audit.MaxField))}
			}
			if got := p.param("lorica@32473", name); !slices.Equal(got, list) {
				t.Fatalf("%s is %q, want %q", name, got, list)
			}
		}
		for _, c := range p.text {
			if c < ' ' || c == 0x7f {
				t.Fatalf("a control character in %q", p.text)
			}
		}
	})
}

// A server reads messages of one connection after the other.
type server struct {
	*collectortest.Place
	got chan *parsed
}

func serve(t *testing.T, mutual bool) *server {
	s := &server{collectortest.Listen(t, mutual), make(chan *parsed, 10000)}
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go s.read(t, c)
		}
	}()
	return s
}

func (s *server) read(t *testing.T, c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		m, err := readFrame(in)
		if err != nil {
			return
		}
		p, err := parse(m)
		if err != nil {
			t.Errorf("%v: %q", err, m)
			return
		}
		s.got <- p
	}
}

func (s *server) next(t *testing.T) *parsed {
	t.Helper()
	select {
	case p := <-s.got:
		return p
	case <-time.After(time.Minute):
		t.Fatal("nothing comes")
		return nil
	}
}

func started(t *testing.T, in *pep.Input) (*delivery.Module, pep.SinkState, *collectortest.Log) {
	t.Helper()
	m := New(collectortest.Dial)
	st, err := m.Prepare(in)
	if err != nil {
		t.Fatal(err)
	}
	st.Enforce()
	log := &collectortest.Log{}
	m.Start(log)
	return m, st, log
}

func TestRecordsArriveInOrder(t *testing.T) {
	for _, mutual := range []bool{false, true} {
		t.Run(fmt.Sprintf("mutual %v", mutual), func(t *testing.T) {
			s := serve(t, mutual)
			m, st, _ := started(t, s.Input(s.Collector(func(c *audit.Collector) {
				if mutual {
					c.Certificate, c.Key = "certificate", "key"
				}
			})))
			const n = 500
			for i := range n {
				if err := st.Keep(collectortest.Record(fmt.Sprint(i)), true); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := m.Drain(ctx); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				p := s.next(t)
				if got := p.param("lorica@32473", "id"); !slices.Equal(got, []string{fmt.Sprint(i)}) || p.param("meta", "sequenceId")[0] != fmt.Sprint(i+1) {
					t.Fatalf("%v, %v where %d was due", got, p.param("meta", "sequenceId"), i)
				}
			}
			if r := m.Report(); r.Delivered != n || r.Waiting != 0 || r.Lost != 0 || r.Repeated != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A server that does not end the connection when we do may have read nothing of what was
// sent last: it is named.
func TestAServerThatIsDeaf(t *testing.T) {
	p := collectortest.Listen(t, false)
	go func() {
		if c, err := p.Accept(); err == nil {
			t.Cleanup(func() { c.Close() })
			c.(interface{ Handshake() error }).Handshake()
		}
	}()
	m, st, log := started(t, p.Input(p.Collector(nil)))
	for range 3 {
		if err := st.Keep(collectortest.Record("x"), true); err != nil {
			t.Fatal(err)
		}
	}
	collectortest.Eventually(t, "it was sent", func() bool { return m.Report().Delivered == 3 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(log.Lines(), "\n"); !strings.Contains(said, "may not have read numbers 1 to 3, which were sent last: the server does not end the connection") {
		t.Errorf("the log says %q", said)
	}
}
