package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A legacy is the service behind a proxy. Its path says what it does wrong.
type legacy struct {
	addr string
	http *http.Server
	seen sync.Map // path to *atomic.Int64: requests
	gone sync.Map // path to true: the request was cancelled
	gate chan struct{}
	read atomic.Int64 // bytes of the upload so far
}

// startLegacy serves on addr ("127.0.0.1:0": any free port), over TLS where there
// is a certificate.
func startLegacy(t *testing.T, addr string, cert *tls.Certificate) *legacy {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l := &legacy{addr: ln.Addr().String(), gate: make(chan struct{})}
	if cert != nil {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*cert}})
	}
	l.http = &http.Server{Handler: l, ErrorLog: quiet()}
	go l.http.Serve(ln)
	t.Cleanup(func() { l.http.Close() })
	return l
}

func (l *legacy) port() string {
	_, port, _ := net.SplitHostPort(l.addr)
	return port
}

func (l *legacy) count(path string) int64 {
	n, _ := l.seen.LoadOrStore(path, new(atomic.Int64))
	return n.(*atomic.Int64).Load()
}

func (l *legacy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, _ := l.seen.LoadOrStore(r.URL.Path, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	raw := func(text string) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(c, text)
			c.Close()
		}
	}
	switch r.URL.Path {
	case "/slow-head":
		<-r.Context().Done()
		l.gone.Store(r.URL.Path, true)
	case "/mid-body":
		raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
	case "/mid-chunks":
		raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n")
	case "/stall":
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		l.gone.Store(r.URL.Path, true)
	case "/garbage":
		raw("\x00\x01\x02 garbage\r\n\r\n")
	case "/closed":
		raw("")
	case "/half-head":
		raw("HTTP/1.1 200 OK\r\nContent-")
	case "/huge-head":
		raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 128<<10) + "\r\nContent-Length: 0\r\n\r\n")
	case "/huge-interim":
		raw(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("x", 4<<10)+"\r\n\r\n", 32) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	case "/status-0":
		raw("HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n")
	case "/status-999":
		raw("HTTP/1.1 999 None\r\nContent-Length: 0\r\n\r\n")
	case "/unasked-upgrade":
		raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	case "/two-lengths":
		raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
	case "/injected":
		raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nforged header: x\r\n\r\nok")
	case "/bare-cr":
		raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\rforged: x\r\n\r\nok")
	case "/interim":
		raw("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nLorica-Decision: forged\r\nLorica-Principal: forged\r\n\r\nok")
	case "/trailers":
		raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n\r\n2\r\nok\r\n0\r\nX-After: 1\r\n\r\n")
	case "/upload":
		b := make([]byte, 64<<10)
		for {
			n, err := r.Body.Read(b)
			if l.read.Add(int64(n)) > 1<<20 {
				<-l.gate
			}
			if err != nil {
				fmt.Fprintf(w, "%d %v %v", l.read.Load(), err, r.Trailer)
				return
			}
		}
	case "/chat":
		l.chat(w, r)
	default:
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "%s %s %s\n", r.Method, r.RequestURI, r.Host)
		r.Header.Write(w)
	}
}

// chat changes to another protocol, in which it says everything twice.
func (l *legacy) chat(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
		http.Error(w, "no upgrade", http.StatusUpgradeRequired)
		return
	}
	c, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nLorica-Decision: forged\r\n\r\n")
	for {
		line, err := buf.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%s%s", line, line)
	}
}

const frontPolicy = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: front, tenant: acme}
spec:
  selector: {matchLabels: {app: front}}
  default: {authorization: Allow}
  endpoints:
    - {name: local, cidrs: [127.0.0.0/8]}
  network:
    ingress:
      - {name: web-in, action: Allow, from: [local], ports: [{protocol: TCP, port: PORT}]}
    egress:
      - {name: legacy, action: Allow, to: [{cidrs: [127.0.0.1/32]}], ports: [{protocol: TCP, port: UPSTREAM}]}
  requestFilter: {maxBodyBytes: 64Mi, rejectEncodedSlash: false}
  routes:
    - {name: chat, match: {method: GET, path: /chat}, upgrade: websocket}
    - {name: everything, match: {method: "*", path: "/{rest...}"}}
