package pep_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/pep"
)

func exchange(body string, limit int64) *pep.Exchange {
	return &pep.Exchange{Request: httptest.NewRequest("POST", "/", strings.NewReader(body)), MaxBody: limit}
}

func TestTheZeroDecisionDenies(t *testing.T) {
	if d := (pep.Decision{}); d.Verdict != abi.Deny {
		t.Errorf("%+v", d)
	}
}

func TestTheApplicationReadsWhatWasJudged(t *testing.T) {
	x := exchange("hello", 5)
	for range 2 {
		b, err := x.Body()
		if err != nil || string(b) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	var got bytes.Buffer
	buf := make([]byte, 2) // in small pieces
	for {
		n, err := x.Request.Body.Read(buf)
		got.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got.String() != "hello" || x.Request.ContentLength != 5 || x.Request.Body.Close() != nil {
		t.Errorf("%q of %d bytes", &got, x.Request.ContentLength)
	}
}

func TestBodyBounds(t *testing.T) {
	for name, c := range map[string]struct {
		body  string
		limit int64
		ok    bool
	}{
		"at the limit":        {"hello", 5, true},
		"one byte too many":   {"hello!", 5, false},
		"nothing, no limit":   {"", 0, true},
		"something, no limit": {"h", 0, false},
		"the largest limit":   {"hello", math.MaxInt64, true},
		"a limit below zero":  {"h", -1, false},
	} {
		x := exchange(c.body, c.limit)
		b, err := x.Body()
		if (err == nil) != c.ok || c.ok && string(b) != c.body {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		if !c.ok && (!errors.Is(err, pep.ErrBody) || b != nil) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		again, err2 := x.Body()
		if !bytes.Equal(again, b) || (err2 == nil) != (err == nil) {
			t.Errorf("%s: asked again: %q, %v", name, again, err2)
		}
	}
}

type broken struct{ after string }

func (b *broken) Read(p []byte) (int, error) {
	n := copy(p, b.after)
	b.after = b.after[n:]
	if n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

func (b *broken) Close() error { return nil }

func TestABodyThatDoesNotArriveIsAnError(t *testing.T) {
	x := exchange("", 100)
	x.Request.Body = &broken{"half of i"}
	if b, err := x.Body(); !errors.Is(err, pep.ErrBody) || !errors.Is(err, io.ErrUnexpectedEOF) || b != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestNoBody(t *testing.T) {
	x := exchange("", 5)
	x.Request.Body = nil
	if b, err := x.Body(); len(b) != 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// Trailers arrive after the body and were not judged; a judged body has a length
// and is not chunked any more.
func TestAJudgedBodyHasNoTrailers(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &pep.Exchange{Request: r, MaxBody: 10}
		if _, err := x.Body(); err != nil {
			t.Error(err)
		}
		b, err := io.ReadAll(r.Body)
		if string(b) != "hello" || err != nil || r.Trailer != nil || r.ContentLength != 5 || r.TransferEncoding != nil {
			t.Errorf("%q, %v, trailer %v, length %d, %q", b, err, r.Trailer, r.ContentLength, r.TransferEncoding)
		}
	}))
	defer srv.Close()
	pr, pw := io.Pipe()
	req, err := http.NewRequest("POST", srv.URL, pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Amount": nil}
	go func() {
		io.WriteString(pw, "hello")
		req.Trailer.Set("X-Amount", "5")
		pw.Close()
	}()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestParam(t *testing.T) {
	x := &pep.Exchange{Params: []pep.Param{{Name: "id", Value: "7"}, {Name: "empty"}}}
	for name, want := range map[string]string{"id": "7", "empty": ""} {
		if got, ok := x.Param(name); got != want || !ok {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
	if got, ok := x.Param("other"); got != "" || ok {
		t.Errorf("%q, %v", got, ok)
	}
}
