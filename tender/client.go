package tender

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
)

// maxAnswer bounds a line of an answer, in bytes.
const maxAnswer = 1 << 20

// A Client reaches the tender of one instance. Every call is a connection of
// its own; safe for concurrent use.
type Client struct {
	dir string
	pid int32 // of the tender
}

// statusWithin is when a tender that says nothing of its state is taken for one that is
// stopped or hangs: it asks nobody for that.
const statusWithin = 10 * time.Second

// Dial returns a client for the tender that owns the runtime folder dir, or an
// error where none answers there.
func Dial(dir string) (*Client, error) {
	c := &Client{dir: dir}
	conn, err := c.connect(context.Background())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cred, err := peerOf(conn)
	if err != nil {
		return nil, err
	}
	c.pid = cred.Pid
	return c, nil
}

func (c *Client) connect(ctx context.Context) (*net.UnixConn, error) {
	var conn net.Conn
	err := shortPath(c.dir, func(path string) (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", path)
		return err
	})
	if err != nil {
		return nil, lost{fmt.Sprintf("tender: no tender answers in %s: %v", c.dir, err), err}
	}
	u := conn.(*net.UnixConn)
	if err := samePeer(u); err != nil {
		conn.Close()
		return nil, err
	}
	return u, nil
}

// open sends r and returns the connection; it closes when ctx ends.
func (c *Client) open(ctx context.Context, r request) (*net.UnixConn, func(), error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	done := func() { stop(); conn.Close() }
	r.Length = len(r.Program)
	b, err := json.Marshal(r)
	if err == nil {
		parts := net.Buffers{append(b, '\n'), r.Program}
		for _, o := range r.Others {
			parts = append(parts, o.program)
		}
		_, err = parts.WriteTo(conn)
	}
	if err != nil {
		// Where the tender refuses it, it does so before it has read all.
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if line, late := readLine(bufio.NewReader(conn), maxAnswer); late == nil {
			_, late = parseResponse(line)
			err = cmp.Or(late, err)
		}
		done()
		return nil, nil, c.fault(ctx, err)
	}
	return conn, done, nil
}

func (c *Client) fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, answered := errors.AsType[refusal](err); answered {
		return err
	}
	return lost{fmt.Sprintf("tender: the tender in %s broke off: %v", c.dir, err), err}
}

// A refusal is the error of a tender.
type refusal struct {
	text     string
	notReady bool
}

func (r refusal) Error() string        { return r.text }
func (r refusal) Is(target error) bool { return r.notReady && target == ErrNotReady }

func parseResponse(line []byte) (response, error) {
	var r response
	if err := json.Unmarshal(line, &r); err != nil {
		return response{}, fmt.Errorf("tender: the answer: %w", err)
	}
	if r.Error != "" {
		return response{}, refusal{r.Error, r.NotReady}
	}
	return r, nil
}

// call sends r and decodes the result of its one answer into out.
func (c *Client) call(ctx context.Context, r request, out any) error {
	conn, done, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer done()
	line, err := readLine(bufio.NewReader(conn), maxAnswer)
	if err != nil {
		return c.fault(ctx, err)
	}
	answer, err := parseResponse(line)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer.Result, out); err != nil {
		return fmt.Errorf("tender: the answer: %w", err)
	}
	return nil
}

// Status returns the state of the instance. A tender that does not answer is ErrNotReady.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	soon, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	err = c.call(soon, request{Op: opStatus}, &s)
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		text := fmt.Sprintf("tender: the tender in %s has not answered for %s: it is stopped, or hangs", c.dir, statusWithin)
		if c.pid > 0 { // not of another namespace: 0 would be whoever types it
			text += fmt.Sprintf(". Continue it (kill -CONT %d), or end it (kill -KILL %[1]d)", c.pid)
		}
		err = lost{text, err}
	}
	return s, err
}

// A lost is the error of a tender that gives no answer: it has ended, is stopped, or hangs.
type lost struct {
	text string
	err  error
}

func (l lost) Error() string        { return l.text }
func (l lost) Unwrap() error        { return l.err }
func (l lost) Is(target error) bool { return target == ErrNotReady }

// Replace puts a signed batch and its secrets in force, all or nothing, at the level
// that is asked for: that of its first program, unless a level was set by hand or raised
// by a trigger. A refusal is an error with the image's reason; what was before then stays.
// ErrNotReady is one that may be none a moment later, unless that program is what ends it.
func (c *Client) Replace(ctx context.Context, b Batch) (Applied, error) {
	r := request{Op: opReplace, Program: b.Program, Secrets: b.Secrets}
	for _, o := range b.Others {
		r.Others = append(r.Others, behind{len(o.Program), o.Plan, o.Lacks, o.Program})
	}
	var a Applied
	return a, c.call(ctx, r, &a)
}

// SetLevel has another level in force: until it is set again, or for a time; with hold no
// trigger raises it until then, or until it is released. It returns once the image
// decides by it.
func (c *Client) SetLevel(ctx context.Context, level string, d time.Duration, hold bool) (LevelChange, error) {
	var l LevelChange
	return l, c.call(ctx, request{Op: opLevel, Ask: &ask{Level: level, For: d, Hold: hold}}, &l)
}

