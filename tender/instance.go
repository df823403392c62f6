package tender

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
)

// Bounds on what an image may cost and on how long it is waited for, beside
// Config.Patience.
const (
	defaultPatience = 30 * time.Second
	exitWithin      = 5 * time.Second
	dieWithin       = time.Second // of an image that has hung up
	statsWithin     = time.Second

	linesPerSecond   = 500
	recordsPerSecond = 100_000
)

// A keeper is what an instance hands evidence to.
type keeper interface {
	keep([]audit.Record) error // returns once the records are in the spool
	note(from, line string)
	released(slot uint8) error
	enforced(slot uint8)
	fired(m control.Fired) error // a trigger asks for a level
}

// An offer is a program that the image was asked to take.
type offer struct {
	txn  uint64
	slot uint8
	sum  program.Digest
}

// A life is what runs an image: a process, or a machine.
type life interface {
	Kill()
	Done() <-chan struct{}
	Death() string // how it ended; like Killed, valid once Done is closed
	Killed() bool  // by Kill
}

// An outlet makes the connections that an image asks for.
type outlet interface {
	serve() error             // until the image says what is out of place, or end
	enforce(s egress.Section) // from now on, on open connections as well
	end()
}

// hooks are what the target of an instance does at points of its life; what is nil
// does nothing.
type hooks struct {
	params func(*launch.Params) error // adds to what it is told first
	verify func() error               // looks from outside at what says that it is ready
	intact func() error               // looks whether its programs are what they were
	code   func() error               // looks whether its code is, which takes longer
	serve  func() error               // lets clients come
	stop   func() error               // lets no more come; none is on its way when it returns
	end    func()                     // lets go of what it had, which is dead
}

// An instance is one life of an image. One goroutine reads the channel; every
// answer that somebody waits for has its own channel with room for one.
type instance struct {
	proc   life
	conn   net.Conn
	output *os.File
	keeper keeper
	outlet outlet // nil: the image makes no connections
	plan   [32]byte

	target hooks

	patience time.Duration

	hello chan struct{} // closed in this order
	ready chan struct{}

	write sync.Mutex // held around one frame

	mu        sync.Mutex
	failure   error // why the tender killed it
	lost      bool  // one of its channels is of no more use
	offer     offer
	prepared  chan control.Prepared
	committed chan struct{}
	stats     control.Stats
	asked     int // queries without an answer
	fresh     chan struct{}
	draining  bool
	drained   bool
	said      []string // the last lines of its output
	cause     string   // the line in which it, its kernel or the Go runtime says what it dies of

	records uint64 // batches received; of the reader alone

	readers sync.WaitGroup
}

func newInstance(p life, conn net.Conn, output *os.File, k keeper, plan [32]byte, patience time.Duration) *instance {
	i := &instance{proc: p, conn: conn, output: output, keeper: k, plan: plan, patience: patience,
		hello: make(chan struct{}), ready: make(chan struct{})}
	i.readers.Go(i.readFrames)
	i.readers.Go(func() { i.readOutput(output) })
	return i
}

// fail kills the image for a reason; the first one stands.
func (i *instance) fail(err error) {
	i.mu.Lock()
	if i.failure == nil {
		i.failure = err
	}
	i.mu.Unlock()
	i.proc.Kill()
}

