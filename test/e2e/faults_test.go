package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/internal/corpus"
	"lorica.dev/lorica/internal/notrun"
)

const shortTimes = "  requestFilter: {headerTimeout: 700ms, bodyTimeout: 700ms, writeTimeout: 1s, idleTimeout: 700ms}\n"

// dial opens a connection that is given up after its patience.
func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// drip sends a byte every tenth of a second, until the server has enough of it.
func drip(c net.Conn, text string) {
	for i := 0; ; i++ {
		b := byte('x')
		if i < len(text) {
			b = text[i]
		}
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ended waits until the server closes, and returns the statuses that it answered.
func ended(t *testing.T, what string, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("%s: the connection stays open", what)
	}
	return corpus.Statuses(b)
}

// outcome waits until the application has done with one request, and returns
// how it went.
func (x *upping) outcome(addr string) (s seen) {
	x.t.Helper()
	eventually(x.t, "the application is done", func() bool {
		var list []seen
		if err := json.Unmarshal([]byte(get(x.t, addr, "/seen?keep", "").body), &list); err != nil {
			x.t.Fatal(err)
		}
		if len(list) != 1 || !list[0].Done {
			return false
		}
		s = list[0]
		return true
	})
	x.reached(addr) // and forget it
	return s
}

// unread returns how many requests were denied because they could not be read.
func (x *upping) unread() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range x.decisions {
		if d.Decision == "Deny" && d.Stage == "filter" && d.Rule == "default:request" && d.Method == "" && d.Path == "" {
			n++
		}
	}
	return n
}

