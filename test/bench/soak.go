package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	soakMemory   = 64 // MB of the guest
	soakRequests = 1000000
	soakFull     = 30 * time.Minute // for so many
	soakMost     = 4                // times as long it may take
	soakWithin   = 30 * time.Second // for one request
	soakSamples  = 20
	soakTold     = 10  // failures that are told
	growth       = 1.0 // MB that free memory may differ by without anything having grown
)

// A soak is a long mixed load against one machine.
type soak struct {
	url      string
	requests atomic.Int64
	failures atomic.Int64
}

// soaked keeps a guest of ours under mixed load, and looks at what memory it has.
func (b *bench) soaked() error {
	g, _ := b.ours()
	if g == nil {
		return errors.New("there is no guest")
	}
	m, err := b.boot(g, soakMemory)
	if err != nil {
		return err
	}
	defer m.stop()
	if _, err := m.answered(bootPatience); err != nil {
		return err
	}
	target := float64(soakRequests)
	if b.soak < soakFull {
		target *= float64(b.soak) / float64(soakFull)
	}
	s := &soak{url: m.url}
	ctx, cancel := context.WithTimeout(context.Background(), soakMost*b.soak)
	defer cancel()
	begin := time.Now()
	var load sync.WaitGroup
	s.start(ctx, &load)
	free, err := s.watch(ctx, m, b.soak/soakSamples, func() bool {
		return time.Since(begin) >= b.soak && float64(s.requests.Load()) >= target
	})
	took := time.Since(begin)
	cancel()
	load.Wait()
	if err != nil {
		return err
	}
	b.add(&figure{Name: "microvm-soak-minutes", Unit: "min", Values: []float64{took.Minutes()}, Target: b.soak.Minutes()})
	b.add(&figure{Name: "microvm-soak-requests", Values: []float64{float64(s.requests.Load())}, Target: target})
	b.add(&figure{Name: "microvm-soak-failed", Values: []float64{float64(s.failures.Load())}, AtMost: true})
	const few = soakSamples / 5
	if len(free) < 2*few {
		return fmt.Errorf("memory could be asked for %d times alone", len(free))
	}
	early, late := (&figure{Values: free[:few]}).median(), (&figure{Values: free[len(free)-few:]}).median()
	b.add(&figure{Name: "microvm-soak-growth", Unit: "MB", Values: []float64{early - late}, Target: growth, AtMost: true})
	return nil
}

// start starts all kinds of load, which end with ctx.
func (s *soak) start(ctx context.Context, load *sync.WaitGroup) {
	kinds := []struct {
		clients int
		pause   time.Duration // between requests
		close   bool          // the connection, after each request
		ask     func(ctx context.Context, c *http.Client) error
	}{
		{12, 0, false, s.page},
		{2, 20 * time.Millisecond, true, s.page},
		{1, 300 * time.Millisecond, false, s.big},
		{1, 300 * time.Millisecond, false, s.sum},
		{1, 300 * time.Millisecond, true, s.sum},
		{32, 20 * time.Second, false, s.page}, // idle most of the time
	}
	for _, k := range kinds {
		for range k.clients {
			load.Go(func() {
				c := &http.Client{Timeout: soakWithin, Transport: &http.Transport{DisableKeepAlives: k.close, MaxConnsPerHost: 1, DialContext: s.dialer(k.close)}}
				defer c.CloseIdleConnections()
				for ctx.Err() == nil {
					err := k.ask(ctx, c)
					s.requests.Add(1)
					if err != nil && ctx.Err() == nil {
						s.fail(err)
					}
					select {
					case <-ctx.Done():
					case <-time.After(k.pause):
					}
				}
			})
		}
	}
}

// dialer makes the connections of one client. One that is kept is made once: a client
// of package http makes another in silence where it was closed.
func (s *soak) dialer(close bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	made := 0
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if made++; made > 1 && !close {
			s.fail(errors.New("a connection was not kept"))
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}

func (s *soak) fail(err error) {
	if s.failures.Add(1) <= soakTold {
		fmt.Println("  failed:", err)
	}
}

// do makes one request, and returns the whole body of its answer.
func (s *soak) do(ctx context.Context, c *http.Client, method, path string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	a, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", a.Status, b)
	}
	return b, err
}

func (s *soak) page(ctx context.Context, c *http.Client) error {
	b, err := s.do(ctx, c, http.MethodGet, "/", nil)
	if err == nil && string(b) != page() {
		err = fmt.Errorf("another page, of %d bytes", len(b))
	}
	return err
}

func (s *soak) big(ctx context.Context, c *http.Client) error {
	b, err := s.do(ctx, c, http.MethodGet, "/big", nil)
	if err == nil && len(b) != bigBody {
		err = fmt.Errorf("%d bytes for %d", len(b), bigBody)
	}
	return err
}

func (s *soak) sum(ctx context.Context, c *http.Client) error {
	body := make([]byte, mathrand.IntN(bigBody))
	rand.Read(body)
	b, err := s.do(ctx, c, http.MethodPost, "/sum", body)
	if want := fmt.Sprintf("%x", sha256.Sum256(body)); err == nil && string(b) != want {
		err = fmt.Errorf("the sum of %d bytes is %s, and not %s", len(body), want, b)
	}
	return err
}

// watch asks the guest from time to time what memory is free, in MB, under load, and
// leaves out what it says in the first of all intervals. It ends when done says so.
func (s *soak) watch(ctx context.Context, m *machine, every time.Duration, done func() bool) (free []float64, err error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return free, nil
		case <-m.ended:
			return free, fmt.Errorf("the guest has ended: %s", m.says())
		case <-tick.C:
		}
		var bytes, total float64
		text, err := get(ctx, s.url+"/memory")
		if err == nil {
			_, err = fmt.Sscan(string(text), &bytes, &total)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.fail(fmt.Errorf("memory: %w", err))
			}
			continue
		}
		resident, _ := resident(m.cmd.Process.Pid)
		fmt.Printf("  %d requests, %d failed; %.1f of %.1f MB are free; QEMU has %.0f MB\n", s.requests.Load(), s.failures.Load(), bytes/1e6, total/1e6, resident/1e6)
		if n > 0 {
			free = append(free, bytes/1e6)
		}
		if done() {
			return free, nil
		}
	}
}
