package tls_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/transport"
)

// Nobody is on a secured connection without a handshake, whatever bytes arrive,
// and a reason repeats nothing of them.
func FuzzHandshake(f *testing.F) {
	w := newWorld(f, transport.Mutual)
	var hello strings.Builder
	shake(f, w.state(), 5*time.Second, func(c net.Conn) {
		dial(w.client(nil))(spy{c, &hello})
	})
	f.Add([]byte(hello.String()))
	f.Add([]byte(hello.String())[:5])
	f.Add([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"))
	f.Add([]byte{22, 3, 1, 255, 255})
	f.Add([]byte{21, 3, 3, 0, 2, 2, 40})
	st := w.state()
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		go io.Copy(io.Discard, theirs)
		go func() {
			theirs.Write(raw)
			theirs.Close()
		}()
		sec, d := st.Secure(t.Context(), ours)
		if d.Verdict != abi.Deny || sec.Conn != nil || sec.Peer != nil || d.Rule.ID != abi.RuleTLS || d.Reason == "" {
			t.Fatalf("%+v, %+v", sec, d)
		}
		if len(d.Reason) > 100 || strings.ContainsFunc(d.Reason, func(r rune) bool { return r > unicode.MaxASCII || r < ' ' }) {
			t.Fatalf("the reason is %q", d.Reason)
		}
	})
}

// A spy is a connection whose other side keeps what is written.
type spy struct {
	net.Conn
	said *strings.Builder
}

func (s spy) Write(b []byte) (int, error) {
	s.said.Write(b)
	return s.Conn.Write(b)
}
