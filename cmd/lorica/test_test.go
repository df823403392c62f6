package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// transcript is what a command prints while it runs.
type transcript struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.String()
}

// Every save is tested, whatever came of the one before, until the user has enough.
func TestWatchedTestsRunAgain(t *testing.T) {
	dir := t.TempDir()
	write := func(name, from, to string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("..", "..", "examples", "payments", name))
		if err != nil {
			t.Fatal(err)
		}
		if from != "" && !bytes.Contains(b, []byte(from)) {
			t.Fatalf("%s has no %q", name, from)
		}
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Replace(b, []byte(from), []byte(to), 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policy.yaml", "", "")
	write("workload.yaml", "", "")
	ctx, stop := context.WithCancel(t.Context())
	var out transcript
	ended := make(chan int)
	go func() {
		ended <- execute(ctx, []string{"test", "-f", dir, "--watch"}, strings.NewReader(""), &out, &out)
	}()
	seen := 0 // how much of it was waited for
	wait := func(want string) {
		t.Helper()
		for until := time.Now().Add(time.Minute); !strings.Contains(out.String()[seen:], want); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("there is no %q in\n%s", want, out.String())
			}
		}
		seen += strings.Index(out.String()[seen:], want) + len(want)
	}
	wait("acme/payments: 12 tests passed\n")
	write("policy.yaml", "context.amount <= 10000 };", "context.amount <= 400 };")
	wait("--- the documents have changed\n")
	wait("FAIL  teller pays")
	wait("missing: amount is 500; rule teller-transfer needs amount <= 400\n")
	wait("acme/payments: 3 of 12 tests failed\n")
	write("policy.yaml", "routes:", "ruotes:")
	wait("error: spec.ruotes is unknown")
	write("policy.yaml", "", "")
	wait("acme/payments: 12 tests passed\n")
	stop()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if rest := out.String()[seen:]; rest != "" {
		t.Errorf("at its end it says %q", rest)
	}
}

// A stream is one line for each run.
func TestWatchedTestsAsData(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		execute(ctx, []string{"test", "-f", filepath.Join("..", "..", "examples", "payments"), "--watch", "-o", "json"}, strings.NewReader(""), w, io.Discard)
		w.Close()
	}()
	first := make([]byte, 64<<10)
	n, err := r.Read(first)
	if err != nil || n == 0 || bytes.IndexByte(first[:n], '\n') != n-1 {
		t.Errorf("%v: %s", err, first[:n])
	}
	stop()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("%v: %s", err, rest)
	}
}
