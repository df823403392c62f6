package redteam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"lorica.dev/lorica/tender"
	"net"
	"strings"
	"time"
)

// probes are what was thought of, by call. The window of the program begins at
// 0x600000000000, its guard 4 GiB below it; 3 is the control channel, 5 the dial
// socket.
var probes = []probe{
	{tried: "on the listener, before the gates see who comes", attack: "serve strangers", calls: "accept4", after: strangersAreServed,
		gives: "possible: it serves clients that the network rules refuse, without a record"},
	{tried: "on the control channel", calls: "accept4 3 0 0 0"},
	{tried: "with an address in the sealed program", calls: "clock_gettime 0 0x600000000000"},
	{tried: "of any clock", calls: "clock_gettime 4 buf", gives: "harmless: the time, which Go programs read without a call"},
	{tried: "as fork", calls: "clone 0x11 0 0 0 0"},
	{tried: "as vfork", calls: "clone 0x4111 0 0 0 0"},
	{tried: "a thread in a new user namespace", calls: "clone 0x100d0f00 0 0 0 0"},
	{tried: "a thread that is traced with its parent", calls: "clone 0xd2f00 0 0 0 0"},
	{tried: "flags above 32 bits", calls: "clone 0x1000d0f00 0 0 0 0"},
	{tried: "more threads than it may have", attack: "threads", calls: "clone", ends: ended, full: true},
	{tried: "the control channel", calls: "close 3", ends: either},
	{tried: "the listener", calls: "close listener", gives: "possible: it stops serving; the tender keeps the socket"},
	{tried: "its output", calls: "close 2", gives: "possible: what it says is lost"},
	{tried: "what is not open", calls: "close 4000"},
	{tried: "the channel out of the runtime's poller", calls: "epoll_ctl epoll 2 3 event", wait: time.Second, after: isDeaf,
		gives: "possible: deaf; the tender ends it at its next question"},
	{tried: "the poller into itself", calls: "epoll_ctl epoll 1 epoll event"},
	{tried: "on what is no poller", calls: "epoll_ctl 3 1 listener event"},
	{tried: "events of the runtime", calls: "epoll_pwait epoll event 1 0 0 8", gives: "possible: it stalls its own connections"},
	{tried: "on what is no poller", calls: "epoll_pwait 3 event 1 0 0 8"},
	{tried: "as if all were well", calls: "exit_group 0", ends: "exit status 0"},
	{tried: "with 255", calls: "exit_group 255", ends: "exit status 255"},
	{tried: "one thread", attack: "end a thread", calls: "exit", gives: "possible: it loses threads"},
	{tried: "flags of any descriptor", calls: "fcntl 3 3", gives: "harmless: it reads them"},
	{tried: "F_DUPFD", calls: "fcntl 3 0 9"},
	{tried: "F_SETFL", calls: "fcntl listener 4 0"},
	{tried: "F_SETOWN, for a signal to another process", calls: "fcntl 3 8 1"},
	{tried: "F_ADD_SEALS", calls: "fcntl 4 1033 1"},
	{tried: "a command above 32 bits", calls: "fcntl 3 0x100000003"},
	{tried: "a wake on the memory of the program, which the tender shares", calls: "futex 0x600000000000 1 1", gives: "harmless: nobody waits there"},
	{tried: "a lock on the memory of the program", calls: "futex 0x600000000000 listener 0 time"},
	{tried: "a lock with priority inheritance on its own", calls: "futex buf listener 0 time", gives: "possible: kernel code that Go does not use is in reach"},
	{tried: "who it is", calls: "getpid", gives: "harmless: its number"},
	{tried: "which thread it is", calls: "gettid", gives: "harmless: its number"},
	{tried: "into the sealed program", calls: "getrandom 0x600000000000 64 0"},
	{tried: "much, and of the better kind", calls: "getrandom buf 65536 2", gives: "harmless: random numbers"},
	{tried: "of the listener", calls: "getsockname listener buf event", gives: "harmless: the address that it serves on"},
	{tried: "into the sealed program", calls: "getsockname listener 0x600000000000 one"},
	{tried: "DONTNEED on the program", calls: "madvise 0x600000000000 4096 4"},
	{tried: "DONTNEED from the guard", calls: "madvise 0x5ffffffff000 8192 4"},
	{tried: "DONTNEED from far below, over 4 GiB", calls: "madvise 0x5ffe00000000 0x200001000 4"},
	{tried: "DONTNEED with a length that overflows", calls: "madvise 0x600100000000 -0x100000000 4"},
	{tried: "DONTNEED as near below as it gets", calls: "madvise 0x5ffefffff000 0xfffff000 4"},
	{tried: "MERGEABLE, to learn of equal pages elsewhere", calls: "madvise code 4096 12"},
	{tried: "HWPOISON on its own pages", calls: "madvise code 4096 100"},
	{tried: "over the program", calls: "mmap 0x600000000000 0x1000000 3 0x32 -1 0"},
	{tried: "over its last page", calls: "mmap 0x600002fff000 4096 3 0x32 -1 0"},
	{tried: "at the end of its window", calls: "mmap 0x6000fffff000 4096 3 0x32 -1 0"},
	{tried: "from the guard", calls: "mmap 0x5ffffffff000 8192 3 0x32 -1 0"},
	{tried: "from far below, over 4 GiB", calls: "mmap 0x5ffe00000000 0x200001000 0 0x32 -1 0"},
	{tried: "with a length that overflows", calls: "mmap 0x600100000000 -0x100000000 0 0x32 -1 0"},
	{tried: "as near below as it gets", calls: "mmap 0x5ffefffff000 0xfffff000 0 0x32 -1 0", gives: "harmless: it ends a page before the program"},
	{tried: "above the window, growing down", calls: "mmap 0x600100000000 4096 3 0x132 -1 0", gives: "harmless: it grows over nothing that is mapped"},
	{tried: "executable memory", calls: "mmap 0 4096 7 0x22 -1 0"},
	{tried: "shared memory", calls: "mmap 0 4096 3 0x21 -1 0"},
	{tried: "a descriptor", calls: "mmap 0 4096 1 2 4 0"},
	{tried: "huge pages of the host's pool", calls: "mmap 0 4096 3 0x40022 -1 0"},
	{tried: "locked memory", calls: "mmap 0 4096 3 0x2022 -1 0"},
	{tried: "the program", calls: "munmap 0x600000000000 4096"},
	{tried: "from the guard", calls: "munmap 0x5ffffffff000 8192"},
	{tried: "from far below, over 4 GiB", calls: "munmap 0x5ffe00000000 0x200001000"},
	{tried: "with a length that overflows", calls: "munmap 0x600100000000 -0x100000000"},
	{tried: "as near below as it gets", calls: "munmap 0x5ffefffff000 0xfffff000", gives: "harmless: it ends a page before the program"},
	{tried: "at all", calls: "nanosleep time 0", gives: "harmless: time passes"},
	{tried: "what the tender says, before the image does", attack: "eat the channel", calls: "read", wait: time.Second, after: isDeaf,
		gives: "possible: deaf; the tender ends it at its next question"},
	{tried: "its input", calls: "read 0 buf 64", gives: "harmless: there is none"},
	{tried: "the listener", calls: "read listener buf 64"},
	{tried: "descriptors off the dial socket", calls: "recvmsg 5 buf 0x40"},
	{tried: "descriptors off the control channel", calls: "recvmsg 3 buf 0x40"},
	{tried: "descriptors off the listener", calls: "recvmsg listener buf 0x40"},
	{tried: "all signals blocked", calls: "rt_sigprocmask 0 ones 0 8", gives: "harmless: SIGKILL cannot be, by which its tender ends it"},
	{tried: "into the sealed program", calls: "rt_sigprocmask 0 0 0x600000000000 8"},
	{tried: "with a forged frame", calls: "rt_sigreturn", ends: ended},
	{tried: "at all", calls: "sched_yield", gives: "harmless: others run"},
	{tried: "SCM_RIGHTS to the tender", calls: "sendmsg 5 buf 0"},
	{tried: "SCM_RIGHTS over the control channel", calls: "sendmsg 3 buf 0"},
	{tried: "SO_KEEPALIVE, TCP_NODELAY", calls: "setsockopt listener 1 9 one 4;setsockopt listener 6 1 one 4", gives: "harmless: what the image sets itself"},
	{tried: "SO_ATTACH_FILTER", calls: "setsockopt listener 1 26 buf 16"},
	{tried: "SO_BINDTODEVICE", calls: "setsockopt listener 1 25 buf 4"},
	{tried: "SO_MARK", calls: "setsockopt listener 1 36 one 4"},
	{tried: "SO_REUSEPORT", calls: "setsockopt listener 1 15 one 4"},
	{tried: "SO_PASSCRED on the control channel", calls: "setsockopt 3 1 16 one 4"},
	{tried: "SO_RCVBUFFORCE", calls: "setsockopt listener 1 33 one 4"},
	{tried: "IP_OPTIONS", calls: "setsockopt listener 0 4 buf 4"},
	{tried: "IP_TRANSPARENT", calls: "setsockopt listener 0 19 one 4"},
	{tried: "TCP_REPAIR", calls: "setsockopt listener 6 19 one 4"},
	{tried: "TCP_ULP", calls: "setsockopt listener 6 31 buf 3"},
	{tried: "the reading side of the listener", calls: "shutdown listener 0"},
	{tried: "both sides of the listener", calls: "shutdown listener 2"},
	{tried: "the writing side of the listener", calls: "shutdown listener 1", after: serves, gives: "harmless: it serves on"},
	{tried: "the writing side of the control channel", calls: "shutdown 3 1", ends: either},
	{tried: "no stack at all", calls: "sigaltstack buf 0"},
	{tried: "into the sealed program", calls: "sigaltstack 0 0x600000000000"},
	{tried: "itself, without a signal", calls: "tgkill self tid 0", gives: "possible: signals to itself"},
	{tried: "another process", calls: "tgkill 2 2 9"},
	{tried: "every process", calls: "tgkill -1 1 9"},
	{tried: "half a frame to the tender", attack: "half a frame", calls: "write", ends: "the image was killed: control channel"},
	{tried: "a frame that is too long", attack: "a frame too long", calls: "write", ends: "the limit is 65536"},
	{tried: "that it has committed a program", attack: "committed", calls: "write", ends: "it committed what nobody asked for"},
	{tried: "that it has prepared one", attack: "prepared", calls: "write", ends: "it prepared what nobody asked for"},
	{tried: "that it has let go of the one in force", attack: "released", calls: "write", ends: "it released program slot 0"},
	{tried: "a flood of lines for the log", attack: "a flood of frames", calls: "write", after: staysSmall,
		gives: "possible: it fills its own log, 500 lines a second, and pushes older lines out"},
	{tried: "garbage to the dial socket", calls: "write 5 path 12", ends: "dial socket"},
	{tried: "to the listener", calls: "write listener path 12"},
	{tried: "from the sealed program to its output", calls: "write 1 0x600000000000 64", gives: "possible: it publishes what it can read in its own log"},

	{tried: "a store into the sealed program", attack: "a store", ends: "exit status 2"},
	{tried: "a shell, with os/exec", attack: "exec"},
	{tried: "/proc/self/maps, with os.ReadFile", attack: "read /proc"},
	{tried: "all memory", attack: "memory", ends: "out of memory"},
	{tried: "goroutines without end", attack: "goroutines", ends: ended},
	{tried: "more processors than it was given (GOMAXPROCS)", attack: "processors", gives: "possible: it uses every processor of the machine"},
}

