package link

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"lorica.dev/lorica/abi/egress"
)

func peer(client, local string) Peer {
	return Peer{netip.MustParseAddrPort(client), netip.MustParseAddrPort(local)}
}

func TestPeersSurviveTheLink(t *testing.T) {
	for _, p := range []Peer{
		peer("127.0.0.1:40000", "127.0.0.1:8443"),
		peer("[2001:db8::1]:1", "[::1]:65535"),
		peer("192.0.2.1:0", "0.0.0.0:80"),
	} {
		b := p.Encode()
		if got, err := DecodePeer(b); err != nil || got != p {
			t.Errorf("%v: got %v, %v", p, got, err)
		}
		for n := range b {
			if got, err := DecodePeer(b[:n]); err == nil {
				t.Errorf("%d bytes decode to %v", n, got)
			}
		}
		b[0]++
		if got, err := DecodePeer(b); err == nil {
			t.Errorf("other first bytes decode to %v", got)
		}
	}
}

// A client that is written in IPv6 must not dodge a rule that is written in IPv4.
func TestMappedIsIPv4(t *testing.T) {
	got, err := DecodePeer(peer("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2").Encode())
	if err != nil || got != peer("192.0.2.1:1", "192.0.2.2:2") {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestMessagesSurviveTheLink(t *testing.T) {
	var b bytes.Buffer
	for _, m := range []string{"", "a", strings.Repeat("x", egress.MaxMessage)} {
		if err := WriteMessage(&b, []byte(m)); err != nil {
			t.Fatal(err)
		}
		b.WriteString("rest")
		if got, err := ReadMessage(iotest.OneByteReader(&b)); err != nil || string(got) != m {
			t.Errorf("%d bytes: got %d, %v", len(m), len(got), err)
		}
		if string(b.Next(4)) != "rest" {
			t.Error("it read more than the message")
		}
	}
	if WriteMessage(&b, make([]byte, egress.MaxMessage+1)) == nil || b.Len() > 0 {
		t.Error("a message that is too long was written")
	}
	for _, cut := range []string{"", "\x01", "\x02\x00", "\x02\x00a", "\xff\xff" + strings.Repeat("x", 1<<16)} {
		if got, err := ReadMessage(strings.NewReader(cut)); err == nil {
			t.Errorf("%.4q is the message %q", cut, got)
		}
	}
}

func FuzzPeer(f *testing.F) {
	f.Add(peer("127.0.0.1:40000", "[::1]:8443").Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodePeer(b)
		if err != nil {
			return
		}
		if p.Client.Addr().Is4In6() || p.Client.Addr().Zone() != "" {
			t.Errorf("accepted %v", p)
		}
		if again, err := DecodePeer(p.Encode()); err != nil || again != p {
			t.Errorf("%v is %v, %v", p, again, err)
		}
	})
}
