package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/wire"
)

// Where there is no dial socket, the listener is the first descriptor after the
// program.
const listener = launch.DialFD

// attacks by name. The tests say how each must end.
var attacks = map[string]attack{
	"none":      {sealed, func(*image) {}},
	"elsewhere": {sealed, elsewhere},

	// The sealed program.
	"mmap over it":                   call(syscall.SYS_MMAP, window, slot, rw, anon, none),
	"mmap in the middle":             call(syscall.SYS_MMAP, window+slot, page, rw, anon, none),
	"mmap from the guard":            call(syscall.SYS_MMAP, window-page, 2*page, rw, anon, none),
	"mmap from far below, long":      call(syscall.SYS_MMAP, window-1<<33, 1<<33+page, rw, anon, none),
	"mmap of its descriptor":         call(syscall.SYS_MMAP, 0, slot, rw, syscall.MAP_SHARED, launch.ProgramFD),
	"mmap of shared memory":          call(syscall.SYS_MMAP, 0, page, rw, syscall.MAP_SHARED|syscall.MAP_ANONYMOUS, none),
	"mmap of executable memory":      call(syscall.SYS_MMAP, 0, page, rw|syscall.PROT_EXEC, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS, none),
	"munmap":                         call(syscall.SYS_MUNMAP, window, page),
	"munmap from the guard":          call(syscall.SYS_MUNMAP, window-page, 2*page),
	"munmap from far below, long":    call(syscall.SYS_MUNMAP, window-1<<33, 1<<33+page),
	"madvise DONTNEED":               call(syscall.SYS_MADVISE, window, slot, syscall.MADV_DONTNEED),
	"madvise REMOVE from the guard":  call(syscall.SYS_MADVISE, window-page, 2*page, syscall.MADV_REMOVE),
	"madvise from far below, long":   call(syscall.SYS_MADVISE, window-1<<33, 1<<33+page, syscall.MADV_DONTNEED),
	"mprotect":                       call(syscall.SYS_MPROTECT, window, page, rw),
	"mprotect from the guard":        call(syscall.SYS_MPROTECT, window-page, 2*page, rw),
	"pkey_mprotect":                  call(sysPkeyMprotect, window, page, rw, none),
	"mremap away":                    call(syscall.SYS_MREMAP, window, page, page, mremapMayMove),
	"mremap onto it":                 call(syscall.SYS_MREMAP, window+2*slot, page, page, mremapMayMove|mremapFixed, window),
	"remap_file_pages":               call(syscall.SYS_REMAP_FILE_PAGES, window, page, 0, 1, 0),
	"process_madvise":                call(sysProcessMadvise, 0, 0, 0, syscall.MADV_DONTNEED, 0),
	"shmat":                          call(syscall.SYS_SHMAT, 0, window, 0x4000),
	"a store":                        {sealed, store},
	"/proc/self/mem":                 {sealed, procMem},
	"process_vm_writev":              {sealed, writev},
	"mmap over it, before the seal":  early(syscall.SYS_MMAP, window, page, rw, anon, none),
	"mmap writable, before the seal": early(syscall.SYS_MMAP, window+slot, page, rw, syscall.MAP_SHARED|syscall.MAP_FIXED, launch.ProgramFD),
	"munmap, before the seal":        early(syscall.SYS_MUNMAP, window, page),
	"madvise, before the seal":       early(syscall.SYS_MADVISE, window, page, syscall.MADV_DONTNEED),
	"mprotect, before the seal":      early(syscall.SYS_MPROTECT, window, page, rw),
	"write into it, before the seal": {atHello, writeProgram},
	"shorten it, before the seal":    {atHello, func(i *image) { i.try(syscall.SYS_FTRUNCATE, launch.ProgramFD, 0) }},
	"punch a hole, before the seal":  early(syscall.SYS_FALLOCATE, launch.ProgramFD, 3, 0, slot),
	"process_vm_writev, before":      {atHello, writev},
	"a store, before the seal":       {atHello, store},

	// Ways out.
	"open":                      {sealed, func(*image) { open() }},
	"exec":                      {sealed, func(*image) { exec.Command("/bin/sh").Run() }},
	"fork":                      call(syscall.SYS_FORK),
	"vfork by clone":            call(syscall.SYS_CLONE, syscall.CLONE_VM|syscall.CLONE_VFORK|uintptr(syscall.SIGCHLD)),
	"clone3":                    call(sysClone3, 0, 0),
	"a new namespace":           call(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER),
	"socket":                    call(syscall.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_STREAM),
	"connect":                   call(syscall.SYS_CONNECT, listener, 0, 0),
	"bind":                      call(syscall.SYS_BIND, listener, 0, 0),
	"ptrace":                    call(syscall.SYS_PTRACE, syscall.PTRACE_TRACEME),
	"kill another":              call(syscall.SYS_KILL, 1, uintptr(syscall.SIGKILL)),
	"kill everybody":            call(syscall.SYS_KILL, none, uintptr(syscall.SIGKILL)),
	"tgkill another":            call(syscall.SYS_TGKILL, 2, 2, uintptr(syscall.SIGKILL)),
	"prctl":                     call(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG),
	"another filter":            call(sysSeccompNumber, 1, 0, 0),
	"memfd_create":              call(sysMemfdCreate, 0, 0),
	"io_uring":                  call(sysIoUringSetup, 1, 0),
	"userfaultfd":               call(sysUserfaultfd, 0),
	"bpf":                       call(sysBPF, 0, 0, 0),
	"keyctl":                    call(syscall.SYS_KEYCTL, 0),
	"dup a foreign descriptor":  call(sysPidfdGetfd, 0, 0, 0),
	"stop the listener":         call(syscall.SYS_SHUTDOWN, listener, syscall.SHUT_RD),
	"chmod":                     call(syscall.SYS_FCHMOD, launch.ControlFD, 0),
	"the x32 table":             call(0x40000000|syscall.SYS_GETPID, 0),
	"mount, before the seal":    early(syscall.SYS_MOUNT, 0, 0, 0, 0, 0),
	"fork, before the seal":     early(syscall.SYS_FORK),
	"bind, before the seal":     early(syscall.SYS_BIND, listener, 0, 0),
	"ptrace, before the seal":   early(syscall.SYS_PTRACE, syscall.PTRACE_TRACEME),
	"execveat, before the seal": early(sysExecveat, 4, 0, 0, 0, 0x1000),
	"outlive the tender":        early(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, 0),
	"listen to its own filter":  early(sysSeccompNumber, 1, 8, 0),
	"open, before the seal":     {atHello, func(*image) { open() }},
	"connect, before the seal":  {atHello, func(i *image) { i.try(syscall.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_STREAM); os.Exit(4) }},
	"more memory than it may":   {sealed, eat},
	"more threads than it may":  {sealed, func(*image) { threads() }},

	// Lies and noise on the channel.
	"another plan":               {atStart, func(i *image) { i.plan[0]++ }},
	"another version":            {atStart, func(i *image) { i.send(control.Hello{Version: abi.Version + 2, Plan: i.plan}.Frame()) }},
	"ready without hello":        {atStart, func(i *image) { i.send(control.Ready()) }},
	"ready without a seal":       {atHello, func(i *image) { i.send(control.Ready()); forever(i) }},
	"a seal that allows all":     {atHello, func(i *image) { i.seal([]launch.Instruction{{Code: 6, K: 0x7fff0000}}) }},
	"records before ready":       {atHello, func(i *image) { i.send(records(1)) }},
	"garbage":                    {sealed, func(i *image) { i.raw(bytes.Repeat([]byte{0xa5}, 4096)); forever(i) }},
	"garbage at once":            {atStart, func(i *image) { i.raw(bytes.Repeat([]byte{0xff}, 4096)); forever(i) }},
	"a giant length":             {sealed, func(i *image) { i.raw([]byte{0xff, 0xff, 0xff, 0xff, byte(control.KindLog), 0, 0, 0}); forever(i) }},
	"a frame just too long":      {sealed, func(i *image) { i.raw([]byte{1, 0, 1, 0, byte(control.KindLog), 0, 0, 0}); forever(i) }},
	"a giant count":              {sealed, func(i *image) { i.send(giantCount()); forever(i) }},
	"an unknown kind":            {sealed, func(i *image) { i.send(control.Frame{Kind: 200}); forever(i) }},
	"a frame of the tender":      {sealed, func(i *image) { i.send(control.Ack{Seq: 1}.Frame()); forever(i) }},
	"hello twice":                {sealed, func(i *image) { i.send(control.Hello{Version: abi.Version, Plan: i.plan}.Frame()); forever(i) }},
	"ready twice":                {sealed, func(i *image) { i.send(control.Ready()); forever(i) }},
	"prepared unasked":           {sealed, func(i *image) { i.send(control.Prepared{}.Frame()); forever(i) }},
	"committed unasked":          {sealed, func(i *image) { i.send(control.Committed{}.Frame()); forever(i) }},
	"statistics unasked":         {sealed, statistics},
	"released unasked":           {sealed, func(i *image) { i.send(control.Released{Slot: 1}.Frame()); forever(i) }},
	"release of what is used":    {sealed, func(i *image) { i.send(control.Released{Slot: 0}.Frame()); forever(i) }},
	"release of no slot":         {sealed, func(i *image) { i.send(control.Released{Slot: 255}.Frame()); forever(i) }},
	"drained unasked":            {sealed, func(i *image) { i.send(control.Drained()); forever(i) }},
	"records out of order":       {sealed, func(i *image) { i.send(records(7)); forever(i) }},
	"a closed channel":           {sealed, func(i *image) { syscall.Close(launch.ControlFD); forever(i) }},
	"half a frame, then nothing": {sealed, func(i *image) { i.raw([]byte{9, 0, 0, 0, byte(control.KindLog)}); forever(i) }},

	// The dial socket.
	"dial as an honest image":   {sealed, report},
	"dial garbage":              {sealed, say([]byte("garbage"))},
	"dial half a message":       {sealed, say(ask(1)[:7])},
	"dial a long message":       {sealed, say(longMessage())},
	"dial as a tender":          {sealed, say(egress.Opened{ID: 1}.Encode())},
	"close what was never open": {sealed, say(egress.Close{ID: 7}.Encode())},
	"close the dial socket":     {sealed, func(i *image) { syscall.Close(launch.DialFD); forever(i) }},
	"pass descriptors":          {atHello, passDescriptors},
	"ask without listening":     {sealed, askOften(false)},
	"a flood of dials":          {sealed, askOften(true)},
	"send on the dial socket":   call(syscall.SYS_SENDMSG, launch.DialFD, 0, 0),
	"receive on another socket": call(syscall.SYS_RECVMSG, launch.ControlFD, 0, 0),
	"duplicate a descriptor":    call(syscall.SYS_FCNTL, launch.ControlFD, syscall.F_DUPFD, 0),
	"connect the dial socket":   call(syscall.SYS_CONNECT, launch.DialFD, 0, 0),

	// A network of its own.
	"leave the network":      {sealed, func(i *image) { syscall.Close(launch.NetFD); forever(i) }},
	"an empty frame":         {sealed, func(i *image) { syscall.Write(launch.NetFD, nil); i.obey() }},
	"descriptors in frames":  {atHello, descriptorsInFrames},
	"a flood of frames":      {sealed, floodFrames},
	"reconfigure the device": call(syscall.SYS_IOCTL, launch.NetFD, syscall.TUNSETIFF, 0),

	// Noise that is bounded, not fatal.
	"a flood of records": {sealed, func(i *image) { flood(i, true) }},
	"a flood of logs":    {sealed, func(i *image) { flood(i, false) }},
	"a flood of output":  {sealed, floodOutput},
	"control characters": {sealed, terminal},

	// Triggers.
	"fire a trigger that there is not": {sealed, func(i *image) {
		i.send(control.Fired{Program: i.sum(i.params.First), Trigger: "none"}.Frame())
		forever(i)
	}},
	"fire without end": {sealed, fireWithoutEnd},

	// Deafness.
	"deaf":          {sealed, forever},
	"deaf to drain": {sealed, deafToDrain},
	"accept, then commit another": {sealed, answer(func(i *image, p control.Prepare, _ program.Digest) []control.Frame {
		return []control.Frame{control.Committed{Txn: p.Txn, Slot: 1, Program: [32]byte{1}}.Frame()}
	})},

	// Programs that are old, or not there.
	"commit the one before": {sealed, answer(func(i *image, p control.Prepare, _ program.Digest) []control.Frame {
		return []control.Frame{control.Committed{Txn: p.Txn, Slot: p.Slot, Revision: 1, Program: i.sum(i.params.First)}.Frame()}
	})},
	"commit the slot before": {sealed, answer(func(i *image, p control.Prepare, sum program.Digest) []control.Frame {
		return []control.Frame{control.Committed{Txn: p.Txn, Slot: i.params.First.Slot, Revision: 2, Program: sum}.Frame()}
	})},
	"commit in a transaction of long ago": {sealed, answer(func(i *image, p control.Prepare, sum program.Digest) []control.Frame {
		return []control.Frame{control.Committed{Txn: i.params.First.Txn, Slot: p.Slot, Revision: 2, Program: sum}.Frame()}
	})},
	"commit twice": {sealed, answer(func(i *image, p control.Prepare, sum program.Digest) []control.Frame {
		f := control.Committed{Txn: p.Txn, Slot: p.Slot, Revision: 2, Program: sum}.Frame()
		return []control.Frame{f, f}
	})},
	"prepare again instead": {sealed, answer(func(i *image, p control.Prepare, _ program.Digest) []control.Frame {
		return []control.Frame{control.Prepared{Txn: p.Txn}.Frame()}
	})},
	"release what it just committed": {sealed, answer(func(i *image, p control.Prepare, sum program.Digest) []control.Frame {
		return []control.Frame{control.Committed{Txn: p.Txn, Slot: p.Slot, Revision: 2, Program: sum}.Frame(), control.Released{Slot: p.Slot}.Frame()}
	})},
	"commit before it is told": {sealed, func(i *image) {
		f, err := control.ReadFrame(i.channel, control.MaxFromTender)
		check(err)
		m, err := f.Decode()
		check(err)
		p := m.(control.Prepare)
		i.send(control.Committed{Txn: p.Txn, Slot: p.Slot, Revision: 2, Program: i.sum(p)}.Frame())
		forever(i)
	}},
	"half of a commit": {sealed, answer(func(i *image, p control.Prepare, sum program.Digest) []control.Frame {
		f := control.Committed{Txn: p.Txn, Slot: p.Slot, Revision: 2, Program: sum}.Frame()
		i.raw(append([]byte{byte(len(f.Payload)), 0, 0, 0, byte(f.Kind), 0, 0, 0}, f.Payload[:20]...))
		select {} // or its next answer would be the other half
	})},
}

