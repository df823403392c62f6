package unikernel

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	pepaudit "lorica.dev/lorica/pep/audit"
	"lorica.dev/lorica/pep/audit/channel"
	"lorica.dev/lorica/pep/filter"
	"lorica.dev/lorica/pep/firewall"
)

// A rig is an image after its boot, in this process and unsealed, and the
// tender's end of its channel. What needs a process is tested in linux.
type rig struct {
	t      testing.TB
	life   *life
	tender net.Conn
	window []byte
	key    ed25519.PrivateKey
	addr   string
	done   chan error
	frames chan any // what is not Records or Log; KindReady as itself

	secrets []control.Secret // beside every program

	mu      sync.Mutex
	records []audit.Record
	logs    []string
	deaf    bool // read nothing more
}

const (
	testSlot = 64 << 10
	noGuard  = ""
)

// testLimits end nothing that a test waits for: what it hopes for must come by itself.
func testLimits() route.Limits {
	return route.Limits{MaxHeaderBytes: 8 << 10, MaxBodyBytes: 1 << 20, MaxPathBytes: 2048, MaxConnections: 64, MaxHeaders: 20, MaxStreams: 32,
		HandshakeTimeout: time.Hour, HeaderTimeout: time.Hour, BodyTimeout: time.Hour, WriteTimeout: 5 * time.Second, IdleTimeout: time.Hour}
}

func testProgram(revision uint64, l route.Limits, sections ...program.Section) *program.Program {
	network := flow.Section{Lists: []flow.List{{Level: "normal", Rules: []flow.Rule{{Rule: abi.Rule{ID: "local"},
		Verdict: abi.Allow, Src: netip.MustParsePrefix("127.0.0.0/8"), FromHi: 65535, PortHi: 65535}}}}}
	routes := route.Section{Limits: l, Routes: []route.Route{{Name: "any", Method: "*", Pattern: "/app/{rest...}"}}}
	toTender := audit.Channel{Rule: abi.Rule{ID: "channel"}}
	all := audit.Section{AllowedPerMillion: audit.Million}
	return &program.Program{Revision: revision, Tenant: "acme", Workload: "shop", Levels: []string{"normal"},
		Sections: append([]program.Section{{Name: flow.Name, Data: network.Encode()}, {Name: route.Name, Data: routes.Encode()},
			{Name: audit.Name, Data: all.Encode()}, {Name: audit.ChannelName, Data: toTender.Encode()}}, sections...)}
}

// newRig makes an image of the real modules, the given guards and app.
func newRig(t testing.TB, l route.Limits, app http.Handler, guards ...pep.Guard) *rig {
	t.Helper()
	return bootRig(t, TLS{}, nil, testProgram(1, l), app, guards...)
}

// bootRig boots an image with a program and the secrets beside it.
func bootRig(t testing.TB, secure TLS, secrets []control.Secret, first *program.Program, app http.Handler, guards ...pep.Guard) *rig {
	t.Helper()
	return bootImage(t, rigImage(secure, guards), secrets, first, app)
}

// rigImage is an image of the real modules and the given guards.
func rigImage(secure TLS, guards []pep.Guard) Image {
	img := Image{
		Gates:  []Gate{{Section: flow.Name, Module: firewall.New()}},
		TLS:    secure,
		Guards: []Guard{{Section: route.Name, Module: filter.New()}},
		Audit:  Audit{Section: audit.Name, Module: pepaudit.New(), Sinks: []Sink{{Section: audit.ChannelName, Module: channel.New()}}},
	}
	for _, g := range guards {
		img.Guards = append(img.Guards, Guard{Section: noGuard, Module: g})
	}
	return img
}

// bootImage boots an image with a program and the secrets beside it.
func bootImage(t testing.TB, img Image, secrets []control.Secret, first *program.Program, app http.Handler) *rig {
	t.Helper()
	r := &rig{secrets: secrets, t: t, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), done: make(chan error, 1), frames: make(chan any, 64)}
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	r.tender, r.window = theirs, make([]byte, 3*testSlot)
	p := &launch.Params{Tenant: "acme", Workload: "shop", SlotSize: testSlot, Slots: 3,
		Trust: [32]byte(r.key.Public().(ed25519.PublicKey))}
	r.life = newLife(img, program.PlanID{}, p, r.window, ours)
	r.life.server.app = app
	var err error
	if r.life.packets.filter, err = img.filterPackets(p); err != nil {
		t.Fatal(err)
	}
	n := r.put(0, first)
	if err := r.life.first(control.Prepare{Length: n, Secrets: secrets}, 1); err != nil {
		t.Fatal(err)
	}
	return r
}

