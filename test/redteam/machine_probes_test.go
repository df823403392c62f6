package redteam

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// What comes of attacks in a machine, in words.
const (
	itself   = "possible: it harms itself"
	noticed  = "altered"
	eitherIs = "possible: its device stops, or QEMU ends and is started again"
	hangs    = "no answer within"
)

// inAMachine are what was thought of for an application in ring 0. The programs begin
// at 0x600000000000, all memory is at 0xffff800000000000. What the image neither dies of nor changes by is tried on one
// machine, one after another.
var inAMachine = []probe{
	{tried: "`Pages` after the seal", calls: "pages 1 buf"},
	{tried: "`Registers` after the seal", calls: "registers 0xfeb00000 buf"},
	{tried: "`Interrupt` after the seal", calls: "interrupt 5 0"},
	{tried: "again", calls: "seal", gives: "harmless: it is sealed"},
	{tried: "to 1970", calls: "setclock 0", gives: "possible: it has its own time, until its tender tells it the time again"},
	{tried: "over its text", calls: "mmap code 4096 3 0x32 -1 0"},
	{tried: "over its constants", calls: "mmap constants 4096 3 0x32 -1 0"},
	{tried: "over the programs", calls: "mmap 0x600000000000 4096 3 0x32 -1 0"},
	{tried: "over the processor's tables", calls: "mmap handlers 4096 3 0x32 -1 0"},
	{tried: "executable memory", calls: "mmap 0 4096 7 0x22 -1 0"},
	{tried: "a descriptor", calls: "mmap 0 4096 3 2 3 0"},
	{tried: "its text writable", calls: "mprotect code 4096 3"},
	{tried: "its constants writable", calls: "mprotect constants 4096 3"},
	{tried: "the programs writable", calls: "mprotect 0x600000000000 4096 3"},
	{tried: "its text", calls: "munmap code 4096"},
	{tried: "the programs", calls: "munmap 0x600000000000 4096"},
	{tried: "DONTNEED on its text", calls: "madvise code 4096 4"},
	{tried: "DONTNEED on the programs", calls: "madvise 0x600000000000 4096 4"},
	{tried: "from far below the programs, over 4 GiB", calls: "munmap 0x5ffe00000000 0x200001000"},
	{tried: "with a length that overflows", calls: "munmap 0x600100000000 -0x100000000"},
	{tried: "into the programs", calls: "getrandom 0x600000000000 64 0"},
	{tried: "into the programs", calls: "clock_gettime 0 0x600000000000"},
	{tried: "into the map of all memory, where page tables are", calls: "clock_gettime 0 -0x7fffff800000"},
	{tried: "the same", calls: "getrandom -0x7fffff800000 64 0"},
	{tried: "its input", calls: "read 0 buf 64", gives: "harmless: there is none"},
	{tried: "of what is not open", calls: "read 60 buf 64"},
	{tried: "from the programs to its output", calls: "write 1 0x600000000000 64", gives: "possible: it publishes what it can read in its own log"},
	{tried: "what is not open", calls: "close 60"},
	{tried: "a file", calls: "openat -100 path 0"},
	{tried: "a link", calls: "readlinkat -100 path buf 64"},
	{tried: "at all", calls: "uname buf", gives: "harmless: constants"},
	{tried: "any", calls: "fcntl 1 3", gives: "harmless: constants"},
	{tried: "any", calls: "prlimit64 0 7 0 buf", gives: "harmless: constants"},
	{tried: "any", calls: "prctl 22 2 buf"},
	{tried: "a base that no address can have", calls: "arch_prctl 0x1002 -1"},
	{tried: "any", calls: "sched_getaffinity 0 8 buf", gives: "harmless: constants"},
	{tried: "at all", calls: "sched_yield", gives: "harmless: others run"},
	{tried: "at all", calls: "nanosleep time 0", gives: "harmless: time passes"},
	{tried: "who it is", calls: "getpid", gives: "harmless: 1"},
	{tried: "which thread it is", calls: "gettid", gives: "harmless: its number"},
	{tried: "a wake on the programs", calls: "futex 0x600000000000 1 1", gives: "harmless: nobody waits there"},
	{tried: "as fork", calls: "clone 0x11 0 0 0 0"},
	{tried: "no stack at all", calls: "sigaltstack buf 0", gives: "possible: it loses its own signals"},
	{tried: "into the programs", calls: "rt_sigaction 10 0 0x600000000000 8"},
	{tried: "into the programs", calls: "rt_sigprocmask 0 0 0x600000000000 8"},
	{tried: "itself, without a signal", calls: "tgkill self tid 0"},
	{tried: "another poller", calls: "epoll_create1 0"},
	{tried: "on what is no event", calls: "epoll_ctl 3 1 0 event"},
	{tried: "events of the runtime", calls: "epoll_wait 3 buf 1 0", gives: "possible: it stalls its own connections"},
	{tried: "events of the runtime", calls: "epoll_pwait 3 buf 1 0", gives: "possible: it stalls its own connections"},
	{tried: "as many as there are", calls: "eventfd2", attack: "descriptors", gives: "possible: it has no descriptors any more, and needs none"},

	{tried: "a store into its text", attack: "store: text"},
	{tried: "a store into its constants", attack: "store: constants"},
	{tried: "a store into the programs", attack: "store: window"},
	{tried: "a store into the processor's table of handlers", attack: "store: handlers"},
	{tried: "a store into text or programs where all memory is mapped", attack: "store: alias"},
	{tried: "a store where nothing is", attack: "store: nowhere"},
	{tried: "to execute its variables", attack: "run: variables"},
	{tried: "to execute its heap", attack: "run: heap"},
	{tried: "to execute its stack", attack: "run: stack"},
	{tried: "to execute the programs", attack: "run: programs"},
	{tried: "to execute memory where all of it is mapped", attack: "run: all memory"},
	{tried: "a register of the processor that there is none of (WRMSR)", attack: "unknown msr", after: livesOn, gives: "harmless: it is ignored, or a fault"},
	{tried: "to execute what it wrote, its page table changed", attack: "run: what it wrote", gives: "possible: it runs code of its own, in its machine"},
	{tried: "to alter what lies behind the program in force", attack: "window: one not in force", gives: "possible: nobody reads that"},
	{tried: "to read every I/O port", attack: "ports: read", gives: "harmless: there is little"},
	{tried: "to reset the machine by ports 0x64, 0x92 and 0xcf9", attack: "ports: reset", gives: "harmless: it has no such devices"},
	{tried: "to read what QEMU tells firmware (fw_cfg)", attack: "fw_cfg", gives: "harmless: what it was started with, which is no secret"},
	{tried: "to reach physical addresses that are not its memory", attack: "physical", gives: "harmless: nothing is there"},

	{tried: "to alter the program in force with the write protection of ring 0 off (CR0.WP)", attack: "window: write protection off", ends: noticed},
	{tried: "to alter the program in force by its page tables", attack: "window: page tables", ends: noticed},
	{tried: "the same without an instruction of assembly, with package unsafe", attack: "window: page tables, no assembly", ends: noticed},
	{tried: "the same by a device, which asks no page tables", attack: "window: by a device", ends: noticed},
	{tried: "to alter the program in force and undo it at once", attack: "window: and back", after: livesOn,
		gives: "**possible, and not noticed**: it is looked at once a second"},
	{tried: "to have other memory appear where the program in force is, by its page tables", attack: "window: elsewhere", after: livesOn,
		gives: "**possible, and not noticed**: it judges by rules of its own; what its tender wrote is as it was"},
	{tried: "to change its own text with CR0.WP off", attack: "patch text", ends: noticed},
	{tried: "to have other code appear where its text is, by its page tables", attack: "text: elsewhere", after: livesLong,
		gives: "**possible, and not noticed**: it is other code from then on, in its machine"},
	{tried: "interrupts off, and rest (CLI, HLT)", attack: "halt", ends: hangs, wait: short},
	{tried: "interrupts off, and no rest", attack: "spin", ends: hangs, wait: short},
	{tried: "goroutines that compute for ever", attack: "busy", after: answersSome, gives: "possible: its processor is one, and busy"},
	{tried: "CR3 without page tables", attack: "no tables", ends: "triple fault"},
	{tried: "an exception without handlers", attack: "triple fault", ends: "triple fault"},
	{tried: "to write over all of its memory", attack: "all of memory", ends: either, wait: short},
	{tried: "to close every descriptor", attack: "close all", ends: either, wait: short},
	{tried: "a forged frame", calls: "rt_sigreturn", ends: either, wait: short},
	{tried: "as if all were well", calls: "exit_group 0", ends: "the image exited"},
	{tried: "one thread", attack: "end a thread", calls: "exit", after: answersSome, gives: "possible: it loses threads"},
	{tried: "to end as if all were well, by the port for that", attack: "exit: 0", ends: "the image exited"},
	{tried: "to end with a code of the kernel, by the port for that", attack: "exit: 65", ends: "ran out of memory"},
	{tried: "to end with a code that nobody knows", attack: "exit: 120", ends: "exited with code 120"},
	{tried: "all memory", attack: "memory", ends: "out of memory"},
	{tried: "goroutines without end", attack: "goroutines", ends: ended},
	{tried: "threads without end", attack: "threads", ends: either},
	{tried: "output without end", attack: "console", after: bounded, gives: "possible: it fills its own log, 500 lines a second, and pushes older lines out"},
	{tried: "output without end, to the device itself", attack: "console, itself", after: bounded,
		gives: "possible: it fills its own log, 500 lines a second, and pushes older lines out"},
	{tried: "output that takes over a terminal", attack: "console, evil", after: escaped, gives: "harmless: it is shown escaped"},
	{tried: "to read every I/O port two and four bytes at a time", attack: "ports: read wide", after: survived, gives: eitherIs},
	{tried: "whatever comes to hand to every I/O port", attack: "ports: write", after: survived, gives: itself},
	{tried: "to stop the timer and the clock of the machine", attack: "ports: clocks", after: survived, gives: itself},
	{tried: "to mask the interrupts of the machine", attack: "ports: masks", after: survived, gives: itself},
	{tried: "to turn its interrupt controller off", attack: "apic: off", after: survived, gives: itself, wait: short},
	{tried: "to have its processor begin anew (INIT)", attack: "apic: init", ends: either, wait: short},
	{tried: "to have QEMU copy memory from and to no place (fw_cfg)", attack: "fw_cfg, dma", ends: either, wait: short},
	{tried: "whatever comes to hand to every register of its devices", attack: "registers", after: survived, gives: eitherIs, wait: short},
	{tried: "queues of the network card that no driver would make", attack: "rings: network", after: survived, gives: eitherIs, wait: short},
	{tried: "the same of the control port", attack: "rings: port", after: survived, gives: eitherIs, wait: short},
	{tried: "the same of the source of entropy", attack: "rings: entropy", after: survived, gives: eitherIs, wait: short},
	{tried: "frames of others, of no kind, too short, of 64 KiB: IPv4, ARP, IPv6, VLAN", attack: "frames", after: cutOff,
		gives: "possible: it serves nobody; nobody else gets its frames"},
	{tried: "a flood of them", attack: "frames, flood", after: cutOff, gives: "possible: it serves nobody; nobody else gets its frames"},
	{tried: "a request of HTTP to the control port", attack: "port: garbage", ends: "control channel"},
	{tried: "zeros to it", attack: "port: zeros", ends: "control channel"},
	{tried: "its first word again", attack: "port: hello again", ends: "control channel"},
	{tried: "that it has committed a program", attack: "port: committed", ends: "it committed what nobody asked for"},
	{tried: "a frame that is too long", attack: "port: too long", ends: "the limit is 65536"},
	{tried: "silence on the control port", attack: "port: silence", ends: hangs, wait: short},
}