// ends reports whether the image has ended, or is about to.
func (i *instance) ends() bool {
	select {
	case <-i.proc.Done():
		return true
	default:
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failure != nil || i.lost
}

// wait returns why the image ended, when it has and everything it said is kept.
func (i *instance) wait() error {
	<-i.proc.Done()
	i.conn.SetReadDeadline(time.Now().Add(exitWithin))
	i.output.SetReadDeadline(time.Now().Add(exitWithin))
	if i.outlet != nil {
		i.outlet.end()
	}
	i.readers.Wait()
	if i.target.end != nil {
		i.target.end()
	}
	i.conn.Close()
	i.output.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	said := ""
	if i.cause != "" {
		said = "; it said: " + i.cause
	} else if len(i.said) > 0 {
		said = "; it said: " + strings.Join(i.said, " | ")
	}
	if i.failure != nil && i.proc.Killed() {
		return fmt.Errorf("tender: the image was killed: %w%s", i.failure, said)
	}
	return fmt.Errorf("tender: the image ended: %s%s", i.proc.Death(), said)
}

// send writes one frame; an image that does not read is killed.
func (i *instance) send(f control.Frame) error {
	i.write.Lock()
	defer i.write.Unlock()
	i.conn.SetWriteDeadline(time.Now().Add(i.patience))
	if err := control.WriteFrame(i.conn, f); err != nil {
		i.mu.Lock()
		i.lost = true
		i.mu.Unlock()
		go i.leave(fmt.Errorf("it does not take what it is told: %w", err)) // who is told may be dying, and of something else
		return err
	}
	return nil
}

// connect begins to make the connections that the image asks for.
func (i *instance) connect() {
	if i.outlet != nil {
		i.readers.Go(func() {
			if err := i.outlet.serve(); !errors.Is(err, net.ErrClosed) { // else wait closed it, and knows how the image ended
				i.leave(fmt.Errorf("dial socket: %w", err))
			}
		})
	}
}

func (i *instance) readFrames() {
	in := bufio.NewReaderSize(i.conn, control.MaxFromImage)
	for {
		f, err := control.ReadFrame(in, control.MaxFromImage)
		if err == nil {
			var m any
			if m, err = f.Decode(); err == nil {
				err = i.take(f.Kind, m)
			}
		}
		if err != nil {
			i.leave(fmt.Errorf("control channel: %w", err))
			return
		}
	}
}

// leave ends an image one of whose channels is of no more use. A drained image exits by
// itself. One that is dying closes its channel first, and QEMU takes a while from there:
// it is not killed at once, so that it can say how it died, which is what wait reports.
func (i *instance) leave(err error) {
	var last time.Duration
	i.mu.Lock()
	i.lost = true
	if i.drained {
		last = i.patience
	} else if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		last = dieWithin
	}
	i.mu.Unlock()
	if last > 0 {
		select {
		case <-i.proc.Done():
			return
		case <-time.After(last):
		}
	}
	i.fail(err)
}

// take acts on one message. An error ends the image.
func (i *instance) take(kind control.Kind, m any) error {
	if !closed(i.hello) {
		h, ok := m.(control.Hello)
		switch {
		case !ok:
			return fmt.Errorf("its first word is of kind %d", kind)
		case !abi.Compatible(h.Version):
			return fmt.Errorf("it speaks version %d of the contract, this tender %d; build it again", h.Version, abi.Version)
		case h.Plan != i.plan:
			return errors.New("it was built for another plan")
		}
		close(i.hello)
		return nil
	}
	if kind == control.KindReady && !closed(i.ready) {
		close(i.ready)
		return nil
	}
	if l, ok := m.(control.Log); ok {
		i.keeper.note(FromImage, l.Line)
		return nil
	}
	if !closed(i.ready) {
		return fmt.Errorf("it sent kind %d before it was ready", kind)
	}
	return i.takeReady(kind, m)
}

func (i *instance) takeReady(kind control.Kind, m any) error {
	switch m := m.(type) {
	case control.Records:
		i.records++
		if m.Seq != i.records {
			return fmt.Errorf("batch %d of records where %d was due", m.Seq, i.records)
		}
		if err := i.keeper.keep(m.Records); err != nil {
			return fmt.Errorf("decisions cannot be kept, and nothing is decided without a record: %w", err)
		}
		return i.send(control.Ack{Seq: m.Seq}.Frame())
	case control.Released:
		return i.keeper.released(m.Slot)
	case control.Fired:
		return i.keeper.fired(m)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch m := m.(type) {
	case control.Prepared:
		if i.prepared == nil || m.Txn != i.offer.txn {
			return errors.New("it prepared what nobody asked for")
		}
		i.prepared <- m
		i.prepared = nil
		return nil
	case control.Committed:
		if i.committed == nil || m.Txn != i.offer.txn || m.Slot != i.offer.slot || m.Program != i.offer.sum {
			return errors.New("it committed what nobody asked for")
		}
		i.keeper.enforced(m.Slot) // before the next frame, which may release the slot before it
		close(i.committed)
		i.committed = nil
		return nil
	case control.Stats:
		if i.asked == 0 {
			return errors.New("it sent statistics that nobody asked for")
		}
		i.asked--
		i.stats = m
		if i.fresh != nil {
			close(i.fresh)
			i.fresh = nil
		}
		return nil
	}
	if kind == control.KindDrained && i.draining {
		i.drained = true
		return nil
	}
	return fmt.Errorf("it sent kind %d, which only a tender sends or only once", kind)
}

// prepare asks the image to take the program of o and returns its answer.
func (i *instance) prepare(ctx context.Context, o offer, p control.Prepare) (control.Prepared, error) {
	answer := make(chan control.Prepared, 1)
	i.mu.Lock()
	i.offer, i.prepared = o, answer
	i.mu.Unlock()
	return await(ctx, i, p.Frame(), answer)
}

// commit puts the prepared program in force.
func (i *instance) commit() error {
	answer := make(chan struct{})
	i.mu.Lock()
	i.committed = answer
	txn := control.Txn{Txn: i.offer.txn}
	i.mu.Unlock()
	_, err := await(context.Background(), i, txn.Frame(control.KindCommit), answer)
	return err
}

// abort has the image forget what it prepared.
func (i *instance) abort(txn uint64) error {
	return i.send(control.Txn{Txn: txn}.Frame(control.KindAbort))
}

// await sends f and waits for its answer. A silent image is killed; it is not
// left half way because a caller lost patience, so ctx counts only before.
func await[T any](ctx context.Context, i *instance, f control.Frame, answer <-chan T) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := i.send(f); err != nil {
		return none, err
	}
	late := time.NewTimer(i.patience)
	defer late.Stop()
	select {
	case m := <-answer:
		return m, nil
	case <-i.proc.Done():
		return none, i.unanswered()
	case <-late.C:
		err := fmt.Errorf("no answer within %s", i.patience)
		i.fail(err)
		return none, err
	}
}

