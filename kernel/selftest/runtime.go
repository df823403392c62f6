package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lorica.dev/lorica/kernel"
)

func machine() (string, error) {
	if !kernel.Booted() {
		return "", errors.New("not running on the kernel")
	}
	free, total := kernel.Memory()
	if free == 0 || free >= total {
		return "", fmt.Errorf("%d bytes free of %d", free, total)
	}
	return fmt.Sprintf("%d MB of RAM, %d free", total>>20, free>>20), nil
}

func goroutines() (string, error) {
	const n = 5000
	var wg sync.WaitGroup
	var sum atomic.Int64
	c := make(chan int)
	for range n {
		wg.Go(func() { sum.Add(int64(<-c)) })
	}
	for i := range n {
		c <- i
	}
	wg.Wait()
	if got := sum.Load(); got != n*(n-1)/2 {
		return "", fmt.Errorf("sum %d", got)
	}
	return strconv.Itoa(n), nil
}

func maps() (string, error) {
	const n = 100_000
	m := map[string]int{}
	for i := range n {
		m[strconv.Itoa(i)] = i
	}
	for i := range n {
		if m[strconv.Itoa(i)] != i {
			return "", fmt.Errorf("entry %d is %d", i, m[strconv.Itoa(i)])
		}
	}
	return strconv.Itoa(len(m)), nil
}

type tree struct{ left, right *tree }

func grow(depth int) *tree {
	if depth == 0 {
		return &tree{}
	}
	return &tree{grow(depth - 1), grow(depth - 1)}
}

func (t *tree) count() int {
	if t == nil {
		return 0
	}
	return 1 + t.left.count() + t.right.count()
}

func collector() (string, error) {
	const depth, want = 14, 1<<15 - 1
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	keep := grow(depth)
	for range 30 {
		if n := grow(depth).count(); n != want {
			return "", fmt.Errorf("a tree of %d nodes", n)
		}
	}
	runtime.GC()
	if n := keep.count(); n != want {
		return "", fmt.Errorf("a tree of %d nodes", n)
	}
	runtime.ReadMemStats(&after)
	if after.NumGC == before.NumGC {
		return "", errors.New("no collection")
	}
	return fmt.Sprintf("%d collections, %d KB from the system", after.NumGC-before.NumGC, after.Sys>>10), nil
}

// release checks that memory comes back to the kernel.
func release() (string, error) {
	b := make([]byte, 16<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	held, _ := kernel.Memory()
	runtime.KeepAlive(b)
	b = nil
	debug.FreeOSMemory()
	freed, _ := kernel.Memory()
	if freed < held+(12<<20) {
		return "", fmt.Errorf("%d KB free while 16 MB were used, %d afterwards", held>>10, freed>>10)
	}
	return fmt.Sprintf("%d KB", (freed-held)>>10), nil
}

func stacks() (string, error) {
	const depth = 50_000
	var f func(n int) int
	f = func(n int) int {
		var b [256]byte
		b[n%256] = 1
		if n == 0 {
			return 0
		}
		return f(n-1) + int(b[n%256])
	}
	if got := f(depth); got != depth {
		return "", fmt.Errorf("depth %d", got)
	}
	return strconv.Itoa(depth) + " frames", nil
}

func timers() (string, error) {
	const d = 20 * time.Millisecond
	var late time.Duration
	for range 5 {
		t := time.Now()
		time.Sleep(d)
		took := time.Since(t)
		if took < d {
			return "", fmt.Errorf("slept %v of %v", took, d)
		}
		late = max(late, took-d)
	}
	ticks := 0
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for stop := time.After(d); ; {
		select {
		case <-ticker.C:
			ticks++
			continue
		case <-stop:
		}
		break
	}
	if ticks == 0 {
		return "", errors.New("a ticker that does not tick")
	}
	return fmt.Sprintf("late by %v at most", late.Round(10*time.Microsecond)), nil
}

// clock reads it in several goroutines: some are interrupted in the middle of that.
func clock() (string, error) {
	ended := make(chan error, 4)
	for range cap(ended) {
		go func() {
			last := time.Now()
			for range 100_000 {
				now := time.Now()
				if now.Before(last) {
					ended <- fmt.Errorf("went back from %v to %v", last, now)
					return
				}
				last = now
			}
			ended <- nil
		}()
	}
	var errs []error
	for range cap(ended) {
		errs = append(errs, <-ended)
	}
	now := time.Now()
	if y := now.Year(); y < 2025 || y > 2099 {
		errs = append(errs, fmt.Errorf("it is %v", now))
	}
	return now.UTC().Format(time.RFC3339), errors.Join(errs...)
}

func entropy() (string, error) {
	seen := map[[32]byte]bool{}
	ones := 0
	for range 2000 { // enough for the kernel to ask its device again
		var b [32]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", err
		}
		if seen[b] {
			return "", errors.New("32 bytes came twice")
		}
		seen[b] = true
		for _, c := range b {
			for ; c != 0; c &= c - 1 {
				ones++
			}
		}
	}
	const bits = 2000 * 256
	if dev := math.Abs(float64(ones) - bits/2); dev > 6*math.Sqrt(bits)/2 {
		return "", fmt.Errorf("%d of %d bits are 1", ones, bits)
	}
	return fmt.Sprintf("%d of %d bits are 1", ones, bits), nil
}

