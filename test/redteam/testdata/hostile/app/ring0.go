package hostile

import (
	"bytes"
	"math/rand"
	"reflect"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

func out(port, size, v uintptr)
func in(port, size uintptr) uintptr
func pokeAnything(at, v uintptr)
func invalidate(at uintptr)
func halt()
func spin()
func noTables()
func tripleFault()
func handlers() uintptr
func unknownMSR()

// later answers before it does something that may be the last.
func later(f func()) func() result {
	return func() result {
		go func() {
			time.Sleep(200 * time.Millisecond)
			f()
		}()
		return result{Text: "begun"}
	}
}

// ring0 are attacks in a machine.
var ring0 = map[string]func() result{
	"store: text":      func() result { return storeAt(reflect.ValueOf(int80).Pointer()) },
	"store: constants": func() result { return storeAt(uintptr(unsafe.Pointer(unsafe.StringData(constant)))) },
	"store: window":    func() result { return storeAt(window) },
	"store: handlers":  func() result { return storeAt(handlers()) },
	"store: alias":     with(storeAlias),
	"store: nowhere":   func() result { return storeAt(0x1234_5678_9000) },
	"run: variables":   func() result { return execute(unsafe.Pointer(&runnable)) },
	"run: heap":        func() result { p := new([16]byte); p[0] = 0xc3; return execute(unsafe.Pointer(p)) },
	"run: stack":       func() result { p := [16]byte{0xc3}; return execute(unsafe.Pointer(&p)) },
	"run: programs":    func() result { return execute(unsafe.Pointer(at[byte](window))) },
	"run: all memory":  func() result { return execute(unsafe.Pointer(at[byte](direct + page))) },

	"window: write protection off":     func() result { pokeAnything(window, 1+uintptr(*at[byte](window))); return result{Text: "altered"} },
	"window: page tables":              with(windowByTables),
	"window: page tables, no assembly": with(windowInGo),
	"window: elsewhere":                with(windowElsewhere),
	"window: and back":                 windowAndBack,
	"window: one not in force":         with(func(t tables) result { return windowAt(t, 2*16<<20) }),
	"patch text":                       func() result { return patch(func(a uintptr) { pokeAnything(a, 0x5b) }) },
	"text: elsewhere":                  with(func(t tables) result { return patch(func(a uintptr) { appearsElsewhere(t, a) }) }),
	"run: what it wrote":               with(runWritten),

	"exit: 0":       later(func() { out(exitPort, 4, 0) }),
	"exit: 65":      later(func() { out(exitPort, 4, 65) }),
	"exit: 120":     later(func() { out(exitPort, 4, 120) }),
	"halt":          later(halt),
	"spin":          later(spin),
	"busy":          busy,
	"no tables":     later(noTables),
	"triple fault":  later(tripleFault),
	"unknown msr":   func() result { return refusedByFault(unknownMSR) },
	"breakpoint":    later(func() { execute(unsafe.Pointer(at[byte](0))) }),
	"all of memory": later(fillMemory),
	"close all": later(func() {
		for fd := 3; fd < 64; fd++ {
			syscall.Close(fd)
		}
	}),
	"descriptors": func() result { return exhaust(syscall.SYS_EVENTFD2) },
	"console":     func() result { return console(func(b []byte) { syscall.Write(2, b) }) },
	"console, itself": func() result {
		return console(func(b []byte) {
			for _, c := range b {
				out(0x3f8, 1, uintptr(c))
			}
		})
	},
	"console, evil": func() result {
		syscall.Write(2, []byte("\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u009b31m\xff\r\n{\"seq\":1}\n"))
		return result{Text: "written"}
	},

	"ports: read":      func() result { return ports(1) },
	"ports: read wide": later(func() { ports(2, 4) }),
	"ports: write":     later(portsWritten),
	"ports: reset": func() result {
		out(0x64, 1, 0xfe)
		out(0x92, 1, 1)
		out(0xcf9, 1, 6)
		time.Sleep(100 * time.Millisecond)
		return result{Text: "lives"}
	},
	"ports: clocks": later(func() {
		out(0x43, 1, 0x30)
		out(0x40, 1, 0)
		out(0x70, 1, 9)
		out(0x71, 1, 0x99)
		out(0x70, 1, 0xb)
		out(0x71, 1, 0xff)
	}),
	"ports: masks": later(func() { out(0x21, 1, 0xff); out(0xa1, 1, 0xff) }),
	"fw_cfg":       configuration,
	"fw_cfg, dma":  with(configurationDMA),
	"physical":     with(physicalMemory),
	"apic: init":   later(func() { initProcessor() }),
	"apic: off":    later(apicOff),
}

// constant lies in read-only memory, runnable in variables.
var (
	constant = "a constant of the application"
	runnable = [16]byte{0xc3} // RET
)

func storeAt(a uintptr) result { return refusedByFault(func() { *at[byte](a) = 1 }) }

// storeAlias looks for another mapping of text and programs, where all memory is.
func storeAlias(t tables) result {
	for _, a := range []uintptr{reflect.ValueOf(int80).Pointer(), window} {
		alias := direct + t.physical(a)
		if r := storeAt(alias); r.Text == "done" {
			return r
		}
	}
	return result{Text: "refused: a fault, which it may survive"}
}

func execute(p unsafe.Pointer) result {
	pp := &p
	f := *(*func())(unsafe.Pointer(&pp))
	return refusedByFault(f)
}

// windowAt makes the memory of programs writable and writes there.
func windowAt(t tables, offset uintptr) result {
	a := uintptr(window) + offset
	e, _ := t.entry(a)
	*e |= mayWrite
	invalidate(a)
	*at[byte](a) ^= 1
	return result{Text: "altered"}
}

func windowByTables(t tables) result { return windowAt(t, 64) }

// windowInGo does it without an instruction that Go has no words for: the processor
// forgets what it knew of a page when it faults.
func windowInGo(t tables) result {
	e, _ := t.entry(window)
	*e |= mayWrite
	for range 10 {
		if !faults(func() { *at[byte](window) ^= 1 }) {
			return result{Text: "altered"}
		}
	}
	return result{Text: "refused: a fault, which it may survive"}
}

// windowElsewhere leaves the programs as they are, and shows the image others.
func windowElsewhere(t tables) result {
	was := *at[byte](window)
	appearsElsewhere(t, window)
	if *at[byte](window) != was^1 {
		return result{Text: "refused: it is as it was"}
	}
	return result{Text: "altered"}
}

func windowAndBack() result {
	was := uintptr(*at[byte](window))
	pokeAnything(window, was^1)
	pokeAnything(window, was)
	return result{Text: "altered"}
}

// appearsElsewhere has a copy of a page appear in its place, by which a byte is another.
func appearsElsewhere(t tables, a uintptr) {
	mine := fresh()
	copy(at[[page]byte](mine)[:], at[[page]byte](a &^ (page - 1))[:])
	*at[byte](mine + a&(page-1)) ^= 1
	e, _ := t.entry(a)
	*e = *e&^uint64(addressOf) | uint64(t.physical(mine))
	invalidate(a)
}

//go:noinline
func victim() uint32 { return 0x5a5a5a5a }

// patch changes what a function returns, where its code says so.
func patch(change func(a uintptr)) result {
	const says = 0x5a
	code := at[[64]byte](reflect.ValueOf(victim).Pointer())
	i := bytes.Index(code[:], []byte{says, says, says, says})
	if i < 0 || victim() != 0x5a5a5a5a {
		return result{Text: "refused: no place to patch"}
	}
	change(uintptr(unsafe.Pointer(&code[i])))
	if victim() == 0x5a5a5a5a {
		return result{Text: "refused: it returns what it did"}
	}
	return result{Text: "altered"}
}

// runWritten makes a page of its own executable.
func runWritten(t tables) result {
	a := fresh()
	*at[byte](a) = 0xc3
	e, _ := t.entry(a)
	*e &^= noExecute
	invalidate(a)
	return execute(unsafe.Pointer(at[byte](a)))
}

// busy takes the processor and leaves interrupts on.
func busy() result {
	for range 10 {
		go func() {
			for {
			}
		}()
	}
	runtime.Gosched()
	return result{Text: "busy"}
}

// fillMemory writes over everything that it has mapped: kernel, page tables, itself.
func fillMemory() {
	for a := uintptr(direct + page); ; a += 8 {
		*at[uint64](a) = 0xcccc_cccc_cccc_cccc
	}
}

// exhaust makes a call until it fails.
func exhaust(nr uintptr) result {
	for n := uintptr(0); ; n++ {
		if _, _, e := syscall.Syscall(nr, 0, 0, 0); e != 0 {
			return result{R: n, Text: "as many as there are"}
		}
	}
}

// console writes for two seconds.
func console(write func([]byte)) result {
	line := bytes.Repeat([]byte("z"), 4095)
	go func() {
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			write(append(line, '\n'))
			runtime.Gosched()
		}
	}()
	return result{Text: "writing"}
}

