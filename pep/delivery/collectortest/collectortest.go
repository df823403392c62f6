// Package collectortest is what the tests of sinks have in common: a program's section and
// its secrets, a tender that writes down what it is told, and a listener with TLS. Nothing
// else may import it.
package collectortest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/transport/certtest"
	"lorica.dev/lorica/pep"
)

// A Place is where a collector listens, and how it is verified.
type Place struct {
	net.Listener
	Authority *certtest.Authority
	Client    certtest.Pair
	Seen      func() []*x509.Certificate // of the last client
}

// Listen opens a place of this machine. mutual has clients show a certificate.
func Listen(t testing.TB, mutual bool) *Place {
	t.Helper()
	p := &Place{Authority: certtest.New(t, "logs")}
	p.Client = p.Authority.Client(t, "image", nil)
	conf := &tls.Config{Certificates: []tls.Certificate{p.Authority.Server(t, nil).TLS}}
	if mutual {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, p.Authority.Pool()
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	p.Listener = ln
	return p
}

// Collector is the section for the place; edit changes it.
func (p *Place) Collector(edit func(*audit.Collector)) *audit.Collector {
	at := p.Addr().(*net.TCPAddr)
	c := &audit.Collector{Rule: abi.Rule{ID: "audit:test", Line: "policy.yaml:7"}, Tenant: "acme", Workload: "shop",
		Host: "127.0.0.1", Port: uint16(at.Port), ServerName: "localhost", Trust: "trust",
		Records: 1000, Bytes: 8 << 20, Enterprise: 32473}
	if edit != nil {
		edit(c)
	}
	return c
}

// Input is what a sink prepares from.
func (p *Place) Input(c *audit.Collector) *pep.Input {
	return &pep.Input{Level: "normal", Levels: []string{"normal"}, Revision: 1, Section: c.Encode(), Secrets: map[string][]byte{
		"trust": p.Authority.PEM, "certificate": p.Client.Chain, "key": p.Client.Key, "token": []byte("abc.def\n")}}
}

// Dial connects as an image would be connected.
func Dial(ctx context.Context, host string, port uint16) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", (&net.TCPAddr{IP: net.ParseIP(host), Port: int(port)}).String())
}

// A Log is a tender that writes down what it is told.
type Log struct {
	mu    sync.Mutex
	lines []string
}

// Keep implements pep.Keeper.
func (*Log) Keep(audit.Record, bool) error { panic("a collector's sink keeps nothing with the tender") }

// Log implements pep.Keeper.
func (l *Log) Log(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// Lines returns what was said.
func (l *Log) Lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// Record is one that has something in every field.
func Record(id string) audit.Record {
	return audit.Record{
		Time: time.Date(2026, 11, 26, 15, 4, 5, 678901234, time.UTC).UnixNano(), ID: id, Stage: "authz", Rule: abi.Rule{ID: `a "rule" \ ]`, Line: "policy.yaml:41"},
		Reason: "forbidden\nby \x1b[31m\u202etext\xff", Status: 403, Principal: "ada", Source: "10.0.0.1", Protocol: 6, Port: 8443, Method: "GET", Route: "list",
		Path: "/accounts/\u00e9", Level: "normal", Revision: 7, Program: [32]byte{1, 2}, Groups: []string{"staff", "tellers"}, Partial: audit.PartialPath,
		Facts:  []audit.Fact{{Name: "amount", Value: `5"00]`}, {Name: "note", State: audit.FactAbsent}, {Name: "tags", Value: `["a`, State: audit.FactCut}, {Name: "bad", State: audit.FactUnread}},
		DryRun: &audit.Would{Verdict: abi.Allow, Stage: "authz", Rule: abi.Rule{ID: "tried", Line: "policy.yaml:7"}, Reason: "none"},
	}
}

// Eventually waits until something is so.
func Eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute it is not so that %s", what)
		}
	}
}
