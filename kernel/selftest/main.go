// Command selftest is an image that tests the kernel from inside: that the Go runtime
// works on it, and that its protections kill. It prints a line for each check and
// ends the machine with code 0 where all passed.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"lorica.dev/lorica/kernel"
)

// A check returns what is worth knowing where it passed.
type check struct {
	name string
	run  func() (detail string, err error)
}

// checks are in the order of what rests on what. Those of devices go before seal.
func checks() []check {
	return []check{
		{"machine", machine},
		{"processor", processor},
		{"goroutines", goroutines},
		{"maps", maps},
		{"gc", collector},
		{"release", release},
		{"stacks", stacks},
		{"timers", timers},
		{"clock", clock},
		{"entropy", entropy},
		{"preempt-loop", preemptLoop},
		{"preempt-integers", preemptIntegers},
		{"preempt-float", preemptFloat},
		{"preempt-vector", preemptVector},
		{"fault-vector", faultVector},
		{"call-vector", callVector},
		{"locked-threads", lockedThreads},
		{"panic-nil", panicNil},
		{"panic-divide", panicDivide},
		{"panic-bounds", panicBounds},
		{"write-text", writeText},
		{"write-rodata", writeReadOnly},
		{"read-wild", readWild},
		{"read-noncanonical", readNonCanonical},
		{"read-null-page", readNullPage},
		{"write-window", writeWindow},
		{"write-descriptors", writeDescriptors},
		{"page-tables", pageTables},
		{"protect", protect},
		{"execute-data", executeData},
		{"executable-memory", executableMemory},
		{"untouchable", untouchable},
		{"no-files", noFiles},
		{"seal", seal},
	}
}

func main() {
	debug.SetPanicOnFault(true)
	fmt.Println("selftest:", runtime.Version(), "on", where())
	passed, failed := 0, 0
	for _, c := range checks() {
		start := time.Now()
		detail, err := guarded(c.run)
		took := time.Since(start).Round(10 * time.Microsecond)
		if err != nil {
			failed++
			fmt.Println("FAIL", c.name, took, err)
			continue
		}
		passed++
		fmt.Println("ok", c.name, took, detail)
	}
	fmt.Printf("selftest: %d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}

func where() string {
	if kernel.Booted() {
		return "the kernel"
	}
	return "Linux"
}

// guarded turns a panic into an error: the next check runs all the same.
func guarded(f func() (string, error)) (detail string, err error) {
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("panic: %v", e)
		}
	}()
	return f()
}
