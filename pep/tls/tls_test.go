package tls_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/abi/transport/certtest"
	"lorica.dev/lorica/pep"
	peptls "lorica.dev/lorica/pep/tls"
)

// A world has two authorities, a server certificate and a section.
type world struct {
	t               testing.TB
	servers, people *certtest.Authority
	server          certtest.Pair
	section         transport.Section
	secrets         map[string][]byte
}

func newWorld(t testing.TB, mode transport.Mode) *world {
	w := &world{t: t, servers: certtest.New(t, "servers"), people: certtest.New(t, "people")}
	w.server = w.servers.Server(t, nil)
	w.section = transport.Section{Rule: abi.Rule{ID: abi.RuleTLS, Line: "p.yaml:7"}, Mode: mode, HTTP2: true, Certificate: "cert", Key: "key"}
	if mode.Clients() {
		w.section.ClientTrust = "trust"
	}
	w.secrets = map[string][]byte{"cert": w.server.Chain, "key": w.server.Key, "trust": w.people.PEM}
	return w
}

func (w *world) prepare() (pep.TransportState, error) {
	return peptls.New().Prepare(&pep.Input{Section: w.section.Encode(), Secrets: w.secrets})
}

func (w *world) state() pep.TransportState {
	w.t.Helper()
	st, err := w.prepare()
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) client(pair *certtest.Pair) *tls.Config {
	c := &tls.Config{RootCAs: w.servers.Pool(), ServerName: "localhost"}
	if pair != nil {
		// Shown whatever authorities the server names.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair.TLS, nil }
	}
	return c
}

// shake makes the handshake over TCP with a client that runs talk, and returns
// what came of it on our side.
func shake(t testing.TB, st pep.TransportState, limit time.Duration, talk func(net.Conn)) (pep.Secured, pep.Decision) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); ours.Close() })
	go talk(c)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	sec, d := st.Secure(ctx, ours)
	if d.Verdict != abi.Allow {
		ours.Close()
	}
	return sec, d
}

// dial is a client that makes a handshake and then waits for what comes.
func dial(cfg *tls.Config) func(net.Conn) {
	return func(c net.Conn) {
		conn := tls.Client(c, cfg)
		if conn.Handshake() == nil {
			io.Copy(io.Discard, conn)
		}
		c.Close()
	}
}

