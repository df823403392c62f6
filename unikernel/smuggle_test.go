package unikernel

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
)

// rawRequests are those of internal/corpus.
func rawRequests(t testing.TB) (list []string) {
	t.Helper()
	f, err := os.Open("../internal/corpus/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "== "):
			list = append(list, "")
		case strings.HasPrefix(line, "> ") && len(list) > 0:
			times, text := 1, line[2:]
			if n, rest, ok := strings.Cut(text, "*"); ok && text[0] != '"' {
				if times, err = strconv.Atoi(n); err != nil {
					t.Fatal(err)
				}
				text = rest
			}
			s, err := strconv.Unquote(text)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			list[len(list)-1] += strings.Repeat(s, times)
		}
	}
	if len(list) < 300 {
		t.Fatalf("only %d requests", len(list))
	}
	return list
}

// A sighting is a request as the application, or a record, has it.
type sighting struct{ method, path string }

// sightings is an application that remembers.
type sightings struct {
	mu   sync.Mutex
	list []sighting
	bad  []string
}

func (s *sightings) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.see(r)
	io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range []http.Header{r.Header, r.Trailer} {
		for k := range h {
			if strings.EqualFold(k, "Transfer-Encoding") || strings.EqualFold(k, "Host") || strings.HasPrefix(strings.ToLower(k), "lorica") {
				s.bad = append(s.bad, "the application sees the header "+k)
			}
		}
	}
	if r.Trailer["Authorization"] != nil || r.Trailer["Content-Length"] != nil {
		s.bad = append(s.bad, fmt.Sprintf("the application sees the trailers %v", r.Trailer))
	}
}

func (s *sightings) see(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, sighting{r.Method, r.URL.EscapedPath()})
	// The reference finds nothing to change in what is already canonical.
	target, _, _ := strings.Cut(r.RequestURI, "?")
	p, err := route.Normalize(r.URL.EscapedPath(), false)
	if err != nil || p.Canonical != target || p.Canonical != r.URL.EscapedPath() || p.Decoded != r.URL.Path {
		s.bad = append(s.bad, fmt.Sprintf("%s, %s and %s are not one path (%+v, %v)", target, r.URL.EscapedPath(), r.URL.Path, p, err))
	}
}

func (s *sightings) take() ([]sighting, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, bad := s.list, s.bad
	s.list, s.bad = nil, nil
	return list, bad
}

// outside returns what is wrong with what was seen since it was asked last, paths
// that are not below root included.
func (s *sightings) outside(root string) []string {
	list, bad := s.take()
	for _, x := range list {
		if !strings.HasPrefix(x.path, root) {
			bad = append(bad, "the application sees the path "+x.path)
		}
	}
	return bad
}

// Whatever bytes a connection brings, the application sees exactly the requests
// that were allowed, each with the path that was judged.
func FuzzNothingIsSmuggled(f *testing.F) {
	for _, s := range rawRequests(f) {
		f.Add([]byte(s))
	}
	const trailed = "POST /app/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX: y\r\n"
	f.Add([]byte(trailed + "Transfer-Encoding: chunked\r\n\r\n")) // fuzzing found that it reached the application
	f.Add([]byte(trailed + "Authorization: Basic YTpi\r\nLorica-Groups: x\r\n\r\n"))
	app := &sightings{}
	l := testLimits()
	l.MaxBodyBytes, l.MaxHeaders = 1024, 40
	l.HeaderTimeout, l.BodyTimeout, l.IdleTimeout = time.Second, time.Second, time.Second
	r := newRig(f, l, app).run()
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write(raw) // the server may have closed before the last byte
		c.(*net.TCPConn).CloseWrite()
		_, err = io.Copy(io.Discard, c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("the connection stays open")
		}
		saw, bad := app.take()
		if allowed := r.allowed(t); !slices.Equal(allowed, saw) {
			t.Errorf("judged: %v, seen: %v", allowed, saw)
		}
		for _, b := range bad {
			t.Error(b)
		}
	})
}

// allowed returns what was allowed since it was asked last, in order.
func (r *rig) allowed(t *testing.T) (list []sighting) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, strings.Replace(getApp, "/app/x", "/mark", 1)) // denied: the application does not see it
	resp, _, err := answer(c)
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Header.Get(pep.HeaderDecision)
	eventually(t, "the mark is recorded", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, k := range r.records {
			if k.ID == id {
				return true
			}
		}
		return false
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.records {
		if k.ID == id {
			break
		}
		if k.Verdict == abi.Allow {
			list = append(list, sighting{k.Method, k.Path})
		}
	}
	r.records = nil // all before the mark; nothing else is on its way
	return list
}
