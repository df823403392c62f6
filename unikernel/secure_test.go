package unikernel

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/abi/transport/certtest"
	"lorica.dev/lorica/pep"
	peptls "lorica.dev/lorica/pep/tls"
)

// A secureRig is a rig whose connections have TLS, and its authorities.
type secureRig struct {
	*rig
	servers, people *certtest.Authority
	mode            transport.Mode
}

func newSecureRig(t testing.TB, mode transport.Mode, l route.Limits, app http.Handler, guards ...pep.Guard) *secureRig {
	t.Helper()
	s := &secureRig{servers: certtest.New(t, "servers"), people: certtest.New(t, "people"), mode: mode}
	secrets := s.with(s.servers.Server(t, nil), s.people.PEM)
	s.rig = bootRig(t, TLS{Section: transport.Name, Module: peptls.New()}, secrets, s.program(1, l), app, guards...)
	return s
}

func (s *secureRig) with(pair certtest.Pair, trust []byte) []control.Secret {
	return []control.Secret{{Name: "cert", Value: pair.Chain}, {Name: "key", Value: pair.Key}, {Name: "trust", Value: trust}}
}

func (s *secureRig) program(revision uint64, l route.Limits) *program.Program {
	x := transport.Section{Rule: abi.Rule{ID: abi.RuleTLS, Line: "p.yaml:7"}, Mode: s.mode, HTTP2: true, Certificate: "cert", Key: "key"}
	if s.mode.Clients() {
		x.ClientTrust = "trust"
	}
	return testProgram(revision, l, program.Section{Name: transport.Name, Data: x.Encode()})
}

// config is that of a client which shows pair, if any.
func (s *secureRig) config(pair *certtest.Pair, protocols ...string) *tls.Config {
	c := &tls.Config{RootCAs: s.servers.Pool(), ServerName: "localhost", NextProtos: protocols}
	if pair != nil {
		c.Certificates = []tls.Certificate{pair.TLS}
	}
	return c
}

// tls opens a secured connection.
func (s *secureRig) tls(pair *certtest.Pair, protocols ...string) *tls.Conn {
	s.t.Helper()
	c := tls.Client(s.dial(), s.config(pair, protocols...))
	if err := c.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// client returns a client of HTTP/2.
func (s *secureRig) client(pair *certtest.Pair) *http.Client {
	t := &http.Transport{TLSClientConfig: s.config(pair), Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP2(true)
	s.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// load has four clients of HTTP/2 ask until stop, which waits for them; a request
// that fails fails the test.
func (s *secureRig) load(pair *certtest.Pair) (done *atomic.Int64, stop func()) {
	done = new(atomic.Int64)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		c := s.client(pair)
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				resp, err := c.Get(s.url("/app/x"))
				if err != nil {
					s.t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				done.Add(1)
			}
		})
	}
	stop = sync.OnceFunc(func() { close(ended); wg.Wait() })
	s.t.Cleanup(stop)
	return done, stop
}

func (s *secureRig) url(path string) string {
	_, port, _ := net.SplitHostPort(s.addr)
	return "https://localhost:" + port + path
}

// denials returns the records of denials, once there are n.
func (s *secureRig) denials(n int) (list []audit.Record) {
	s.t.Helper()
	find := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		list = nil
		for _, k := range s.records {
			if k.Verdict != abi.Allow {
				list = append(list, k)
			}
		}
		return len(list) >= n
	}
	eventually(s.t.(*testing.T), fmt.Sprintf("%d denials are recorded", n), find)
	time.Sleep(20 * time.Millisecond)
	if find(); len(list) != n {
		s.t.Fatalf("%d denials instead of %d: %+v", len(list), n, list)
	}
	return list
}

func TestTheChainKnowsTheClientsCertificate(t *testing.T) {
	var peer atomic.Pointer[pep.Peer]
	see := guardFunc(func(x *pep.Exchange) pep.Decision {
		peer.Store(x.Peer)
		return pep.Decision{Verdict: abi.Allow}
	})
	r := newSecureRig(t, transport.OptionalMutual, testLimits(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %v", r.Proto, r.TLS != nil && r.TLS.HandshakeComplete)
	}), see)
	r.run()
	ada := r.people.Client(t, "ada", nil)
	for _, pair := range []*certtest.Pair{nil, &ada} {
		c := r.tls(pair)
		io.WriteString(c, getApp)
		if _, body, err := answer(c); body != "HTTP/1.1 true" {
			t.Errorf("%q, %v", body, err)
		}
		if p := peer.Load(); (p != nil) != (pair != nil) || p != nil && p.Subject != "ada" {
			t.Errorf("HTTP/1.1: peer %+v", p)
		}
		resp, err := r.client(pair).Get(r.url("/app/x"))
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(resp.Body); string(b) != "HTTP/2.0 true" {
			t.Errorf("%q", b)
		}
		if p := peer.Load(); (p != nil) != (pair != nil) || p != nil && p.Subject != "ada" {
			t.Errorf("HTTP/2: peer %+v", p)
		}
	}
}

