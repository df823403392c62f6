package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lorica.dev/lorica/abi/transport/certtest"
)

const securedWorkload = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: site, tenant: acme, labels: {app: site}}
spec:
  app:
    static: {dir: ./public}
  listen: [{name: web, port: PORT}]
  target: process
`

const securedPolicy = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: site, tenant: acme}
spec:
  selector: {matchLabels: {app: site}}
  default: {network: Allow, authorization: Allow}
  tls: {mode: MUTUAL, certificate: secret/server-cert, key: secret/server-key, clientTrust: secret/client-ca}
  audit: {decisions: denied}
  secrets:
    server-cert: {file: ./server.pem}
    server-key: {file: ./server.key}
    client-ca: {file: ./clients.pem}
`

// A secured project, its authorities, and a client that they vouch for.
type secured struct {
	dir, addr       string
	servers, people *certtest.Authority
	client          certtest.Pair
}

func (u *user) secured(mode string) *secured {
	u.t.Helper()
	s := &secured{servers: certtest.New(u.t, "servers"), people: certtest.New(u.t, "people")}
	s.client = s.people.Client(u.t, "ada", nil)
	port := freePort(u.t)
	s.addr = "127.0.0.1:" + port
	pair := s.servers.Server(u.t, nil)
	policy := securedPolicy
	if mode == "SIMPLE" {
		policy = strings.Replace(strings.Replace(policy, "mode: MUTUAL", "mode: SIMPLE", 1), ", clientTrust: secret/client-ca", "", 1)
		policy = strings.Replace(policy, "    client-ca: {file: ./clients.pem}\n", "", 1)
	}
	s.dir = u.project(map[string]string{
		"workload.yaml": strings.ReplaceAll(securedWorkload, "PORT", port), "policy.yaml": policy,
		"public/index.html": "<p>hello</p>", "server.pem": string(pair.Chain), "server.key": string(pair.Key), "clients.pem": string(s.people.PEM),
	})
	return s
}

// http returns a client of one protocol.
func (s *secured) http(h2 bool, cert *certtest.Pair) *http.Client {
	cfg := &tls.Config{RootCAs: s.servers.Pool()}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{cert.TLS}
	}
	t := &http.Transport{TLSClientConfig: cfg, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(!h2)
	t.Protocols.SetHTTP2(h2)
	return &http.Client{Transport: t, Timeout: patience}
}

func (s *secured) get(c *http.Client) (*http.Response, error) {
	r, err := c.Get("https://" + s.addr + "/")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && string(b) != "<p>hello</p>" {
		err = fmt.Errorf("%s: %q", r.Status, b)
	}
	return r, err
}

// load makes requests without pause, half of them with HTTP/2, until end is
// called; one that fails, fails the test.
func (s *secured) load(t *testing.T) (done *atomic.Int64, end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	done = new(atomic.Int64)
	for i := range 4 {
		c := s.http(i%2 == 1, &s.client)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.get(c); err != nil {
					t.Error(err)
				}
				done.Add(1)
			}
		})
	}
	end = sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(end)
	return done, end
}