func TestPrepareRefuses(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		edit func(*world)
		says string
	}{
		"no section":              {func(w *world) { w.section = transport.Section{} }, "transport:"},
		"no certificate":          {func(w *world) { delete(w.secrets, "cert") }, `there is no secret "cert"`},
		"no key":                  {func(w *world) { delete(w.secrets, "key") }, `there is no secret "key"`},
		"no trust":                {func(w *world) { delete(w.secrets, "trust") }, `there is no secret "trust"`},
		"an empty certificate":    {func(w *world) { w.secrets["cert"] = nil }, "no certificate"},
		"a malformed certificate": {func(w *world) { w.secrets["cert"] = w.server.Chain[:100] }, "malformed"},
		"a malformed key":         {func(w *world) { w.secrets["key"] = w.server.Key[:60] }, "malformed"},
		"another's key":           {func(w *world) { w.secrets["key"] = w.servers.Server(t, nil).Key }, "not the certificate's"},
		"an empty trust bundle":   {func(w *world) { w.secrets["trust"] = []byte("# nobody\n") }, "no certificate"},
		"an expired certificate": {func(w *world) {
			p := w.servers.Server(t, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour) })
			w.secrets["cert"], w.secrets["key"] = p.Chain, p.Key
		}, "expired at"},
		"a certificate of the future": {func(w *world) {
			p := w.servers.Server(t, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(time.Hour), now.Add(2*time.Hour) })
			w.secrets["cert"], w.secrets["key"] = p.Chain, p.Key
		}, "not valid before"},
		"a certificate for clients": {func(w *world) {
			p := w.people.Client(t, "x", nil)
			w.secrets["cert"], w.secrets["key"] = p.Chain, p.Key
		}, "serverAuth"},
	} {
		w := newWorld(t, transport.Mutual)
		c.edit(w)
		st, err := w.prepare()
		if err == nil || st != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClientsPerMode(t *testing.T) {
	now := time.Now()
	spiffe := func(ids ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, id := range ids {
				u, err := url.Parse(id)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	w := newWorld(t, transport.Mutual)
	strangers := certtest.New(t, "people") // of the same name
	between := w.people.Under(t, "between", nil)
	expiredBetween := w.people.Under(t, "old", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour) })
	with := func(a, parent *certtest.Authority) certtest.Pair {
		p := a.Client(t, "far", nil)
		p.TLS.Certificate = append(p.TLS.Certificate, a.Cert.Raw)
		_ = parent
		return p
	}
	const ok = ""
	for name, c := range map[string]struct {
		pair                     *certtest.Pair
		simple, optional, mutual string // reasons
	}{
		"none":                       {nil, ok, ok, "the client shows no certificate"},
		"good":                       {ptr(w.people.Client(t, "ada", nil)), ok, ok, ok},
		"a SPIFFE ID":                {ptr(w.people.Client(t, "", spiffe("spiffe://acme.example/pay/7"))), ok, ok, ok},
		"for any use":                {ptr(w.people.Client(t, "x", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })), ok, ok, ok},
		"over another authority":     {ptr(with(between, w.people)), ok, ok, ok},
		"over one that is expired":   {ptr(with(expiredBetween, w.people)), ok, "expired", "expired"},
		"expired":                    {ptr(w.people.Client(t, "x", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Minute) })), ok, "expired", "expired"},
		"of the future":              {ptr(w.people.Client(t, "x", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(time.Minute), now.Add(time.Hour) })), ok, "not valid yet", "not valid yet"},
		"of a stranger":              {ptr(strangers.Client(t, "ada", nil)), ok, "not from an authority", "not from an authority"},
		"of the servers' authority":  {ptr(w.servers.Client(t, "ada", nil)), ok, "not from an authority", "not from an authority"},
		"for servers":                {ptr(w.people.Server(t, nil)), ok, "not for clients", "not for clients"},
		"two SPIFFE IDs":             {ptr(w.people.Client(t, "x", spiffe("spiffe://a/b", "spiffe://a/c"))), ok, "SPIFFE", "SPIFFE"},
		"a SPIFFE ID and more":       {ptr(w.people.Client(t, "x", spiffe("spiffe://a/b", "https://a/"))), ok, "SPIFFE", "SPIFFE"},
		"a SPIFFE ID with a query":   {ptr(w.people.Client(t, "x", spiffe("spiffe://a/b?c"))), ok, "SPIFFE", "SPIFFE"},
		"a SPIFFE ID without a path": {ptr(w.people.Client(t, "x", spiffe("spiffe://a"))), ok, "SPIFFE", "SPIFFE"},
		"a SPIFFE ID with dots":      {ptr(w.people.Client(t, "x", spiffe("spiffe://a/b/../c"))), ok, "SPIFFE", "SPIFFE"},
		"a SPIFFE ID with a port":    {ptr(w.people.Client(t, "x", spiffe("spiffe://a:1/b"))), ok, "SPIFFE", "SPIFFE"},
		"a SPIFFE ID in capitals":    {ptr(w.people.Client(t, "x", spiffe("spiffe://Acme/b"))), ok, "SPIFFE", "SPIFFE"},
		"a SPIFFE ID with escapes":   {ptr(w.people.Client(t, "x", spiffe("spiffe://a/b%2fc"))), ok, "SPIFFE", "SPIFFE"},
		"another URI":                {ptr(w.people.Client(t, "x", spiffe("https://a/b"))), ok, ok, ok},
	} {
		for mode, want := range map[transport.Mode]string{transport.Simple: c.simple, transport.OptionalMutual: c.optional, transport.Mutual: c.mutual} {
			w.section.Mode, w.section.ClientTrust = mode, ""
			if mode.Clients() {
				w.section.ClientTrust = "trust"
			}
			sec, d := shake(t, w.state(), 10*time.Second, dial(w.client(c.pair)))
			if want == ok != (d.Verdict == abi.Allow) || !strings.Contains(d.Reason, want) || d.Stage != abi.StageTLS || d.Rule.ID != abi.RuleTLS || d.Rule.Line != "p.yaml:7" {
				t.Errorf("%s, %s: %+v", name, mode, d)
			}
			if want == ok && (sec.Peer != nil) != (mode.Clients() && c.pair != nil) {
				t.Errorf("%s, %s: peer %+v", name, mode, sec.Peer)
			}
			if want != ok && (sec.Conn != nil || sec.Peer != nil) {
				t.Errorf("%s, %s: something came of a refused handshake", name, mode)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestThePeerIsWhatTheCertificateSays(t *testing.T) {
	w := newWorld(t, transport.Mutual)
	end := time.Now().Add(20 * time.Minute).UTC().Truncate(time.Second)
	between := w.people.Under(t, "between", func(c *x509.Certificate) { c.NotAfter = end })
	pair := between.Client(t, "ada", func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "ada", Organization: []string{"acme"}}
		c.DNSNames = []string{"b.example", "a.example"}
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/pay"}}
	})
	pair.TLS.Certificate = append(pair.TLS.Certificate, between.Cert.Raw)
	sec, d := shake(t, w.state(), 10*time.Second, dial(w.client(&pair)))
	if d.Verdict != abi.Allow {
		t.Fatal(d)
	}
	p := sec.Peer
	if p.SPIFFE != "spiffe://acme.example/pay" || !slices.Equal(p.DNS, []string{"b.example", "a.example"}) || p.Subject != "ada" || len(p.Chain) != 3 {
		t.Errorf("%+v", p)
	}
	if !p.NotAfter.Equal(end) {
		t.Errorf("it ends at %v, the authority at %v", p.NotAfter, end)
	}
}

func TestVersions(t *testing.T) {
	w := newWorld(t, transport.Simple)
	old := w.client(nil)
	old.MaxVersion = tls.VersionTLS12
	if _, d := shake(t, w.state(), 10*time.Second, dial(old)); d.Verdict == abi.Allow || d.Reason != "the client offers no version of TLS that the policy allows" {
		t.Errorf("TLS 1.2: %+v", d)
	}
	w.section.MinVersion = transport.TLS12
	sec, d := shake(t, w.state(), 10*time.Second, dial(old))
	if d.Verdict != abi.Allow || sec.State.Version != tls.VersionTLS12 {
		t.Errorf("TLS 1.2 where it is written: %+v", d)
	}
	older := w.client(nil)
	older.MinVersion, older.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, d := shake(t, w.state(), 10*time.Second, dial(older)); d.Verdict == abi.Allow {
		t.Error("TLS 1.1 is accepted")
	}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		good := strings.HasPrefix(s.Name, "TLS_ECDHE_ECDSA") && (strings.Contains(s.Name, "GCM") || strings.Contains(s.Name, "POLY1305"))
		old.CipherSuites = []uint16{s.ID}
		if _, d := shake(t, w.state(), 10*time.Second, dial(old)); (d.Verdict == abi.Allow) != good {
			t.Errorf("%s: %+v", s.Name, d)
		}
	}
}