func open() {
	_, err := os.Open("/etc/passwd")
	fmt.Fprintln(os.Stderr, "attacker: survived open:", err)
	os.Exit(4)
}

func writeProgram(i *image) {
	_, err := syscall.Pwrite(launch.ProgramFD, []byte{1}, 0)
	fmt.Fprintln(os.Stderr, "attacker: survived pwrite:", err)
}

// eat takes memory until it gets no more.
func eat(*image) {
	var kept [][]byte
	for range 1 << 12 {
		b := bytes.Repeat([]byte{1}, 4<<20)
		kept = append(kept, b)
	}
	fmt.Fprintln(os.Stderr, "attacker: survived with", len(kept)*4, "MiB")
}

// threads starts threads that do nothing, until it gets no more.
func threads() {
	for range 1500 {
		go func() {
			ts := syscall.Timespec{Sec: 1000}
			syscall.Nanosleep(&ts, nil)
		}()
	}
	time.Sleep(time.Minute)
}

func record() audit.Record {
	return audit.Record{Time: time.Now().UnixNano(), ID: strings.Repeat("x", audit.MaxField), Path: strings.Repeat("\x1b", audit.MaxPath)}
}

func records(seq uint64) control.Frame {
	return control.Records{Seq: seq, Records: []audit.Record{record()}}.Frame()
}