// short is the patience with a machine that is to be found hanging. It is to boot in
// that time, too.
const short = 4 * time.Second

// settle is time for an attack that begins after its answer, and for a look.
const settle = 2 * time.Second

// livesOn waits longer than it takes the tender to look, and asks for a request.
func livesOn(l *life) error {
	time.Sleep(settle)
	s, err := l.now()
	if err == nil && s.Restarts > 0 {
		err = fmt.Errorf("it was noticed: %s", s.LastError)
	}
	return errors.Join(err, serves(l))
}

// livesLong waits until code is looked at, too.
func livesLong(l *life) error {
	time.Sleep(4 * time.Second)
	return livesOn(l)
}

// answersSome asks for requests of an image that is short of what it needs.
func answersSome(l *life) error { return serves(l) }

// survived waits for what becomes of an image that may die or live: in the end one
// serves, or the one that is there is cut off and can be ended.
func survived(l *life) error {
	time.Sleep(settle)
	return staysSmall(l)
}

// cutOff is for an image that has taken its network from its driver.
func cutOff(l *life) error {
	time.Sleep(settle)
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.port))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(settle))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if n, _ := c.Read(make([]byte, 1)); n > 0 {
		return errors.New("it serves")
	}
	s, err := l.now()
	if err == nil && s.Restarts > 0 {
		err = fmt.Errorf("it ended: %s", s.LastError)
	}
	return errors.Join(err, staysSmall(l))
}

// bounded looks at the log of an image that wrote into it without end.
func bounded(l *life) error {
	time.Sleep(settle)
	const most = 2<<20 + 1<<18
	text, err := loggedIn(l.dir)
	if n := len(text); err != nil || n > most || n < 4000 {
		return fmt.Errorf("its log has %d bytes (%v)", n, err)
	}
	return livesOn(l)
}

// escaped looks for what a terminal would obey.
func escaped(l *life) error {
	time.Sleep(settle / 2)
	text, err := loggedIn(l.dir)
	switch {
	case err != nil:
		return err
	case !strings.Contains(text, "owned"):
		return errors.New("it was not logged")
	case strings.ContainsAny(text, "\x1b\x07\u202e\u009b\r") || strings.Contains(text, "\xff"):
		return errors.New("it is in the log as it was written")
	}
	return nil
}