// preemptLoop needs a signal: nothing in the loop lets others run.
func preemptLoop() (string, error) {
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		n := 0
		for !stop.Load() {
			n++
		}
		done <- n
	}()
	time.Sleep(30 * time.Millisecond)
	stop.Store(true)
	return fmt.Sprintf("%d rounds", <-done), nil
}

// The checks below run more goroutines than processors through loops that keep their
// state in registers, which nobody but a preemption saves.

// mix keeps more numbers than there are registers for.
func mix(n int) uint64 {
	a, b, c, d, e, f := uint64(1), uint64(2), uint64(3), uint64(4), uint64(5), uint64(6)
	g, h, i, j, k, l := uint64(7), uint64(8), uint64(9), uint64(10), uint64(11), uint64(12)
	for range n {
		a, b, c, d, e, f = a+l, b^a, c+b, d^c, e+d, f^e
		g, h, i, j, k, l = g+f, h^g, i+h, j^i, k+j, l^k<<1
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ i ^ j ^ k ^ l
}

func preemptIntegers() (string, error) {
	const rounds = 4_000_000
	got := make(chan uint64, 4)
	for range cap(got) {
		go func() { got <- mix(rounds) }()
	}
	for range cap(got) {
		if v := <-got; v != mixSum {
			return "", fmt.Errorf("%#x is not %#x", v, uint64(mixSum))
		}
	}
	return fmt.Sprintf("%#x", uint64(mixSum)), nil
}

func preemptFloat() (string, error) {
	sum := func() float64 {
		s := 0.0
		for j := 1; j < 3_000_000; j++ {
			s += math.Sqrt(float64(j)) / float64(j+1)
		}
		return s
	}
	want := sum()
	got := make(chan float64, 4)
	for range cap(got) {
		go func() { got <- sum() }()
	}
	for range cap(got) {
		if v := <-got; v != want {
			return "", fmt.Errorf("%v is not %v", v, want)
		}
	}
	return fmt.Sprintf("%.6f", want), nil
}

func preemptVector() (string, error) {
	b := make([]byte, 512<<10)
	for i := range b {
		b[i] = byte(i * 31)
	}
	want := sha256.Sum256(b)
	if s := fmt.Sprintf("%x", want); s != vectorSum {
		return "", fmt.Errorf("the hash is %s", s)
	}
	same := make(chan bool, 3)
	for range cap(same) {
		go func() {
			ok := true
			c := make([]byte, len(b))
			for range 8 {
				copy(c, b)
				ok = ok && sha256.Sum256(c) == want
			}
			same <- ok
		}()
	}
	for range cap(same) {
		if !<-same {
			return "", errors.New("a hash differs")
		}
	}
	return "24 hashes", nil
}

// touch stores to p and returns two vector registers, which must be vectorMark then.
func touch(p *byte) (first, last uint64)

const vectorMark = 0x0123_4567_89ab_cdef

// faultVector: the first touch of a page interrupts code that has vectors in use.
func faultVector() (string, error) {
	const pages = 256
	b, err := syscall.Mmap(-1, 0, pages*4096, writable, anonymous)
	if err != nil {
		return "", err
	}
	for i := range pages {
		if first, last := touch(&b[i*4096]); first != vectorMark || last != vectorMark {
			return "", fmt.Errorf("page %d: registers %#x and %#x", i, first, last)
		}
	}
	return strconv.Itoa(pages) + " pages", syscall.Munmap(b)
}

func sleepZero(time *[2]int64) (last uint64) // what X15 is after a system call that waits
func spinFull(stop *uint32)                  // computes with X15 until it is told to stop

// callVector: Go code has X15 zero, and keeps no other vector over a call. Whoever else
// used it while a system call waited must not be seen.
func callVector() (string, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	// A collection would wait for the spinner, which cannot be preempted: none is under way.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC()
	const calls = 20
	var stop uint32
	var spinner sync.WaitGroup
	spinner.Go(func() { spinFull(&stop) })
	defer spinner.Wait()
	defer atomic.StoreUint32(&stop, 1)
	for range calls {
		if last := sleepZero(&[2]int64{0, int64(time.Millisecond)}); last != 0 {
			return "", fmt.Errorf("%#x", last)
		}
	}
	return strconv.Itoa(calls) + " calls", nil
}

func lockedThreads() (string, error) {
	const n = 100
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			runtime.LockOSThread() // ends with its goroutine
			for range 5 {
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
	return strconv.Itoa(n), nil
}

// vectorSum is SHA-256 of what preemptVector hashes, computed elsewhere.
const vectorSum = "cd12999681ec67a1718f066454d8349e72dfe66c87f2e4cf506be5a9dda4ef89"

// mixSum is what mix returns after four million rounds, computed elsewhere.
const mixSum = 0x455f159b0b23f26c
