package static

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

var content = fstest.MapFS{
	"content/index.html":          {Data: []byte("<p>home")},
	"content/style.css":           {Data: []byte("p{}")},
	"content/blob":                {Data: []byte("<html>not what it looks like")},
	"content/docs/index.html":     {Data: []byte("<p>docs")},
	"content/docs/a b.txt":        {Data: []byte("0123456789")},
	"content/plain/file.json":     {Data: []byte("{}")},
	"content/.env":                {Data: []byte("secret")},
	"content/.git/config":         {Data: []byte("secret")},
	"content/docs/.hidden/x.html": {Data: []byte("secret")},
	"outside.txt":                 {Data: []byte("secret")},
}

func mustLoad(t *testing.T) http.Handler {
	t.Helper()
	h, err := New(content, "content")()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(h http.Handler, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "/", nil)
	r.URL.Path = path
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(r *http.Response) string {
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

func TestWhatIsServed(t *testing.T) {
	h := mustLoad(t)
	for _, c := range []struct {
		path   string
		status int
		mime   string
		body   string
	}{
		{"/", 200, "text/html; charset=utf-8", "<p>home"},
		{"/index.html", 200, "text/html; charset=utf-8", "<p>home"},
		{"/style.css", 200, "text/css; charset=utf-8", "p{}"},
		{"/blob", 200, "application/octet-stream", "<html>not what it looks like"},
		{"/docs/", 200, "text/html; charset=utf-8", "<p>docs"},
		{"/docs/a b.txt", 200, "text/plain; charset=utf-8", "0123456789"},
		{"/plain/file.json", 200, "application/json", "{}"},
		{"/docs", 301, "", ""},
		{"/plain", 404, "text/plain; charset=utf-8", "not found\n"}, // no listing
		{"/plain/", 404, "text/plain; charset=utf-8", "not found\n"},
		{"/style.css/", 404, "text/plain; charset=utf-8", "not found\n"},
		{"/.env", 404, "text/plain; charset=utf-8", "not found\n"},
		{"/.git/config", 404, "text/plain; charset=utf-8", "not found\n"},
		{"/docs/.hidden/x.html", 404, "text/plain; charset=utf-8", "not found\n"},
		{"/../outside.txt", 404, "text/plain; charset=utf-8", "not found\n"},
		{"//index.html", 404, "text/plain; charset=utf-8", "not found\n"},
		{"", 404, "text/plain; charset=utf-8", "not found\n"},
	} {
		r := ask(h, "GET", c.path)
		if got := body(r); r.StatusCode != c.status || r.Header.Get("Content-Type") != c.mime || got != c.body {
			t.Errorf("%q: got %d %q %q", c.path, r.StatusCode, r.Header.Get("Content-Type"), got)
		}
		if r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%q: may be sniffed", c.path)
		}
	}
}

func TestAFolderIsCompletedByARelativeRedirect(t *testing.T) {
	for dir, want := range map[string]string{"docs": "docs/", "a:b": "./a:b/", "ü": "%C3%BC/"} {
		h, err := New(fstest.MapFS{"c/x/" + dir + "/index.html": {Data: []byte("x")}}, "c")()
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(h, "GET", "/x/"+dir).Header.Get("Location"); got != want {
			t.Errorf("%q: Location is %q", dir, got)
		}
	}
}

func TestMethodsRangesAndTags(t *testing.T) {
	h := mustLoad(t)
	const path = "/docs/a b.txt"
	tag := ask(h, "GET", path).Header.Get("ETag")
	if len(tag) != 34 {
		t.Fatalf("tag is %q", tag)
	}
	if r := ask(h, "HEAD", path); r.StatusCode != 200 || r.ContentLength != 10 || body(r) != "" {
		t.Errorf("HEAD: %d, %d bytes", r.StatusCode, r.ContentLength)
	}
	if r := ask(h, "POST", path); r.StatusCode != 405 || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", r.StatusCode)
	}
	if r := ask(h, "GET", path, "Range", "bytes=2-4"); r.StatusCode != 206 || body(r) != "234" {
		t.Errorf("range: %d", r.StatusCode)
	}
	if r := ask(h, "GET", path, "Range", "bytes=20-"); r.StatusCode != 416 {
		t.Errorf("range beyond the end: %d", r.StatusCode)
	}
	if r := ask(h, "GET", path, "If-None-Match", tag); r.StatusCode != 304 {
		t.Errorf("same tag: %d", r.StatusCode)
	}
	if r := ask(h, "GET", path, "If-None-Match", `"other"`); r.StatusCode != 200 {
		t.Errorf("other tag: %d", r.StatusCode)
	}
	if ask(h, "GET", "/").Header.Get("ETag") != ask(h, "GET", "/index.html").Header.Get("ETag") ||
		ask(h, "GET", "/").Header.Get("ETag") == tag {
		t.Error("the tag is not the content's")
	}
}

func TestConstructionFailsWithNothingToServe(t *testing.T) {
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"no folder": {fstest.MapFS{}, "content"},
		"only dots": {fstest.MapFS{"content/.env": {}}, "no files"},
		"a symlink": {fstest.MapFS{"content/x": {Mode: 0o777 | 1<<27}}, "not a regular file"},
	} {
		if _, err := New(c.files, "content")(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(content, "../etc")(); err == nil {
		t.Error("a folder outside is taken")
	}
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/", "/docs/", "/../outside.txt", "/.env", "//", "/docs/./a b.txt", "\x00", "/docs/.hidden/x.html"} {
		f.Add("GET", p)
	}
	h, err := New(content, "content")()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.URL.Path = method, path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%q %q leaks", method, path)
		}
	})
}