`

const frontWorkload = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: front, tenant: acme, labels: {app: front}}
spec:
  app:
    proxy: {upstream: "http://127.0.0.1:UPSTREAM", connectTimeout: 1m, responseTimeout: 1m, maxConnections: 8}
  listen: [{name: web, port: PORT}]
`

// front starts a proxy before a service. It waits for that as a test says, and else as long
// as no machine is too busy for.
func (u *user) front(upstream string, timeouts ...string) (x *upping, addr, dir string) {
	u.t.Helper()
	port := freePort(u.t)
	words := []string{"PORT", port, "UPSTREAM", upstream}
	for _, t := range timeouts {
		name, _, _ := strings.Cut(t, " ")
		words = append(words, name+" 1m", t)
	}
	fill := strings.NewReplacer(words...)
	dir = u.project(map[string]string{"policy.yaml": fill.Replace(frontPolicy), "workload.yaml": fill.Replace(frontWorkload)})
	x, x0 := u.up(dir)
	x.first = x0
	return x, "127.0.0.1:" + port, dir
}

// exchange sends bytes and returns everything that comes back until the end.
func exchange(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, text)
	b, _ := io.ReadAll(c)
	return string(b)
}

// Whatever the service does, the client gets one answer with the right status, or a
// connection that is cut.
func TestProxyOutcomes(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	x, addr, _ := u.front(l.port(), "responseTimeout: 8s")

	for path, want := range map[string]int{
		"/garbage": 502, "/closed": 502, "/half-head": 502, "/huge-head": 502, "/huge-interim": 502, "/status-0": 502, "/status-999": 502,
		"/unasked-upgrade": 502, "/two-lengths": 502, "/injected": 200, "/bare-cr": 502, "/slow-head": 504, "/interim": 200, "/trailers": 200, "/plain": 200,
	} {
		t.Run(path[1:], func(t *testing.T) {
			t.Parallel()
			got := exchange(t, addr, "GET "+path+" HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n")
			r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
			if err != nil || r.StatusCode != want || strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Fatalf("want %d, got %q, %v", want, got, err)
			}
			body, err := io.ReadAll(r.Body)
			id := r.Header.Get("Lorica-Decision")
			if err != nil || len(id) != 32 || want >= 500 && string(body) != "error\n"+id+"\n" || strings.Contains(got, ": forged") || strings.Contains(got, "\rforged") || strings.Contains(got, "\nforged") ||
				r.Header.Get("X-Hop") != "" || r.Header.Get("X-After") != "" || r.Trailer != nil || strings.Contains(got, "127.0.0.1") && want >= 500 {
				t.Errorf("%v: %q", err, got)
			}
			if d := x.find(id); d.Decision != "Allow" || d.Rule != "everything" {
				t.Errorf("the record is %+v", d)
			}
		})
	}
	for _, path := range []string{"/mid-body", "/mid-chunks", "/stall"} {
		t.Run(path[1:]+" is cut", func(t *testing.T) {
			t.Parallel()
			got := exchange(t, addr, "GET "+path+" HTTP/1.1\r\nHost: front\r\n\r\n")
			r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
			if err == nil {
				_, err = io.ReadAll(r.Body)
			} else if path == "/stall" {
				t.Errorf("the event that came is not there: %v: %q", err, got)
			}
			if err == nil {
				t.Errorf("a response that was cut short ends as if it were whole: %q", got)
			}
		})
	}
}

// A request that may have arrived is not sent again, whatever its method allows.
func TestProxyRepeatsNoPost(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	_, addr, _ := u.front(l.port())
	c := &client{addr: addr}
	defer c.close()
	for range 3 { // the first leaves a kept connection behind
		if a, err := c.do("GET", "/plain", "", ""); err != nil || a.status != 200 {
			t.Fatalf("%+v, %v", a, err)
		}
		before := l.count("/closed")
		a, err := c.do("POST", "/closed", "", `{"amount": 1}`)
		if err != nil || a.status != 502 {
			t.Fatalf("%+v, %v", a, err)
		}
		if n := l.count("/closed") - before; n != 1 {
			t.Errorf("one POST arrived %d times", n)
		}
	}
}