const (
	exitPort = 0xf4
	maxPort  = 0xffff
)

func ports(sizes ...uintptr) result {
	sum := uintptr(0)
	for p := uintptr(0); p <= maxPort; p++ {
		for _, size := range sizes {
			sum += in(p, size)
		}
	}
	return result{R: sum, Text: "read"}
}

// portsWritten writes what comes to hand, over and over, to all ports but the one that
// ends the machine by intent.
func portsWritten() {
	dice := rand.New(rand.NewSource(1))
	for range 2 {
		for p := uintptr(0); p <= maxPort; p++ {
			if p+4 > exitPort && p < exitPort+4 {
				continue
			}
			for _, size := range []uintptr{1, 2, 4} {
				out(p, size, uintptr(dice.Uint32()))
			}
		}
	}
}

// configuration reads what QEMU tells firmware.
func configuration() result {
	b := make([]byte, 0, 1<<20)
	for key := uintptr(0); key < 0x60; key++ {
		out(0x510, 2, key)
		for range 4096 {
			b = append(b, byte(in(0x511, 1)))
		}
	}
	if !bytes.Contains(b, []byte("QEMU")) {
		return result{Text: "refused: there is none"}
	}
	return result{Text: "read"}
}

// configurationDMA has QEMU copy to and from addresses that are none.
func configurationDMA(t tables) result {
	a := fresh()
	for _, to := range []uint64{0, 0xfeb00000, 0xfee00000, 1 << 46, ^uint64(0) - 4096, uint64(t.physical(a))} {
		for _, control := range []uint32{0x0019_000a, 0x0019_0018, 0x0019_000c, 0xffff_ffff} {
			b := at[[16]byte](a)
			put(b[0:4], uint64(control))
			put(b[4:8], 0xffff_ffff)
			put(b[8:16], to)
			out(0x514, 4, uintptr(swap(uint32(t.physical(a)>>32))))
			out(0x518, 4, uintptr(swap(uint32(t.physical(a)))))
		}
	}
	return result{Text: "asked"}
}

