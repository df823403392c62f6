package delivery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/delivery/collectortest"
)

// plain is a protocol of one line for each record: its number, its id, and what was lost.
type plain struct{}

func (plain) Confirms() bool { return false }

func (plain) Open(c net.Conn, _ *Target) Line {
	l := &plainLine{c, make(chan struct{})}
	go func() {
		var b [1]byte
		c.Read(b[:])
		close(l.broken)
	}()
	return l
}

type plainLine struct {
	net.Conn
	broken chan struct{}
}

func (l *plainLine) Broken() <-chan struct{} { return l.broken }

func (l *plainLine) Send(ctx context.Context, batch []*Entry, lost uint64) (int, error) {
	var b strings.Builder
	for _, e := range batch {
		fmt.Fprintf(&b, "%d %s %d\n", e.Number, e.Record.ID, lost)
	}
	at, _ := ctx.Deadline()
	l.SetWriteDeadline(at)
	_, err := io.WriteString(l.Conn, b.String())
	return 0, err
}

func (l *plainLine) Close(ctx context.Context) error {
	if ctx.Err() == nil {
		l.Conn.(interface{ CloseWrite() error }).CloseWrite()
		select {
		case <-l.broken:
		case <-ctx.Done():
		}
	}
	return errors.Join(ctx.Err(), l.Conn.Close())
}

var quick = pace{connect: 2 * time.Second, send: 300 * time.Millisecond, close: time.Second, first: time.Millisecond,
	most: 20 * time.Millisecond, good: time.Hour, unsure: time.Hour, whileDrain: 10 * time.Millisecond}

// A collector reads lines, and does to each connection what it is told to.
type collector struct {
	*collectortest.Place
	mu    sync.Mutex
	lines []string
	conns int
}

// collect reads everything of a connection.
func collect(t *testing.T, treat func(n int, c net.Conn) bool) *collector {
	x := &collector{Place: collectortest.Listen(t, false)}
	go func() {
		for {
			c, err := x.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			x.mu.Lock()
			x.conns++
			n := x.conns
			x.mu.Unlock()
			go func() {
				if treat != nil && !treat(n, c) {
					return
				}
				x.read(c)
				c.Close()
			}()
		}
	}()
	return x
}

func (x *collector) read(r io.Reader) {
	in := bufio.NewScanner(r)
	for in.Scan() {
		x.mu.Lock()
		x.lines = append(x.lines, in.Text())
		x.mu.Unlock()
	}
}

// numbers returns each number once, in the order in which they came first, and how many
// came again.
func (x *collector) numbers() (list []uint64, again int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := map[uint64]bool{}
	for _, l := range x.lines {
		var n, lost uint64
		var id string
		if c, _ := fmt.Sscanf(l, "%d r%s %d", &n, &id, &lost); c != 3 {
			continue // cut off
		}
		if seen[n] {
			again++
			continue
		}
		seen[n] = true
		list = append(list, n)
	}
	return list, again
}

func record(i int) audit.Record { return audit.Record{ID: fmt.Sprint("r", i), Verdict: abi.Allow} }

func begin(t *testing.T, in *pep.Input, p Protocol, at pace) (*Module, pep.SinkState, *collectortest.Log) {
	t.Helper()
	m := New("plain", p, collectortest.Dial)
	m.pace = at
	st, err := m.Prepare(in)
	if err != nil {
		t.Fatal(err)
	}
	st.Enforce()
	log := &collectortest.Log{}
	m.Start(log)
	return m, st, log
}

func keep(t *testing.T, st pep.SinkState, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := st.Keep(record(i), true); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
}

func drain(t *testing.T, m *Module, within time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return m.Drain(ctx)
}

func whole(t *testing.T, x *collector, n int) {
	t.Helper()
	list, _ := x.numbers()
	for i, got := range list {
		if got != uint64(i+1) {
			t.Fatalf("number %d came where %d was due: %v", got, i+1, list)
		}
	}
	if len(list) != n {
		t.Fatalf("%d records of %d came", len(list), n)
	}
}

