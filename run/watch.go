package run

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"lorica.dev/lorica/builder"
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
func watch(ctx context.Context, taken builder.Stamp, paths func() []string) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		defer close(out)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		ring := newBell()
		defer ring.close()
		seen, heard := taken, ring.heard()
		for {
			ring.hang(folders(paths()))
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				heard = ring.heard()
			case <-heard:
				heard = nil
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
			if now != taken { // else it rang for a log, or its like, which may go on
				heard = ring.heard()
			}
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

// stampOf is what tells a change. What cannot be looked at is gone, which is one.
func stampOf(paths []string) builder.Stamp {
	s, _ := builder.StampOf(paths...)
	return s
}

// WatchDocuments sends on the channel whenever the documents that a path names have
// changed since the call, until ctx ends.
func WatchDocuments(ctx context.Context, path string) <-chan struct{} {
	paths := func() []string { return documents(path) }
	return watch(ctx, stampOf(paths()), paths)
}
