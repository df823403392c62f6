// Package syslog sends records to a syslog server: messages of RFC 5424, each with its
// length before it, over TLS (RFC 5425).
//
// Syslog confirms nothing. What was sent within the last seconds of a connection that
// breaks is sent again on the next, under the numbers that it had: a server that has got
// both sees that they are one (PROCID and sequenceId), and one that has got neither, later,
// a gap.
package syslog

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep/delivery"
)

// Parts of the header (RFC 5424, section 6.2).
const (
	facility      = 13 // log audit
	warning       = 4  // what was denied
	informational = 6
	appName       = "lorica"
	msgID         = "decision"
	nothing       = "-"
	maxHostname   = 255
	maxProcID     = 128
	maxSequence   = 1<<31 - 1 // of sequenceId (section 7.3.1), after which it begins again
)

// timeForm is that of section 6.2.3, as precise as it may be.
const timeForm = "2006-01-02T15:04:05.000000Z"

// New returns a sink whose connections dial makes.
func New(dial delivery.Dialer) *delivery.Module {
	return delivery.New(audit.SyslogName, protocol{}, dial)
}

type protocol struct{}

func (protocol) Confirms() bool { return false }

func (protocol) Open(c net.Conn, to *delivery.Target) delivery.Line {
	l := &line{conn: c, to: to, broken: make(chan struct{})}
	go l.listen()
	return l
}

type line struct {
	conn   net.Conn
	to     *delivery.Target
	buf    []byte
	broken chan struct{}
	err    error // of the end; once broken is closed
}

var (
	errSpoke = errors.New("the server sent something, which a syslog server never does")
	errDeaf  = errors.New("the server does not end the connection")
)

// listen waits for the end: there is nothing else to hear.
func (l *line) listen() {
	var b [1]byte
	n, err := l.conn.Read(b[:])
	if n > 0 {
		err = errSpoke
	}
	l.err = err
	close(l.broken)
}

// Broken implements delivery.Line.
func (l *line) Broken() <-chan struct{} { return l.broken }

// Send implements delivery.Line.
func (l *line) Send(ctx context.Context, batch []*delivery.Entry, lost uint64) (int, error) {
	l.buf = l.buf[:0]
	for _, e := range batch {
		l.buf = appendFrame(l.buf, e, l.to, lost)
	}
	at, _ := ctx.Deadline()
	l.conn.SetWriteDeadline(at)
	_, err := l.conn.Write(l.buf)
	select {
	case <-l.broken: // says more than that nothing can be written
		if l.err != io.EOF {
			return 0, l.err
		}
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
	default:
	}
	return 0, err
}

// Close implements delivery.Line: a server that has read everything closes as well.
func (l *line) Close(ctx context.Context) error {
	err := ctx.Err()
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok && err == nil {
		at, _ := ctx.Deadline()
		l.conn.SetWriteDeadline(at)
		if err = c.CloseWrite(); err == nil {
			select {
			case <-l.broken:
			case <-ctx.Done():
				err = errDeaf
			}
		}
	}
	l.conn.Close()
	<-l.broken
	if err == nil && l.err != io.EOF {
		err = l.err
	}
	return err
}

// appendFrame appends a message with its length before it (RFC 5425, section 4.3).
func appendFrame(b []byte, e *delivery.Entry, to *delivery.Target, lost uint64) []byte {
	m := message(e, to, lost)
	b = strconv.AppendInt(b, int64(len(m)), 10)
	return append(append(b, ' '), m...)
}

// message returns a message of RFC 5424, section 6.
func message(e *delivery.Entry, to *delivery.Target, lost uint64) []byte {
	severity := informational
	if e.Record.Verdict != abi.Allow {
		severity = warning
	}
	b := make([]byte, 0, 1024)
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(facility*8+severity), 10)
	b = append(b, ">1 "...)
	b = e.When().AppendFormat(b, timeForm)
	for _, part := range [...]string{header(to.Workload, maxHostname), appName, header(to.Life, maxProcID), msgID} {
		b = append(append(b, ' '), part...)
	}
	b = append(b, ` [meta sequenceId="`...)
	b = strconv.AppendUint(b, (e.Number-1)%maxSequence+1, 10)
	b = append(b, `"][lorica@`...)
	b = strconv.AppendUint(b, uint64(to.Enterprise), 10)
	b = appendParam(b, "tenant", audit.Printable(to.Tenant))
	b = appendParam(b, "workload", audit.Printable(to.Workload))
	for _, f := range delivery.Fields(e, lost) {
		b = appendParam(b, f.Name, f.Value())
	}
	b = append(b, "] \xef\xbb\xbf"...) // the BOM says that it is UTF-8 (section 6.4)
	return append(b, delivery.Sentence(&e.Record)...)
}

// header returns what may stand in the header: printable US-ASCII.
func header(s string, limit int) string {
	if s == "" {
		return nothing
	}
	b := []byte(s[:min(len(s), limit)])
	for i, c := range b {
		if c <= ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// appendParam escapes what ends a value, and the escape itself (section 6.3.3). The value
// is printable UTF-8.
func appendParam(b []byte, name, value string) []byte {
	b = append(append(append(b, ' '), name...), `="`...)
	for i := 0; i < len(value); i++ {
		if c := value[i]; c == '"' || c == '\\' || c == ']' {
			b = append(b, '\\')
		}
		b = append(b, value[i])
	}
	return append(b, '"')
}
