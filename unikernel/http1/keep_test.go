package http1

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What an owner keeps of a request is how the next one with the same head begins,
// and no other.
func TestAHeadThatComesAgain(t *testing.T) {
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%t %v %s %v %s", w.Again, w.Note, r.URL.Path, r.Header, b)
		if w.Note == "stale" {
			r = w.Anew()
			fmt.Fprintf(w, ", anew: %v %s %v", w.Note, r.URL.Path, r.Header)
		}
		if w.Again && w.Note == nil {
			r.Header.Del("A")
			r.URL.Path = "/kept"
			note := "note"
			if r.Header.Get("B") != "" {
				note = "stale"
			}
			w.Keep(r, note)
		}
		r.Header.Set("A", "changed later")
		r.Header["C"] = []string{"changed later"}
		r.URL.Path = "/later"
	})
	c := h.dial()
	post := func(more, body string) string {
		return fmt.Sprintf("POST /x HTTP/1.1\r\nHost: h\r\nA: 1\r\n%sContent-Length: %d\r\n\r\n%s", more, len(body), body)
	}
	for i, x := range []struct{ request, want string }{
		{post("", "abc"), "false <nil> /x map[A:[1] Content-Length:[3]] abc"},
		{post("", "def"), "true <nil> /x map[A:[1] Content-Length:[3]] def"},
		{post("", "ghi"), "true note /kept map[Content-Length:[3]] ghi"},
		{post("", "jkl"), "true note /kept map[Content-Length:[3]] jkl"},
		{post("", "abcd"), "false <nil> /x map[A:[1] Content-Length:[4]] abcd"},
		{post("", "abc"), "false <nil> /x map[A:[1] Content-Length:[3]] abc"},
		{post("B: 1\r\n", "abc"), "false <nil> /x map[A:[1] B:[1] Content-Length:[3]] abc"},
		{post("B: 1\r\n", "abc"), "true <nil> /x map[A:[1] B:[1] Content-Length:[3]] abc"},
		{post("B: 1\r\n", "abc"), "true stale /kept map[B:[1] Content-Length:[3]] abc, anew: <nil> /x map[A:[1] B:[1] Content-Length:[3]]"},
	} {
		if _, got := c.say(x.request).hear("POST"); got != x.want {
			t.Errorf("request %d: got %q, want %q", i, got, x.want)
		}
	}
	if _, got := h.dial().say(post("B: 1\r\n", "abc")).hear("POST"); !strings.HasPrefix(got, "false <nil>") {
		t.Errorf("on another connection: %q", got)
	}
}

// An idle connection does not hold what a client made large.
func TestLargeHeadsAreNotKept(t *testing.T) {
	for name, x := range map[string]struct {
		head  string
		again bool
	}{
		"bytes":   {"GET /x HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("x", FreeHead) + "\r\n\r\n", false},
		"fields":  {"GET /x HTTP/1.1\r\nHost: h\r\n" + fields40() + "\r\n", true},
		"values":  {"GET /x HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A:\r\n", 40) + "\r\n", true},
		"chunked": {chunkedHead + "0\r\n\r\n", true},
	} {
		h := serve(t, limits(), func(w *Response, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, w.Again, w.Note)
			w.Keep(r, "note")
		})
		c := h.dial()
		c.say(x.head).hear("GET")
		if _, got := c.say(x.head).hear("GET"); got != fmt.Sprint(x.again, nil) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func fields40() string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "A%d: 1\r\n", i)
	}
	return b.String()
}