func TestProtocols(t *testing.T) {
	for _, c := range []struct {
		http2  bool
		offer  []string
		want   string
		reason string
	}{
		{true, []string{"h2", "http/1.1"}, "h2", ""},
		{true, []string{"http/1.1"}, "http/1.1", ""},
		{true, nil, "", ""},
		{false, []string{"h2", "http/1.1"}, "http/1.1", ""},
		{false, []string{"h2"}, "", "the client offers no protocol that is served"},
		{true, []string{"smtp"}, "", "the client offers no protocol that is served"},
	} {
		w := newWorld(t, transport.Simple)
		w.section.HTTP2 = c.http2
		cfg := w.client(nil)
		cfg.NextProtos = c.offer
		sec, d := shake(t, w.state(), 10*time.Second, dial(cfg))
		if (d.Verdict == abi.Allow) != (c.reason == "") || d.Reason != c.reason {
			t.Errorf("%+v: %+v", c, d)
		} else if c.reason == "" && (sec.State.NegotiatedProtocol != c.want || sec.HTTP2 != (c.want == "h2")) {
			t.Errorf("%+v: %q", c, sec.State.NegotiatedProtocol)
		}
	}
}

func TestWhatIsNoHandshake(t *testing.T) {
	w := newWorld(t, transport.Mutual)
	st := w.state()
	var first []byte // what a client says first
	shake(t, st, time.Second, func(c net.Conn) {
		tls.Client(recording{c, &first}, w.client(nil)).Handshake()
		c.Close()
	})
	if len(first) < 100 {
		t.Fatalf("%d bytes", len(first))
	}
	for name, c := range map[string]struct {
		talk   func(net.Conn)
		reason string
	}{
		"plain HTTP":  {func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") }, "the client does not speak TLS"},
		"noise":       {func(c net.Conn) { c.Write(bytes.Repeat([]byte{0xff}, 100)) }, "the client does not speak TLS"},
		"silence":     {func(net.Conn) {}, "the handshake took too long"},
		"half of it":  {func(c net.Conn) { c.Write(first[:len(first)/2]) }, "the handshake took too long"},
		"cut short":   {func(c net.Conn) { c.Write(first[:len(first)/2]); c.(*net.TCPConn).CloseWrite() }, "the client went away during the handshake"},
		"and no more": {func(c net.Conn) { c.Write(first) }, "the handshake took too long"},
		"mangled":     {func(c net.Conn) { b := bytes.Clone(first); b[5] = 0x77; c.Write(b) }, "the handshake is malformed"},
		"distrust": {func(c net.Conn) {
			tls.Client(c, &tls.Config{RootCAs: w.people.Pool(), ServerName: "localhost"}).Handshake()
		}, "the client refused the handshake"},
		"another's certificate": {func(c net.Conn) {
			pair := w.people.Client(t, "ada", nil)
			pair.TLS.PrivateKey = certtest.NewKey(t)
			tls.Client(c, w.client(&pair)).Handshake()
			io.Copy(io.Discard, c)
		}, "the client does not hold the key of its certificate"},
	} {
		begin := time.Now()
		_, d := shake(t, st, 300*time.Millisecond, c.talk)
		if d.Verdict == abi.Allow || d.Reason != c.reason || d.Rule.ID != abi.RuleTLS {
			t.Errorf("%s: %+v", name, d)
		}
		if time.Since(begin) > 10*time.Second {
			t.Errorf("%s: held for %v", name, time.Since(begin))
		}
	}
}

// recording keeps what is written first.
type recording struct {
	net.Conn
	first *[]byte
}

func (r recording) Write(p []byte) (int, error) {
	if *r.first == nil {
		*r.first = bytes.Clone(p)
	}
	return r.Conn.Write(p)
}

// Nobody resumes a session: a client whose authority is gone would otherwise
// come back with what an older bundle vouched for.
func TestNoSessionIsResumed(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w := newWorld(t, transport.Mutual)
		w.section.MinVersion = transport.TLS12
		st := w.state()
		pair := w.people.Client(t, "ada", nil)
		cfg := w.client(&pair)
		cfg.ClientSessionCache, cfg.MaxVersion = tls.NewLRUClientSessionCache(8), version
		for i := range 2 {
			got := make(chan bool, 1)
			sec, d := shake(t, st, 10*time.Second, func(c net.Conn) {
				conn := tls.Client(c, cfg)
				conn.Handshake()
				got <- conn.ConnectionState().DidResume
				io.Copy(io.Discard, conn)
			})
			if d.Verdict != abi.Allow {
				t.Fatal(d)
			}
			io.WriteString(sec.Conn, "x")
			sec.Conn.Close()
			if <-got || sec.State.DidResume {
				t.Errorf("connection %d of TLS %x resumes", i, version)
			}
		}
	}
}

