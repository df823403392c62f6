package ratelimit

import (
	"math/rand/v2"
	"testing"
	"time"
)

// start is when every test begins. It has no monotonic reading, as if the clock
// could be set.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestAllAtOnceThenOneByOne(t *testing.T) {
	for _, c := range []struct {
		requests uint32
		per      time.Duration
	}{{1, time.Second}, {7, time.Minute}, {600, time.Minute}, {1000, time.Millisecond}, {3, 24 * time.Hour}} {
		b := NewTable(c.requests, c.per)
		for i := range c.requests {
			if wait := b.Take(1, start); wait > 0 {
				t.Fatalf("%d in %v: request %d waits %v", c.requests, c.per, i+1, wait)
			}
		}
		wait := b.Take(1, start)
		if wait <= 0 || wait > c.per/time.Duration(c.requests)+1 {
			t.Errorf("%d in %v: one more waits %v", c.requests, c.per, wait)
		}
		if b.Take(1, start.Add(wait-1)) != 1 {
			t.Errorf("%d in %v: the wait is too long", c.requests, c.per)
		}
		if b.Take(1, start.Add(wait)) != 0 || b.Take(1, start.Add(wait)) == 0 {
			t.Errorf("%d in %v: after the wait there is not exactly one", c.requests, c.per)
		}
		if b.Take(2, start) != 0 {
			t.Errorf("%d in %v: another key waits", c.requests, c.per)
		}
	}
}

// Whatever other keys arrive, in whatever numbers, a key is never granted more
// than its limit.
func TestRandomKeysResetNobody(t *testing.T) {
	for _, requests := range []uint32{1, 5} { // with 1, every key of the flood is over its limit as well
		const per, seconds = time.Minute, 300
		rng := rand.New(rand.NewPCG(1, 2))
		b := NewTable(requests, per)
		granted := make([]int, 64)
		refused := 0
		for s := range seconds {
			now := start.Add(time.Duration(s) * time.Second)
			for range 5000 { // 1.5 million keys, each once: 91 times the table
				if b.Take(rng.Uint64(), now) > 0 {
					refused++
				}
			}
			for v := range granted {
				for range 3 {
					if b.Take(uint64(v)*7+1<<60, now) == 0 {
						granted[v]++
					}
				}
			}
		}
		most := int(requests) * (1 + seconds/60)
		for v, n := range granted {
			if n > most {
				t.Errorf("key %d was granted %d requests; its limit of %d allows %d", v, n, requests, most)
			}
		}
		if refused == 0 {
			t.Error("the flood never filled the table: nothing was tested")
		}
	}
}

// Memory is what a table was made with, whatever keys arrive.
func TestAFloodOfKeysTakesNoMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	b := NewTable(1, time.Minute)
	size := cap(b.entry)
	if n := testing.AllocsPerRun(100_000, func() { b.Take(rng.Uint64(), start) }); n != 0 || cap(b.entry) != size || size != ways*sets {
		t.Errorf("%v allocations for a key; %d entries, %d before", n, cap(b.entry), size)
	}
}

// Keys that need little push out buckets that are full, never one that is not,
// as long as there is a full one.
func TestFullBucketsGoFirst(t *testing.T) {
	b := NewTable(2, time.Minute)
	const exhausted = 5
	b.Take(exhausted, start)
	b.Take(exhausted, start)
	now := start
	for i := range uint64(100_000) { // all in the set of the exhausted one
		now = now.Add(5 * time.Second) // 30s to fill again: 6 of 15 in use
		if b.Take(exhausted+(i+1)*sets, now) > 0 {
			t.Fatalf("key %d waits although there are full buckets", i)
		}
		if i < 4 && b.Take(exhausted, now) == 0 {
			t.Fatalf("after %d keys the exhausted bucket is full again", i+1)
		}
	}
}

func TestAFullSetInheritsTheLeastTime(t *testing.T) {
	b := NewTable(2, time.Minute)
	for i := range uint64(ways) {
		for range 2 {
			if b.Take(i*sets, start) > 0 {
				t.Fatal("a key with an entry of its own waits")
			}
		}
	}
	if wait := b.Take(ways*sets, start); wait != 30*time.Second {
		t.Errorf("a new key among exhausted ones waits %v", wait)
	}
	later := start.Add(30 * time.Second)
	if b.Take(ways*sets, later) != 0 || b.Take(ways*sets, later) == 0 {
		t.Error("a new key does not get what its predecessor would have")
	}
	// The one that was pushed out comes back to no more than it had.
	got := 0
	for i := range uint64(ways + 1) {
		for b.Take(i*sets, later) == 0 {
			got++
		}
	}
	if got != ways-1 {
		t.Errorf("after 30s %d more were granted; %d buckets had one each", got, ways-1)
	}
}

func TestAClockThatGoesBackIsHarmless(t *testing.T) {
	b := NewTable(2, time.Minute)
	b.Take(1, start)
	b.Take(1, start)
	back := start.Add(-time.Hour)
	if wait := b.Take(1, back); wait != 30*time.Second {
		t.Errorf("an exhausted key waits %v", wait)
	}
	if wait := b.Take(2, back); wait != 0 {
		t.Errorf("a new key waits %v", wait)
	}
	if wait := b.Take(1, start.Add(-1000*time.Hour)); wait != 30*time.Second {
		t.Errorf("an exhausted key waits %v", wait)
	}
}

func BenchmarkTake(b *testing.B) {
	t := NewTable(1_000_000, time.Second)
	for name, key := range map[string]func(i int) uint64{
		"one key": func(int) uint64 { return 1 }, "many keys": func(i int) uint64 { return uint64(i) * 0x9e3779b97f4a7c15 },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for i := 0; p.Next(); i++ {
					t.Take(key(i), time.Now())
				}
			})
		})
	}
}

// A counter never refuses with fewer events than its count in a window, and with
// twice as many, however they are spread, it always does.
func TestACounterActsBetweenOnceAndTwiceItsCount(t *testing.T) {
	const window = time.Minute
	for _, count := range []uint32{1, 2, 7, 20} {
		c := NewCounter(count, window)
		for i := range count - 1 {
			if c.Take(1, start) > 0 {
				t.Errorf("count %d: event %d is refused", count, i+1)
			}
		}
		if c.Take(1, start) == 0 {
			t.Errorf("count %d: %d at once are not refused", count, count)
		}
		rng := rand.New(rand.NewPCG(uint64(count), 1))
		for key := range uint64(200) { // each with a density of its own
			var when []time.Time
			now := start
			for range 6 * count {
				now = now.Add(time.Duration(rng.Int64N(int64(window) * 2 / int64(count) * int64(key%10+1) / 5)))
				when = append(when, now)
				within := 0
				for _, w := range when {
					if w.After(now.Add(-window)) {
						within++
					}
				}
				refused := c.Take(1000+key, now) > 0
				if refused && within < int(count) {
					t.Fatalf("count %d: refused with %d in the window", count, within)
				}
				if refused {
					break // who counts acts, and starts again
				}
				if within >= 2*int(count) {
					t.Fatalf("count %d: not refused with %d in the window", count, within)
				}
			}
		}
	}
}
