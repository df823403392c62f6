package http1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const chunkedHead = "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

func TestChunks(t *testing.T) {
	for body, want := range map[string]string{
		"3\r\nabc\r\n0\r\n\r\n":                                        "abc",
		"3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\n":                   "abc0123456789",
		"3;a=b\r\nabc\r\n0;c\r\n\r\n":                                  "abc",
		"3 \r\nabc\r\n0\r\n\r\n":                                       "abc",
		"0\r\nA: b\r\n\r\n":                                            "",
		"3\nabc\r\n0\r\n\r\n":                                          "!",
		"3\r\nabc\n0\r\n\r\n":                                          "abc!",
		"3\r\nabcd\r\n0\r\n\r\n":                                       "abc!",
		"3\r\nabc0\r\n\r\n":                                            "abc!",
		"\r\nabc\r\n0\r\n\r\n":                                         "!",
		"3 ;a\r\nabc\r\n0\r\n\r\n":                                     "!",
		"-3\r\nabc\r\n0\r\n\r\n":                                       "!",
		"0x3\r\nabc\r\n0\r\n\r\n":                                      "!",
		"3 3\r\nabc\r\n0\r\n\r\n":                                      "!",
		"3;a\x00\r\nabc\r\n0\r\n\r\n":                                  "!",
		"3;a\rb\r\nabc\r\n0\r\n\r\n":                                   "!",
		"ffffffffffffffff\r\nabc\r\n0\r\n\r\n":                         "!",
		"3\r\nabc\r\n0\r\nA\r\n\r\n":                                   "abc!",
		"3\r\nabc\r\n0\r\nA: b\n\r\n":                                  "abc!",
		"3\r\nabc\r\n":                                                 "abc!",
		"3;" + strings.Repeat("x", maxLine-3) + "\r\nabc\r\n0\r\n\r\n": "abc",
		"3;" + strings.Repeat("x", maxLine-1) + "\r\nabc\r\n0\r\n\r\n": "!",
		"3;" + strings.Repeat("x", maxLine+FreeHead) + "\r\nabc\r\n0\r\n\r\n":        "!",
		"0\r\nA: " + strings.Repeat("x", 2*FreeHead) + "\r\n\r\n":                    "!",
		strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\na\r\n", 200) + "0\r\n\r\n": strings.Repeat("a", 87) + "!",
	} {
		h := serve(t, limits(), echo)
		c := h.dial().say(chunkedHead + body)
		c.CloseWrite()
		resp, got := c.hear("POST")
		if got != "POST /x "+want {
			t.Errorf("%.60q: got %q, want %q", body, got, want)
		}
		if broken := strings.HasSuffix(want, "!"); broken && !resp.Close {
			t.Errorf("%.60q: the connection goes on", body)
		}
	}
}

// What is read as chunks, net/http reads as the same body; what this package
// leaves of the connection is not more than net/http leaves.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"3\r\nabc\r\n0\r\n\r\n", "a;x=\"y\"\r\n0123456789\r\n0\r\nA: b\r\n\r\nrest", "0\r\n\r\n", "0003\r\nabc\r\n00\r\n\r\n", "1\r\na\r\n1 \r\nb\r\n0\r\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, left, err := chunks(text)
		if err != nil {
			return
		}
		in := bufio.NewReader(strings.NewReader(chunkedHead + text))
		r, e := http.ReadRequest(in)
		if e != nil {
			t.Fatal(e)
		}
		want, e := io.ReadAll(r.Body)
		if e != nil || string(want) != got {
			t.Fatalf("read %q, but net/http %q, %v", got, want, e)
		}
		if rest, _ := io.ReadAll(in); string(rest) != left {
			t.Fatalf("%q is left, but net/http leaves %q", left, rest)
		}
	})
}

// A string that is a connection, as far as a body needs one.
type wire struct {
	net.Conn
	*strings.Reader
}

func (w wire) Read(p []byte) (int, error)      { return w.Reader.Read(p) }
func (w wire) SetReadDeadline(time.Time) error { return nil }

// chunks reads a body of chunks and returns what is left behind it.
func chunks(text string) (got, left string, err error) {
	c := &conn{server: NewServer(limits()), nc: wire{Reader: strings.NewReader(text)}, buf: make([]byte, FreeHead)}
	x := &exchange{c: c, r: &http.Request{}}
	x.body = body{x: x, chunked: true}
	b, err := io.ReadAll(&x.body)
	rest, _ := io.ReadAll(c.nc)
	return string(b), string(c.buf[c.r:c.w]) + string(rest), err
}

func TestTrailersThatWereAnnounced(t *testing.T) {
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Trailer)
	})
	_, got := h.dial().say("POST /x HTTP/1.1\r\nHost: h\r\nTrailer: A, c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: 1\r\nB: 2\r\n\r\n").hear("POST")
	if got != "map[A:[1] C:[]]" {
		t.Errorf("got %q", got)
	}
}

