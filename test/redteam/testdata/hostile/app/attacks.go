package hostile

import (
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"
)

// control is the channel to the tender.
const control = 3

// attacks are what takes more than a few calls.
var attacks = map[string]func() result{
	"none":         func() result { return result{Text: "served"} },
	"a store":      store,
	"exec":         func() result { return said(exec.Command("/bin/sh", "-c", "id").Run()) },
	"read /proc":   func() result { _, err := os.ReadFile("/proc/self/maps"); return said(err) },
	"memory":       eat,
	"goroutines":   spawn,
	"threads":      threads,
	"end a thread": endThread,
	"processors":   func() result { runtime.GOMAXPROCS(64); return result{R: uintptr(runtime.GOMAXPROCS(0))} },

	"half a frame":      func() result { return frame(64, 5)[:5].send() },
	"a frame too long":  func() result { return frame(71, 1<<17).send() },
	"a flood of frames": flood,
	"committed":         func() result { return frame(67, 8+1+8+32).send() },
	"prepared":          func() result { return frame(66, 8+4).send() },
	"released":          func() result { return frame(68, 1).send() },
	"eat the channel":   eatChannel,
	"serve strangers":   serveStrangers,
}

func said(err error) result {
	if err != nil {
		return result{Text: err.Error()}
	}
	return result{Text: "done"}
}

// store writes into the program in force.
func store() result {
	base := uintptr(0x6000_0000_0000)
	*(*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&base))) = 1
	return result{Text: "stored"}
}

// unlimited lets the heap grow as if nobody had asked it not to.
func unlimited() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(math.MaxInt64)
}

// eat takes memory, and touches it, until there is no more.
func eat() result {
	unlimited()
	var kept [][]byte
	for range 1 << 12 {
		b := make([]byte, 4<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
	return result{R: uintptr(len(kept))}
}

// spawn starts goroutines that never end, each with a stack that it has used: of
// bare ones there would be so many that the trace of its death takes minutes.
func spawn() result {
	unlimited()
	never := make(chan int)
	for range 1 << 16 {
		go func() {
			var frame [96 << 10]byte
			for i := range frame {
				frame[i] = byte(i)
			}
			<-never
			runtime.KeepAlive(&frame)
		}()
		runtime.Gosched()
	}
	return result{Text: "spawned"}
}

// threads holds as many threads as it gets.
func threads() result {
	for range 4096 {
		go func() {
			ts := syscall.Timespec{Sec: 1000}
			syscall.Nanosleep(&ts, nil)
		}()
	}
	time.Sleep(20 * time.Second)
	return result{Text: "started"}
}

// A bytesOut goes to the control channel beside what the image itself says.
type bytesOut []byte

// frame is the header of package control, with a payload of zeros.
func frame(kind byte, size int) bytesOut {
	b := make(bytesOut, 8+size)
	binary.LittleEndian.PutUint32(b, uint32(size))
	b[4] = kind
	return b
}

func (b bytesOut) send() result {
	_, err := syscall.Write(control, b)
	return said(err)
}

// flood sends lines of log as fast as they are taken.
func flood() result {
	const text = 4000
	f := frame(71, 4+text)
	binary.LittleEndian.PutUint32(f[8:], text)
	for i := range text {
		f[12+i] = 'y'
	}
	n := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if _, err := syscall.Write(control, f); err == nil {
			n++
		}
	}
	return result{R: uintptr(n)}
}

// eatChannel takes what the tender says before the image reads it.
func eatChannel() result {
	go func() {
		b := make([]byte, 1<<16)
		for {
			syscall.Read(control, b)
		}
	}()
	return result{Text: "eating"}
}

// serveStrangers takes connections off the listener before the gates see them.
func serveStrangers() result {
	listener := things["listener"]()
	go func() {
		for {
			fd, _, e := syscall.RawSyscall6(syscall.SYS_ACCEPT4, listener, 0, 0, 0, 0, 0)
			if e == 0 {
				const text = "HTTP/1.0 200 OK\r\n\r\nstolen"
				syscall.Write(int(fd), []byte(text))
				syscall.Close(int(fd))
			}
		}
	}()
	return result{Text: "serving"}
}

// endThread takes a thread away from the runtime.
func endThread() result {
	go func() {
		runtime.LockOSThread()
		syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
	}()
	time.Sleep(100 * time.Millisecond)
	return result{Text: "ended"}
}