// What has no place is counted, or denies; the numbers that come tell what is missing, and
// the next record how much.
func TestAFullQueue(t *testing.T) {
	for _, c := range []struct {
		name string
		deny bool
		edit func(*audit.Collector)
		fit  int
	}{
		{"records, counted", false, func(c *audit.Collector) { c.Records = 5 }, 5},
		{"records, denied", true, func(c *audit.Collector) { c.Records = 5 }, 5},
		{"bytes, counted", false, func(c *audit.Collector) { c.Bytes = audit.MinQueueBytes }, audit.MinQueueBytes / (func() int { r := record(100); return r.Size() }() + overhead)},
	} {
		t.Run(c.name, func(t *testing.T) {
			open := make(chan struct{})
			x := collect(t, func(int, net.Conn) bool { <-open; return true })
			m := New("plain", plain{}, func(ctx context.Context, host string, port uint16) (net.Conn, error) {
				<-open
				return collectortest.Dial(ctx, host, port)
			})
			m.pace = quick
			st, err := m.Prepare(x.Input(x.Collector(func(s *audit.Collector) { c.edit(s); s.Deny = c.deny })))
			if err != nil {
				t.Fatal(err)
			}
			st.Enforce()
			m.Start(&collectortest.Log{})
			if st.Demands() != c.deny {
				t.Error("it does not say whether it denies")
			}
			lost := 0
			for i := range c.fit + 3 {
				err := st.Keep(record(100+i), true)
				if i < c.fit && err != nil || i >= c.fit && errors.Is(err, pep.ErrNoRoom) != c.deny {
					t.Fatalf("record %d of %d: %v", i, c.fit, err)
				}
				if i >= c.fit {
					lost++
				}
			}
			if r := m.Report(); int(r.Lost) != lost || int(r.Waiting) != c.fit {
				t.Fatalf("%+v", r)
			}
			close(open)
			collectortest.Eventually(t, "all have gone", func() bool { return m.Report().Waiting == 0 })
			keep(t, st, 900, 900)
			if err := drain(t, m, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			list, again := x.numbers()
			if len(list) != c.fit+1 || again != 0 || list[c.fit] != uint64(c.fit+4) {
				t.Errorf("%d records, %d again, the last is number %d; want %d, and a gap of 3", len(list), again, list[len(list)-1], c.fit+1)
			}
			if last := x.lines[len(x.lines)-1]; last != fmt.Sprintf("%d r900 3", c.fit+4) {
				t.Errorf("the last line is %q: it does not say that 3 are lost", last)
			}
		})
	}
}

// What waits is counted with all that it holds: one word of a head holds the whole head.
func TestWhatWaitsHoldsNoHeads(t *testing.T) {
	m := New("plain", plain{}, nil) // nobody sends
	x := collectortest.Listen(t, false)
	st, err := m.Prepare(x.Input(x.Collector(nil)))
	if err != nil {
		t.Fatal(err)
	}
	const n, size = 64, 1 << 20
	for i := range n {
		head := strings.Repeat("GET ", size/4)
		r := record(i)
		r.Method, r.Path, r.Groups, r.Facts = head[:3], head[4:7], []string{head[8:11]}, []audit.Fact{{Name: "a", Value: head[12:15]}}
		if err := st.Keep(r, true); err != nil {
			t.Fatal(err)
		}
	}
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	if len(m.waiting) != n || s.HeapAlloc > n*size/2 {
		t.Errorf("%d records hold %d MiB, and count as %d bytes", len(m.waiting), s.HeapAlloc>>20, m.bytes)
	}
	runtime.KeepAlive(m)
}

// A collector that is away for a while loses nothing, and the log says so once.
func TestTheCollectorComesBack(t *testing.T) {
	x := collect(t, nil)
	var mu sync.Mutex
	tries := 0
	m := New("plain", plain{}, func(ctx context.Context, host string, port uint16) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries < 8 {
			return nil, errors.New("nobody answers")
		}
		return collectortest.Dial(ctx, host, port)
	})
	m.pace = quick
	st, err := m.Prepare(x.Input(x.Collector(nil)))
	if err != nil {
		t.Fatal(err)
	}
	st.Enforce()
	log := &collectortest.Log{}
	m.Start(log)
	keep(t, st, 1, 100)
	if err := drain(t, m, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	whole(t, x, 100)
	lines := log.Lines()
	if len(lines) != 2 || !strings.Contains(lines[0], "nobody answers") || !strings.Contains(lines[1], "again") {
		t.Errorf("the log says %q", lines)
	}
}

// A collector that ends connections after any number of bytes, one that speaks, and one that
// resets: everything arrives at last, in order, and what comes twice has its number.
func TestConnectionsThatBreakAtEveryByte(t *testing.T) {
	const bytes = 40
	x := collect(t, func(n int, c net.Conn) bool {
		if n > bytes {
			return true
		}
		switch n % 3 {
		case 0:
			io.CopyN(io.Discard, c, int64(n))
			io.WriteString(c, "garbage that nobody asked for")
		case 1:
			io.CopyN(io.Discard, c, int64(n))
		case 2:
			io.CopyN(io.Discard, c, int64(n))
			c.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn).SetLinger(0)
		}
		c.Close()
		return false
	})
	m, st, log := begin(t, x.Input(x.Collector(nil)), plain{}, quick)
	for i := range 200 {
		keep(t, st, i+1, i+1)
		time.Sleep(time.Millisecond)
	}
	collectortest.Eventually(t, "it got through", func() bool { list, _ := x.numbers(); return len(list) == 200 })
	if err := drain(t, m, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	whole(t, x, 200)
	r := m.Report()
	if r.Repeated == 0 || r.Delivered != 200 || r.Lost != 0 {
		t.Errorf("%+v", r)
	}
	if n := len(log.Lines()); n > 4*bytes {
		t.Errorf("%d lines in the log", n)
	}
}

// A collector that reads nothing holds up nobody, and what waits for it stays within its
// bounds.
func TestACollectorThatNeverReads(t *testing.T) {
	x := collect(t, func(_ int, c net.Conn) bool {
		c.(interface{ Handshake() error }).Handshake()
		return false
	})
	m, st, _ := begin(t, x.Input(x.Collector(func(c *audit.Collector) { c.Records = 100 })), endless{}, quick)
	keep(t, st, 0, 0)
	collectortest.Eventually(t, "it is connected", func() bool { return m.Report().Connected })
	began := time.Now()
	for i := range 5000 {
		keep(t, st, i, i)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to hand over records", took)
	}
	m.mu.Lock()
	most := len(m.waiting) + len(m.tail)
	m.mu.Unlock()
	if most > 100+tailRecords || m.Report().Lost == 0 {
		t.Errorf("%d wait, %+v", most, m.Report())
	}
	collectortest.Eventually(t, "its connection is given up", func() bool { return m.Report().Trouble != "" })
	began = time.Now()
	if err := drain(t, m, 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "are lost, numbers ") {
		t.Errorf("a drain that could not end says %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the drain took %s", took)
	}
}

// endless says of each batch more than fits the buffers of a connection.
type endless struct{ plain }

func (endless) Open(c net.Conn, to *Target) Line {
	return &endlessLine{plain{}.Open(c, to).(*plainLine)}
}

type endlessLine struct{ *plainLine }

func (l *endlessLine) Send(ctx context.Context, _ []*Entry, _ uint64) (int, error) {
	at, _ := ctx.Deadline()
	l.SetWriteDeadline(at)
	for b := make([]byte, 1<<20); ; {
		if _, err := l.Conn.Write(b); err != nil {
			return 0, err
		}
	}
}

// Whoever cannot be verified gets nothing.
func TestAnotherAuthoritysCollector(t *testing.T) {
	other := collectortest.Listen(t, false)
	for name, edit := range map[string]func(*audit.Collector, *pep.Input){
		"another authority": func(_ *audit.Collector, in *pep.Input) { in.Secrets["trust"] = other.Authority.PEM },
		"another name":      func(c *audit.Collector, _ *pep.Input) { c.ServerName = "elsewhere" },
	} {
		t.Run(name, func(t *testing.T) {
			x := collect(t, nil)
			c := x.Collector(nil)
			in := x.Input(c)
			edit(c, in)
			in.Section = c.Encode()
			m, st, log := begin(t, in, plain{}, quick)
			keep(t, st, 1, 3)
			collectortest.Eventually(t, "it says why", func() bool { return strings.Contains(m.Report().Trouble, "TLS: tls: failed to verify certificate") })
			if err := drain(t, m, 100*time.Millisecond); err == nil {
				t.Error("it has delivered")
			}
			if list, _ := x.numbers(); len(list) > 0 || len(log.Lines()) == 0 {
				t.Errorf("it got %v; the log says %q", list, log.Lines())
			}
		})
	}
}

// Under a new program what waits goes where that says; the same place keeps its connection.
func TestANewProgram(t *testing.T) {
	x, y := collect(t, nil), collect(t, nil)
	m, st, _ := begin(t, x.Input(x.Collector(nil)), plain{}, quick)
	keep(t, st, 1, 10)
	collectortest.Eventually(t, "ten came", func() bool { list, _ := x.numbers(); return len(list) == 10 })
	same, err := m.Prepare(x.Input(x.Collector(nil)))
	if err != nil {
		t.Fatal(err)
	}
	same.Enforce()
	keep(t, same, 11, 20)
	collectortest.Eventually(t, "twenty came", func() bool { list, _ := x.numbers(); return len(list) == 20 })
	if x.mu.Lock(); x.conns != 1 {
		t.Errorf("%d connections for one place", x.conns)
	}
	x.mu.Unlock()
	there, err := m.Prepare(y.Input(y.Collector(nil)))
	if err != nil {
		t.Fatal(err)
	}
	there.Enforce()
	keep(t, there, 21, 30)
	if err := drain(t, m, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if list, again := y.numbers(); len(list) != 10 || list[0] != 21 || again != 0 {
		t.Errorf("the new place got %v, %d again", list, again)
	}
	whole(t, x, 20)
}

// What an old place may not have read goes to the new one, first.
func TestANewProgramWhileTheOldPlaceIsDeaf(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	var x *collector
	x = collect(t, func(_ int, c net.Conn) bool { x.read(c); <-hold; return false })
	y := collect(t, nil)
	m, st, log := begin(t, x.Input(x.Collector(nil)), plain{}, quick)
	keep(t, st, 1, 10)
	collectortest.Eventually(t, "ten came", func() bool { list, _ := x.numbers(); return len(list) == 10 })
	there, err := m.Prepare(y.Input(y.Collector(nil)))
	if err != nil {
		t.Fatal(err)
	}
	there.Enforce()
	keep(t, there, 11, 12)
	collectortest.Eventually(t, "twelve came", func() bool { list, _ := y.numbers(); return len(list) == 12 })
	if err := drain(t, m, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	whole(t, y, 12)
	if r := m.Report(); r.Delivered != 12 || r.Repeated != 10 || m.bytes != 0 || len(log.Lines()) != 1 || !strings.Contains(log.Lines()[0], "may not have read numbers 1 to 10") {
		t.Errorf("%+v, %d bytes, and the log says %q", r, m.bytes, log.Lines())
	}
}

// A new place is not made to wait for what the old one has done.
func TestANewProgramWhileTheOldPlaceFails(t *testing.T) {
	x := collect(t, nil)
	trying, fail := make(chan struct{}), make(chan struct{})
	m := New("plain", plain{}, func(ctx context.Context, host string, port uint16) (net.Conn, error) {
		if port != 1 {
			return collectortest.Dial(ctx, host, port)
		}
		close(trying)
		<-fail
		return nil, errors.New("nobody answers")
	})
	m.pace = quick
	m.pace.first, m.pace.most = time.Hour, time.Hour
	for _, port := range []uint16{1, x.Collector(nil).Port} {
		st, err := m.Prepare(x.Input(x.Collector(func(c *audit.Collector) { c.Port = port })))
		if err != nil {
			t.Fatal(err)
		}
		if st.Enforce(); port == 1 {
			m.rouse() // is for the first
			<-m.wake
			m.Start(&collectortest.Log{})
			keep(t, st, 1, 1)
			<-trying
		}
	}
	close(fail)
	collectortest.Eventually(t, "it came to the new place", func() bool { list, _ := x.numbers(); return len(list) == 1 })
	if err := drain(t, m, 10*time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestWhatPrepareRefuses(t *testing.T) {
	x := collectortest.Listen(t, false)
	for name, edit := range map[string]func(*audit.Collector, *pep.Input){
		"no section":         func(_ *audit.Collector, in *pep.Input) { in.Section = nil },
		"no trust":           func(_ *audit.Collector, in *pep.Input) { delete(in.Secrets, "trust") },
		"trust that is none": func(_ *audit.Collector, in *pep.Input) { in.Secrets["trust"] = []byte("x") },
		"no certificate":     func(c *audit.Collector, in *pep.Input) { c.Certificate, c.Key = "none", "key"; in.Section = c.Encode() },
		"a server's certificate": func(c *audit.Collector, in *pep.Input) {
			c.Certificate, c.Key = "c", "key"
			in.Section = c.Encode()
			in.Secrets["c"] = x.Authority.Server(t, nil).Chain
		},
		"a token that ends the line": func(c *audit.Collector, in *pep.Input) {
			c.Token = "token"
			in.Section = c.Encode()
			in.Secrets["token"] = []byte("a\r\nb: c")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := x.Collector(nil)
			in := x.Input(c)
			edit(c, in)
			if _, err := New("plain", plain{}, collectortest.Dial).Prepare(in); err == nil {
				t.Error("it is accepted")
			}
		})
	}
	c := x.Collector(func(c *audit.Collector) { c.Deny = true })
	in := x.Input(c)
	in.DryRun = &abi.Rule{ID: abi.RuleDryRun}
	if st, err := New("plain", plain{}, collectortest.Dial).Prepare(in); err != nil || st.Demands() {
		t.Errorf("a policy that is tried as a whole denies: %v", err)
	}
}
