package qemu

import (
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
)

// keptText bounds what is kept of QEMU's standard error, and what is shown of
// anything it says, in bytes.
const keptText = 2048

// printable returns what was said in one line, without what could change a terminal.
func printable(b []byte) string {
	b = b[max(0, len(b)-keptText):]
	lines := strings.FieldsFunc(strings.ToValidUTF8(string(b), "?"), func(r rune) bool { return r == '\n' || r == '\r' })
	s := strings.Join(lines, " | ")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// A tail keeps the end of what is written. Safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// readFrom reads r to its end.
func (t *tail) readFrom(r io.Reader) {
	b := make([]byte, keptText)
	for {
		n, err := r.Read(b)
		t.mu.Lock()
		t.text = append(t.text, b[:n]...)
		t.text = append(t.text[:0], t.text[max(0, len(t.text)-keptText):]...)
		t.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(unaskedPause)
	}
}

// errors returns what was said, without QEMU's warnings.
func (t *tail) errors() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []string
	for line := range strings.Lines(string(t.text)) {
		if !strings.Contains(line, program+": warning: ") {
			list = append(list, line)
		}
	}
	return printable([]byte(strings.Join(list, "")))
}
