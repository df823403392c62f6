package otlp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/delivery"
	"lorica.dev/lorica/pep/delivery/collectortest"
)

// A collector answers each request as it is told, and writes down what it was sent.
type collector struct {
	*collectortest.Place
	mu       sync.Mutex
	requests []*http.Request
	numbers  []uint64 // of records that it took
}

// collect answers the n-th request, from 1, with what answer writes; false: and then it
// ends the connection.
func collect(t *testing.T, answer func(n int, w io.Writer) (took, goOn bool)) *collector {
	x := &collector{Place: collectortest.Listen(t, false)}
	go func() {
		for {
			c, err := x.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go x.serve(t, c, answer)
		}
	}()
	return x
}

func (x *collector) serve(t *testing.T, c net.Conn, answer func(int, io.Writer) (bool, bool)) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		list, err := numbers(body)
		if err != nil {
			t.Errorf("%v: %x", err, body)
		}
		x.mu.Lock() // whoever has the answer finds the records
		x.requests = append(x.requests, r)
		took, goOn := answer(len(x.requests), c)
		if took {
			x.numbers = append(x.numbers, list...)
		}
		x.mu.Unlock()
		if !goOn {
			return
		}
	}
}

// numbers finds lorica.seq in a request, by the wire format alone.
func numbers(b []byte) (list []uint64, err error) {
	var within func(b []byte, path ...int) error
	within = func(b []byte, path ...int) error {
		return each(b, func(field, wire int, _ uint64, data []byte) error {
			if field != path[0] || wire != wireBytes {
				return nil
			}
			if len(path) > 1 {
				return within(data, path[1:]...)
			}
			key, value := "", uint64(0)
			err := each(data, func(field, _ int, _ uint64, data []byte) error {
				if field == pairKey {
					key = string(data)
					return nil
				}
				return each(data, func(_, _ int, v uint64, _ []byte) error { value = v; return nil })
			})
			if key == "lorica.seq" {
				list = append(list, value)
			}
			return err
		})
	}
	err = within(b, requestResourceLogs, resourceLogsScopeLogs, scopeLogsRecords, recordAttributes)
	return list, err
}

func ok(_ int, w io.Writer) (bool, bool) {
	io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
	return true, true
}

func begin(t *testing.T, x *collector, edit func(*audit.Collector)) (*delivery.Module, pep.SinkState) {
	t.Helper()
	m := New(collectortest.Dial)
	st, err := m.Prepare(x.Input(x.Collector(func(c *audit.Collector) {
		c.Path = "/v1/logs"
		if edit != nil {
			edit(c)
		}
	})))
	if err != nil {
		t.Fatal(err)
	}
	st.Enforce()
	m.Start(&collectortest.Log{})
	return m, st
}

func keep(t *testing.T, st pep.SinkState, n int) {
	t.Helper()
	for i := range n {
		if err := st.Keep(collectortest.Record(fmt.Sprint(i)), true); err != nil {
			t.Fatal(err)
		}
	}
}

func drain(t *testing.T, m *delivery.Module) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

func counted(n int) (list []uint64) {
	for i := range n {
		list = append(list, uint64(i+1))
	}
	return list
}

func TestRecordsAreConfirmed(t *testing.T) {
	x := collect(t, ok)
	m, st := begin(t, x, func(c *audit.Collector) { c.Token = "token" })
	keep(t, st, 300)
	drain(t, m)
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Equal(x.numbers, counted(300)) {
		t.Errorf("it got %v", x.numbers)
	}
	r := x.requests[0]
	if r.Method != "POST" || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("Authorization") != "Bearer abc.def" || r.Host != x.Addr().String() {
		t.Errorf("%s %s, %v, for %s", r.Method, r.URL, r.Header, r.Host)
	}
	if c := m.Report(); c.Delivered != 300 || c.Lost != 0 {
		t.Errorf("%+v", c)
	}
}

