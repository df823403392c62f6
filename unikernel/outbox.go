package unikernel

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
)

const (
	// maxBatch records may share a frame, as far as they fit.
	maxBatch = 64
	// window is how many batches may be on their way without an Ack.
	window = 64
	// maxQueue records may wait; whoever brings one more waits as well.
	maxQueue = 1024
	// maxLogs lines may wait; further ones are dropped and counted.
	maxLogs = 256
)

var errClosed = errors.New("the control channel is closed")

// An outbox is the sending side of the control channel. Records are written in
// batches (group commit): many requests wait for one write, and for the one Ack
// that says that the tender has kept the batch. It is safe for concurrent use.
type outbox struct {
	w io.Writer

	mu      sync.Mutex
	work    sync.Cond // the writer waits here
	room    sync.Cond // those with records wait here, and flush
	frames  []control.Frame
	logs    int // of frames, those that are Log
	dropped int // log lines, since the last one that went
	queue   []entry
	writing bool
	seq     uint64
	acked   uint64
	sent    []batch // on their way: after acked, up to seq
	err     error
}

// An entry is a record and who waits for it, if anybody.
type entry struct {
	record audit.Record
	done   chan<- error
}

func newOutbox(w io.Writer) *outbox {
	o := &outbox{w: w}
	o.work.L, o.room.L = &o.mu, &o.mu
	return o
}

// send queues a frame. Frames go before records, in order.
func (o *outbox) send(f control.Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frames = append(o.frames, f)
	o.work.Signal()
}

// log queues a line, unless too many wait already: unlike evidence, lines that
// clients can cause without end are not worth a request's time.
func (o *outbox) log(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.logs >= maxLogs {
		o.dropped++
		return
	}
	o.logs++
	o.frames = append(o.frames, control.Log{Line: line}.Frame())
	o.work.Signal()
}

// write hands r to the channel and returns when the tender has kept it: what is
// only on its way is lost with the tender.
func (o *outbox) write(r audit.Record) error {
	done := make(chan error, 1)
	if err := o.enqueue(entry{r, done}); err != nil {
		return err
	}
	return <-done
}

// post hands r to the channel and waits only while the queue is full.
func (o *outbox) post(r audit.Record) error { return o.enqueue(entry{record: r}) }

func (o *outbox) enqueue(e entry) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) >= maxQueue && o.err == nil {
		o.room.Wait()
	}
	if o.err != nil {
		return o.err
	}
	o.queue = append(o.queue, e)
	o.work.Signal()
	return nil
}

// ack notes the tender's answer. An answer to what was not sent is an error.
func (o *outbox) ack(seq uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if seq > o.seq || seq < o.acked {
		return errors.New("an Ack of a batch that is not on its way")
	}
	o.acked = seq
	for len(o.sent) > 0 && o.sent[0].seq <= seq {
		o.sent[0].tell(nil)
		o.sent = o.sent[1:]
	}
	o.work.Signal()
	return nil
}

// flush returns when nothing waits to be written.
func (o *outbox) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil && (o.writing || len(o.queue) > 0 || len(o.frames) > 0) {
		o.room.Wait()
	}
	return o.err
}

// run writes until the channel breaks or close is called.
func (o *outbox) run() error {
	for {
		frames, batch, err := o.next()
		if err != nil {
			return err
		}
		for _, f := range frames {
			if err = control.WriteFrame(o.w, f); err != nil {
				break
			}
		}
		if err == nil && len(batch.entries) > 0 {
			err = control.WriteFrame(o.w, batch.frame())
		}
		if err != nil {
			o.close(err)
		}
	}
}

type batch struct {
	seq     uint64
	entries []entry
}

// tell says to all who wait for b what became of it.
func (b batch) tell(err error) {
	for _, e := range b.entries {
		if e.done != nil {
			e.done <- err
		}
	}
}

func (b batch) frame() control.Frame {
	m := control.Records{Seq: b.seq}
	for _, e := range b.entries {
		m.Records = append(m.Records, e.record)
	}
	return m.Frame()
}

// next waits for something to write.
func (o *outbox) next() ([]control.Frame, batch, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = false
	o.room.Broadcast()
	for o.err == nil && len(o.frames) == 0 && (len(o.queue) == 0 || o.seq-o.acked >= window) {
		o.work.Wait()
	}
	if o.err != nil {
		return nil, batch{}, o.err
	}
	o.writing = true
	frames := o.frames
	if o.dropped > 0 {
		frames = append(frames, control.Log{Line: fmt.Sprintf("%d log lines were dropped here", o.dropped)}.Frame())
	}
	o.frames, o.logs, o.dropped = nil, 0, 0
	var b batch
	if n := o.fits(); n > 0 && o.seq-o.acked < window {
		o.seq++
		b = batch{o.seq, append([]entry(nil), o.queue[:n]...)}
		o.queue = append(o.queue[:0], o.queue[n:]...)
		o.sent = append(o.sent, b)
	}
	return frames, b, nil
}

// fits returns how many records of the queue one frame takes.
func (o *outbox) fits() int {
	room := control.MaxFromImage - 16
	for n := range min(len(o.queue), maxBatch) {
		if room -= o.queue[n].record.Size(); room < 0 {
			return n
		}
	}
	return min(len(o.queue), maxBatch)
}

// close ends the outbox; everybody who waits gets err.
func (o *outbox) close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return
	}
	o.err = err
	for _, b := range append(o.sent, batch{entries: o.queue}) {
		b.tell(err)
	}
	o.sent, o.queue = nil, nil
	o.work.Broadcast()
	o.room.Broadcast()
}
