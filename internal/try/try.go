// Package try makes a file of requests against a running instance and compares
// what came back, and which rule decided, with what the file expects.
package try

import (
	"bufio"
	"bytes"
	"context"
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

// Closed is what a Request expects of a connection that must be refused before
// a byte of it is read.
const Closed = "closed"

// A File is a set of requests, as users write it.
type File struct {
	Users    map[string]string `yaml:"users"` // name to password
	Requests []Request         `yaml:"requests"`
}

// A Request is one line of the table.
type Request struct {
	Name     string `yaml:"name"`
	As       string `yaml:"as"`       // user; empty: no credentials
	Password string `yaml:"password"` // instead of the one in Users
	From     string `yaml:"from"`     // local address to call from
	Send     string `yaml:"send"`     // "METHOD TARGET"
	JSON     string `yaml:"json"`     // body
	Expect   string `yaml:"expect"`   // status or Closed
	By       string `yaml:"by"`       // deciding rule; empty: any
}

// A Result is what one request met. Got is a status, Closed, or an error in words.
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
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var f File
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(f.Requests) == 0 {
		return nil, fmt.Errorf("%s: no requests", path)
	}
	for i, r := range f.Requests {
		method, target, ok := strings.Cut(r.Send, " ")
		if !ok || method == "" || !strings.HasPrefix(target, "/") {
			return nil, fmt.Errorf("%s: request %d (%s): send is %q; write METHOD /path", path, i+1, r.Name, r.Send)
		}
		if _, err := strconv.Atoi(r.Expect); err != nil && r.Expect != Closed {
			return nil, fmt.Errorf("%s: request %d (%s): expect is %q; write a status or %s", path, i+1, r.Name, r.Expect, Closed)
		}
		if _, known := f.Users[r.As]; r.As != "" && !known && r.Password == "" {
			return nil, fmt.Errorf("%s: request %d (%s): %q is not among the users", path, i+1, r.Name, r.As)
		}
	}
	return &f, nil
}

// Run makes the requests one after the other against addr.
func (f *File) Run(ctx context.Context, addr string, lookup Lookup) []Result {
	var out []Result
	for _, r := range f.Requests {
		out = append(out, f.one(ctx, addr, r, lookup))
	}
	return out
}

func (f *File) one(ctx context.Context, addr string, r Request, lookup Lookup) Result {
	res := Result{Name: r.Name, Send: r.Send, As: r.As, Expect: r.Expect, By: r.By}
	start := time.Now()
	status, id, local, err := f.exchange(ctx, addr, r)
	switch {
	case errors.Is(err, errClosed):
		res.Got = Closed
	case err != nil:
		res.Got = err.Error()
	default:
		res.Got, res.ID = strconv.Itoa(status), id
	}
	rec, found := lookup(ctx, func(a *audit.Record) bool {
		if id != "" {
			return a.ID == id
		}
		// A refused connection has shown no client a name of its decision.
		return a.Stage == abi.StageFirewall && a.Source == local && a.Time >= start.UnixNano()
	})
	if found {
		res.Rule, res.Line, res.Reason = rec.Rule.ID, rec.Rule.Line, rec.Reason
	}
	res.OK = res.Got == r.Expect && found && (r.By == "" || r.By == res.Rule)
	return res
}

var errClosed = errors.New("the connection was closed")

// exchange makes one request on a connection of its own, byte for byte as
// written: an http.Client would tidy the target first.
func (f *File) exchange(ctx context.Context, addr string, r Request) (status int, id, local string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	if r.From != "" {
		ip := net.ParseIP(r.From)
		if ip == nil {
			return 0, "", "", fmt.Errorf("%q is not an address", r.From)
		}
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, "", "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		local = a.AddrPort().Addr().Unmap().String()
	}

	// A refusal may already have closed the connection: what counts is the answer.
	_, _ = io.WriteString(c, f.text(addr, r))
	method, _, _ := strings.Cut(r.Send, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return 0, "", local, errClosed
	case err != nil:
		return 0, "", local, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, resp.Header.Get("Lorica-Decision"), local, nil
}

func (f *File) text(addr string, r Request) string {
	method, target, _ := strings.Cut(r.Send, " ")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", method, target, addr)
	if r.As != "" {
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth(r.As, f.password(r))
		fmt.Fprintf(&b, "Authorization: %s\r\n", req.Header.Get("Authorization"))
	}
	if r.JSON != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.JSON))
	}
	b.WriteString("\r\n")
	b.WriteString(r.JSON)
	return b.String()
}

// Curl returns a command line that makes the same request by hand.
func (f *File) Curl(base string, r Request) string {
	method, target, _ := strings.Cut(r.Send, " ")
	var b strings.Builder
	b.WriteString("curl -i")
	if r.As != "" {
		fmt.Fprintf(&b, " -u '%s:%s'", r.As, f.password(r))
	}
	if method != "GET" {
		fmt.Fprintf(&b, " -X %s", method)
	}
	if r.JSON != "" {
		fmt.Fprintf(&b, " --json '%s'", r.JSON)
	}
	if strings.ContainsAny(target, "%") || strings.Contains(target, "/.") {
		b.WriteString(" --path-as-is")
	}
	fmt.Fprintf(&b, " %s%s", base, target)
	return b.String()
}

func (f *File) password(r Request) string {
	if r.Password != "" {
		return r.Password
	}
	return f.Users[r.As]
}