// Whoever is slow is cut off in every phase of a request, and what had begun is
// recorded.
func TestSlowloris(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	x, first := u.up(u.witness(port, shortTimes))
	addr := "127.0.0.1:" + port
	const req = "GET /app/x HTTP/1.1\r\nHost: h\r\n\r\n"

	c := dial(t, addr)
	if s := ended(t, "silence", c); s != "none" {
		t.Errorf("silence is answered with %q", s)
	}
	if n := x.unread(); n != 0 {
		t.Errorf("silence is recorded: %d", n)
	}

	c = dial(t, addr)
	go drip(c, strings.Replace(req, "Host", "X: "+strings.Repeat("x", 1000)+"\r\nHost", 1))
	if s := ended(t, "a slow head", c); s != "408" {
		t.Errorf("a slow head is answered with %q", s)
	}
	eventually(t, "the slow head is recorded", func() bool { return x.unread() == 1 })

	c = dial(t, addr)
	io.WriteString(c, "POST /app/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
	go drip(c, "")
	if s := ended(t, "a slow body", c); s != "200" { // of the application, which saw half of it
		t.Errorf("a slow body is answered with %q", s)
	}
	if s := x.outcome(addr); !s.Broken || s.Body >= 1000 {
		t.Errorf("a slow body reached the application: %+v", s)
	}

	c = dial(t, addr)
	io.WriteString(c, "POST /admin HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
	go drip(c, "")
	if s := ended(t, "a slow body that is denied", c); s != "404" {
		t.Errorf("a slow body that is denied is answered with %q", s)
	}

	c = dial(t, addr)
	io.WriteString(c, strings.Replace(req, "/app/x", "/app/large", 1))
	if s := x.outcome(addr); !s.Broken || s.Body >= 256<<20 {
		t.Errorf("an answer that nobody reads: %+v", s)
	}
	if s := ended(t, "not reading", c); s != "200" {
		t.Errorf("not reading is answered with %q", s)
	}

	c = dial(t, addr)
	io.WriteString(c, req+req)
	if s := ended(t, "idling", c); s != "200 200" {
		t.Errorf("idling is answered with %q", s)
	}
	x.reached(addr)
	if n := x.unread(); n != 1 {
		t.Errorf("%d requests could not be read; it was one", n)
	}
	if now := u.ps(); now.PID != first.PID || now.Restarts != 0 {
		t.Errorf("the image did not live through it: %+v", now)
	}
}

// reset closes a connection as a crash of the client would.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// A client that goes away in the middle is recorded where nothing was judged yet,
// ends what the application does for it where something was, and leaves nothing.
func TestClientAborts(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	x, first := u.up(u.witness(port, shortTimes))
	addr := "127.0.0.1:" + port
	for i, end := range []struct {
		name string
		end  func(*net.TCPConn)
	}{{"closes", func(c *net.TCPConn) { c.Close() }}, {"resets", reset}} {
		c := dial(t, addr)
		io.WriteString(c, "GET /app/x HTT")
		time.Sleep(50 * time.Millisecond) // so that it arrives before the reset
		end.end(c)
		eventually(t, end.name+" mid head: recorded", func() bool { return x.unread() == i+1 })

		c = dial(t, addr)
		io.WriteString(c, "POST /app/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc")
		time.Sleep(50 * time.Millisecond)
		end.end(c)
		if s := x.outcome(addr); !s.Broken || s.Body != 3 {
			t.Errorf("%s mid body: %+v", end.name, s)
		}

		c = dial(t, addr)
		io.WriteString(c, "GET /app/large HTTP/1.1\r\nHost: h\r\n\r\n")
		io.ReadFull(c, make([]byte, 1<<20))
		end.end(c)
		if s := x.outcome(addr); !s.Broken || s.Body >= 256<<20 {
			t.Errorf("%s mid answer: %+v", end.name, s)
		}
	}
	if a := get(t, addr, "/app/x", ""); a.status != 200 {
		t.Errorf("afterwards: %d", a.status)
	}
	if now := u.ps(); now.PID != first.PID || now.Restarts != 0 {
		t.Errorf("the image did not live through it: %+v", now)
	}
}

// hold opens up to n connections, 100 at a time, and returns those that the kernel
// took; each of the 100 gives up with the first that it does not take in time.
func hold(t *testing.T, addr string, n int, within time.Duration) (held []net.Conn) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	t.Cleanup(func() {
		for _, c := range held {
			c.(*net.TCPConn).SetLinger(0) // no ten thousand connections that linger here
			c.Close()
		}
	})
	for range 100 {
		wg.Go(func() {
			for range n / 100 {
				c, err := net.DialTimeout("tcp", addr, within)
				if err != nil {
					return // the backlog is full
				}
				mu.Lock()
				held = append(held, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return held
}

var resident = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// allowed is how many MiB an image with memory MiB may have of the host: of a microVM
// that is its memory, as a file that is shared, its program, and QEMU itself with the
// code that it has translated.
func allowed(memory int) int {
	if target == "" {
		return memory
	}
	return memory + 192
}

// rss is the memory of a process that is there, in MiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	m := resident.FindSubmatch(b)
	if err != nil || m == nil {
		t.Fatalf("%v: no VmRSS of %d", err, pid)
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib / 1024
}

// Ten thousand connections that say nothing hold no more memory than the workload
// was given. Where they fit maxConnections, others are served meanwhile; where not,
// others wait until the silent ones are cut off.
func TestTenThousandIdleConnections(t *testing.T) {
	many := 10_000
	if target != "" { // a connection takes twenty times as long where code is translated
		many = 3000
	}
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Max < uint64(many)+1000 {
		notrun.Say(t, "10,000 idle connections", fmt.Sprintf("a process may open %d files here; ulimit -Hn 65536 allows it", l.Max))
		return
	}
	for _, c := range []struct {
		name, filter string
		fits         bool
		memory       int // MiB
		within       time.Duration
	}{
		{"they fit", "  requestFilter: {maxConnections: 12000, headerTimeout: 5m}\n", true, 256, time.Minute},
		{"they do not fit", "  requestFilter: {maxConnections: 1024, headerTimeout: 1s}\n", false, 64, time.Second / 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t)
			port := freePort(t)
			dir := u.witness(port, c.filter)
			edit(t, dir+"/all.yaml", "---\n", fmt.Sprintf("  resources: {memory: %dMi}\n---\n", c.memory))
			_, first := u.up(dir)
			addr := "127.0.0.1:" + port
			before := rss(t, first.PID)
			held := hold(t, addr, many, c.within)
			if c.fits && len(held) != many || len(held) < 1024 {
				t.Fatalf("%d connections are held", len(held))
			}
			grown := rss(t, first.PID)
			// An honest client asks and is answered, at once or when it is its turn.
			got := make(chan int, 1)
			go func() {
				for { // a full backlog makes the kernel drop attempts
					h := &client{addr: addr}
					a, err := h.do("GET", "/app/x", "", "")
					h.close()
					if err == nil {
						got <- a.status
						return
					}
				}
			}()
			select {
			case s := <-got:
				if s != 200 {
					t.Errorf("an honest client gets %d", s)
				}
			case <-time.After(patience):
				t.Error("an honest client is not served")
			}
			most := rss(t, first.PID)
			t.Logf("%d connections held; resident %d MiB before, %d with them, %d at the end", len(held), before, grown, most)
			if bound := allowed(c.memory); most > bound || grown > bound {
				t.Errorf("%d MiB are resident; the workload has %d", max(most, grown), c.memory)
			}
			if now := u.ps(); now.PID != first.PID || now.Restarts != 0 {
				t.Errorf("the image did not live through it: %+v", now)
			}
		})
	}
}

// A port that somebody else has ends 'up' with an error that names it, and leaves
// nothing behind.
func TestPortInUse(t *testing.T) {
	u := newUser(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	out, err := u.command("up", "-f", u.witness(port, "")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "127.0.0.1:"+port) || !strings.Contains(string(out), "address already in use") {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(u.home + "/.local/share/lorica/run"); err == nil && len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
