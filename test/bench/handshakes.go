package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/run/keys"
)

// handshakes measures new TLS 1.3 connections, each with one request, for a
// second of the server's processor time, beside nginx with the same certificate.
func (b *bench) handshakes() error {
	dev := keys.NewDevelopment(filepath.Join(b.home(), ".local", "share", "lorica"))
	chain, key, err := dev.Server(time.Now())
	if err != nil {
		return err
	}
	authority, err := dev.Authority(time.Now())
	if err != nil {
		return err
	}
	root, err := os.ReadFile(authority)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	for name, text := range map[string][]byte{"server.pem": chain, "server.key": key} {
		if err := os.WriteFile(filepath.Join(b.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	image, stop, err := b.sealed("plain-tls", func(int) string {
		return plainPolicy + fmt.Sprintf("  tls: {mode: SIMPLE, certificate: secret/chain, key: secret/key}\n  secrets: {chain: {file: %s/server.pem}, key: {file: %[1]s/server.key}}\n", b.dir)
	})
	if err != nil {
		return err
	}
	defer stop()
	nginx, stop, err := b.serve("nginx", "/usr/sbin/nginx", func(port int) []string {
		file := filepath.Join(b.dir, fmt.Sprintf("nginx-%d.conf", port))
		text := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s.pid; error_log /dev/null;
events { worker_connections 4096; }
http { access_log off; ssl_session_tickets off; server { listen 127.0.0.1:%[2]d ssl; ssl_protocols TLSv1.3; ssl_certificate %[4]s/server.pem; ssl_certificate_key %[4]s/server.key;
location / { default_type text/plain; return 200 %[3]q; } } }
`, file, port, page(), b.dir)
		_ = os.WriteFile(file, []byte(text), 0o644)
		return []string{"-c", file, "-p", b.dir}
	})
	if err != nil {
		b.cannot("TLS connections against nginx", err)
		return nil
	}
	defer stop()
	// The exchange that most clients and servers have in common first. Go's X25519
	// is plain code where its P-256 is assembly; OpenSSL has assembly for both.
	for _, x := range []struct {
		name   string
		curve  tls.CurveID
		target float64
	}{{"", tls.CurveP256, 1.2}, {"-x25519", tls.X25519, 0}} {
		var ratios, ours, theirs []float64
		for range b.rounds {
			a, err := connections(image, pool, x.curve, b.seconds)
			if err != nil {
				return err
			}
			n, err := connections(nginx, pool, x.curve, b.seconds)
			if err != nil {
				return err
			}
			ours, theirs, ratios = append(ours, a), append(theirs, n), append(ratios, a/n)
		}
		b.add(&figure{Name: "tls-connections-over-nginx" + x.name, Unit: "x", Values: ratios, Target: x.target, None: x.target == 0})
		b.add(&figure{Name: "tls-connections" + x.name, Unit: "/cpu-s", Values: ours, None: true})
		b.add(&figure{Name: "tls-connections-nginx" + x.name, Unit: "/cpu-s", Values: theirs, None: true})
	}
	return nil
}

// connections makes new connections, eight at a time, and returns how many a
// second of the server's processor time serves.
func connections(t *target, pool *x509.CertPool, curve tls.CurveID, seconds int) (float64, error) {
	var host string
	if _, err := fmt.Sscanf(t.url, "http://%s", &host); err != nil {
		return 0, err
	}
	host = host[:len(host)-1]
	config := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{curve}}
	before, end := cpu(t.pids()), time.Now().Add(time.Duration(seconds)*time.Second)
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := oneConnection(host, config); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, fmt.Errorf("%s: %w", t.name, *err)
	}
	used := cpu(t.pids()) - before
	return float64(done.Load()) / used.Seconds(), nil
}

func oneConnection(host string, config *tls.Config) error {
	c, err := tls.Dial("tcp", host, config)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", r.StatusCode)
	}
	return nil
}
