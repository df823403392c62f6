package unikernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
)

// A slowPipe lets n writes through for every n given to step.
type slowPipe struct {
	step chan int
	left int
	out  bytes.Buffer
	mu   sync.Mutex
}

func (p *slowPipe) Write(b []byte) (int, error) {
	for p.left == 0 {
		n, ok := <-p.step
		if !ok {
			return 0, errors.New("broken")
		}
		p.left += n
	}
	p.left--
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// frames decodes what was written so far.
func (p *slowPipe) frames(t *testing.T) []any {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []any
	r := bytes.NewReader(p.out.Bytes())
	for {
		f, err := control.ReadFrame(r, control.MaxFromImage)
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Decode()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
}

func started(t *testing.T, p *slowPipe) *outbox {
	o := newOutbox(p)
	go o.run()
	t.Cleanup(func() { o.close(errClosed) })
	return o
}

// big is a record of the greatest size.
func big(id int) audit.Record {
	long := strings.Repeat("x", 4*audit.MaxPath)
	r := audit.Record{ID: fmt.Sprint(id), Stage: long, Reason: long, Principal: long, Source: long, Method: long,
		Route: long, Level: long, Path: long}
	r.Rule.ID, r.Rule.Line = long, long
	for range 9 {
		r.Groups = append(r.Groups, long[:audit.MaxField])
		r.Facts = append(r.Facts, audit.Fact{Name: "n", Value: long})
	}
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came that %s", what)
}

func waiting(o *outbox) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue)
}

func TestOutboxReturnsOnlyWhatIsKept(t *testing.T) {
	p := &slowPipe{step: make(chan int)}
	o := started(t, p)
	kept := make(chan error, 1)
	go func() { kept <- o.write(big(0)) }()
	still := func(when string) {
		t.Helper()
		select {
		case <-kept:
			t.Fatal("write returned before " + when)
		case <-time.After(50 * time.Millisecond):
		}
	}
	still("the channel took the record")
	p.step <- 1
	still("the tender kept it")
	if err := o.ack(1); err != nil {
		t.Fatal(err)
	}
	if err := <-kept; err != nil {
		t.Fatal(err)
	}
	if b := p.frames(t)[0].(control.Records); b.Seq != 1 || len(b.Records) != 1 {
		t.Fatalf("wrote %+v", b)
	}
}

// confirm answers as a tender does until n records are kept.
func (o *outbox) confirm(t *testing.T, n int) {
	t.Helper()
	done := 0
	eventually(t, "everything is kept", func() bool {
		o.mu.Lock()
		seq := o.seq
		for _, b := range o.sent {
			done += len(b.entries)
		}
		o.mu.Unlock()
		if err := o.ack(seq); err != nil {
			t.Fatal(err)
		}
		return done == n
	})
}

// full is how many records of the greatest size fit one frame.
const full = (control.MaxFromImage - 16) / audit.MaxRecord

func TestOutboxGroupsRecordsThatWait(t *testing.T) {
	t.Run("great ones", func(t *testing.T) { groups(t, 10*full, full, big) })
	t.Run("ordinary ones", func(t *testing.T) {
		groups(t, 10*maxBatch, maxBatch, func(i int) audit.Record { return audit.Record{ID: fmt.Sprint(i), Path: "/accounts/7"} })
	})
}

func groups(t *testing.T, n, each int, sized func(int) audit.Record) {
	p := &slowPipe{step: make(chan int, 1)}
	o := started(t, p)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := o.write(sized(i)); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all wait, or are on their way", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		all := len(o.queue)
		for _, b := range o.sent {
			all += len(b.entries)
		}
		return all == n
	})
	p.step <- n
	o.confirm(t, n)
	wg.Wait()
	if err := o.flush(); err != nil { // an Ack may overtake what the pipe takes
		t.Fatal(err)
	}
	seen, seq := map[string]bool{}, uint64(0)
	for _, m := range p.frames(t) {
		b := m.(control.Records)
		if seq++; b.Seq != seq {
			t.Errorf("batch %d has number %d", seq, b.Seq)
		}
		for _, r := range b.Records {
			seen[r.ID] = true
		}
	}
	if len(seen) != n || seq > 12 {
		t.Errorf("%d records of %d in %d batches", len(seen), n, seq)
	}
}

func TestOutboxWaitsForTheTender(t *testing.T) {
	p := &slowPipe{step: make(chan int, 1)}
	p.step <- 1 << 20
	o := started(t, p)
	for i := range window {
		if err := o.post(big(i)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "each is a batch of its own", func() bool { return waiting(o) == 0 })
	}
	for i := range maxQueue { // these fill the queue without being waited for
		if err := o.post(big(i)); err != nil {
			t.Fatal(err)
		}
	}
	posted := make(chan error, 1)
	go func() { posted <- o.post(big(0)) }()
	o.send(control.Released{Slot: 1}.Frame())
	eventually(t, "other frames pass", func() bool { return len(p.frames(t)) == window+1 })
	select {
	case <-posted:
		t.Fatal("the queue is not bounded")
	case <-time.After(50 * time.Millisecond):
	}
	if err := o.ack(window + 1); err == nil {
		t.Error("an Ack of the future is taken")
	}
	if err := o.ack(1); err != nil {
		t.Fatal(err)
	}
	if err := <-posted; err != nil {
		t.Fatal(err)
	}
	if err := o.ack(0); err == nil {
		t.Error("an Ack of the past is taken")
	}
	eventually(t, "one batch more is written", func() bool { return len(p.frames(t)) == window+2 })
}

func TestOutboxFailsEverybodyWhenTheChannelBreaks(t *testing.T) {
	p := &slowPipe{step: make(chan int)}
	o := newOutbox(p)
	ended := make(chan error, 1)
	go func() { ended <- o.run() }()
	const n = 3 * full
	failed := make(chan error, n+1)
	for i := range n {
		go func() { failed <- o.write(big(i)) }()
	}
	eventually(t, "all wait", func() bool { return waiting(o) >= n-full })
	close(p.step)
	go func() { failed <- o.flush() }()
	for range n + 1 {
		if err := <-failed; err == nil {
			t.Error("a record that was not written counts as written")
		}
	}
	if err := <-ended; err == nil {
		t.Error("the writer ends without an error")
	}
	if err := o.post(big(0)); err == nil {
		t.Error("a record is taken after the end")
	}
}

func TestOutboxBoundsLogLinesAndCountsWhatItDrops(t *testing.T) {
	p := &slowPipe{step: make(chan int, 1)}
	o := newOutbox(p)
	for range maxLogs + 7 {
		o.log("a line")
	}
	go o.run()
	defer o.close(errClosed)
	p.step <- 1 << 20
	if err := o.flush(); err != nil {
		t.Fatal(err)
	}
	lines := p.frames(t)
	if last := lines[len(lines)-1]; len(lines) != maxLogs+1 || last != (control.Log{Line: "7 log lines were dropped here"}) {
		t.Errorf("%d lines, the last is %+v", len(lines), last)
	}
}
