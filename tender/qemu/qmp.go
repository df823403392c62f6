package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// QMP is QEMU's protocol for its monitor: JSON, one object in each line (QEMU,
// docs/interop/qmp-spec). What QEMU says is believed no further than needed: a
// guest may have taken it over.

// maxLine bounds one line of QEMU, in bytes.
const maxLine = 64 << 10

// unaskedPause is how long QEMU is not listened to after it has said what nobody asked
// for: one that says such things without end is not to keep its tender busy.
const unaskedPause = time.Millisecond

// A message is one line: exactly one of its fields is there, and ID with an answer.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
	} `json:"data"`
	ID *uint64 `json:"id"`
}

// readMessage reads one line. After an error, nothing that follows has a meaning.
func readMessage(in *bufio.Reader) (*message, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			err = fmt.Errorf("a line of more than %d bytes", in.Size())
		} else if len(line) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, fmt.Errorf("no message: %w", err)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 || (m.ID != nil) != (m.Return != nil || m.Error != nil) {
		return nil, fmt.Errorf("no message of QMP: %.100q", line)
	}
	return &m, nil
}

// A monitor is a connection to QEMU's. One command is on its way at a time. What
// fails once has failed for good: QEMU is not to be trusted to recover. Safe for
// concurrent use.
type monitor struct {
	conn net.Conn
	turn chan struct{} // held for one command

	answers chan *message // with room for the one that is due
	gone    chan struct{} // closed when nothing is read any more

	mu       sync.Mutex
	due      uint64 // the command without an answer; 0: none
	last     uint64
	failure  error
	shutdown string // why the machine ended, in QEMU's words
}

// newMonitor speaks to QEMU on conn, once it has greeted.
func newMonitor(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, turn: make(chan struct{}, 1), answers: make(chan *message, 1), gone: make(chan struct{})}
	in := bufio.NewReaderSize(conn, maxLine)
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	first, err := readMessage(in)
	if !stop() {
		return nil, fmt.Errorf("qemu: its monitor: no greeting: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("qemu: its monitor: no greeting: %w", err)
	}
	if first.Greeting == nil {
		return nil, errors.New("qemu: its monitor does not greet")
	}
	go m.read(in)
	return m, m.do(ctx, "qmp_capabilities", nil)
}

func (m *monitor) read(in *bufio.Reader) {
	defer close(m.gone)
	for {
		msg, err := readMessage(in)
		if err == nil {
			err = m.take(msg)
		}
		if err != nil {
			m.fail(err)
			return
		}
		if msg.Event != "" {
			time.Sleep(unaskedPause)
		}
	}
}

func (m *monitor) take(msg *message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case msg.Event == "SHUTDOWN":
		m.shutdown = printable([]byte(msg.Data.Reason))
	case msg.Event != "":
	case msg.ID == nil || m.due == 0 || *msg.ID != m.due:
		return errors.New("an answer to what nobody asked")
	default:
		m.due = 0
		m.answers <- msg
	}
	return nil
}

// fail closes the connection for a reason; the first one stands.
func (m *monitor) fail(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure == nil {
		m.failure = fmt.Errorf("qemu: its monitor: %w", err)
	}
	m.conn.Close()
	return m.failure
}

func (m *monitor) reason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shutdown
}

// do has QEMU execute a command and decodes what it returns into result, unless
// that is nil. A command that is not answered before ctx ends is a failure of QEMU.
func (m *monitor) do(ctx context.Context, command string, result any) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return fmt.Errorf("qemu: %s: %w", command, context.Cause(ctx))
	}
	m.mu.Lock()
	m.last++
	m.due = m.last
	line := fmt.Appendf(nil, "{\"execute\":%q,\"id\":%d}\n", command, m.due)
	m.mu.Unlock()
	deadline, _ := ctx.Deadline()
	m.conn.SetWriteDeadline(deadline) // or none, where one of an earlier command may be over
	if _, err := m.conn.Write(line); err != nil {
		return m.fail(fmt.Errorf("%s: %w", command, err))
	}
	select {
	case a := <-m.answers:
		return a.decode(command, result)
	case <-m.gone:
		select {
		case a := <-m.answers: // its last
			return a.decode(command, result)
		default:
		}
		return m.fail(io.EOF)
	case <-ctx.Done():
		return m.fail(fmt.Errorf("no answer to %s: %w", command, context.Cause(ctx)))
	}
}

func (m *message) decode(command string, result any) error {
	if m.Error != nil {
		return fmt.Errorf("qemu: %s: %s", command, printable([]byte(m.Error.Desc)))
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qemu: %s: %w", command, err)
	}
	return nil
}

func (m *monitor) close() { m.fail(net.ErrClosed) }