func TestProxyWithoutUpstream(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	_, addr, _ := u.front(l.port(), "connectTimeout: 4s", "responseTimeout: 20s")
	if a := get(t, addr, "/plain", ""); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	l.http.Close()
	if a := get(t, addr, "/plain", ""); a.status != 502 {
		t.Errorf("the service is down: %d", a.status)
	}
	l = startLegacy(t, l.addr, nil)
	if a := get(t, addr, "/plain", ""); a.status != 200 {
		t.Errorf("the service is back: %d", a.status)
	}
	// Every place taken by a request that gets no answer: the next one waits for as
	// long as for a connection, no longer.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { exchange(t, addr, "GET /slow-head HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n") })
	}
	eventually(t, "eight requests wait", func() bool { return l.count("/slow-head") == 8 })
	if a := get(t, addr, "/plain", ""); a.status != 503 || a.header.Get("Retry-After") != "1" {
		t.Errorf("no connection is free: %d, Retry-After %q", a.status, a.header.Get("Retry-After"))
	}
	wg.Wait()
	if a := get(t, addr, "/plain", ""); a.status != 200 {
		t.Errorf("they are free again: %d", a.status)
	}
}

// What clients say of themselves does not reach the service; what the image says
// does, and what goes hop by hop stays there.
func TestProxyWritesWhoAsks(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	_, addr, _ := u.front(l.port())
	got := exchange(t, addr, "GET /plain HTTP/1.1\r\nHost: front.example\r\nConnection: close, TE\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Authorization: x\r\n"+
		"Forwarded: for=evil\r\nX-Forwarded-For: evil\r\nX_Forwarded_For: evil\r\nX-Forwarded-Port: evil\r\nX-Forwarded-Proto: evil\r\nX-Real-IP: evil\r\n"+
		"Via: evil\r\nLorica-Principal: evil\r\nLorica_Groups: evil\r\nLorica.Groups: evil\r\nX.Forwarded.For: evil\r\nRemote-User: evil\r\nProxy: evil\r\nX-Original-Host: evil\r\nAccept-Encoding: br\r\nX-Mine: mine\r\n\r\n")
	for _, want := range []string{"GET /plain 127.0.0.1:" + l.port() + "\n", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Host: front.example\r\n", "X-Forwarded-Proto: http\r\n",
		"Forwarded: for=127.0.0.1;host=\"front.example\";proto=http\r\n", "Via: 1.1 lorica\r\n", "Accept-Encoding: br\r\n", "X-Mine: mine\r\n"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is not there once: %s", want, got)
		}
	}
	for _, none := range []string{"evil", "Te: ", "Keep-Alive: ", "Proxy-Auth", "User-Agent"} {
		if strings.Contains(got, none) {
			t.Errorf("%q has passed: %s", none, got)
		}
	}
	// Nobody takes away what was judged by naming it in Connection.
	for name, want := range map[string]string{"Lorica-Principal": "200", "X-Mine": "400", "Content-Length": "400"} {
		got := exchange(t, addr, "POST /plain HTTP/1.1\r\nHost: f\r\nX-Mine: a\r\nContent-Length: 1\r\nConnection: close, "+name+"\r\n\r\nx")
		if !strings.HasPrefix(got, "HTTP/1.1 "+want+" ") {
			t.Errorf("Connection: %s: %q", name, got)
		}
	}
}