// ReleaseLevel ends what holds the level: what was set by hand for a time or held, and
// what triggers raised.
func (c *Client) ReleaseLevel(ctx context.Context) (LevelChange, error) {
	var l LevelChange
	return l, c.call(ctx, request{Op: opLevel, Ask: &ask{Release: true}}, &l)
}

// Adopt has the instance ask for what another one asked for, whose place it takes: what
// was set by hand, and what triggers raised.
func (c *Client) Adopt(ctx context.Context, s Stance) (LevelChange, error) {
	var l LevelChange
	return l, c.call(ctx, request{Op: opLevel, Ask: &ask{Adopt: &s}}, &l)
}

// Levels calls emit with the level in force, and again whenever that changes or why it
// is in force, until ctx is done, emit fails, or the tender ends.
func (c *Client) Levels(ctx context.Context, emit func(LevelChange) error) error {
	return follower(ctx, c, request{Op: opLevels}, emit)
}

// Drain asks the instance to stop accepting, to answer with Connection: close
// for grace, to finish what is open within limit, and to end. It returns at
// once; Wait tells when it is done.
func (c *Client) Drain(ctx context.Context, grace, limit time.Duration) error {
	return c.call(ctx, request{Op: opDrain, Grace: grace, Limit: limit}, nil)
}

// Stop kills the instance. It returns at once; Wait tells when it is done.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, request{Op: opStop}, nil)
}

// Wait returns when the tender has ended and given up its runtime folder.
func (c *Client) Wait(ctx context.Context) error {
	f, err := os.Open(lockPath(c.dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	defer f.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// Ended reports whether no tender owns the runtime folder dir, or none any more.
func Ended(dir string) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no wait
	return (&Client{dir: dir}).Wait(ctx) == nil
}

// InOrder reports, once Wait has returned, whether the tender ended because it
// was asked to: one that was killed leaves its socket behind.
func (c *Client) InOrder() bool {
	_, err := os.Lstat(socketPath(c.dir))
	return errors.Is(err, os.ErrNotExist)
}

// Listeners returns duplicates of the instance's listeners, in the order of
// its configuration, to hand them to a successor. The caller closes them.
func (c *Client) Listeners(ctx context.Context) ([]*os.File, error) {
	conn, done, err := c.open(ctx, request{Op: opListeners})
	if err != nil {
		return nil, err
	}
	defer done()
	line, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*launch.MaxListener))
	n, m, _, _, err := conn.ReadMsgUnix(line, rights)
	if err != nil {
		return nil, c.fault(ctx, err)
	}
	if _, err := parseResponse(line[:n]); err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("tender: no listeners came with the answer: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, fmt.Errorf("tender: the listeners: %w", err)
	}
	var files []*os.File
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "listener"))
	}
	return files, nil
}

// Decisions calls emit for every decision that is kept, from number from on (0:
// the oldest). With follow it goes on until ctx is done or emit fails.
func (c *Client) Decisions(ctx context.Context, from uint64, follow bool, emit func(Decision) error) error {
	return follower(ctx, c, request{Op: opDecisions, From: from, Follow: follow}, emit)
}

// Logs does for the log what Decisions does for decisions.
func (c *Client) Logs(ctx context.Context, from uint64, follow bool, emit func(LogLine) error) error {
	return follower(ctx, c, request{Op: opLogs, From: from, Follow: follow}, emit)
}

func follower[T any](ctx context.Context, c *Client, r request, emit func(T) error) error {
	conn, done, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer done()
	in := bufio.NewReader(conn)
	for {
		line, err := readLine(in, maxAnswer)
		if err != nil {
			return c.fault(ctx, err)
		}
		answer, err := parseResponse(line)
		if err != nil || answer.Last {
			return err
		}
		var v T
		if err := json.Unmarshal(answer.Result, &v); err != nil {
			return fmt.Errorf("tender: the answer: %w", err)
		}
		if err := emit(v); err != nil {
			return err
		}
	}
}

// A Lease keeps an instance alive for as long as its holder lives.
type Lease struct {
	conn *net.UnixConn
	in   *bufio.Reader
}

// Lease takes a lease: when the process that holds it ends without Release, the
// instance drains after a short while.
func (c *Client) Lease(ctx context.Context) (*Lease, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	l := &Lease{conn: conn, in: bufio.NewReader(conn)}
	if err := l.say(opLease); err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

func (l *Lease) say(op string) error {
	b, err := json.Marshal(request{Op: op})
	if err != nil {
		return err
	}
	l.conn.SetDeadline(time.Now().Add(requestWithin))
	defer l.conn.SetDeadline(time.Time{})
	if _, err := l.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("tender: the lease: %w", err)
	}
	line, err := readLine(l.in, maxAnswer)
	if err != nil {
		return fmt.Errorf("tender: the lease: %w", err)
	}
	_, err = parseResponse(line)
	return err
}

// Release gives the lease up; the instance lives on.
func (l *Lease) Release() error {
	defer l.conn.Close()
	return l.say(opRelease)
}

// Close drops the lease as the death of its holder would.
func (l *Lease) Close() error { return l.conn.Close() }
