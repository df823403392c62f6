package run

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io/fs"
	"path/filepath"
	"time"
)

// watchInterval is how often files are looked at. Polling works on every file
// system, network mounts and editors that replace files included.
const watchInterval = 300 * time.Millisecond

// watch sends on the channel whenever something under the paths changed and then
// stayed the same for one interval, so that a half-written save is not taken.
// The paths are asked for each time: a change of a document may change them.
func watch(ctx context.Context, paths func() []string) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		defer close(out)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		taken := stamp(paths())
		seen := taken
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := stamp(paths())
			settled := now == seen
			seen = now
			if !settled || now == taken {
				continue
			}
			select {
			case out <- struct{}{}:
				// What the receiver reads comes after this look; it may have changed the list.
				taken = now
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// stamp is a hash of names, sizes and times of everything under the paths.
func stamp(paths []string) [sha256.Size]byte {
	h := sha256.New()
	for _, p := range paths {
		_ = filepath.WalkDir(p, func(name string, d fs.DirEntry, err error) error {
			h.Write([]byte(name))
			h.Write([]byte{0})
			if err != nil {
				return nil // a file that is gone is a change like any other
			}
			info, err := d.Info()
			if err != nil || d.IsDir() {
				return nil
			}
			var b [16]byte
			binary.LittleEndian.PutUint64(b[:], uint64(info.Size()))
			binary.LittleEndian.PutUint64(b[8:], uint64(info.ModTime().UnixNano()))
			h.Write(b[:])
			return nil
		})
	}
	return [sha256.Size]byte(h.Sum(nil))
}