// The path that the service sees is the one in the record of the decision.
func TestProxyForwardsThePathThatWasJudged(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	_, addr, dir := u.front(l.port())
	for _, target := range []string{
		"/", "/plain", "/a%20b", "/a;b=c", "/a+b", "/a%2Fb", "/a%2fb", "/%C3%A9", "/%e2%82%ac", "/a:b@c", "/a,b", "/(a)", "/a!$&'*=", "/%7Ea", "/%41", "/a%3Fb", "/a%23b",
		"/a%25b", "/a%252fb", "/plain?", "/plain?a=b&a=c", "/plain?x=%41&y=a+b", "/plain?%zz", "/plain?a=%00", "/plain?x[]=1|2", "/a%7Cb", "/a%5Bb%5D", "/a%22b", "/a%5Eb",
	} {
		c := &client{addr: addr}
		a, err := c.do("GET", target, "", "")
		c.close()
		if err != nil || a.status != 200 {
			if err == nil && a.status == 400 {
				continue // refused: nothing to forward
			}
			t.Errorf("%s: %+v, %v", target, a, err)
			continue
		}
		uri, _, _ := strings.Cut(strings.TrimPrefix(a.body, "GET "), " ")
		path, query, had := strings.Cut(uri, "?")
		_, sent, asked := strings.Cut(target, "?")
		if record := u.recorded(dir, a.decision); record != path {
			t.Errorf("%s: judged as %q, forwarded as %q", target, record, path)
		}
		if query != sent || had != asked {
			t.Errorf("%s: the query is %q", target, query)
		}
	}
}