// put writes a signed program into a slot and returns its length.
func (r *rig) put(slot uint8, p *program.Program) uint32 {
	r.t.Helper()
	signed, err := program.Sign(p, r.key)
	if err != nil {
		r.t.Fatal(err)
	}
	return uint32(copy(r.window[int(slot)*testSlot:], signed))
}

// run brings the image to Ready.
func (r *rig) run() *rig {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	r.life.server.ports = []port{{ln, 8080}}
	go func() { r.done <- r.life.run() }()
	go r.read()
	r.t.Cleanup(func() { ln.Close() })
	if f := r.next(); f != control.KindReady {
		r.t.Fatalf("the image says %+v", f)
	}
	return r
}

func (r *rig) read() {
	in := bufio.NewReader(r.tender)
	// In order, as a tender does, and without holding up the reader.
	acks := make(chan uint64, 1<<16)
	defer close(acks)
	go func() {
		for seq := range acks {
			control.WriteFrame(r.tender, control.Ack{Seq: seq}.Frame())
		}
	}()
	for {
		f, err := control.ReadFrame(in, control.MaxFromImage)
		if err != nil {
			close(r.frames)
			return
		}
		m, err := f.Decode()
		if err != nil {
			r.t.Errorf("the image sent %v", err)
		}
		r.mu.Lock()
		for r.deaf {
			r.mu.Unlock()
			time.Sleep(time.Millisecond)
			r.mu.Lock()
		}
		switch m := m.(type) {
		case control.Records:
			r.records = append(r.records, m.Records...)
			acks <- m.Seq
		case control.Log:
			r.logs = append(r.logs, m.Line)
		case nil:
			r.frames <- f.Kind
		default:
			r.frames <- m
		}
		r.mu.Unlock()
	}
}

func (r *rig) next() any {
	r.t.Helper()
	select {
	case f := <-r.frames:
		return f
	case <-time.After(time.Minute):
		r.t.Fatal("the image says nothing")
		return nil
	}
}

func (r *rig) send(f control.Frame) {
	r.t.Helper()
	if err := control.WriteFrame(r.tender, f); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) setDeaf(deaf bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf = deaf
}

// swap puts a program in force and returns when the image says so.
func (r *rig) swap(txn uint64, slot uint8, p *program.Program) {
	r.t.Helper()
	r.send(control.Prepare{Txn: txn, Slot: slot, Length: r.put(slot, p), Secrets: r.secrets}.Frame())
	if a, ok := r.next().(control.Prepared); !ok || a.Err != "" {
		r.t.Fatalf("Prepare: %+v", a)
	}
	r.send(control.Txn{Txn: txn}.Frame(control.KindCommit))
	if c, ok := r.next().(control.Committed); !ok || c.Slot != slot || c.Revision != p.Revision {
		r.t.Fatalf("Commit: %+v", c)
	}
}

// dial opens a connection to the image.
func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

// ask sends text on a new connection and returns the first response.
func (r *rig) ask(text string) (*http.Response, string) {
	r.t.Helper()
	c := r.dial()
	io.WriteString(c, text)
	resp, body, err := answer(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, body
}

func answer(c net.Conn) (*http.Response, string, error) {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// kept waits for n records, which must be all, and returns them.
func (r *rig) kept(t *testing.T, n int) []audit.Record {
	t.Helper()
	eventually(t, fmt.Sprintf("%d records are kept", n), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.records) >= n
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) != n {
		t.Fatalf("%d records instead of %d", len(r.records), n)
	}
	return append([]audit.Record(nil), r.records...)
}

func (r *rig) logged(want string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(strings.Join(r.logs, "\n"), want)
}

// guardFunc is a guard that needs no section.
type guardFunc func(*pep.Exchange) pep.Decision

func (f guardFunc) Prepare(*pep.Input) (pep.GuardState, error) { return f, nil }
func (f guardFunc) Judge(x *pep.Exchange) pep.Decision         { return f(x) }

// unwilling is a guard that consents to nothing after the first program.
type unwilling struct{ prepared int }

func (u *unwilling) Prepare(*pep.Input) (pep.GuardState, error) {
	if u.prepared++; u.prepared > 1 {
		return nil, errors.New("unwilling")
	}
	return guardFunc(func(*pep.Exchange) pep.Decision { return pep.Decision{Verdict: abi.Allow, Stage: "last"} }), nil
}

func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, bytes.NewReader([]byte(s))) })
}
