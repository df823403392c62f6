package main

import (
	"fmt"
	"runtime"
	"syscall"
	"time"
)

func measured(name string, value float64) { fmt.Printf("measured %s %v\n", name, value) }

// used is the processor time of this process, what collects garbage included. On a machine
// that others use it says what something costs, and the clock does not.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		fail(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A cost is what something takes once.
type cost struct{ nanos, allocs float64 }

// costs runs something until it has taken so much processor time.
func costs(each time.Duration, once func()) cost {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, start, took := 0, used(), time.Duration(0)
	for batch := 1; took < each; batch *= 2 {
		// Batches grow, and the last one ends about when it should.
		if n > 0 && took > 0 {
			batch = min(batch, max(1, int(float64(each-took)*float64(n)/float64(took))))
		}
		for range batch {
			once()
		}
		n += batch
		took = used() - start
	}
	runtime.ReadMemStats(&after)
	return cost{float64(took) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n)}
}