func TestABodyIsAskedFor(t *testing.T) {
	for _, asks := range []bool{true, false} {
		h := serve(t, limits(), func(w *Response, r *http.Request) {
			if asks {
				echo(w, r)
			}
		})
		c := h.dial().say("POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n")
		resp, _ := c.hear("POST")
		if asks {
			if resp.StatusCode != 100 {
				t.Fatalf("got %d", resp.StatusCode)
			}
			if resp, got := c.say("abc").hear("POST"); got != "POST /x abc" || resp.Close {
				t.Errorf("got %q, close %t", got, resp.Close)
			}
		} else if resp.StatusCode != 200 || !resp.Close {
			t.Errorf("not asked for: got %d, close %t", resp.StatusCode, resp.Close)
		}
	}
}

// A body that nobody reads does not become a request.
func TestWhatIsNotReadIsSkipped(t *testing.T) {
	h := serve(t, limits(), func(w *Response, r *http.Request) { io.WriteString(w, r.RequestURI) })
	c := h.dial()
	for _, x := range []struct {
		length int
		closes bool
	}{{5, false}, {maxSkip, false}, {maxSkip + 1, true}} {
		c.say(fmt.Sprintf("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", x.length))
		go io.WriteString(c, strings.Repeat("x", x.length)+strings.Replace(get, "/x", "/b", 1)) // the server may close before its end
		resp, got := c.hear("POST")
		if got != "/a" || resp.Close != x.closes {
			t.Fatalf("%d bytes: got %q, close %t", x.length, got, resp.Close)
		}
		if x.closes {
			if more := c.rest(); more != "" {
				t.Errorf("got %q", more)
			}
		} else if _, got = c.hear("GET"); got != "/b" {
			t.Errorf("%d bytes: then %q", x.length, got)
		}
	}
}

func TestASlowBodyEnds(t *testing.T) {
	l := limits()
	l.Body = 50 * time.Millisecond
	h := serve(t, l, echo)
	if _, got := h.dial().say("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na").hear("POST"); got != "POST /x a!" {
		t.Errorf("got %q", got)
	}
}

// A goroutine of the application that still reads when the handler has returned
// gets an error, and nothing of the next request.
func TestNobodyReadsBehindTheResponse(t *testing.T) {
	for _, waits := range []bool{true, false} {
		began, ended := make(chan io.Reader), make(chan error, 1)
		h := serve(t, limits(), func(w *Response, r *http.Request) {
			if waits {
				go func() {
					began <- nil
					_, err := io.Copy(io.Discard, r.Body)
					ended <- err
				}()
				<-began
				time.Sleep(20 * time.Millisecond)
			} else {
				go func() {
					_, err := io.Copy(io.Discard, <-began)
					ended <- err
				}()
				time.AfterFunc(20*time.Millisecond, func() { began <- r.Body })
			}
		})
		c := h.dial().say("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n")
		if resp, _ := c.hear("POST"); !resp.Close {
			t.Error("the connection goes on")
		}
		if err := <-ended; err == nil || !waits && !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Errorf("waits %t: read to %v", waits, err)
		}
	}
}

// A slow connection is one whose deadline for a body is set only when somebody has
// set one in the past.
type slow struct {
	*net.TCPConn
	waits, past chan bool
	said        atomic.Bool // goodbye
}

func (s *slow) SetReadDeadline(at time.Time) error {
	if time.Until(at) > time.Minute {
		close(s.waits)
		<-s.past
	}
	err := s.TCPConn.SetReadDeadline(at)
	if at.Equal(past) {
		select {
		case <-s.past:
		default:
			close(s.past)
		}
	}
	return err
}

func (s *slow) CloseWrite() error {
	s.said.Store(true)
	return s.TCPConn.CloseWrite()
}

// A read that begins while the handler returns ends, too, and the client can still
// read the answer.
func TestAReadThatComesLateEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := limits()
	l.Header = time.Minute // and so is not taken for the body's
	s := &slow{waits: make(chan bool), past: make(chan bool)}
	h := &host{t: t, server: NewServer(l), addr: ln.Addr().String(), handler: func(w *Response, r *http.Request) {
		go io.Copy(io.Discard, r.Body)
		<-s.waits
	}}
	c := h.dial().say("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.TCPConn = nc.(*net.TCPConn)
	ended := make(chan bool)
	go func() {
		h.server.Serve(s, h)
		close(ended)
	}()
	c.hear("POST")
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if more := c.rest(); more != "" || !s.said.Load() {
		t.Errorf("then %q, said goodbye: %t", more, s.said.Load())
	}
	c.Close()
	<-ended
}

// Who sends on and on has time to read the answer.
func TestALongBodyDoesNotCutTheAnswer(t *testing.T) {
	began := time.Now()
	(&conn{nc: endless{}}).linger()
	if took := time.Since(began); took < lingering-time.Millisecond {
		t.Errorf("it waited for %v", took)
	}
}

type endless struct{ net.Conn }

func (endless) Read(p []byte) (int, error)      { return len(p), nil }
func (endless) SetDeadline(time.Time) error     { return nil }
func (endless) SetReadDeadline(time.Time) error { return nil }
func (endless) CloseWrite() error               { return nil }

func TestPipelinedRequests(t *testing.T) {
	h := serve(t, limits(), echo)
	post := "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
	c := h.dial().say(strings.Repeat(get+post, 50))
	var got []string
	for range 50 {
		for _, m := range []string{"GET", "POST"} {
			_, b := c.hear(m)
			got = append(got, b)
		}
	}
	if want := slices.Repeat([]string{"GET /x ", "POST /p abc"}, 50); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
