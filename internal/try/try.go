// Package try makes a file of requests against a running instance and compares
// what came back, and which rule decided, with what the file expects.
package try

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
)

// What a Request expects where no answer may come.
const (
	Closed    = "closed"    // the connection is refused before a byte of it is read
	Handshake = "handshake" // TLS cannot be agreed on
)

// clockSlack is how far the clock of an instance may be behind this one: a microVM has
// a clock of its own.
const clockSlack = 50 * time.Millisecond

// A File is a set of requests, as users write it.
type File struct {
	Users    map[string]User `yaml:"users"` // by name
	Requests []Request       `yaml:"requests"`
}

// A Request is one line of the table.
type Request struct {
	Name     string `yaml:"name"`
	As       string `yaml:"as"`       // user; empty: no credentials
	Password string `yaml:"password"` // instead of the one in Users
	From     string `yaml:"from"`     // local address to call from
	Send     string `yaml:"send"`     // "METHOD TARGET"
	JSON     string `yaml:"json"`     // body
	Token    string `yaml:"token"`    // bearer token, as it is, instead of a signed one
	Expect   string `yaml:"expect"`   // status, Closed or Handshake
	By       string `yaml:"by"`       // deciding rule; empty: any
}

// A Result is what one request met. Got is a status, Closed, Handshake, or an
// error in words.
type Result struct {
	Name   string `json:"name"`
	Send   string `json:"request"`
	As     string `json:"as,omitempty"`
	Expect string `json:"expect"`
	Got    string `json:"got"`
	By     string `json:"expectRule,omitempty"`
	Rule   string `json:"rule"`
	Line   string `json:"line,omitempty"`
	Reason string `json:"reason,omitempty"`
	ID     string `json:"decision,omitempty"`
	OK     bool   `json:"ok"`
}

// A Lookup finds the record of a decision in the decision stream: the first for
// which match is true. It waits a moment for one that is on its way.
type Lookup func(ctx context.Context, match func(*audit.Record) bool) (audit.Record, bool)

// Load reads and checks a file of requests.
func Load(path string) (*File, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// LoadUsers reads the users of such a file, which may have no requests.
func LoadUsers(path string) (map[string]User, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := decode(b)
	if err == nil && len(f.Users) == 0 {
		err = errors.New("no users: write users: {NAME: PASSWORD}")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f.Users, nil
}

func decode(b []byte) (*File, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var f File
	return &f, d.Decode(&f)
}

func parse(b []byte) (*File, error) {
	f, err := decode(b)
	if err != nil {
		return nil, err
	}
	if len(f.Requests) == 0 {
		return nil, errors.New("no requests")
	}
	for i, r := range f.Requests {
		method, target, ok := strings.Cut(r.Send, " ")
		if !ok || method == "" || !strings.HasPrefix(target, "/") {
			return nil, fmt.Errorf("request %d (%s): send is %q; write METHOD /path", i+1, r.Name, r.Send)
		}
		if _, err := strconv.Atoi(r.Expect); err != nil && r.Expect != Closed && r.Expect != Handshake {
			return nil, fmt.Errorf("request %d (%s): expect is %q; write a status, %s or %s", i+1, r.Name, r.Expect, Closed, Handshake)
		}
		if _, known := f.Users[r.As]; r.As != "" && !known && r.Password == "" && r.Token == "" {
			return nil, fmt.Errorf("request %d (%s): %q is not among the users", i+1, r.Name, r.As)
		}
	}
	return f, nil
}

// Run makes the requests one after the other against addr. Without identities
// there are passwords only, and no TLS.
func (f *File) Run(ctx context.Context, addr string, ids Identities, lookup Lookup) []Result {
	var out []Result
	for _, r := range f.Requests {
		out = append(out, f.one(ctx, addr, r, ids, lookup))
	}
	return out
}

func (f *File) one(ctx context.Context, addr string, r Request, ids Identities, lookup Lookup) Result {
	res := Result{Name: r.Name, Send: r.Send, As: r.As, Expect: r.Expect, By: r.By}
	start := time.Now()
	head, config, err := f.present(r, ids)
	var got Answer
	if err == nil {
		method, _, _ := strings.Cut(r.Send, " ")
		got, err = Exchange(ctx, addr, r.From, config, method, text(addr, r, head))
	}
	switch {
	case err != nil:
		res.Got = err.Error()
	case got.Refused != "":
		res.Got = got.Refused
	default:
		res.Got, res.ID = strconv.Itoa(got.Status), got.Decision
	}
	rec, found := lookup(ctx, func(a *audit.Record) bool {
		if got.Decision != "" {
			return a.ID == got.Decision
		}
		// A refused connection has shown no client a name of its decision.
		return (a.Stage == abi.StageFirewall || a.Stage == abi.StageTLS) && a.Source == got.From && a.Time >= start.Add(-clockSlack).UnixNano()
	})
	if found {
		res.Rule, res.Line, res.Reason = rec.Rule.ID, rec.Rule.Line, rec.Reason
	}
	res.OK = res.Got == r.Expect && found && (r.By == "" || r.By == res.Rule)
	return res
}

// An Answer is what came of one request.
type Answer struct {
	Status   int
	Decision string // its id, as the answer names it
	Refused  string // Closed or Handshake: there was no answer
	From     string // address that the request came from
}

// Exchange sends one request on a connection of its own, byte for byte as written: an
// http.Client would tidy the target first. from is the local address to call from; without
// a configuration there is no TLS.
func Exchange(ctx context.Context, addr, from string, config *tls.Config, method, raw string) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, addr, from)
	if KeptOut(err) {
		a.Refused, a.From = Closed, source(addr, from)
		return a, nil
	}
	if err != nil {
		return a, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if l, ok := c.LocalAddr().(*net.TCPAddr); ok {
		a.From = l.AddrPort().Addr().Unmap().String()
	}
	if config != nil {
		c = tls.Client(c, config)
	}

	// A refusal may already have closed the connection: what counts is the answer.
	_, _ = io.WriteString(c, raw)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	var alert *net.OpError
	switch {
	case err == nil:
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		a.Refused = Closed
		return a, nil
	case errors.As(err, &alert) && alert.Op == "remote error": // how crypto/tls names an alert
		a.Refused = Handshake
		return a, nil
	default:
		return a, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	a.Status, a.Decision = resp.StatusCode, resp.Header.Get("Lorica-Decision")
	return a, nil
}

// Dial connects to addr from a local address; empty: any.
func Dial(ctx context.Context, addr, from string) (net.Conn, error) {
	var d net.Dialer
	if from != "" {
		ip := net.ParseIP(from)
		if ip == nil {
			return nil, fmt.Errorf("%q is not an address", from)
		}
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	return d.DialContext(ctx, "tcp", addr)
}

// KeptOut reports whether a dial failed because a firewall does not let the client in. One
// that sees packets tells him by ICMP, for IPv4 and IPv6; one behind a forwarder lets the
// forwarder end a connection that the client may not even have seen made.
func KeptOut(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ECONNRESET)
}

// source returns the address that a connection which was not made would have come from.
func source(addr, from string) string {
	if from != "" {
		return from
	}
	c, err := net.Dial("udp", addr) // sends nothing
	if err != nil {
		return ""
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().String()
}

func text(addr string, r Request, authorization string) string {
	method, target, _ := strings.Cut(r.Send, " ")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", method, target, addr)
	if authorization != "" {
		fmt.Fprintf(&b, "Authorization: %s\r\n", authorization)
	}
	if r.JSON != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.JSON))
	}
	b.WriteString("\r\n")
	b.WriteString(r.JSON)
	return b.String()
}
