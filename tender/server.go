package tender

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
)

// Bounds of the control socket.
const (
	maxRequest    = 32 << 20 // secrets, in base64; a program comes behind it
	maxClients    = 64
	requestWithin = 20 * time.Second
	answersWithin = 10 * time.Second // for a client to take one line
	firstLease    = 30 * time.Second
	maxLevels     = 16
	maxFor        = 30 * 24 * time.Hour // that a level is set for

	defaultLeaseGrace = 30 * time.Second
)

// Names of operations. A connection carries one request, a line of JSON with a program
// behind it if it has one, and its answer: lines of JSON, the last of which says so.
const (
	opStatus    = "status"
	opReplace   = "replace"
	opDrain     = "drain"
	opStop      = "stop"
	opListeners = "listeners"
	opDecisions = "decisions"
	opLogs      = "logs"
	opLease     = "lease"
	opLevel     = "level"   // sets it, or releases it
	opLevels    = "levels"  // follows it
	opRelease   = "release" // the only second line: it ends a lease in peace
)

type request struct {
	Op      string           `json:"op"`
	Program []byte           `json:"-"`
	Length  int              `json:"length,omitempty"` // of the program
	Others  []behind         `json:"others,omitempty"` // more programs, behind it
	Secrets []control.Secret `json:"secrets,omitempty"`
	Grace   time.Duration    `json:"grace,omitempty"`
	Limit   time.Duration    `json:"limit,omitempty"`
	From    uint64           `json:"from,omitempty"`
	Follow  bool             `json:"follow,omitempty"`
	Ask     *ask             `json:"ask,omitempty"`
}

// A behind is a program of another level, which comes behind the first.
type behind struct {
	Length  int      `json:"length"`
	Plan    string   `json:"plan,omitempty"`
	Lacks   []string `json:"lacks,omitempty"`
	program []byte
}

type response struct {
	Error    string          `json:"error,omitempty"`
	NotReady bool            `json:"notReady,omitempty"` // the error is ErrNotReady
	Result   json.RawMessage `json:"result,omitempty"`
	Last     bool            `json:"last,omitempty"`
}

