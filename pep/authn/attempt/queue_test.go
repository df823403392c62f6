package attempt

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestAPanicWhileVerifyingDeniesAndFreesTheSlot(t *testing.T) {
	q := NewQueue()
	admit := func() error { return nil }
	entered, followed := make(chan struct{}), make(chan bool)
	go func() {
		defer func() { recover() }()
		q.Verify(Mac{1}, 1, admit, func() bool { <-entered; panic("argon2") })
	}()
	for { // until the first holds the slot
		q.mu.Lock()
		n := q.running
		q.mu.Unlock()
		if n == 1 {
			break
		}
	}
	go func() {
		ok, _ := q.Verify(Mac{1}, 1, admit, func() bool { return false })
		followed <- ok
	}()
	close(entered)
	if <-followed {
		t.Error("a panic let the follower in")
	}
	if ok, err := q.Verify(Mac{2}, 1, admit, func() bool { return true }); !ok || err != nil {
		t.Errorf("afterwards: %v, %v", ok, err)
	}
	if q.running != 0 || len(q.calls) != 0 || len(q.waiting) != 0 {
		t.Errorf("%d running, %d calls, %d waiting", q.running, len(q.calls), len(q.waiting))
	}
}

func TestNeverMoreAtOnceThanAllowed(t *testing.T) {
	q := NewQueue()
	var mu sync.Mutex
	running, most, done := 0, 0, 0
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			concurrency := 3
			if i >= 30 {
				concurrency = 1 // a new program allows fewer
			}
			_, err := q.Verify(Mac{byte(i)}, concurrency, func() error { return nil }, func() bool {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				defer func() { mu.Lock(); running--; done++; mu.Unlock() }()
				time.Sleep(time.Millisecond)
				return true
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most > 3 || done != 60 || q.running != 0 {
		t.Errorf("%d at once, %d done, %d left", most, done, q.running)
	}
}

func TestANewProgramMayAllowFewerAtOnce(t *testing.T) {
	q := NewQueue()
	admit := func() error { return nil }
	state := func() (running, waiting int) {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.running, len(q.waiting)
	}
	release, returned := make(chan struct{}), make(chan struct{})
	for i := range 3 {
		started := make(chan struct{})
		go func() {
			q.Verify(Mac{1, byte(i)}, 3, admit, func() bool { close(started); <-release; return true })
			returned <- struct{}{}
		}()
		<-started
	}
	last := make(chan struct{})
	go func() {
		q.Verify(Mac{2}, 1, admit, func() bool { return true })
		close(last)
	}()
	for waiting := 0; waiting == 0; runtime.Gosched() {
		_, waiting = state()
	}
	for left := 2; left > 0; left-- {
		release <- struct{}{}
		<-returned
		if running, waiting := state(); running != left || waiting != 1 {
			t.Errorf("%d old ones left: %d running, %d waiting", left, running, waiting)
		}
	}
	release <- struct{}{}
	<-returned
	<-last
	if running, waiting := state(); running != 0 || waiting != 0 {
		t.Errorf("at the end: %d running, %d waiting", running, waiting)
	}
}
