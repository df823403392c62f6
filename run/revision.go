package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/run/keys"
)

// A ledger remembers, outside of every image, how far the revisions of one
// deployment have come. It holds a lock: one process at a time changes a
// deployment.
type ledger struct {
	path string
	lock *os.File
}

type ledgerFile struct {
	Revision *uint64 `json:"revision"` // the highest that was ever signed
}

// openLedger takes the lock of the deployment, waiting for other processes
// until ctx ends.
func openLedger(ctx context.Context, data, deployment string) (*ledger, error) {
	dir := filepath.Join(data, "deployments")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, deployment+".json")
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &ledger{path: path, lock: f}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another lorica is changing %s: %w", deployment, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *ledger) close() { l.lock.Close() }

// next returns a revision that was never given out before, and remembers it
// before anything can be signed with it.
func (l *ledger) next() (uint64, error) {
	last := uint64(0)
	b, err := os.ReadFile(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return 0, err
	default:
		var f ledgerFile
		err := json.Unmarshal(b, &f)
		if err == nil && (f.Revision == nil || *f.Revision == math.MaxUint64) {
			err = errors.New("it holds no revision that another could follow")
		}
		if err != nil {
			return 0, fmt.Errorf("%s is damaged, and with it the high-water mark of revisions: %w", l.path, err)
		}
		last = *f.Revision
	}
	last++
	b, err = json.Marshal(ledgerFile{&last})
	if err != nil {
		return 0, err
	}
	if err := keys.Write(l.path, b); err != nil {
		return 0, err
	}
	return last, nil
}

// lockUp takes the lock of whoever holds a deployment up, for as long as it does:
// two would each end what the other started. command is what they are.
func lockUp(data, deployment, command string) (*os.File, error) {
	dir := filepath.Join(data, "deployments")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ledgerName(deployment)+".up.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		holder, _ := io.ReadAll(f)
		return nil, fmt.Errorf("%s is held up by another 'lorica %s' (process %s), which goes on: end that one first", deployment, command, holder)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := fmt.Fprint(f, os.Getpid()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