func TestMutualTLS(t *testing.T) {
	u := newUser(t)
	s := u.secured("MUTUAL")
	x, first := u.up(s.dir)
	for _, h2 := range []bool{false, true} {
		c := s.http(h2, &s.client)
		r, err := s.get(c)
		if err != nil || r.ProtoMajor == 2 != h2 || r.TLS.Version != tls.VersionTLS13 {
			t.Fatalf("HTTP/2 %v: %+v, %v", h2, r, err)
		}
		if r, err := s.get(s.http(h2, nil)); err == nil {
			t.Errorf("without a certificate: %s", r.Status)
		}
	}
	if c, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.servers.Pool(), MaxVersion: tls.VersionTLS12}); err == nil {
		c.Close()
		t.Error("TLS 1.2 is accepted")
	}
	eventually(t, "the refused handshakes are recorded", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		n := 0
		for _, d := range x.decisions {
			if d.Decision == "Deny" && d.Stage == "tls" && d.Rule == "default:tls" && strings.Contains(d.Line, "policy.yaml") {
				n++
			}
		}
		return n == 3
	})

	// Under load, another certificate drops no connection.
	done, end := s.load(t)
	eventually(t, "requests are answered", func() bool { return done.Load() > 100 })
	dialed := func() string {
		d := tls.Dialer{Config: &tls.Config{RootCAs: s.servers.Pool(), Certificates: []tls.Certificate{s.client.TLS}}}
		c, err := d.DialContext(context.Background(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := dialed()
	next := s.servers.Server(t, nil)
	write(t, filepath.Join(s.dir, "server.key"), string(next.Key))
	write(t, filepath.Join(s.dir, "server.pem"), string(next.Chain))
	eventually(t, "new connections see the new certificate", func() bool { return dialed() != before })
	n := done.Load()
	eventually(t, "requests go on", func() bool { return done.Load() > n+100 })
	end()
	t.Logf("%d requests over the change", done.Load())

	if st := u.run("ps", "-o", "json"); !strings.Contains(st, first.Instance) {
		t.Errorf("the instance was replaced: %s", st)
	}
}

// Another image takes over from one that serves HTTP/2, and no request is lost.
func TestModuleChangeLosesNoRequestOfHTTP2(t *testing.T) {
	u := newUser(t)
	s := u.secured("MUTUAL")
	x, first := u.up(s.dir)
	done, end := s.load(t)
	eventually(t, "requests are answered", func() bool { return done.Load() > 100 })
	for _, change := range [][2]string{
		{"  audit:", "  rateLimits:\n    - {name: many, key: source, requests: 1000000, per: 1s}\n  audit:"},
		{"  rateLimits:\n    - {name: many, key: source, requests: 1000000, per: 1s}\n", ""},
	} {
		edit(t, filepath.Join(s.dir, "policy.yaml"), change[0], change[1])
		e := x.wait("applied")
		if e.Change != "image" || (e.Status.ImageDigest == first.ImageDigest) != (change[1] == "") {
			t.Errorf("%s, %+v", e.Change, e.Status)
		}
		n := done.Load()
		eventually(t, "requests go on", func() bool { return done.Load() > n+100 })
	}
	eventually(t, "the first image has ended", func() bool { return !alive(first.PID) && !alive(first.TenderPID) })
	end()
	t.Logf("%d requests over two changes", done.Load())
}

// A proxy behind TLS tells its service so, over either protocol, and its tunnels
// carry what the client said early; a new program ends them.
func TestProxyOverTLS(t *testing.T) {
	u := newUser(t)
	l := startLegacy(t, "127.0.0.1:0", nil)
	s := &secured{servers: certtest.New(t, "servers")}
	pair := s.servers.Server(t, nil)
	port := freePort(t)
	s.addr = "127.0.0.1:" + port
	fill := strings.NewReplacer("PORT", port, "UPSTREAM", l.port(), "  requestFilter:", `  tls: {mode: SIMPLE, certificate: secret/server-cert, key: secret/server-key}
  secrets:
    server-cert: {file: ./server.pem}
    server-key: {file: ./server.key}
  requestFilter:`)
	dir := u.project(map[string]string{"policy.yaml": fill.Replace(frontPolicy), "workload.yaml": fill.Replace(frontWorkload),
		"server.pem": string(pair.Chain), "server.key": string(pair.Key)})
	x, _ := u.up(dir)
	for _, h2 := range []bool{false, true} {
		req, err := http.NewRequest("GET", "https://"+s.addr+"/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-Proto", "http")
		r, err := s.http(h2, nil).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || (r.ProtoMajor == 2) != h2 {
			t.Errorf("%s, %v", r.Proto, err)
		}
		for _, want := range []string{"X-Forwarded-Proto: https\r\n", "Forwarded: for=127.0.0.1;host=\"" + s.addr + "\";proto=https\r\n"} {
			if strings.Count(string(b), want) != 1 {
				t.Errorf("HTTP/2 %v: %q is not there once: %s", h2, want, b)
			}
		}
	}
	c, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.servers.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := openTunnel(t, c)
	long := strings.Repeat("x", 100_000)
	io.WriteString(c, long+"\n")
	echo(t, in, long)
	edit(t, filepath.Join(dir, "policy.yaml"), "name: everything,", "name: all,")
	if e := x.wait("applied"); e.Change != "program" {
		t.Fatalf("%+v", e)
	}
	if b, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the tunnel lives on: %q, %v", b, err)
	}
}