func swap(v uint32) uint32 { return v<<24 | v>>24 | v<<8&0xff0000 | v>>8&0xff00 }

// put stores v big endian.
func put(b []byte, v uint64) {
	for i := range b {
		b[i] = byte(v >> (8 * (len(b) - 1 - i)))
	}
}

// physicalMemory reads and writes where there is no memory of the machine: below the
// devices, behind its memory, where firmware is.
func physicalMemory(t tables) result {
	for _, p := range []uintptr{0xa0000, 0xf0000, 0xc000_0000, 0xe000_0000, 0xfeb0_3000, 0xfec0_0000, 0xfed0_0000, 0xffff_f000, 1 << 32, 1 << 38, 1<<40 - page} {
		a := t.see(p)
		*at[uint32](a) = *at[uint32](a) + 1
	}
	return result{Text: "nothing"}
}

const localAPIC = 0xfee0_0000

// initProcessor has the processor begin anew, which is not a reset of the machine.
func initProcessor() {
	if t, err := findTables(); err == nil {
		regs := t.see(localAPIC)
		*at[uint32](regs + 0x310) = *at[uint32](regs + 0x20)
		*at[uint32](regs + 0x300) = 0x4500 // INIT, assert
		*at[uint32](regs + 0x300) = 0x44500
		*at[uint32](regs + 0x300) = 0x4601 // start at 0x1000
	}
}

func apicOff() {
	if t, err := findTables(); err == nil {
		*at[uint32](t.see(localAPIC) + 0xf0) = 0
	}
}
