package qemu

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	hugePage = 2 << 20
	// lowMemory is where microvm splits its RAM: what is above is mapped from 4 GiB on.
	lowMemory = 3 << 30
	maxMemory = 1 << 40
	leastRAM  = 8 << 20
	lookBytes = 64 << 10
)

// RAM is the memory of one life of a guest: an anonymous file that QEMU maps as a
// whole, and the tender in part: the window, through which it hands programs to the
// guest. Nothing that the tender reads in the window can be trusted, since the
// guest can write there until its kernel has given that up.
type RAM struct {
	file   *os.File
	size   uint64
	at     uint64
	window []byte
}

// NewRAM makes memory bytes for a guest and a window beside them, which may be
// empty. Pages are taken as they are used.
func NewRAM(memory, window uint64) (*RAM, error) {
	if memory < leastRAM || memory > maxMemory || window%4096 != 0 || window > lowMemory/2 {
		return nil, fmt.Errorf("qemu: a guest with %d bytes of memory and a window of %d", memory, window)
	}
	r := &RAM{size: (memory + window + hugePage - 1) &^ (hugePage - 1)}
	r.at = (min(r.size, lowMemory) - window) &^ (hugePage - 1)
	fd, err := unix.MemfdCreate("lorica-ram", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("lorica-ram", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("qemu: memory for the guest: %w", err)
	}
	r.file = os.NewFile(uintptr(fd), "ram")
	if err := r.prepare(fd, window); err != nil {
		r.Close()
		return nil, fmt.Errorf("qemu: memory for the guest: %w", err)
	}
	return r, nil
}

// prepare seals the size: a file that shrank would kill the tender at its next
// write (SIGBUS).
func (r *RAM) prepare(fd int, window uint64) (err error) {
	if err := unix.Ftruncate(fd, int64(r.size)); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		return err
	}
	if window > 0 {
		r.window, err = unix.Mmap(fd, int64(r.at), int(window), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	return err
}

// Window is where the tender writes programs; nil where there is none.
func (r *RAM) Window() []byte { return r.window }

// WindowAt is the physical address of the window in the guest.
func (r *RAM) WindowAt() uint64 { return r.at }

// Size is what the guest has in all, in bytes.
func (r *RAM) Size() uint64 { return r.size }

// File is the memory itself. Its offsets are the guest's physical addresses below 3 GiB.
func (r *RAM) File() *os.File { return r.file }

// Holds reports whether what the guest must not write of its image is as it was
// loaded: its code and its constants.
func (r *RAM) Holds(image io.ReaderAt) error {
	f, err := elf.NewFile(image)
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	want, got := make([]byte, lookBytes), make([]byte, lookBytes)
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_W != 0 || f.Entry-p.Vaddr < p.Memsz {
			continue // where it is entered the processor marks descriptors; nothing there is used again
		}
		for at := uint64(0); at < p.Filesz; at += lookBytes {
			n := min(lookBytes, p.Filesz-at)
			if _, err := image.ReadAt(want[:n], int64(p.Off+at)); err != nil {
				return fmt.Errorf("qemu: %w", err)
			}
			if _, err := r.file.ReadAt(got[:n], int64(p.Paddr+at)); err != nil {
				return fmt.Errorf("qemu: %w", err)
			}
			if !bytes.Equal(want[:n], got[:n]) {
				return fmt.Errorf("its code or its constants were altered, between %#x and %#x", p.Paddr+at, p.Paddr+at+n)
			}
		}
	}
	return nil
}

// Close gives the memory back, once the guest has ended. The window must not be
// used any more.
func (r *RAM) Close() {
	if r.window != nil {
		unix.Munmap(r.window)
		r.window = nil
	}
	r.file.Close()
}
