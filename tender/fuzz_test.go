package tender

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/wire"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/tender/process"
)

// A record of the image becomes one line that a spool takes and a terminal
// survives, with what it says of the decision, and never a denial as allowed.
func FuzzDecision(f *testing.F) {
	add := func(r audit.Record) {
		var w wire.Writer
		r.Append(&w)
		f.Add(w.Bytes(), uint64(7))
	}
	add(audit.Record{Time: 1, ID: "a", Verdict: abi.Allow, Stage: "authz", Rule: abi.Rule{ID: "r", Line: "p:1"}, Path: "/x", Revision: 3})
	add(audit.Record{Time: -1 << 63, Reason: "\x1b[2J\r\n", Principal: "\u202e", Source: "\xff", Status: 65535})
	long := strings.Repeat("\x80", 10_000)
	add(audit.Record{Time: 1<<63 - 1, ID: long, Stage: long, Rule: abi.Rule{ID: long, Line: long}, Reason: long, Principal: long, Source: long, Method: long, Route: long, Path: long, Level: long})
	full := audit.Record{Path: strings.Repeat("<", 2000), Protocol: 58, Port: 53, Partial: audit.PartialPath}
	for i := range 9 {
		full.Groups = append(full.Groups, strings.Repeat("<", 200))
		full.Facts = append(full.Facts, audit.Fact{Name: fmt.Sprint("a", i) + long[:40], Value: long[:200]}, audit.Fact{Name: fmt.Sprint(i), Value: "\"", State: audit.State(i % 3)})
	}
	add(full)
	tn := &tender{cfg: Config{Instance: strings.Repeat("i", 128)}, tier: api.TierFull.String()}
	f.Fuzz(func(t *testing.T, b []byte, seq uint64) {
		in := wire.NewReader(b)
		r := audit.Read(in)
		if in.Close() != nil {
			return
		}
		line, err := tn.decision(&r, seq)
		if err != nil || len(line) > maxLine || bytes.ContainsAny(line, "\r\n\x1b") {
			t.Fatalf("%d bytes, %v: %q", len(line), err, line)
		}
		var d Decision
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatal(err)
		}
		if d.Seq != seq || d.Decision != r.Verdict.String() || d.Time.UnixNano() != r.Time || d.Path != printable(r.Path) || d.Reason != printable(r.Reason) || d.Rule != printable(r.Rule.ID) {
			t.Fatalf("%+v became %+v", r, d)
		}
		// A fact that is not said to be partial is what was judged.
		for _, f := range r.Facts {
			if got, ok := d.Facts[f.Name]; ok && got != nil && *got != f.Value && !slices.Contains(d.Partial, "attribute."+f.Name) {
				t.Fatalf("%+v became %q", f, *got)
			}
		}
		if len(d.Groups) != len(r.Groups) || !slices.Equal(d.Groups, r.Groups) && !slices.Contains(d.Partial, "groups") || d.Port != r.Port {
			t.Fatalf("%+v became %+v", r, d)
		}
	})
}