// recorded returns the path in the record of a decision.
func (u *user) recorded(dir, id string) string {
	u.t.Helper()
	for range 100 {
		out := u.run("logs", "--decisions", "-o", "json")
		for line := range strings.Lines(out) {
			if strings.Contains(line, id) {
				_, rest, _ := strings.Cut(line, `"path":"`)
				path, _, _ := strings.Cut(rest, `"`)
				return strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(path)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	u.t.Fatalf("no record of %s", id)
	return ""
}

// A large body goes through an image that could not hold it: the service sets the
// pace.
func TestProxyStreamsBodies(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	x, addr, _ := u.front(l.port())
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 48 << 20
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: f\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", size)
	var sent atomic.Int64
	done := make(chan error, 1)
	go func() {
		part := bytes.Repeat([]byte("x"), 64<<10)
		for sent.Load() < size {
			n, err := c.Write(part)
			sent.Add(int64(n))
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	// The service stops reading after a megabyte; what is on its way fits buffers.
	eventually(t, "the client is held up", func() bool {
		before := sent.Load()
		time.Sleep(300 * time.Millisecond)
		return l.read.Load() > 1<<20 && sent.Load() == before
	})
	if n := sent.Load(); n > 32<<20 {
		t.Errorf("%d MiB were taken from the client while the service had read %d MiB", n>>20, l.read.Load()>>20)
	}
	close(l.gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if mib := rss(t, x.first.PID); mib > allowed(40) {
		t.Errorf("the image has grown to %d MiB", mib)
	}
	b, _ := io.ReadAll(c)
	if want := fmt.Sprintf("%d EOF map[]", size); !strings.HasPrefix(string(b), "HTTP/1.1 200 ") || !strings.HasSuffix(string(b), want) {
		t.Errorf("the answer is %q, want %s", b, want)
	}
}

// A client that waits to be asked for its body is asked when the service asks.
func TestProxyContinues(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	_, addr, _ := u.front(l.port())
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "POST /upload HTTP/1.1\r\nHost: f\r\nConnection: close\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n\r\n")
	in := bufio.NewReader(c)
	if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != 100 {
		t.Fatalf("%+v, %v", r, err)
	}
	io.WriteString(c, "4\r\nbody\r\n0\r\nX-After: 1\r\n\r\n")
	r, err := http.ReadResponse(in, nil)
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("%+v, %v", r, err)
	}
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "4 EOF map[]" {
		t.Errorf("%q, %v", b, err)
	}
}

// A service that takes nothing of a body holds nobody for longer than it may.
func TestProxyWithAServiceThatTakesNothing(t *testing.T) {
	u := newUser(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // connections wait in the backlog for ever
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	_, addr, _ := u.front(port, "responseTimeout: 4s")
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: f\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", 48<<20)
	go io.CopyN(c, zeros{}, 48<<20)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || r.StatusCode != 504 {
		t.Errorf("%+v, %v", r, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A client that goes away takes its request to the service with it.
func TestProxyClientAborts(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	_, addr, _ := u.front(l.port())
	for _, path := range []string{"/slow-head", "/stall"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: f\r\n\r\n", path)
		eventually(t, path+" arrived", func() bool { return l.count(path) == 1 })
		c.Close()
		eventually(t, path+" is cancelled", func() bool { _, gone := l.gone.Load(path); return gone })
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: f\r\nContent-Length: 1000\r\n\r\nhalf")
	eventually(t, "half a body arrived", func() bool { return l.read.Load() == 4 })
	c.Close()
	if a := get(t, addr, "/plain", ""); a.status != 200 {
		t.Errorf("afterwards: %d", a.status)
	}
}

// upgrade opens a tunnel. The first line of it goes out with the request.
func upgrade(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, openTunnel(t, c)
}

func openTunnel(t *testing.T, c net.Conn) *bufio.Reader {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: f\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nearly\n")
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, nil)
	if err != nil || r.StatusCode != 101 || r.Header.Get("Upgrade") != "websocket" || len(r.Header.Get("Lorica-Decision")) != 32 || len(r.Header["Lorica-Decision"]) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	echo(t, in, "early")
	return in
}

func echo(t *testing.T, in *bufio.Reader, word string) {
	t.Helper()
	for range 2 {
		if line, err := in.ReadString('\n'); err != nil || line != word+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

func TestProxyTunnels(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	x, addr, dir := u.front(l.port())
	c, in := upgrade(t, addr)
	io.WriteString(c, "hello\n")
	echo(t, in, "hello")

	for name, request := range map[string]string{
		"another route":    "GET /plain HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"another protocol": "GET /chat HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"two protocols":    "GET /chat HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
		"a list":           "GET /chat HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
		"with a body":      "GET /chat HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
		"half an upgrade":  "GET /chat HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\n\r\n",
		"POST":             "POST /chat HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	} {
		if got := exchange(t, addr, request); !strings.HasPrefix(got, "HTTP/1.1 501 ") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if a := get(t, addr, "/chat", ""); a.status != 426 {
		t.Errorf("without an upgrade: %d", a.status)
	}

	// A new program closes what the one before let through.
	edit(t, filepath.Join(dir, "policy.yaml"), "name: everything,", "name: all,")
	if e := x.wait("applied"); e.Change != "program" {
		t.Fatalf("%+v", e)
	}
	if b, err := in.ReadByte(); err == nil {
		t.Errorf("the tunnel lives on: %q", b)
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Error("the tunnel was left open")
	}
	c, in = upgrade(t, addr)
	io.WriteString(c, "again\n")
	echo(t, in, "again")
}

// What the policy withdraws ends at once, on open connections too; given back, it
// works again. The upstream is a name here, and only the tender can tell that a
// rule denies the address that it stands for.
func TestEgressIsWithdrawn(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	port := freePort(t)
	fill := strings.NewReplacer("PORT", port, "UPSTREAM", l.port(), "http://127.0.0.1", "http://localhost",
		"- {name: legacy, action", "- {name: by-name, action: Allow, to: [{names: [localhost]}], ports: [{protocol: TCP, port: "+l.port()+"}]}\n      - {name: legacy, action")
	dir := u.project(map[string]string{"policy.yaml": fill.Replace(frontPolicy), "workload.yaml": fill.Replace(frontWorkload)})
	x, first := u.up(dir)
	addr := "127.0.0.1:" + port

	waiting := func() chan string {
		before := l.count("/slow-head")
		answer := make(chan string, 1)
		go func() { answer <- exchange(t, addr, "GET /slow-head HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n") }()
		eventually(t, "a request waits", func() bool { return l.count("/slow-head") > before })
		return answer
	}
	kept := &client{addr: addr}
	defer kept.close()
	if a, err := kept.do("GET", "/plain", "", ""); err != nil || a.status != 200 {
		t.Fatalf("%+v, %v", a, err)
	}
	answer := waiting()
	policy := filepath.Join(dir, "policy.yaml")
	edit(t, policy, "{name: legacy, action: Allow", "{name: legacy, action: Deny")
	e := x.wait("applied")
	if e.Change != "program" || e.Status.PID != first.PID {
		t.Errorf("%+v", e)
	}
	if got := <-answer; !strings.HasPrefix(got, "HTTP/1.1 502 ") {
		t.Errorf("the request whose connection was withdrawn: %q", got)
	}
	for range 3 {
		if a, err := kept.do("GET", "/plain", "", ""); err != nil || a.status != 502 {
			t.Errorf("after the rule was withdrawn: %+v, %v", a, err)
		}
	}
	if got := u.run("logs", "front"); !strings.Contains(got, "were shut down") || !strings.Contains(got, "denied by legacy (policy.yaml:") {
		t.Errorf("the log does not say so: %s", got)
	}
	edit(t, policy, "{name: legacy, action: Deny", "{name: legacy, action: Allow")
	x.wait("applied")
	if a, err := kept.do("GET", "/plain", "", ""); err != nil || a.status != 200 {
		t.Errorf("given back: %+v, %v", a, err)
	}
}

// TLS to the service is verified against the certificates of the workload, for the
// name of the upstream, at the time.
func TestProxyVerifiesItsUpstream(t *testing.T) {
	u := newUser(t)
	ca, key := authority(t)
	other, otherKey := authority(t)
	for name, c := range map[string]struct {
		cert tls.Certificate
		want int
	}{
		"good":              {issue(t, ca, key, "127.0.0.1", time.Hour), 200},
		"another name":      {issue(t, ca, key, "127.0.0.2", time.Hour), 502},
		"expired":           {issue(t, ca, key, "127.0.0.1", -time.Hour), 502},
		"another authority": {issue(t, other, otherKey, "127.0.0.1", time.Hour), 502},
	} {
		t.Run(name, func(t *testing.T) {
			l := startLegacy(t, "127.0.0.1:0", &c.cert)
			port := freePort(t)
			fill := strings.NewReplacer("PORT", port, "UPSTREAM", l.port(), "http://", "https://", ", connectTimeout", ", trust: ./ca.pem, connectTimeout")
			dir := u.project(map[string]string{"policy.yaml": fill.Replace(frontPolicy), "workload.yaml": fill.Replace(frontWorkload),
				"ca.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))})
			sub := *u
			sub.t = t
			x, _ := sub.up(dir)
			if a := get(t, "127.0.0.1:"+port, "/plain", ""); a.status != c.want {
				t.Errorf("%d, want %d: %s", a.status, c.want, a.body)
			}
			if name != "another authority" {
				return
			}
			write(t, filepath.Join(dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw})))
			if e := x.wait("applied"); e.Change != "image" {
				t.Errorf("%+v", e)
			}
			if a := get(t, "127.0.0.1:"+port, "/plain", ""); a.status != 200 {
				t.Errorf("with the other authority: %d", a.status)
			}
		})
	}
}

// A new program, then a new image, take over from a proxy without the loss of a
// request; connections to the service that are still allowed are kept.
func TestProxyIsReplacedUnderLoad(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	x, addr, dir := u.front(l.port())
	edit(t, filepath.Join(dir, "workload.yaml"), "maxConnections: 8", "maxConnections: 16")
	x.wait("applied")
	load := startLoad(addr, "/plain", "", func(a answer) bool { return a.status == 200 })
	time.Sleep(500 * time.Millisecond)
	edit(t, filepath.Join(dir, "policy.yaml"), "name: everything,", "name: all,")
	if e := x.wait("applied"); e.Change != "program" {
		t.Errorf("%+v", e)
	}
	time.Sleep(500 * time.Millisecond)
	edit(t, filepath.Join(dir, "workload.yaml"), "maxConnections: 16", "maxConnections: 32")
	if e := x.wait("applied"); e.Change != "image" {
		t.Errorf("%+v", e)
	}
	time.Sleep(500 * time.Millisecond)
	total, failed := load.end()
	t.Logf("%d requests, %d failed", total, len(failed))
	if len(failed) > 0 || total == 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), total, failed[:min(len(failed), 10)])
	}
}

func authority(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

// issue returns a certificate for an address that ends after the given time.
func issue(t *testing.T, ca *x509.Certificate, key *ecdsa.PrivateKey, addr string, life time.Duration) tls.Certificate {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "legacy"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life),
		IPAddresses: []net.IP{net.ParseIP(addr)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, own.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
}
