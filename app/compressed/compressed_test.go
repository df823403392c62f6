package compressed

import (
	"bytes"
	zip "compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// squeezed is text in gzip's form, as the builder makes it.
func squeezed(text string) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

var (
	page    = strings.Repeat("<p>the same words again and again\n", 40)
	content = fstest.MapFS{
		"content/index.html":      {Data: []byte(page)},
		"content/docs/index.html": {Data: []byte(page + "docs")},
		"content/photo.jpg":       {Data: []byte("\xff\xd8 what does not compress")},
		"packed/index.html":       {Data: squeezed(page)},
		"packed/docs/index.html":  {Data: squeezed(page + "docs")},
	}
)

// serve has a real server answer, which refuses a length that is not kept to.
func serve(t *testing.T, packed string) func(method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	h, err := New(content, "content", packed)()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c := &http.Client{Transport: &http.Transport{DisableCompression: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(c.CloseIdleConnections)
	return func(method, path string, header ...string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequest(method, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		a, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatalf("%s %s %q: %v", method, path, header, err)
		}
		if n := a.Header.Get("Content-Length"); n != "" && method != "HEAD" && n != strconv.Itoa(len(b)) {
			t.Errorf("%s %s %q: %s bytes said, %d sent", method, path, header, n, len(b))
		}
		return a, string(b)
	}
}

func TestTheRepresentationIsTheOneThatIsPreferred(t *testing.T) {
	ask := serve(t, "packed")
	for _, c := range []struct {
		path, accept, coding, body string
	}{
		{"/", "gzip", "gzip", string(squeezed(page))},
		{"/index.html", "br, gzip;q=0.8", "gzip", string(squeezed(page))},
		{"/docs/", "gzip", "gzip", string(squeezed(page + "docs"))},
		{"/", "", "", page},
		{"/", "br", "", page},
		{"/", "gzip;q=0", "", page},
		{"/", "gzip;q=0.5, identity", "", page},
		{"/photo.jpg", "gzip", "", "\xff\xd8 what does not compress"},
	} {
		r, body := ask("GET", c.path, "Accept-Encoding", c.accept)
		vary := "Accept-Encoding"
		if c.path == "/photo.jpg" {
			vary = ""
		}
		if r.StatusCode != 200 || r.Header.Get("Content-Encoding") != c.coding || body != c.body || r.Header.Get("Vary") != vary || r.ContentLength != int64(len(c.body)) {
			t.Errorf("%s for %q: %d %v, %d bytes", c.path, c.accept, r.StatusCode, r.Header, len(body))
		}
		if want := map[bool]string{true: "image/jpeg", false: "text/html; charset=utf-8"}[vary == ""]; r.Header.Get("Content-Type") != want || r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s for %q: %v", c.path, c.accept, r.Header)
		}
		head, _ := ask("HEAD", c.path, "Accept-Encoding", c.accept)
		for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Type", "Etag", "Vary"} {
			if head.Header.Get(name) != r.Header.Get(name) {
				t.Errorf("%s for %q: HEAD says %s %q, GET %q", c.path, c.accept, name, head.Header.Get(name), r.Header.Get(name))
			}
		}
	}
}

func TestNothingIsAcceptable(t *testing.T) {
	ask := serve(t, "packed")
	if r, _ := ask("GET", "/", "Accept-Encoding", "identity;q=0"); r.StatusCode != 406 || r.Header.Get("Vary") != "Accept-Encoding" || r.Header.Get("Content-Encoding") != "" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	if r, _ := ask("GET", "/photo.jpg", "Accept-Encoding", "identity;q=0"); r.StatusCode != 200 {
		t.Errorf("what has one representation: %d", r.StatusCode)
	}
}

// Each representation has a tag, conditions and ranges of its own.
func TestTagsAndRangesAreOfTheRepresentation(t *testing.T) {
	ask := serve(t, "packed")
	small := string(squeezed(page))
	plain, _ := ask("GET", "/")
	zipped, _ := ask("GET", "/", "Accept-Encoding", "gzip")
	p, z := plain.Header.Get("Etag"), zipped.Header.Get("Etag")
	if p == "" || z == "" || p == z {
		t.Fatalf("tags %s and %s", p, z)
	}
	for name, c := range map[string]struct {
		header []string
		status int
		body   string
		coding string
	}{
		"the same, compressed":          {[]string{"Accept-Encoding", "gzip", "If-None-Match", z}, 304, "", ""},
		"either, compressed":            {[]string{"Accept-Encoding", "gzip", "If-None-Match", p + ", " + z}, 304, "", ""},
		"the other one, compressed":     {[]string{"Accept-Encoding", "gzip", "If-None-Match", p}, 200, small, "gzip"},
		"the other one, plain":          {[]string{"If-None-Match", z}, 200, page, ""},
		"a precondition that fails":     {[]string{"Accept-Encoding", "gzip", "If-Match", p}, 412, "", ""},
		"a range, compressed":           {[]string{"Accept-Encoding", "gzip", "Range", "bytes=2-9"}, 206, small[2:10], "gzip"},
		"a range, plain":                {[]string{"Range", "bytes=2-9"}, 206, page[2:10], ""},
		"a range of the same":           {[]string{"Accept-Encoding", "gzip", "Range", "bytes=2-9", "If-Range", z}, 206, small[2:10], "gzip"},
		"a range of the other":          {[]string{"Accept-Encoding", "gzip", "Range", "bytes=2-9", "If-Range", p}, 200, small, "gzip"},
		"a range behind the smaller":    {[]string{"Accept-Encoding", "gzip", "Range", "bytes=1000-"}, 416, "", ""},
		"a range that only plain holds": {[]string{"Range", "bytes=1000-"}, 206, page[1000:], ""},
	} {
		r, body := ask("GET", "/", c.header...)
		if r.StatusCode != c.status || c.body != "" && body != c.body || r.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: %d %v %q", name, r.StatusCode, r.Header, body)
		}
		if c.status/100 == 2 && r.Header.Get("Content-Encoding") != c.coding || c.status/100 == 4 && r.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: coding %q", name, r.Header.Get("Content-Encoding"))
		}
	}
	r, body := ask("GET", "/", "Accept-Encoding", "gzip", "Range", "bytes=0-3,6-9")
	if r.StatusCode != 206 || !strings.Contains(body, small[:4]) || !strings.Contains(body, small[6:10]) {
		t.Errorf("two ranges: %d %v", r.StatusCode, r.Header)
	}
}

func TestOthersAreAnsweredAsEver(t *testing.T) {
	ask := serve(t, "packed")
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/none", 404}, {"GET", "/docs", 301}, {"POST", "/", 405}, {"GET", "/packed/index.html", 404}} {
		if r, _ := ask(c.method, c.path, "Accept-Encoding", "gzip"); r.StatusCode != c.status || r.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s %s: %d %v", c.method, c.path, r.StatusCode, r.Header)
		}
	}
}

func TestWhereNothingCompresses(t *testing.T) {
	ask := serve(t, "")
	if r, body := ask("GET", "/", "Accept-Encoding", "gzip"); r.StatusCode != 200 || body != page || r.Header.Get("Vary") != "" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	for _, c := range [][2]string{{"none", ""}, {"content", "none"}, {"../etc", ""}} {
		if _, err := New(content, c[0], c[1])(); err == nil {
			t.Errorf("the folders %q are taken", c)
		}
	}
}