// statistics answers one question, which may have been asked, many times.
func statistics(i *image) {
	for range 100 {
		i.send(control.Stats{}.Frame())
	}
	forever(i)
}

// giantCount announces more records than could follow.
func giantCount() control.Frame {
	var w wire.Writer
	w.U64(1)
	w.U32(1 << 31)
	return control.Frame{Kind: control.KindRecords, Payload: w.Bytes()}
}

// flood sends as fast as the tender reads, and reads nothing but what unblocks
// the tender.
func flood(i *image, evidence bool) {
	go i.obey()
	batch := make([]audit.Record, 30)
	for n := range batch {
		batch[n] = record()
	}
	for seq := uint64(1); ; seq++ {
		if evidence {
			i.send(control.Records{Seq: seq, Records: batch}.Frame())
		} else {
			i.send(control.Log{Line: strings.Repeat("y", audit.MaxRecord)}.Frame())
		}
	}
}

// fireWithoutEnd says that a trigger fires, under its program and under one that nobody
// knows, and takes every program that it is given.
func fireWithoutEnd(i *image) {
	first, last := i.sum(i.params.First), i.params.First.Slot
	go func() {
		for n := byte(0); ; n++ {
			i.send(control.Fired{At: int64(n) << 56, Program: first, Trigger: "guessed"}.Frame())
			i.send(control.Fired{Program: [32]byte{n}, Trigger: strings.Repeat("z", int(n))}.Frame())
		}
	}()
	answer(func(_ *image, p control.Prepare, sum program.Digest) []control.Frame {
		frames := []control.Frame{control.Committed{Txn: p.Txn, Slot: p.Slot, Revision: 2, Program: sum}.Frame(), control.Released{Slot: last}.Frame()}
		last = p.Slot
		return frames
	})(i)
}

func floodOutput(i *image) {
	go i.obey()
	line := bytes.Repeat([]byte("z"), 1<<20)
	for {
		os.Stdout.Write(line)
	}
}

// terminal says what would take over a terminal that showed it.
func terminal(i *image) {
	const evil = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u009b31m\xff\r\n{\"seq\":1}"
	i.send(control.Log{Line: evil}.Frame())
	os.Stdout.WriteString(evil + "\n")
	r := record()
	r.ID, r.Principal, r.Path, r.Reason = "\x00", evil, evil, evil
	i.send(control.Records{Seq: 1, Records: []audit.Record{r}}.Frame())
}

func deafToDrain(i *image) {
	for {
		f, err := control.ReadFrame(i.channel, control.MaxFromTender)
		check(err)
		if f.Kind == control.KindQuery {
			i.send(control.Stats{}.Frame())
		}
	}
}

// answer agrees to a program and then answers the commit as it likes.
func answer(commit func(*image, control.Prepare, program.Digest) []control.Frame) func(*image) {
	return func(i *image) {
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
				for _, f := range commit(i, p, i.sum(p)) {
					i.send(f)
				}
			case nil:
				i.send(control.Stats{}.Frame())
			}
		}
	}
}
