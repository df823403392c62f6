package tender_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/tender"
)

// A client that misbehaves gets an error or nothing; the tender lives.
func TestHostileClients(t *testing.T) {
	cfg := configure(t)
	c := start(t, cfg)
	t.Chdir(cfg.Dir)
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", "control.sock")
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	for name, c := range map[string]struct {
		send []byte
		want string
	}{
		"no JSON":          {[]byte("GET / HTTP/1.1\r\n"), "the request"},
		"two requests":     {[]byte(`{"op":"status"} {"op":"stop"}` + "\n"), "more than one value"},
		"an unknown field": {[]byte(`{"op":"status","sudo":true}` + "\n"), "unknown field"},
		"an unknown op":    {[]byte(`{"op":"unseal"}` + "\n"), `\"unseal\" is unknown`},
		"no program":       {[]byte(`{"op":"replace"}` + "\n"), "a program of 0 bytes"},
		"a long drain":     {[]byte(`{"op":"drain","limit":9000000000000000000}` + "\n"), "from zero to an hour"},
		"many secrets":     {bytes.Join([][]byte{[]byte(`{"op":"replace","length":3,"secrets":[{"Name":"a","Value":"`), bytes.Repeat([]byte("AAAA"), 2<<20), []byte("\"}]}\nAAA")}, nil), "bytes of secrets"},
		"a long program":   {[]byte(`{"op":"replace","length":999999999}` + "\n"), "a program of 999999999 bytes; the limit is"},
		"less than none":   {[]byte(`{"op":"replace","length":-1}` + "\n"), "a program of -1 bytes"},
	} {
		conn := dial()
		conn.Write(c.send)
		b, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(b), c.want) {
			t.Errorf("%s: got %q (%v)", name, b, err)
		}
		conn.Close()
	}
	t.Run("an endless line", func(t *testing.T) {
		conn := dial()
		defer conn.Close()
		junk := bytes.Repeat([]byte("x"), 1<<20)
		for i := range 64 {
			if _, err := conn.Write(junk); err != nil {
				if i < 16 {
					t.Errorf("cut off after %d MiB: %v", i, err)
				}
				return
			}
		}
		t.Error("64 MiB were taken")
	})
	t.Run("more clients than seats", func(t *testing.T) {
		var held []net.Conn
		for range 100 {
			held = append(held, dial())
		}
		for _, conn := range held {
			conn.Close()
		}
		eventually(t, "a seat is free", func() bool { _, err := c.Status(background); return err == nil })
	})
	if s := status(t, c); s.State != tender.Ready || s.Restarts != 0 {
		t.Errorf("status is %+v", s)
	}
	info, err := os.Stat(filepath.Join(cfg.Dir, "control.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v (%v)", info.Mode(), err)
	}
}
