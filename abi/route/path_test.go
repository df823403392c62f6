package route_test

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"lorica.dev/lorica/abi/route"
)

func TestNormalize(t *testing.T) {
	for _, c := range []struct{ raw, canonical, decoded, segments string }{
		{"/", "/", "/", ""},
		{"/accounts/7", "/accounts/7", "/accounts/7", "accounts|7"},
		{"/accounts/", "/accounts/", "/accounts/", "accounts|"},
		{"/%61ccounts", "/accounts", "/accounts", "accounts"},
		{"/a%20b", "/a%20b", "/a b", "a%20b"},
		{"/%c3%a9", "/%C3%A9", "/\u00e9", "%C3%A9"},
		{"/a%2fb", "/a%2Fb", "/a/b", "a%2Fb"},
		{"/%3b%3a%40%2c", "/;:@,", "/;:@,", ";:@,"},
		{"/a;v=1", "/a;v=1", "/a;v=1", "a;v=1"},
		{"/%252e%252e/x", "/%252e%252e/x", "/%2e%2e/x", "%252e%252e|x"},
		{"/...", "/...", "/...", "..."},
		{"/.well-known", "/.well-known", "/.well-known", ".well-known"},
		{"/%7Euser/%2d%5f", "/~user/-_", "/~user/-_", "~user|-_"},
		{"/%7b%7D%22%3c", "/%7B%7D%22%3C", "/{}\"<", "%7B%7D%22%3C"},
	} {
		p, err := route.Normalize(c.raw, false)
		if err != nil || p.Canonical != c.canonical || p.Decoded != c.decoded || strings.Join(p.Segments(nil), "|") != c.segments {
			t.Errorf("%s: %+v, %v", c.raw, p, err)
		}
	}
}

func TestNormalizeRefuses(t *testing.T) {
	for name, paths := range map[string][]string{
		"what is not an absolute path": {"", "*", "a", "http://h/a", "h:443", "?", "%2fa"},
		"empty segments":               {"//", "//a", "/a//b", "/a//", "/a%2F/b", "/a/%2Fb", "/%2F", "/%2f%2fa"},
		"dot segments":                 {"/.", "/..", "/./a", "/../a", "/a/..", "/a/../b", "/a/.", "/a/./b"},
		"dot segments in disguise":     {"/%2e", "/%2E%2e/a", "/.%2e/a", "/a/%2e%2E", "/a/..%2fb", "/a%2f..", "/a%2F.%2Fb", "/..;/a", "/a/..;x=1/b", "/.;", "/%2e%2e%3b/a"},
		"invalid escapes":              {"/%", "/%1", "/a%", "/a%2", "/%zz", "/%2g", "/%u002f", "/% 2f", "/%-1"},
		"control characters":           {"/%00", "/a%00.html", "/%0a", "/%0d%0aX", "/%7f", "/%1b", "/%09", "/%C2%85", "/%c2%80"},
		"backslashes":                  {`/a\b`, "/a%5cb", "/%5C..%5c", `\a`},
		"invalid UTF-8":                {"/%ff", "/%c3", "/%c3/%a9", "/%c0%af", "/%c0%ae%c0%ae", "/%e0%80%af", "/%ed%a0%80", "/%f4%90%80%80", "/%f8%80%80%80%80"},
		"bytes that must be escaped":   {"/a b", "/\u00e9", "/\x00", "/\n", "/\x7f", "/\"", "/<", "/{id}", "/a|b", "/a^b", "/`", "/#a", "/a?b", "/[", "/\xff"},
	} {
		for _, raw := range paths {
			if p, err := route.Normalize(raw, false); err == nil {
				t.Errorf("%s: %q gives %+v", name, raw, p)
			}
		}
	}
	for _, raw := range []string{"/a%2fb", "/a%2Fb", "/%2f"} {
		if p, err := route.Normalize(raw, true); err == nil {
			t.Errorf("an escaped slash: %q gives %+v", raw, p)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"/", "/accounts/7", "/a%2fb", "/%61/%2e%2e", "/..;/a", "/%c0%af", "/%C3%A9?", "//a", "/a%5c", "/%25%32%65", "*", "/a;b=1/c@d", "/%zz"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, raw string, reject bool) {
		route.Unescape(raw)
		p, err := route.Normalize(raw, reject)
		if err != nil {
			return
		}
		if route.Unescape(p.Canonical) != p.Decoded {
			t.Fatalf("%q: %q does not decode to %q", raw, p.Canonical, p.Decoded)
		}
		again, err := route.Normalize(p.Canonical, reject)
		if err != nil || again.Canonical != p.Canonical || again.Decoded != p.Decoded {
			t.Fatalf("%q is not stable: %+v, then %+v, %v", raw, p, again, err)
		}
		if len(p.Canonical) > len(raw) {
			t.Fatalf("%q grew to %q", raw, p.Canonical)
		}
		if d, err := url.PathUnescape(raw); err != nil || d != p.Decoded {
			t.Fatalf("%q decodes to %q here and to %q, %v, by net/url", raw, p.Decoded, d, err)
		}
		if !utf8.ValidString(p.Decoded) || strings.ContainsAny(p.Decoded, "\x00\r\n\\") || strings.Contains(p.Decoded, "//") || strings.Contains(p.Canonical, "//") {
			t.Fatalf("%q: %q", raw, p.Decoded)
		}
		for s := range strings.SplitSeq(p.Decoded, "/") {
			if s == "." || s == ".." {
				t.Fatalf("%q: a dot segment in %q", raw, p.Decoded)
			}
		}
		if joined := "/" + strings.Join(p.Segments(nil), "/"); joined != p.Canonical {
			t.Fatalf("%q: segments %q", raw, p.Segments(nil))
		}
		// What the application makes of it is what was judged.
		u := url.URL{Path: p.Decoded, RawPath: p.Canonical}
		if u.EscapedPath() != p.Canonical {
			t.Fatalf("%q: net/url escapes %q", raw, u.EscapedPath())
		}
		if reject && strings.Count(p.Decoded, "/") != strings.Count(raw, "/") {
			t.Fatalf("%q: an escaped slash came through", raw)
		}
	})
}

func TestQueries(t *testing.T) {
	for _, q := range []string{"", "a=1&b=2", "a[]=1|2", "q=%2F%3b", "a=b=c", "x={}", "/?"} {
		if err := route.CheckQuery(q); err != nil {
			t.Errorf("%q: %v", q, err)
		}
	}
	for _, q := range []string{"a;b", "%", "%1", "%zz", "a b", "a\x00", "\x7f", "\u00e9", "#", "<", ">", "\"", "\\"} {
		if route.CheckQuery(q) == nil {
			t.Errorf("%q is accepted", q)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{"": "", "a": "a", "a%20b": "a b", "%2F%C3%A9": "/\u00e9"} {
		if got := route.Unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// A query that passes is read by net/url without an error, and holds no byte that
// ends it or divides it elsewhere.
func FuzzCheckQuery(f *testing.F) {
	for _, s := range []string{"", "a=1&b=2", "a=%41%zz", "a;b", "a=%", "q=%00&&==", "a=1#b", "\u00e9", "+=%2B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, q string) {
		if route.CheckQuery(q) != nil {
			return
		}
		if _, err := url.ParseQuery(q); err != nil {
			t.Fatalf("%q passes: %v", q, err)
		}
		u, err := url.Parse("/?" + q)
		if err != nil || u.RawQuery != q || u.Path != "/" || u.Fragment != "" {
			t.Fatalf("%q is read as %+v (%v)", q, u, err)
		}
	})
}
