package process

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxImage bounds the image file, in bytes.
const maxImage = 512 << 20

const imageSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Measure copies the image at path into anonymous memory, seals it against any
// change, and compares its SHA-256 with want ("sha256:" and 64 digits). What
// was measured is then what every launch executes, whatever happens to the file.
func Measure(path, want string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("process: the image: %w", err)
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("lorica-image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every memfd was executable
		fd, err = unix.MemfdCreate("lorica-image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("process: memory for the image (is vm.memfd_noexec set?): %w", err)
	}
	f := os.NewFile(uintptr(fd), "image")
	if err := fill(f, src, want); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// seal seals an image. The kernel refuses while something else, on a busy machine its own
// housekeeping, still holds a page that was just written.
func seal(f *os.File) (err error) {
	for range 50 {
		if _, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, imageSeals); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func fill(f *os.File, src io.Reader, want string) error {
	n, err := io.Copy(f, io.LimitReader(src, maxImage+1))
	if err != nil {
		return fmt.Errorf("process: copying the image: %w", err)
	}
	if n > maxImage {
		return fmt.Errorf("process: the image is larger than %d MiB", maxImage>>20)
	}
	if err := seal(f); err != nil {
		return fmt.Errorf("process: sealing the image: %w", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, n)); err != nil {
		return fmt.Errorf("process: measuring the image: %w", err)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("process: the image is %s, expected %s; build it again", got, want)
	}
	return nil
}