func TestRemain(t *testing.T) {
	w := newWorld(t, transport.Mutual)
	between := w.people.Under(t, "between", nil)
	pair := between.Client(t, "ada", nil)
	pair.TLS.Certificate = append(pair.TLS.Certificate, between.Cert.Raw)
	sec, d := shake(t, w.state(), 10*time.Second, dial(w.client(&pair)))
	if d.Verdict != abi.Allow {
		t.Fatal(d)
	}
	now := time.Now()
	with := func(mode transport.Mode, trust []byte) pep.TransportState {
		x := *w
		x.section.Mode, x.section.ClientTrust = mode, ""
		if mode.Clients() {
			x.section.ClientTrust = "trust"
		}
		x.secrets = map[string][]byte{"cert": w.server.Chain, "key": w.server.Key, "trust": trust}
		return x.state()
	}
	rotated := w.servers.Server(t, nil)
	w.secrets["cert"], w.secrets["key"] = rotated.Chain, rotated.Key
	other := certtest.New(t, "people").PEM
	for name, c := range map[string]struct {
		st     pep.TransportState
		p      *pep.Peer
		at     time.Time
		reason string
	}{
		"another server certificate":  {w.state(), sec.Peer, now, ""},
		"a bundle with more":          {with(transport.Mutual, append(slices.Clone(w.people.PEM), other...)), sec.Peer, now, ""},
		"a bundle of the one between": {with(transport.Mutual, between.PEM), sec.Peer, now, ""},
		"a bundle without it":         {with(transport.Mutual, other), sec.Peer, now, "the client certificate is not from an authority of the trust bundle"},
		"certificates are optional":   {with(transport.OptionalMutual, w.people.PEM), sec.Peer, now, ""},
		"optional, not from there":    {with(transport.OptionalMutual, other), sec.Peer, now, "the client certificate is not from an authority of the trust bundle"},
		"not asked for any more":      {with(transport.Simple, nil), sec.Peer, now, "client certificates are not asked for any more"},
		"expired":                     {w.state(), sec.Peer, sec.Peer.NotAfter.Add(time.Second), "the client certificate, or one it depends on, is expired or not valid yet"},
		"none, demanded":              {w.state(), nil, now, "the client shows no certificate"},
		"none, optional":              {with(transport.OptionalMutual, w.people.PEM), nil, now, ""},
		"none, simple":                {with(transport.Simple, nil), nil, now, ""},
		"a peer that nobody verified": {w.state(), &pep.Peer{}, now, "the client certificate cannot be verified"},
	} {
		d := c.st.Remain(c.p, c.at)
		if (d.Verdict == abi.Allow) != (c.reason == "") || d.Reason != c.reason || d.Stage != abi.StageTLS || d.Rule != (abi.Rule{ID: abi.RuleTLS, Line: "p.yaml:7"}) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// What comes of the handshake is a connection that speaks HTTP.
func TestSecuredConnectionsCarryRequests(t *testing.T) {
	w := newWorld(t, transport.Simple)
	got := make(chan string, 1)
	sec, d := shake(t, w.state(), 10*time.Second, func(c net.Conn) {
		conn := tls.Client(c, w.client(nil))
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- r.Status
	})
	if d.Verdict != abi.Allow || sec.State.ServerName != "localhost" {
		t.Fatal(d)
	}
	r, err := http.ReadRequest(bufio.NewReader(sec.Conn))
	if err != nil || r.Host != "localhost" {
		t.Fatal(err)
	}
	io.WriteString(sec.Conn, "HTTP/1.1 204 No Content\r\n\r\n")
	if s := <-got; s != "204 No Content" {
		t.Error(s)
	}
}
