package tender

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func numbered(_ int, n uint64) ([]byte, error) { return fmt.Appendf(nil, `{"seq":%d}`, n), nil }

// lines returns what is kept from a number on.
func lines(t *testing.T, s *spool, from uint64) []string {
	t.Helper()
	var all []string
	err := s.stream(context.Background(), from, false, func(b []byte) error {
		all = append(all, strings.TrimSpace(string(b)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSpoolNumbersWithoutGaps(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpool(dir, "x", 100, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.append(i, numbered); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for n := 1; n <= 10; n++ {
		want = append(want, fmt.Sprintf(`{"seq":%d}`, n))
	}
	if got := lines(t, s, 0); !slices.Equal(got, want) {
		t.Errorf("kept %q", got)
	}
	if got := lines(t, s, 9); !slices.Equal(got, want[8:]) {
		t.Errorf("from 9: %q", got)
	}
	if got := lines(t, s, 99); got != nil {
		t.Errorf("from 99: %q", got)
	}
	s.close()
	// A tender that died left half a line.
	files, err := filepath.Glob(filepath.Join(dir, "x-*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	f, err := os.OpenFile(files[len(files)-1], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"se`)
	f.Close()
	if s, err = openSpool(dir, "x", 100, 3); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.append(1, numbered); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, s, 0); !slices.Equal(got[len(got)-2:], []string{`{"seq":10}`, `{"seq":11}`}) {
		t.Errorf("after a restart: %q", got)
	}
}

func TestSpoolIsBounded(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpool(dir, "x", 1000, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for range 1000 {
		if err := s.append(3, numbered); err != nil {
			t.Fatal(err)
		}
	}
	var size int64
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		size += info.Size()
	}
	if size > 4000 || size < 3000 {
		t.Errorf("%d bytes are kept", size)
	}
	got := lines(t, s, 0)
	if got[len(got)-1] != `{"seq":3000}` || len(got) < 200 {
		t.Errorf("%d lines are kept, the last is %s", len(got), got[len(got)-1])
	}
	if got := lines(t, s, 2999); len(got) != 2 {
		t.Errorf("from 2999: %q", got)
	}
}

func TestSpoolFollows(t *testing.T) {
	s, err := openSpool(t.TempDir(), "x", 500, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	const all = 2000
	go func() {
		for range all {
			s.append(1, numbered)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	last := uint64(0)
	enough := errors.New("enough")
	err = s.stream(ctx, 0, true, func(b []byte) error {
		var n uint64
		if _, err := fmt.Sscanf(string(b), `{"seq":%d}`, &n); err != nil || n <= last {
			return fmt.Errorf("after %d came %q", last, b)
		}
		if last = n; n == all {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("ended with %v at %d", err, last)
	}
}

func TestSpoolReportsWhatItCannotKeep(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpool(dir, "x", 500, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.append(1, func(int, uint64) ([]byte, error) { return make([]byte, maxLine+1), nil }); err == nil {
		t.Error("a giant line was kept")
	}
	if err := s.append(1, numbered); err != nil {
		t.Fatal(err)
	}
	s.out.Close() // as a disk that fails
	if err := s.append(1, numbered); err == nil {
		t.Error("a line was kept in nothing")
	}
}
