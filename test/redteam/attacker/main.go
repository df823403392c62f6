//go:debug decoratemappings=0

// Command attacker is an image that has turned against its tender. It speaks the
// contract by itself, up to the point where it does not: which attack it runs
// comes as a secret, since an image has no arguments.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
)

// plan is what the tests sign programs for.
const plan = "7265647465616d7265647465616d7265647465616d7265647465616d72656474"

// An image is a channel and what came over it.
type image struct {
	channel *os.File
	params  *launch.Params
	plan    program.PlanID
	window  uintptr
}

// An attack runs at its moment; when it returns, the attack has failed and the
// image goes on as an honest one would.
type attack struct {
	when moment
	run  func(*image)
}

type moment int

const (
	atStart moment = iota // before a word
	atHello               // after Hello, before the seal
	sealed                // sealed, and ready
)

func main() {
	i := &image{channel: os.NewFile(launch.ControlFD, "control")}
	f, err := control.ReadFrame(i.channel, control.MaxFromTender)
	check(err)
	i.params, err = launch.Decode(f)
	check(err)
	runtime.GOMAXPROCS(int(max(1, i.params.MaxProcs)))
	debug.SetMemoryLimit(int64(i.params.MemoryLimit))
	i.plan, err = program.ParsePlanID(plan)
	check(err)
	name := ""
	for _, s := range i.params.First.Secrets {
		if s.Name == "attack" {
			name = string(s.Value)
		}
	}
	a, ok := attacks[name]
	if !ok {
		fail("no attack is called %q", name)
	}
	i.at(a, atStart)
	i.send(control.Hello{Version: abi.Version, Plan: i.plan}.Frame())
	i.mapWindow()
	i.at(a, atHello)
	if i.params.Link.Present() { // nobody is answered
		r, w, err := os.Pipe() // the runtime has its poller before the seal
		check(err)
		r.Close()
		w.Close()
		i.seal(i.params.Seal)
		i.send(control.Ready())
	} else {
		ln, err := net.FileListener(os.NewFile(uintptr(i.params.FirstListener()), "listener"))
		check(err)
		i.seal(i.params.Seal)
		i.send(control.Ready())
		go serve(ln)
	}
	i.at(a, sealed)
	i.obey()
}

func (i *image) at(a attack, m moment) {
	if a.when == m {
		a.run(i)
	}
}

// serve answers every connection with a line: the image lives.
func serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		check(err)
		io.WriteString(c, "alive\n")
		c.Close()
	}
}

// obey takes and puts in force whatever program comes.
func (i *image) obey() {
	var p control.Prepare
	for {
		f, err := control.ReadFrame(i.channel, control.MaxFromTender)
		check(err)
		m, err := f.Decode()
		check(err)
		switch m := m.(type) {
		case control.Prepare:
			p = m
			i.send(control.Prepared{Txn: m.Txn}.Frame())
		case control.Txn:
			i.send(control.Committed{Txn: m.Txn, Slot: p.Slot, Program: i.sum(p)}.Frame())
		case control.Drain:
			i.send(control.Drained())
			os.Exit(0)
		case nil:
			i.send(control.Stats{}.Frame())
		}
	}
}

// sum is the digest of a program that lies in the window.
func (i *image) sum(p control.Prepare) program.Digest {
	return program.Sum(unsafe.Slice((*byte)(at(i.window+uintptr(p.Slot)*program.MaxSize)), p.Length))
}

func (i *image) send(f control.Frame) { check(control.WriteFrame(i.channel, f)) }

func (i *image) raw(b []byte) {
	_, err := i.channel.Write(b)
	check(err)
}

func (i *image) mapWindow() {
	const fixedNoReplace = 0x100000
	size := uintptr(i.params.Slots) * uintptr(i.params.SlotSize)
	addr, _, e := syscall.Syscall6(syscall.SYS_MMAP, launch.WindowBase, size, syscall.PROT_READ, syscall.MAP_SHARED|fixedNoReplace, launch.ProgramFD, 0)
	if e != 0 {
		fail("mapping the program: %v", e)
	}
	i.window = addr
}

func (i *image) seal(filter []launch.Instruction) {
	prog := struct {
		n      uint16
		filter *launch.Instruction
	}{uint16(len(filter)), &filter[0]}
	const sysSeccomp, setModeFilter, tsync = 317, 1, 1
	_, _, e := syscall.RawSyscall(sysSeccomp, setModeFilter, tsync, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if e != 0 {
		fail("seccomp: %v", e)
	}
}

// at turns a number into the address it is meant to be.
func at(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "attacker: "+format+"\n", args...)
	os.Exit(3)
}

// forever holds on, without a word.
func forever(*image) {
	for {
		time.Sleep(time.Hour)
	}
}