// isDeaf asks the image to take new programs. Who reads first, it or its
// attacker, is a matter of luck.
func isDeaf(l *life) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for revision := uint64(2); ; revision++ {
		signed, err := hostile.programOf(revision)
		if err != nil {
			return err
		}
		if _, err := l.Replace(ctx, tender.Batch{Program: signed}); err != nil {
			break
		}
	}
	death, err := l.death()
	if err == nil && !strings.Contains(death, "no answer within") {
		err = fmt.Errorf("it ended by %s", death)
	}
	return err
}

// serves asks for a request.
func serves(l *life) error {
	_, err := l.tell(order{Attack: "none"})
	return err
}

// strangersAreServed comes from an address that the network rules refuse.
func strangersAreServed(l *life) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 5 * time.Second}
	for range 50 { // the image itself accepts, too, and refuses
		c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.port))
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		b, _ := io.ReadAll(c)
		c.Close()
		if strings.HasSuffix(string(b), "stolen") {
			return nil
		}
	}
	return errors.New("no stranger was served")
}

// staysSmall looks at the tender after a flood.
func staysSmall(l *life) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := l.Status(ctx)
	if err != nil {
		return err
	}
	kib, err := residentOf(s.TenderPID)
	if err == nil && kib > maxResident {
		err = fmt.Errorf("the tender has grown to %d KiB", kib)
	}
	return err
}
