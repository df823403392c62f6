package http1

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

func TestTimes(t *testing.T) {
	l := limits()
	l.Header, l.Idle = 100*time.Millisecond, 100*time.Millisecond
	for name, x := range map[string]struct {
		first, then string
		status      int
	}{
		"silence":           {"", "", 0},
		"a slow head":       {"", "GET /x HT", 408},
		"idling":            {get, "", 0},
		"a slow head later": {get, "GET /x HT", 408},
	} {
		h := serve(t, l, echo)
		c := h.dial()
		if x.first != "" {
			c.say(x.first).hear("GET")
		}
		c.say(x.then)
		if x.status > 0 {
			if resp, _ := c.hear("GET"); resp.StatusCode != x.status {
				t.Errorf("%s: got %d", name, resp.StatusCode)
			}
		}
		if got := c.rest(); got != "" {
			t.Errorf("%s: got %q", name, got)
		}
		if r := h.refusals(); (len(r) > 0) != (x.status > 0) {
			t.Errorf("%s: refused %v", name, r)
		}
	}
}

// A head that drips is not read for longer than one that does not come.
func TestADrippingHeadEnds(t *testing.T) {
	l := limits()
	l.Header = 200 * time.Millisecond
	h := serve(t, l, echo)
	c := h.dial()
	c.say(get).hear("GET")
	go func() {
		for { // until it is over
			if _, err := io.WriteString(c, "G"); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	if resp, _ := c.hear("GET"); resp.StatusCode != 408 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func TestACutHeadIsToldOf(t *testing.T) {
	h := serve(t, limits(), echo)
	c := h.dial().say("GET /x HTTP/1.1\r\nHost: h\r\n")
	c.CloseWrite()
	if resp, _ := c.hear("GET"); resp.StatusCode != 400 {
		t.Errorf("got %d", resp.StatusCode)
	}
	c = h.dial().say("GET /x HTTP/1.1\r\nHost: h\r\n")
	eventually(t, "it is read", func() bool {
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		for c := range h.server.conns {
			if c.state.Load() == active {
				return true
			}
		}
		return false
	})
	c.SetLinger(0)
	c.Close()
	eventually(t, "both are told of", func() bool { return len(h.refusals()) == 2 })
}

func TestShutdown(t *testing.T) {
	began, release := make(chan bool), make(chan bool)
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		if r.RequestURI == "/slow" {
			began <- true
			<-release
		}
		io.WriteString(w, "ok")
	})
	idling := h.dial()
	idling.say(get).hear("GET")
	busy := h.dial().say("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
	<-began
	fresh := h.dial()
	eventually(t, "all are there", func() bool {
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		return len(h.server.conns) == 3
	})
	ended := make(chan error, 1)
	go func() { ended <- h.server.Shutdown(context.Background()) }()
	if got := idling.rest(); got != "" {
		t.Errorf("the idle one got %q", got)
	}
	if _, got := fresh.say(get).hear("GET"); got != "ok" {
		t.Errorf("the fresh one got %q", got)
	}
	if got := fresh.rest(); got != "" {
		t.Errorf("then %q", got)
	}
	select {
	case <-ended:
		t.Error("it did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if _, got := busy.hear("GET"); got != "ok" {
		t.Errorf("the busy one got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	began, release := make(chan bool), make(chan bool)
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		began <- true
		<-release
	})
	c := h.dial().say(get)
	<-began
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := h.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	h.server.Close()
	c.rest()
	close(release)
}
