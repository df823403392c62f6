package run

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// watchInterval is how often files are looked at. Looking works on every file
// system, network mounts and editors that replace files included.
const watchInterval = 300 * time.Millisecond

// afterBell is how long files must stay the same once a writer has closed one:
// editors and tools save several at a time.
const afterBell = 10 * time.Millisecond

// watch sends on the channel whenever something under the paths differs from
// what was taken and then stayed the same for a while, so that a half-written
// save is not taken: for one interval, or shortly where the kernel tells that the
// writer has finished. The paths are asked for each time: a change of a document
// may change them.
func watch(ctx context.Context, taken stamp, paths func() []string) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		defer close(out)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		ring := newBell()
		defer ring.close()
		seen := taken
		for {
			ring.hang(folders(paths()))
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-ring.heard():
				seen = stampOf(paths())
				select {
				case <-ctx.Done():
					return
				case <-time.After(afterBell):
				}
			}
			now := stampOf(paths())
			settled := now == seen
			seen = now
			if !settled || now == taken {
				continue
			}
			select {
			case out <- struct{}{}:
				// What the receiver reads, it reads after this look.
				taken = now
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// folders returns the folders that the paths lie in, or are.
func folders(paths []string) []string {
	var list []string
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && !info.IsDir() {
			p = filepath.Dir(p)
		}
		list = append(list, p)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// A stamp is a hash of the names, sizes and times of files.
type stamp [sha256.Size]byte

// stampOf looks at everything under the paths. A file that is reached by two of
// them counts once.
func stampOf(paths []string) stamp {
	files := map[string][2]int64{}
	for _, p := range paths {
		_ = filepath.WalkDir(p, func(name string, d fs.DirEntry, err error) error {
			if abs, err := filepath.Abs(name); err == nil {
				name = abs
			}
			if err != nil {
				files[name] = [2]int64{-1} // a file that is gone is a change like any other
				return nil
			}
			if info, err := d.Info(); err == nil && !d.IsDir() {
				files[name] = [2]int64{info.Size(), info.ModTime().UnixNano()}
			}
			return nil
		})
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%q %v\n", name, files[name])
	}
	return stamp(h.Sum(nil))
}