// What a collector answers, and what becomes of the batch: sent again, lost, or taken.
func TestAnswers(t *testing.T) {
	partial := "\x0a\x02\x08\x05" // 5 records are rejected
	for _, c := range []struct {
		name, answer    string
		deny            bool
		lost, delivered uint64
		taken           bool // of the first answer
	}{
		{"later", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", false, 0, 10, false},
		{"too many", "HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nwait", false, 0, 10, false},
		{"never", "HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n", false, 10, 0, false},
		{"never, and it denies", "HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n", true, 0, 10, false},
		{"some", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + partial, false, 5, 5, true},
		{"in pieces", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n" + partial + "\r\n0\r\n\r\n", false, 5, 5, true},
		{"after an interim one", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 0, 10, true},
		{"and an end", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false, 0, 10, true},
		{"not protobuf", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n{\"a\":1", false, 0, 10, false},
		{"another protocol", "HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n", false, 0, 10, false},
		{"garbage", "\x00\x01\x02\r\n\r\n", false, 0, 10, false},
		{"a head without an end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 100), false, 0, 10, false},
		{"a body without an end", "HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n" + strings.Repeat("b", 200_000), false, 0, 10, false},
		{"a length that lies", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\x0a", false, 0, 10, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := collect(t, func(n int, w io.Writer) (bool, bool) {
				if n > 1 {
					return ok(n, w)
				}
				io.WriteString(w, c.answer)
				return c.taken, c.name != "a length that lies" && c.name != "garbage" && c.name != "and an end"
			})
			open := make(chan struct{})
			m := New(func(ctx context.Context, host string, port uint16) (net.Conn, error) {
				<-open // so that the ten are one batch
				return collectortest.Dial(ctx, host, port)
			})
			st, err := m.Prepare(x.Input(x.Collector(func(s *audit.Collector) { s.Path, s.Deny = "/v1/logs", c.deny })))
			if err != nil {
				t.Fatal(err)
			}
			st.Enforce()
			keep(t, st, 10)
			log := &collectortest.Log{}
			m.Start(log)
			close(open)
			collectortest.Eventually(t, "nothing waits", func() bool { return m.Report().Waiting == 0 })
			drain(t, m)
			if r := m.Report(); r.Lost != c.lost || r.Delivered != c.delivered {
				t.Errorf("%+v", r)
			}
			if said := strings.Join(log.Lines(), "\n"); strings.Contains(said, fmt.Sprintf("and they are lost: %d of numbers 1 to 10: the collector", c.lost)) != (c.lost > 0) {
				t.Errorf("%d are lost, and the log says %q", c.lost, said)
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			if c.lost < 10 && !slices.Equal(x.numbers, counted(10)) {
				t.Errorf("it got %v", x.numbers)
			}
			for _, r := range x.requests {
				if r.Header.Get("Authorization") != "" {
					t.Error("it was told a token that nobody wrote")
				}
			}
		})
	}
}

// A connection that the collector ends while it is idle costs neither a record nor a word.
func TestAConnectionThatIsIdle(t *testing.T) {
	x := collect(t, func(n int, w io.Writer) (bool, bool) { ok(n, w); return true, false })
	m := New(collectortest.Dial)
	st, err := m.Prepare(x.Input(x.Collector(func(c *audit.Collector) { c.Path = "/v1/logs" })))
	if err != nil {
		t.Fatal(err)
	}
	st.Enforce()
	log := &collectortest.Log{}
	m.Start(log)
	for i := range 5 {
		keep(t, st, 1)
		collectortest.Eventually(t, "it has gone", func() bool { return m.Report().Delivered == uint64(i+1) })
		time.Sleep(20 * time.Millisecond)
	}
	drain(t, m)
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Equal(x.numbers, counted(5)) || len(log.Lines()) != 0 {
		t.Errorf("it got %v; the log says %q", x.numbers, log.Lines())
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("\x0a\x02\x08\x05"))
	f.Add([]byte("\x0a\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		readResponse(b) // ends, and does not panic
	})
}
