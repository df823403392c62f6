package route

import "testing"

func TestPlainName(t *testing.T) {
	for name, want := range map[string]struct {
		plain string
		odd   bool
	}{
		"Content-Length": {"content-length", false}, "Content_Length": {"content-length", true}, "X.Y~z9": {"x-y-z9", true}, "": {"", false}, "A\u212a": {"a-", true},
	} {
		if PlainName(name) != want.plain || OddName(name) != want.odd {
			t.Errorf("%q: %q, %v", name, PlainName(name), OddName(name))
		}
	}
}
