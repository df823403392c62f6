package run

import (
	"encoding/binary"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A bell rings when a writer has closed a file in one of the folders, or a file
// was moved there or away, and no other file is being written: then what is saved
// is whole, and need not be waited for.
type bell struct {
	file  *os.File
	rings chan struct{} // room for one
}

// newBell returns a bell, or nil where the kernel gives none: those who listen
// look at files from time to time as well.
func newBell() *bell {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	b := &bell{file: os.NewFile(uintptr(fd), "inotify"), rings: make(chan struct{}, 1)}
	go b.listen()
	return b
}

// hang watches folders. One that is watched stays so; one that was replaced is a
// new one to the kernel. What cannot be watched is looked at from time to time.
func (b *bell) hang(folders []string) {
	if b == nil {
		return
	}
	raw, err := b.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for _, dir := range folders {
			_, _ = unix.InotifyAddWatch(int(fd), dir, unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_ONLYDIR)
		}
	})
}

// listen rings once for whatever happened since the last ring was heard.
func (b *bell) listen() {
	buf := make([]byte, 16<<10)
	open := map[string]bool{} // being written
	for {
		n, err := b.file.Read(buf)
		if err != nil {
			return
		}
		rings := false
		for events := buf[:n]; len(events) >= unix.SizeofInotifyEvent; {
			name, mask, rest := next(events)
			events = rest
			if mask&unix.IN_MODIFY != 0 {
				open[name] = true
				continue
			}
			delete(open, name)
			rings = true
		}
		if !rings || len(open) > 0 {
			continue
		}
		select {
		case b.rings <- struct{}{}:
		default:
		}
	}
}

// next takes the first event off a buffer: inotify(7), "Reading events".
func next(b []byte) (name string, mask uint32, rest []byte) {
	mask = binary.NativeEndian.Uint32(b[4:])
	end := min(len(b), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])))
	return string(b[:4]) + strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00"), mask, b[end:]
}

// heard is a channel that never rings where there is no bell.
func (b *bell) heard() <-chan struct{} {
	if b == nil {
		return nil
	}
	return b.rings
}

func (b *bell) close() {
	if b != nil {
		b.file.Close()
	}
}