// parseRequest reads one request and refuses what it does not know.
func parseRequest(line []byte) (request, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var r request
	if err := d.Decode(&r); err != nil {
		return request{}, fmt.Errorf("tender: the request: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return request{}, errors.New("tender: the request: more than one value on the line")
	}
	if r.Grace < 0 || r.Limit < 0 || r.Grace > time.Hour || r.Limit > time.Hour {
		return request{}, errors.New("tender: the request: durations are from zero to an hour")
	}
	if r.Length < 0 || r.Length > program.MaxSize {
		return request{}, fmt.Errorf("tender: the request: a program of %d bytes; the limit is %d", r.Length, program.MaxSize)
	}
	sum := r.Length
	for _, o := range r.Others {
		if o.Length <= 0 || o.Length > program.MaxSize || len(r.Others) > maxLevels {
			return request{}, fmt.Errorf("tender: the request: %d other programs, one of %d bytes; the limits are %d and %d", len(r.Others), o.Length, maxLevels, program.MaxSize)
		}
		sum += o.Length
	}
	if sum > maxPrograms {
		return request{}, fmt.Errorf("tender: the request: programs of %d bytes; the limit is %d", sum, maxPrograms)
	}
	if a := r.Ask; a != nil && (a.For < 0 || a.For > maxFor) {
		return request{}, fmt.Errorf("tender: the request: a level is set for at most %v", maxFor)
	}
	return r, nil
}

// A server answers on the control socket of one tender.
type server struct {
	t      *tender
	lock   *os.File
	ln     *net.UnixListener
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	seats  chan struct{}
}

// serve opens the control socket. A lock on the folder keeps two tenders apart.
func (t *tender) serve() (*server, error) {
	lock, err := os.OpenFile(lockPath(t.cfg.Dir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	if err := own(lock); err != nil {
		lock.Close()
		return nil, fmt.Errorf("tender: another tender owns %s: %w", t.cfg.Dir, err)
	}
	os.Remove(socketPath(t.cfg.Dir))
	var ln *net.UnixListener
	err = shortPath(t.cfg.Dir, func(path string) error {
		ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("tender: the control socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // its name was a short one
	if err := os.Chmod(socketPath(t.cfg.Dir), 0o600); err != nil {
		ln.Close()
		lock.Close()
		return nil, fmt.Errorf("tender: the control socket: %w", err)
	}
	s := &server{t: t, lock: lock, ln: ln, seats: make(chan struct{}, maxClients)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s, nil
}

// lockWithin is for how long the lock of a folder is asked for: who looks whether it has
// an owner has the lock for a moment.
const lockWithin = time.Second

func own(lock *os.File) error {
	for late := time.Now().Add(lockWithin); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(late) {
			return err
		}
	}
}

// close ends what it answers. The folder is its own still.
func (s *server) close() {
	os.Remove(socketPath(s.t.cfg.Dir))
	// Whoever follows gets the last records before the end.
	s.t.decisions.finish()
	s.t.logs.finish()
	s.cancel()
	s.ln.Close()
	s.wg.Wait()
}

// shortPath calls f with a name for the control socket in dir that fits into a
// socket address, which holds 108 bytes.
func shortPath(dir string, f func(path string) error) error {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/control.sock", d.Fd()))
}

// samePeer checks that the other end belongs to the same user.
func samePeer(c *net.UnixConn) error {
	cred, err := peerOf(c)
	if err == nil && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("tender: the peer is user %d", cred.Uid)
	}
	return err
}

// peerOf says who has, or listens at, the other end.
func peerOf(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	failed := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, cmp.Or(failed, err)
}

func (s *server) accept() {
	for {
		c, err := s.ln.AcceptUnix()
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			time.Sleep(100 * time.Millisecond) // out of descriptors
			continue
		}
		select {
		case s.seats <- struct{}{}:
		default:
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.seats }()
			stop := context.AfterFunc(s.ctx, func() { c.SetDeadline(time.Now().Add(time.Second)) })
			defer stop()
			defer c.Close()
			if samePeer(c) == nil {
				s.answer(c)
			}
		})
	}
}

// answer handles one connection.
func (s *server) answer(c *net.UnixConn) {
	c.SetReadDeadline(time.Now().Add(requestWithin))
	in := bufio.NewReader(c)
	line, err := readLine(in, maxRequest)
	if err != nil {
		say(c, response{Error: err.Error(), Last: true})
		return
	}
	r, err := parseRequest(line)
	if err != nil {
		say(c, response{Error: err.Error(), Last: true})
		return
	}
	if r.Length > 0 {
		if r.Program, err = readBytes(in, r.Length); err != nil {
			return // nobody is there to be told
		}
	}
	for i := range r.Others {
		if r.Others[i].program, err = readBytes(in, r.Others[i].Length); err != nil {
			return
		}
	}
	c.SetReadDeadline(time.Time{})
	if r.Op == opLease {
		s.lease(c, in)
		return
	}
	// A client that goes away gives up what it asked for. At the end of the
	// tender a stream has until the deadline of c for what is left of it.
	base := s.ctx
	if r.Op == opDecisions || r.Op == opLogs || r.Op == opLevels {
		base = context.Background()
	}
	ctx, cancel := context.WithCancel(base)
	defer cancel()
	s.wg.Go(func() {
		defer cancel()
		in.Discard(1)
	})
	defer c.SetReadDeadline(time.Unix(1, 0))
	result, err := s.do(ctx, c, r)
	if err != nil {
		say(c, response{Error: err.Error(), NotReady: errors.Is(err, ErrNotReady), Last: true})
		return
	}
	if result != nil {
		say(c, response{Result: result, Last: true})
	}
}

// do performs r. A nil result means that the answer has been given.
func (s *server) do(ctx context.Context, c *net.UnixConn, r request) (json.RawMessage, error) {
	t := s.t
	switch r.Op {
	case opStatus:
		return json.Marshal(t.report(ctx))
	case opReplace:
		b := Batch{Program: r.Program, Secrets: r.Secrets}
		for _, o := range r.Others {
			b.Others = append(b.Others, Signed{o.program, o.Plan, o.Lacks})
		}
		a, err := t.replace(ctx, b)
		if err != nil {
			return nil, err
		}
		return json.Marshal(a)
	case opLevel:
		if r.Ask == nil {
			return nil, errors.New("tender: the request asks for no level")
		}
		a, err := t.setLevel(ctx, *r.Ask)
		if err != nil {
			return nil, err
		}
		return json.Marshal(a)
	case opLevels:
		return s.levels(ctx, c)
	case opDrain:
		t.order(order{drain: true, grace: r.Grace, limit: r.Limit})
		return json.RawMessage("{}"), nil
	case opStop:
		t.order(order{})
		return json.RawMessage("{}"), nil
	case opListeners:
		return nil, s.hand(c)
	case opDecisions:
		return stream(ctx, c, t.decisions, r)
	case opLogs:
		return stream(ctx, c, t.logs, r)
	}
	return nil, fmt.Errorf("tender: operation %q is unknown", r.Op)
}

// stream answers with one line for each of the spool.
func stream(ctx context.Context, c net.Conn, from *spool, r request) (json.RawMessage, error) {
	err := from.stream(ctx, r.From, r.Follow, func(line []byte) error { return say(c, response{Result: bytes.TrimSuffix(line, []byte{'\n'})}) })
	if err != nil {
		return nil, err
	}
	return json.RawMessage("{}"), nil
}

// levels answers with a line for the level in force, and one for each change.
func (s *server) levels(ctx context.Context, c net.Conn) (json.RawMessage, error) {
	for {
		now, changed := s.t.levelChange()
		b, err := json.Marshal(now)
		if err != nil {
			return nil, err
		}
		if err := say(c, response{Result: b}); err != nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return json.RawMessage("{}"), nil
		case <-s.ctx.Done():
			return json.RawMessage("{}"), nil
		}
	}
}

func readBytes(in io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(in, b)
	return b, err
}

// hand sends duplicates of the listeners with the answer (SCM_RIGHTS).
func (s *server) hand(c *net.UnixConn) error {
	names, err := json.Marshal(s.t.cfg.Listen)
	if err != nil {
		return err
	}
	b, err := json.Marshal(response{Result: names, Last: true})
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range s.t.listeners {
		fds = append(fds, int(f.Fd()))
	}
	c.SetWriteDeadline(time.Now().Add(answersWithin))
	_, _, err = c.WriteMsgUnix(append(b, '\n'), unix.UnixRights(fds...), nil)
	return err
}

// lease holds the instance to the life of c: when c closes without a release,
// and nobody else holds a lease after a short while, the instance drains.
func (s *server) lease(c *net.UnixConn, in *bufio.Reader) {
	t := s.t
	t.mu.Lock()
	t.leases++
	t.kept = false
	t.mu.Unlock()
	released := false
	if say(c, response{Result: json.RawMessage("{}")}) == nil {
		line, err := readLine(in, 1<<10)
		r, bad := parseRequest(line)
		released = err == nil && bad == nil && r.Op == opRelease
	}
	t.mu.Lock()
	t.leases--
	t.kept = t.kept || released
	t.mu.Unlock()
	if released {
		say(c, response{Result: json.RawMessage("{}"), Last: true})
		return
	}
	select {
	case <-s.ctx.Done():
	case <-time.After(t.cfg.LeaseGrace):
		t.drainUnleased("the lease ended")
	}
}

// drainUnleased drains unless somebody holds a lease, or the last who did gave
// it up in peace.
func (t *tender) drainUnleased(why string) {
	t.mu.Lock()
	held := t.leases > 0 || t.kept
	t.mu.Unlock()
	if held {
		return
	}
	t.log(FromTender, "%s: draining", why)
	t.order(order{drain: true, grace: time.Second, limit: 10 * time.Second})
}

func say(c net.Conn, r response) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(answersWithin))
	_, err = c.Write(append(b, '\n'))
	return err
}

// readLine reads up to a newline, at most limit bytes, taking memory as they
// arrive.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, fmt.Errorf("tender: a line of more than %d bytes", limit)
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, fmt.Errorf("tender: reading a line: %w", err)
		}
	}
}
