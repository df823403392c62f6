// Package otlp sends records to an OpenTelemetry collector: OTLP over HTTP with protobuf,
// as the specification of OTLP 1.x has it, on one connection with TLS.
//
// The collector confirms each batch. One whose answer does not come is sent again under the
// numbers that it had, so that who has got both sees that they are one (service.instance.id
// and lorica.seq).
package otlp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep/delivery"
)

// Bounds of what a collector may answer.
const (
	maxHead = 16 << 10
	maxBody = 64 << 10
)

// New returns a sink whose connections dial makes.
func New(dial delivery.Dialer) *delivery.Module {
	return delivery.New(audit.OTLPName, protocol{}, dial)
}

type protocol struct{}

func (protocol) Confirms() bool { return true }

func (protocol) Open(c net.Conn, to *delivery.Target) delivery.Line {
	in := &limited{r: c}
	return &line{conn: c, to: to, in: in, buf: bufio.NewReader(in), broken: make(chan struct{})}
}

// A limited reader has an end that is set anew for each answer.
type limited struct {
	r    io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errLarge
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

var errLarge = errors.New("the collector's answer is too large")

type line struct {
	conn   net.Conn
	to     *delivery.Target
	in     *limited
	buf    *bufio.Reader
	broken chan struct{} // closed by Close: what is wrong before shows in the answer
}

// Broken implements delivery.Line.
func (l *line) Broken() <-chan struct{} { return l.broken }

// Close implements delivery.Line. What was confirmed needs no farewell.
func (l *line) Close(context.Context) error {
	close(l.broken)
	return l.conn.Close()
}

// A refusal is an answer other than 200.
type refusal struct {
	status int
	wait   time.Duration // that the collector asks for
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the collector answered with status %d %s", r.status, http.StatusText(r.status))
}

// Wait implements delivery.Patience.
func (r *refusal) Wait() time.Duration { return r.wait }

// Send implements delivery.Line. What the collector does not want to have again is lost
// where losses are counted; where they deny, it is tried until it is taken.
func (l *line) Send(ctx context.Context, batch []*delivery.Entry, lost uint64) (int, error) {
	body := appendRequest(nil, batch, l.to, lost)
	status, answer, header, err := l.post(ctx, body)
	if err != nil {
		return 0, err
	}
	switch {
	case status == http.StatusOK:
		rejected, err := readResponse(answer)
		if err != nil {
			return 0, fmt.Errorf("the collector's answer cannot be read: %w", err)
		}
		if rejected > 0 {
			return int(min(rejected, uint64(len(batch)))), errRejects
		}
		return 0, nil
	case again(status) || l.to.Deny:
		return 0, &refusal{status, retryAfter(header)}
	}
	return len(batch), &refusal{status: status}
}

var errRejects = errors.New("the collector rejects them, and takes the others")

// again reports whether a request may be sent again after an answer, as the specification
// lists them.
func again(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter reads seconds; a date is for those whose clock is the collector's.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// post sends one request and reads its answer.
func (l *line) post(ctx context.Context, body []byte) (status int, answer []byte, header http.Header, err error) {
	at, _ := ctx.Deadline()
	l.conn.SetDeadline(at)
	if l.buf.Buffered() > 0 {
		return 0, nil, nil, errors.New("the collector said more than it was asked")
	}
	if _, err := l.conn.Write(append(l.head(len(body)), body...)); err != nil {
		return 0, nil, nil, err
	}
	l.in.left = maxHead
	var r *http.Response
	for { // interim answers count as one with what follows
		r, err = http.ReadResponse(l.buf, &http.Request{Method: http.MethodPost})
		if err != nil {
			return 0, nil, nil, err
		}
		if r.StatusCode == http.StatusSwitchingProtocols || r.StatusCode < 100 {
			return 0, nil, nil, fmt.Errorf("the collector answered with status %d", r.StatusCode)
		}
		if r.StatusCode >= 200 {
			break
		}
	}
	l.in.left = maxBody
	if answer, err = io.ReadAll(io.LimitReader(r.Body, maxBody)); err != nil {
		return 0, nil, nil, err
	}
	if len(answer) == maxBody {
		return 0, nil, nil, errLarge
	}
	if r.Close {
		l.conn.Close() // the next batch makes a new connection
	}
	return r.StatusCode, answer, r.Header, nil
}

// head returns the head of a request.
func (l *line) head(length int) []byte {
	host := l.to.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if l.to.Port != 443 {
		host += ":" + strconv.Itoa(int(l.to.Port))
	}
	b := make([]byte, 0, 512+length)
	b = append(b, "POST "+l.to.Path+" HTTP/1.1\r\nHost: "+host+"\r\nContent-Type: application/x-protobuf\r\nUser-Agent: lorica\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(length), 10)
	b = append(b, "\r\n"...)
	if l.to.Token != "" {
		b = append(b, "Authorization: Bearer "+l.to.Token+"\r\n"...)
	}
	return append(b, "\r\n"...)
}