// unanswered says why an image that has ended gave no answer.
func (i *instance) unanswered() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failure != nil && i.proc.Killed() {
		return fmt.Errorf("the image was killed before it answered: %w", i.failure)
	}
	return errors.New("the image ended before it answered: " + i.proc.Death())
}

// query asks the image how it is, where no such question is open. What it returns is
// closed with the answer.
func (i *instance) query() (fresh <-chan struct{}, err error) {
	i.mu.Lock()
	if i.fresh == nil {
		i.fresh = make(chan struct{})
	}
	fresh, ask := i.fresh, i.asked == 0
	if ask {
		i.asked++
	}
	i.mu.Unlock()
	if ask {
		err = i.send(control.Query())
	}
	return fresh, err
}

// every runs f at intervals while the image lives; where f fails it is killed.
func (i *instance) every(d time.Duration, f func() error) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-i.proc.Done():
			return
		case <-tick.C:
		}
		if err := f(); err != nil {
			i.fail(err)
			return
		}
	}
}

// pulse reports an image that hangs. One that drains has a time for that.
func (i *instance) pulse() error {
	fresh, err := i.query()
	if err != nil {
		return err
	}
	late := time.NewTimer(i.patience)
	defer late.Stop()
	select {
	case <-fresh:
	case <-i.proc.Done():
	case <-late.C:
		i.mu.Lock()
		defer i.mu.Unlock()
		if !i.draining {
			return fmt.Errorf("it hangs: no answer within %s", i.patience)
		}
	}
	return nil
}

// statistics asks the image; after a second, also one in which it does not take the
// question, it returns what is known.
func (i *instance) statistics(ctx context.Context) control.Stats {
	ctx, cancel := context.WithTimeout(ctx, statsWithin)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		fresh, err := i.query()
		if err == nil {
			select {
			case <-fresh:
			case <-i.proc.Done():
			case <-ctx.Done():
			}
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil {
			return control.Stats{}
		}
	case <-ctx.Done():
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stats
}

// drain asks the image to finish, once every client that was let in has reached it.
func (i *instance) drain(grace, limit time.Duration) {
	i.mu.Lock()
	i.draining = true
	i.mu.Unlock()
	go func() {
		if i.target.stop != nil {
			if err := i.target.stop(); err != nil {
				i.keeper.note(FromTender, err.Error())
			}
		}
		i.send(control.Drain{Grace: grace, Limit: limit}.Frame())
	}()
}

// inOrder reports that it has drained.
func (i *instance) inOrder() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.drained
}

// lastLines is how many lines of an image's output go into the reason of its
// end.
const lastLines = 3

// readOutput turns what the image writes to its output into lines of the log.
func (i *instance) readOutput(r io.Reader) {
	in, empty := bufio.NewReaderSize(r, maxText), 0
	for {
		line, _, err := in.ReadLine() // a longer line comes in pieces
		if err != nil {
			return
		}
		if len(line) == 0 { // nobody counts them
			if empty++; empty%restEvery == 0 {
				time.Sleep(time.Millisecond)
			}
			continue
		}
		i.keeper.note(FromOutput, string(line))
		i.remember(string(line))
	}
}

// remember keeps what tells of the end, should this be it.
func (i *instance) remember(line string) {
	line = printable(audit.Cut(line, audit.MaxField))
	i.mu.Lock()
	defer i.mu.Unlock()
	// The first is what the others come of.
	for _, word := range []string{"lorica image: ", "lorica kernel: ", "panic: ", "fatal error: "} {
		if i.cause == "" && strings.HasPrefix(line, word) {
			i.cause = line
		}
	}
	i.said = append(i.said, line)
	i.said = i.said[max(0, len(i.said)-lastLines):]
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