func TestARefusedHandshakeIsRecordedAndClosed(t *testing.T) {
	r := newSecureRig(t, transport.Mutual, testLimits(), text("ok"))
	r.run()
	c := r.dial()
	io.WriteString(c, getApp)
	b, err := io.ReadAll(c)
	if err != nil || strings.Contains(string(b), "HTTP") {
		t.Errorf("plain HTTP: %q, %v", b, err)
	}
	// TLS 1.3 lets the client believe that it is in until it reads.
	d := r.tls(nil)
	if n, err := d.Read(make([]byte, 1)); n > 0 || err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	for i, want := range []string{"the client does not speak TLS", "the client shows no certificate"} {
		if k := r.denials(2)[i]; k.Reason != want || k.Stage != abi.StageTLS || k.Rule.ID != abi.RuleTLS || k.Rule.Line != "p.yaml:7" || k.Source != "127.0.0.1" {
			t.Errorf("recorded %+v", k)
		}
	}
	if s := r.life.stats(); s.Refused != 2 || s.Requests != 0 {
		t.Errorf("%+v", s)
	}
	r.dial().Close() // says nothing and is nothing
	eventually(t, "all are gone", func() bool { return r.life.stats().Connections == 0 })
	r.denials(2)
}

func TestSlowHandshakesEnd(t *testing.T) {
	l := testLimits()
	l.HandshakeTimeout = 300 * time.Millisecond
	r := newSecureRig(t, transport.Simple, l, text("ok"))
	r.run()
	slow := r.dial()
	io.WriteString(slow, "\x16\x03\x01")
	if !cutOff(slow) {
		t.Error("it waits for ever")
	}
	if k := r.denials(1)[0]; k.Reason != "the handshake took too long" {
		t.Errorf("recorded %+v", k)
	}
	long := r.dial() // a ClientHello that does not end
	go func() {
		for range 4 {
			io.WriteString(long, "\x16\x03\x01\x40\x00"+"\x01\x00\xff\xff"+strings.Repeat("x", 0x4000-4))
		}
	}()
	long.SetReadDeadline(time.Now().Add(time.Minute))
	io.Copy(io.Discard, long)
	r.denials(2)
}