// A spool goes on in whatever a dead tender, or anybody, left in its folder: its
// own lines come back, whole, in order, after what was there.
func FuzzSpool(f *testing.F) {
	f.Add("x-0000000000000001.jsonl", []byte("{}\n{}\n{\"se"), "x-0000000000000003.jsonl", []byte(""))
	f.Add("x-0000000000000001.jsonl", []byte("{}\n"), "x-0000000000000001.jsonl", []byte("\n\n"))
	f.Add("x-ffffffffffffffff.jsonl", []byte("{}\n"), "x-.jsonl", []byte("{}\n"))
	f.Add("x-1.jsonl", []byte("{}\n"), "x-00000000000000000000000000000002.jsonl", []byte("{}\n"))
	f.Add("x-0000000000000001.jsonl", []byte("{}\n"), "x-0000000080000001.jsonl", []byte("x-")) // was counted through, one by one
	f.Add("x-0000000000000005.jsonl", bytes.Repeat([]byte("y"), maxLine+2), "x-0000000000000002.jsonl", []byte("\n"))
	f.Fuzz(func(t *testing.T, one string, first []byte, two string, second []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{one: first, two: second} {
			if filepath.Base(name) != name || strings.ContainsRune(name, 0) || len(name) > 100 || !strings.HasPrefix(name, "x-") {
				return
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				return
			}
		}
		s, err := openSpool(dir, "x", 100, 3)
		if err != nil {
			return
		}
		defer s.close()
		before := s.last()
		var want []string
		for range 2 {
			if err := s.append(1, func(_ int, n uint64) ([]byte, error) {
				want = append(want, fmt.Sprintf(`{"seq":%d}`, n))
				return []byte(want[len(want)-1]), nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if s.last() != before+2 || before+2 < before {
			t.Fatalf("number %d is followed by %d", before, s.last())
		}
		var got []string
		err = s.stream(context.Background(), before+1, false, func(b []byte) error {
			got = append(got, strings.TrimSuffix(string(b), "\n"))
			return nil
		})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("kept %q, want %q (%v)", got, want, err)
		}
		// What was there is passed on as far as it is lines, or is an error.
		s.stream(context.Background(), 0, false, func(b []byte) error {
			if len(b) > maxLine+1 {
				t.Fatalf("a line of %d bytes", len(b))
			}
			return nil
		})
	})
}

// Whatever an image says over its dial socket, nothing is connected to that the
// rules deny, each dial has at most one answer, and what is out of place ends it.
func FuzzDial(f *testing.F) {
	join := func(list ...interface{ Encode() []byte }) (b []byte) {
		for _, m := range list {
			e := m.Encode()
			b = append(append(b, byte(len(e)>>8), byte(len(e))), e...)
		}
		return b
	}
	f.Add(join(egress.Dial{ID: 1, Host: "a.test", Port: 80}, egress.Dial{ID: 2, Host: "b.test", Port: 80}, egress.Close{ID: 2}))
	f.Add(join(egress.Dial{ID: 1, Host: "127.0.0.1", Port: 22}, egress.Dial{ID: 1, Host: "127.0.0.1", Port: 22}))
	f.Add(join(egress.Dial{ID: 0, Host: "[::1]", Port: 0}, egress.Dial{ID: 7, Host: "::ffff:127.0.0.1", Port: 80}))
	f.Add(join(egress.Close{ID: 9}))
	f.Add(join(egress.Opened{ID: 9}))
	f.Fuzz(func(t *testing.T, script []byte) {
		ours, theirs, err := process.Pair(unix.SOCK_SEQPACKET, "dial")
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		var asked atomic.Int64
		d := newDialer(ours, allow([]string{"a.test"}, 80), time.Second, func(error) {}, func(string, ...any) {})
		d.resolve = func(_ context.Context, name string) ([]netip.Addr, error) {
			if asked.Add(1); name != "a.test" {
				t.Errorf("%q is resolved", name)
			}
			return nil, errors.New("not here")
		}
		d.rules.resolve = d.resolve
		served := make(chan error, 1)
		go func() { served <- d.serve() }()
		dials := 0
		for len(script) >= 2 && dials < 32 {
			n := min(int(script[0])<<8|int(script[1]), len(script)-2)
			message := script[2 : 2+n]
			script = script[2+n:]
			if m, err := egress.FromImage(message); err == nil {
				if _, dial := m.(egress.Dial); dial {
					dials++
				}
			}
			if _, err := theirs.Write(message); err != nil {
				break // it has been ended
			}
		}
		if err := unix.Shutdown(int(theirs.Fd()), unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		answers := make(chan int, 1)
		go func() {
			b, n := make([]byte, egress.MaxMessage), 0
			for {
				k, err := theirs.Read(b)
				if err != nil || k == 0 {
					answers <- n
					return
				}
				if m, err := egress.FromTender(b[:k]); err != nil {
					t.Errorf("it answers %q: %v", b[:k], err)
				} else if _, refused := m.(egress.Refused); !refused {
					t.Errorf("it answers %+v", m)
				}
				n++
			}
		}()
		if err := <-served; err == nil {
			t.Error("it ended without an error")
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Microsecond) {
			d.mu.Lock()
			busy, open := d.busy, len(d.open)
			d.mu.Unlock()
			if busy == 0 {
				if open != 0 {
					t.Errorf("%d connections", open)
				}
				break
			}
			if time.Now().After(end) {
				t.Fatal("a dial does not end")
			}
		}
		d.end()
		if n := <-answers; n > dials {
			t.Errorf("%d answers to %d dials", n, dials)
		}
		if asked.Load() > 1 {
			t.Errorf("a name was resolved %d times at once", asked.Load())
		}
	})
}

// A configuration that is taken is within its bounds, and the same after another
// look.
func FuzzConfig(f *testing.F) {
	whole, err := json.Marshal(Config{Instance: "i", Tenant: "acme", Workload: "shop", Dir: "/run/x", Image: "/image", Plan: strings.Repeat("0a", 32), Trust: make([]byte, 32), Program: []byte{1},
		Listen: []Listener{{"api", "127.0.0.1", 0}}, Secrets: []control.Secret{{Name: "a", Value: []byte("b")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(bytes.Replace(whole, []byte(`"i"`), []byte(`"../i"`), 1))
	f.Add(bytes.Replace(whole, []byte(`127.0.0.1`), []byte(`localhost`), 1))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"Memory":18446744073709551615,"Patience":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeConfig(b)
		if err != nil {
			return
		}
		if c.validate() != nil {
			return
		}
		for _, n := range []string{c.Instance, c.Tenant, c.Workload} {
			if n == "" || len(n) > 128 || strings.ContainsAny(n, "/\x00\n ") || n[0] == '.' {
				t.Fatalf("the name %q", n)
			}
		}
		if len(c.Trust) != 32 || len(c.Program) == 0 || len(c.Listen) == 0 || c.Memory == 0 || c.Patience <= 0 || c.LeaseGrace <= 0 || c.MaxProcs <= 0 || !filepath.IsAbs(c.Dir) {
			t.Fatalf("%+v", c)
		}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeConfig(text)
		if err != nil || again.validate() != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v became %+v (%v)", c, again, err)
		}
	})
}

// An answer is a result or an error, never both, whatever sits on the socket.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{`{"result":{"state":"ready"},"last":true}`, `{"error":"no","result":{}}`, `{"result":null}`, `[]`, "", `{"result":{"started":"x"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseResponse(line)
		if err != nil {
			if r.Result != nil || r.Last {
				t.Fatalf("%+v and %v", r, err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil || r.Error != "" {
			t.Fatalf("%+v: %v", r, err)
		}
		if x, err := parseResponse(again); err != nil || x.Last != r.Last {
			t.Fatalf("%s became %+v (%v)", again, x, err)
		}
		var s Status
		json.Unmarshal(r.Result, &s)
	})
}
