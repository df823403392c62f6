package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Users of examples/accounts.
const (
	staff  = "staff-3:correct horse battery staple"
	teller = "teller-7:eleven blue herons"
)

// bearer begins a user that is a token, not a name with a password.
const bearer = "Bearer "

// A client is one connection. Unlike http.Client it never repeats a request that
// failed, so that a lost one is seen.
type client struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
}

type answer struct {
	status   int
	decision string
	body     string
	header   http.Header
}

func (c *client) do(method, path, user, body string) (answer, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, c.addr)
	switch {
	case strings.HasPrefix(user, bearer):
		fmt.Fprintf(&b, "Authorization: %s\r\n", user)
	case user != "":
		fmt.Fprintf(&b, "Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(user)))
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n" + body)
	return c.say(method, b.String())
}

// say sends a request as it is written, and reads the answer.
func (c *client) say(method, request string) (answer, error) {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.addr, patience)
		if err != nil {
			return answer{}, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	c.conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c.conn, request); err != nil {
		c.close()
		return answer{}, err
	}
	return c.answer(method)
}

// answer reads the answer to a request.
func (c *client) answer(method string) (answer, error) {
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.close()
		return answer{}, err
	}
	text, err := io.ReadAll(r.Body)
	if err != nil || r.Close {
		c.close()
	}
	return answer{r.StatusCode, r.Header.Get("Lorica-Decision"), string(text), r.Header}, err
}

// adopt makes a client of a connection.
func adopt(addr string, c net.Conn) *client {
	return &client{addr: addr, conn: c, in: bufio.NewReader(c)}
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// get makes one request on a connection of its own.
func get(t *testing.T, addr, path, user string) answer {
	t.Helper()
	c := &client{addr: addr}
	defer c.close()
	a, err := c.do("GET", path, user, "")
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	return a
}

// A load is requests without pause, half of them on connections that are kept,
// half of them on new ones.
type load struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	done   atomic.Int64
	mu     sync.Mutex
	failed []string
}

// start begins a load. ok says whether an answer is one that may be.
func startLoad(addr, path, user string, ok func(answer) bool) *load {
	l := &load{stop: make(chan struct{})}
	for i := range 8 {
		l.wg.Go(func() {
			c := &client{addr: addr}
			defer c.close()
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				a, err := c.do("GET", path, user, "")
				l.done.Add(1)
				if err != nil || !ok(a) {
					l.mu.Lock()
					l.failed = append(l.failed, fmt.Sprintf("%v %d", err, a.status))
					l.mu.Unlock()
				}
				if i%2 == 1 {
					c.close()
				}
			}
		})
	}
	return l
}

// end returns how many requests were made and which failed.
func (l *load) end() (int64, []string) {
	close(l.stop)
	l.wg.Wait()
	return l.done.Load(), l.failed
}
