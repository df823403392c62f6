package run

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever lies in the place of a high-water mark, the next revision is above it,
// and the one after that above both; or none is given out and nothing changes.
func FuzzLedger(f *testing.F) {
	for _, s := range []string{`{"revision":7}`, `{"revision":18446744073709551615}`, `{"revision":7,"revision":1}`, `{"REVISION":7}`, `{"revision":-1}`, `{}`, ``, `null`, `{"revision":1e3}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		l, err := openLedger(context.Background(), t.TempDir(), "acme.shop")
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		if err := os.WriteFile(l.path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		first, err := l.next()
		if err != nil {
			if b, _ := os.ReadFile(l.path); first != 0 || string(b) != string(content) {
				t.Fatalf("%v, and the file holds %q", err, b)
			}
			return
		}
		var was struct{ Revision *uint64 }
		if err := json.Unmarshal(content, &was); err != nil || was.Revision == nil || first <= *was.Revision {
			t.Fatalf("revision %d after %q", first, content)
		}
		if second, err := l.next(); err == nil && second <= first {
			t.Fatalf("revision %d after %d", second, first)
		}
	})
}

// What the kernel tells of changed files is taken apart to its end.
func FuzzEvents(f *testing.F) {
	event := func(mask uint32, name string) []byte {
		b := make([]byte, unix.SizeofInotifyEvent, unix.SizeofInotifyEvent+len(name))
		b[0], b[4], b[5], b[12] = 1, byte(mask), byte(mask>>8), byte(len(name))
		return append(b, name...)
	}
	f.Add(append(event(unix.IN_MODIFY, "policy.yaml\x00\x00\x00\x00\x00"), event(unix.IN_CLOSE_WRITE, "")...))
	f.Add(event(unix.IN_MOVED_TO, "a\x00")[:17])
	f.Add([]byte("\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) >= unix.SizeofInotifyEvent {
			name, _, rest := next(b)
			if len(rest) > len(b)-unix.SizeofInotifyEvent || len(name) < 4 || len(name)-4 > len(b)-len(rest)-unix.SizeofInotifyEvent {
				t.Fatalf("%q leaves %q of %q", name, rest, b)
			}
			b = rest
		}
	})
}
