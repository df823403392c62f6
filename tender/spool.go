package tender

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// maxLine bounds a line of a spool, in bytes.
const maxLine = 64 << 10

// A spool is a bounded series of files of JSON lines, numbered from one without
// gaps. A line is with the kernel when append returns: it survives the death of
// the image and of the tender, not that of the machine. When the series is full
// its oldest file goes. Safe for concurrent use.
type spool struct {
	dir, prefix string
	fileSize    int64
	files       int

	mu     sync.Mutex
	next   uint64   // number of the next line
	firsts []uint64 // number of the first line of each file, ascending
	out    *os.File
	size   int64
	grown  chan struct{} // closed at the next append; nil when nobody waits
	done   bool          // nothing more will come
}

// openSpool continues the series in dir, or begins one.
func openSpool(dir, prefix string, fileSize int64, files int) (*spool, error) {
	s := &spool{dir: dir, prefix: prefix, fileSize: fileSize, files: files, next: 1}
	names, err := filepath.Glob(filepath.Join(dir, prefix+"-*.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	for _, n := range names {
		hex := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(n), prefix+"-"), ".jsonl")
		// Only names that path would give: others are not of this series.
		if first, err := strconv.ParseUint(hex, 16, 63); err == nil && first > 0 && s.path(first) == n {
			s.firsts = append(s.firsts, first)
		}
	}
	slices.Sort(s.firsts)
	if n := len(s.firsts); n > 0 {
		last := s.firsts[n-1]
		b, err := os.ReadFile(s.path(last))
		if err != nil {
			return nil, fmt.Errorf("tender: %w", err)
		}
		s.next = last + uint64(bytes.Count(b, []byte{'\n'}))
		if s.next == last { // the file holds no whole line, and begins anew with the next
			s.firsts = s.firsts[:n-1]
		}
	}
	return s, nil
}

// Left calls emit for every decision, from number from on, that a tender which has
// ended left in its runtime folder.
func Left(dir string, from uint64, emit func(Decision) error) error {
	s, err := openSpool(dir, decisionSpool, decisionFile, decisionFiles)
	if err != nil {
		return err
	}
	return s.stream(context.Background(), from, false, func(line []byte) error {
		var d Decision
		if err := json.Unmarshal(line, &d); err != nil {
			return fmt.Errorf("tender: what is left in %s: %w", dir, err)
		}
		return emit(d)
	})
}

func (s *spool) path(first uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%016x.jsonl", s.prefix, first))
}

// append writes one line for each call of encode, which is given its number.
// The lines of one call reach the file with one write.
func (s *spool) append(n int, encode func(i int, number uint64) ([]byte, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	for i := range n {
		line, err := encode(i, s.next+uint64(i))
		if err != nil {
			return err
		}
		if len(line) > maxLine {
			return fmt.Errorf("tender: a line of %d bytes for %s; the limit is %d", len(line), s.prefix, maxLine)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	if b.Len() == 0 {
		return nil
	}
	if err := s.rotate(int64(b.Len())); err != nil {
		return err
	}
	w, err := s.out.Write(b.Bytes())
	if err != nil { // take back half a line, so that numbers stay true
		s.out.Truncate(s.size)
		return fmt.Errorf("tender: %s: %w", s.prefix, err)
	}
	s.size += int64(w)
	s.next += uint64(n)
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
	return nil
}

func (s *spool) rotate(more int64) error {
	if s.out != nil && (s.size == 0 || s.size+more <= s.fileSize) {
		return nil
	}
	f, err := os.OpenFile(s.path(s.next), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	if s.out != nil {
		s.out.Close()
	}
	s.out, s.size = f, 0
	s.firsts = append(s.firsts, s.next)
	for len(s.firsts) > s.files {
		os.Remove(s.path(s.firsts[0]))
		s.firsts = s.firsts[1:]
	}
	return nil
}

func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil {
		s.out.Close()
	}
}

// finish says that nothing more will come: whoever follows gets the rest, and
// an end.
func (s *spool) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
}

// last returns the number of the newest line, 0 where there is none.
func (s *spool) last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1
}

// stream calls emit for every line from number from on (0: from the oldest that
// is left). With follow it waits for more until ctx is done
// or the spool is finished. Lines that were
// rotated away meanwhile are skipped.
func (s *spool) stream(ctx context.Context, from uint64, follow bool, emit func([]byte) error) error {
	var c cursor
	defer c.close()
	for ctx.Err() == nil {
		first, next, grown, done := s.find(from)
		if first == 0 || from >= next {
			if !follow || done {
				return nil
			}
			select {
			case <-grown:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := c.open(s.path(first), first)
		if errors.Is(err, os.ErrNotExist) {
			continue // rotated away since
		}
		if err != nil {
			return err
		}
		from = max(from, first)
		if err := c.copy(ctx, from, next, emit); err != nil {
			return err
		}
		if from = max(c.at, from+1); c.at < next {
			from = max(from, s.after(first, next))
		}
	}
	return ctx.Err()
}

// find returns the file that holds the first line at or after from, the number
// after the last line, a channel that is closed when there are more, and whether
// there never will be.
func (s *spool) find(from uint64) (first, next uint64, grown <-chan struct{}, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grown == nil {
		s.grown = make(chan struct{})
	}
	for _, f := range s.firsts {
		if first == 0 || f <= from {
			first = f
		}
	}
	return first, s.next, s.grown, s.done
}

// after returns the number of the first line behind the file that begins with
// first, next where there is none. What a file lost with the machine is passed
// over, not counted through.
func (s *spool) after(first, next uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.firsts {
		if f > first {
			return min(f, next)
		}
	}
	return next
}

// A cursor is a place in the series; it keeps its file open while it follows.
type cursor struct {
	first uint64 // names the file
	at    uint64 // number of the next line
	f     *os.File
	in    *bufio.Reader
}

func (c *cursor) close() {
	if c.f != nil {
		c.f.Close()
	}
}

func (c *cursor) open(path string, first uint64) error {
	if c.f != nil && c.first == first {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	c.close()
	*c = cursor{first: first, at: first, f: f, in: bufio.NewReaderSize(f, maxLine+1)}
	return nil
}

// copy emits the lines from..next-1 as far as they lie in the open file.
func (c *cursor) copy(ctx context.Context, from, next uint64, emit func([]byte) error) error {
	for c.at < next && ctx.Err() == nil {
		line, err := c.in.ReadSlice('\n')
		if err == io.EOF {
			return nil // the rest is in the next file
		}
		if err != nil {
			return fmt.Errorf("tender: %s: %w", c.f.Name(), err)
		}
		c.at++
		if c.at > from {
			if err := emit(line); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
