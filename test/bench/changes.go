package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/test/freeport"
)

// changingPolicy lets one path through, and "/"; with
// limits it needs another module.
func changingPolicy(path string, limits bool) string {
	text := policyHead + `  default: {network: Allow, authorization: Allow}
  audit: {decisions: denied}
  routes:
    - {name: open, match: {method: GET, path: /}}
    - {name: changing, match: {method: GET, path: ` + path + `}}
`
	if limits {
		text += "  rateLimits:\n    - {name: per-source, key: source, requests: 1000000, per: 1s}\n"
	}
	return text
}

// changes measures the time from a saved file to its being in force, and counts
// what replacements under load lose.
func (b *bench) changes() error {
	port, err := freeport.Find()
	if err != nil {
		return err
	}
	dir, err := b.project("changes", workload("changes", b.app(), port), changingPolicy("/r0", false))
	if err != nil {
		return err
	}
	x, err := b.up(dir)
	if err != nil {
		return err
	}
	defer x.stop()
	file := filepath.Join(dir, "policy.yaml")
	addr := fmt.Sprintf("127.0.0.1:%d", port)

	var rules []float64
	for i := range 4 * b.rounds {
		took, err := saved(file, changingPolicy(fmt.Sprintf("/r%d", i+1), false), addr, fmt.Sprintf("/r%d", i+1))
		if err != nil {
			return err
		}
		rules = append(rules, took)
		if _, err := x.wait("applied"); err != nil {
			return err
		}
	}
	b.add(&figure{Name: "saved-to-enforced", Unit: "ms", Values: rules, Target: 50, AtMost: true})

	var modules []float64
	for i := range 2 * b.rounds {
		path := fmt.Sprintf("/m%d", i)
		took, err := saved(file, changingPolicy(path, i%2 == 0), addr, path)
		if err != nil {
			return err
		}
		if i == 0 { // this image was never built
			b.add(&figure{Name: "saved-to-enforced-cold", Unit: "ms", Values: []float64{took}, None: true})
		} else if i > 1 {
			modules = append(modules, took)
		}
		if e, err := x.wait("applied"); err != nil || e.Change != "image" {
			return fmt.Errorf("other modules were taken over by %q: %w", e.Change, err)
		}
	}
	b.add(&figure{Name: "saved-to-enforced-modules", Unit: "ms", Values: modules, Target: 3000, AtMost: true})
	return b.replacements(x, file, addr)
}

// saved writes the policy and returns how many milliseconds pass until a request
// to path is answered as it says.
func saved(file, policy, addr, path string) (float64, error) {
	start := time.Now()
	if err := os.WriteFile(file, []byte(policy), 0o644); err != nil {
		return 0, err
	}
	for time.Since(start) < time.Minute {
		c := caller{addr: addr}
		status, err := c.get(path)
		c.close()
		if err != nil {
			return 0, err
		}
		if status == http.StatusOK {
			return float64(time.Since(start).Microseconds()) / 1000, nil
		}
		time.Sleep(500 * time.Microsecond)
	}
	return 0, fmt.Errorf("%s was not in force within a minute", path)
}

// replacements has 64 connections make requests while programs and images are
// replaced, 20 of each, and counts the requests that failed.
func (b *bench) replacements(x *image, file, addr string) error {
	var done, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			c := caller{addr: addr}
			defer c.close()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, err := c.get("/"); err != nil || status != http.StatusOK {
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	defer wg.Wait()
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	for i := range 40 {
		path := fmt.Sprintf("/x%d", i)
		if err := os.WriteFile(file, []byte(changingPolicy(path, i < 20 && i%2 == 0)), 0o644); err != nil {
			return err
		}
		if _, err := x.wait("applied"); err != nil {
			return err
		}
	}
	for done.Load() < 200_000 {
		time.Sleep(100 * time.Millisecond)
	}
	end()
	wg.Wait()
	b.add(&figure{Name: "replacements-requests", Values: []float64{float64(done.Load())}, Target: 200_000})
	b.add(&figure{Name: "replacements-failed", Values: []float64{float64(failed.Load())}, Target: 0, AtMost: true})
	return nil
}

// A caller is one connection that never repeats a request.
type caller struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
}

func (c *caller) get(path string) (int, error) {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.addr, 10*time.Second)
		if err != nil {
			return 0, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: "+c.addr+"\r\n\r\n"); err != nil {
		c.close()
		return 0, err
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.close()
		return 0, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	if err != nil || r.Close || strings.EqualFold(r.Header.Get("Connection"), "close") {
		c.close()
	}
	return r.StatusCode, err
}

func (c *caller) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