// However many clients begin a handshake and go silent, others are served, the
// number is bounded and so is the memory.
func TestIdleHandshakesHoldUpNobody(t *testing.T) {
	l := testLimits()
	l.MaxConnections = 1001
	r := newSecureRig(t, transport.Simple, l, text("ok"))
	r.run()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 1000 {
		c := r.dial()
		c.SetDeadline(time.Time{})
		io.WriteString(c, "\x16\x03\x01\x01")
	}
	eventually(t, "a thousand wait", func() bool { return r.life.stats().Connections == 1000 })
	c := r.tls(nil)
	io.WriteString(c, getApp)
	if _, body, err := answer(c); body != "ok" {
		t.Fatalf("%q, %v", body, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse); used > 1000*40<<10 {
		t.Errorf("%d bytes for each", used/1000)
	} else {
		t.Logf("%d bytes for each", used/1000)
	}
	// One more waits outside: handshakes count as connections.
	late := tls.Client(r.dial(), r.config(nil))
	late.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if late.Handshake() == nil {
		t.Error("a connection beyond the limit is served")
	}
}

func TestAnotherCertificateDropsNoConnection(t *testing.T) {
	r := newSecureRig(t, transport.Mutual, testLimits(), text("ok"))
	r.run()
	ada := r.people.Client(t, "ada", nil)
	kept := r.tls(&ada)
	in := bufio.NewReader(kept)
	ask := func() error {
		io.WriteString(kept, getApp)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	_, stop := r.load(&ada)
	serial := func() string { return r.tls(&ada).ConnectionState().PeerCertificates[0].SerialNumber.String() }
	for i := range 5 {
		next := r.servers.Server(t, nil)
		r.secrets = r.with(next, r.people.PEM)
		r.swap(uint64(i+1), uint8(1+i%2), r.program(uint64(i+2), testLimits()))
		if f := r.next(); f == nil {
			t.Fatal("no slot was released")
		}
		if got := serial(); got != next.TLS.Leaf.SerialNumber.String() {
			t.Errorf("change %d: new connections see %s", i, got)
		}
		if err := ask(); err != nil {
			t.Fatalf("change %d: the kept connection: %v", i, err)
		}
	}
	stop()
	r.denials(0)
}

func TestABadCertificateChangesNothing(t *testing.T) {
	r := newSecureRig(t, transport.Mutual, testLimits(), text("ok"))
	r.run()
	ada := r.people.Client(t, "ada", nil)
	good := r.secrets
	old := r.servers.Server(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	for name, secrets := range map[string][]control.Secret{
		"expired at": r.with(old, r.people.PEM), "there is no secret": good[:2],
		"malformed": r.with(certtest.Pair{Chain: good[0].Value[:90], Key: good[1].Value}, r.people.PEM), "there is no certificate": r.with(old, nil),
	} {
		if name == "there is no certificate" {
			secrets[0], secrets[1] = good[0], good[1]
		}
		r.send(control.Prepare{Txn: 1, Slot: 1, Length: r.put(1, r.program(2, testLimits())), Secrets: secrets}.Frame())
		if a := r.next().(control.Prepared); !strings.Contains(a.Err, name) || !strings.Contains(a.Err, "module tls") {
			t.Errorf("%s: answered %+v", name, a)
		}
		c := r.tls(&ada)
		io.WriteString(c, getApp)
		if _, body, err := answer(c); body != "ok" {
			t.Errorf("%s: %q, %v", name, body, err)
		}
	}
}

func TestConnectionsEndWithWhatVouchedForThem(t *testing.T) {
	r := newSecureRig(t, transport.Mutual, testLimits(), text("ok"))
	r.run()
	others := certtest.New(t, "others")
	ada := r.people.Client(t, "ada", nil)
	server := r.servers.Server(t, nil)
	both := append(append([]byte(nil), r.people.PEM...), others.PEM...)
	r.secrets = r.with(server, both)
	r.swap(1, 1, r.program(2, testLimits()))
	r.next() // Released
	bob := others.Client(t, "bob", nil)
	mine, theirs := r.tls(&ada), r.tls(&bob)
	h2 := r.client(&ada)
	if _, err := h2.Get(r.url("/app/x")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{mine, theirs} {
		io.WriteString(c, getApp)
		if _, body, err := answer(c); body != "ok" {
			t.Fatalf("%q, %v", body, err)
		}
	}
	r.secrets = r.with(server, others.PEM)
	r.swap(2, 2, r.program(3, testLimits()))
	mine.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := mine.Read(make([]byte, 1)); n > 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("a client that nobody vouches for stays: %d, %v", n, err)
	}
	io.WriteString(theirs, getApp)
	if _, body, err := answer(theirs); body != "ok" {
		t.Errorf("another's connection: %q, %v", body, err)
	}
	if resp, err := h2.Get(r.url("/app/x")); err == nil {
		t.Errorf("HTTP/2 goes on: %s", resp.Status)
	}
	// Two connections. The last request may also have come on one of its own, whose
	// client found none of its certificates among those that are asked for.
	reasons := map[string]int{}
	eventually(t, "both are recorded", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		clear(reasons)
		for _, k := range r.records {
			if k.Verdict != abi.Allow {
				reasons[k.Stage+": "+k.Reason]++
			}
		}
		return reasons["tls: the client certificate is not from an authority of the trust bundle"] == 2
	})
	delete(reasons, "tls: the client certificate is not from an authority of the trust bundle")
	delete(reasons, "tls: the client shows no certificate")
	if len(reasons) > 0 {
		t.Errorf("recorded as well: %v", reasons)
	}
}

func TestAConnectionEndsWithItsCertificate(t *testing.T) {
	r := newSecureRig(t, transport.Mutual, testLimits(), text("ok"))
	r.run()
	for _, h2 := range []bool{false, true} {
		end := time.Now().Add(2 * time.Second)
		short := r.people.Client(t, "ada", func(c *x509.Certificate) { c.NotAfter = end })
		var ask func() error
		if h2 {
			c := newFramed(t, r.tls(&short, "h2"))
			stream := uint32(1)
			ask = func() error {
				c.request(stream, "GET", "/app/x")
				f, err := c.answer(stream)
				stream += 2
				if err == nil && f.kind != frameHeaders {
					err = fmt.Errorf("got %+v", f)
				}
				return err
			}
		} else {
			conn := r.tls(&short)
			ask = func() error {
				io.WriteString(conn, getApp)
				_, _, err := answer(conn)
				return err
			}
		}
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(short.TLS.Leaf.NotAfter.Add(1100 * time.Millisecond)))
		if ask() == nil {
			t.Error("a request passes with a certificate that is over")
		}
	}
	for _, k := range r.denials(2) {
		if !strings.Contains(k.Reason, "expired") || k.Stage != abi.StageTLS {
			t.Errorf("recorded %+v", k)
		}
	}
}

func TestWhatWasNegotiatedIsSpoken(t *testing.T) {
	r := newSecureRig(t, transport.Simple, testLimits(), text("ok"))
	r.run()
	c := r.tls(nil, "http/1.1")
	io.WriteString(c, preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	if b, _ := io.ReadAll(c); !strings.HasPrefix(string(b), "HTTP/1.1 505 ") {
		t.Errorf("HTTP/2 on HTTP/1.1: %q", b)
	}
	c = r.tls(nil, "h2")
	io.WriteString(c, getApp)
	if b, _ := io.ReadAll(c); strings.Contains(string(b), "ok") || strings.Contains(string(b), "HTTP/1") {
		t.Errorf("HTTP/1.1 on HTTP/2: %q", b)
	}
	for _, k := range r.denials(2) {
		if k.Rule.ID != abi.RuleRequest {
			t.Errorf("recorded %+v", k)
		}
	}
}

func TestProgramsWithoutLimitsOfHandshakesAreRefused(t *testing.T) {
	r := newSecureRig(t, transport.Simple, testLimits(), text("ok"))
	for _, edit := range []func(*route.Limits){func(l *route.Limits) { l.HandshakeTimeout = 0 }, func(l *route.Limits) { l.MaxStreams = 0 }} {
		l := testLimits()
		edit(&l)
		m := control.Prepare{Slot: 1, Length: r.put(1, r.program(2, l)), Secrets: r.secrets}
		if _, err := r.life.open(m, from(0)); err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("%v", err)
		}
	}
}

// A transport that panics, or says yes to nothing, lets nobody in.
func TestATransportThatFailsDenies(t *testing.T) {
	for _, broken := range []pep.TransportState{panicking{}, empty{}} {
		r := newSecureRig(t, transport.Simple, testLimits(), text("ok"))
		r.life.server.current().tls = broken
		r.run()
		if tls.Client(r.dial(), r.config(nil)).Handshake() == nil {
			t.Error("it is in")
		}
		if k := r.denials(1)[0]; k.Rule.ID != abi.RuleError || k.Stage != abi.StageTLS {
			t.Errorf("recorded %+v", k)
		}
	}
}

type panicking struct{}

func (panicking) Secure(_ context.Context, c net.Conn) (pep.Secured, pep.Decision) {
	c.Read(make([]byte, 1))
	panic("transport")
}
func (panicking) Remain(*pep.Peer, time.Time) pep.Decision { panic("transport") }

type empty struct{}

func (empty) Secure(_ context.Context, c net.Conn) (pep.Secured, pep.Decision) {
	c.Read(make([]byte, 1))
	return pep.Secured{}, pep.Decision{Verdict: abi.Allow}
}
func (empty) Remain(*pep.Peer, time.Time) pep.Decision { return pep.Decision{} }

// A connection that is refused while it shakes hands, or before anybody serves
// it, is gone; nothing else is.
func TestRefusalsDuringTheHandshake(t *testing.T) {
	r := newSecureRig(t, transport.Simple, testLimits(), text("ok"))
	r.run()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				raw, err := net.Dial("tcp", r.addr)
				if err != nil {
					return
				}
				c := tls.Client(raw, r.config(nil, "h2"))
				c.SetDeadline(time.Now().Add(5 * time.Second))
				c.Handshake()
				c.Close()
			}
		})
	}
	for range 200 {
		for _, c := range r.life.server.open() {
			c.cut()
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	eventually(t, "all are gone", func() bool { return r.life.stats().Connections == 0 })
	c := r.tls(nil)
	io.WriteString(c, getApp)
	if _, body, err := answer(c); body != "ok" {
		t.Errorf("%q, %v", body, err)
	}
}
