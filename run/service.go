package run

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/policy"
)

const (
	movedBytes = 20 << 20
	movedOver  = 256 // connections
)

//go:embed selftest
var selftestFiles embed.FS

// selftestProject lays out what is run, for a target and with a network.
func selftestProject(dir, target, network string) (*policy.Deployment, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := writeSelftest(dir, port); err != nil {
		return nil, err
	}
	bundle, err := policy.Load(dir)
	if err != nil {
		return nil, err
	}
	if err := bundle.Retarget(target, network); err != nil {
		return nil, err
	}
	return bundle.Deployments[0], nil
}

// serviceTest runs an image as any other and uses it over the network.
func (m *Machine) serviceTest(ctx context.Context, d *policy.Deployment, progress func(builder.Step), sink func(Check)) error {
	start := time.Now()
	applied, err := m.Apply(ctx, d, Options{Leased: true, Progress: progress})
	if err != nil {
		return err
	}
	defer applied.Lease.Close()
	defer m.Down(context.WithoutCancel(ctx), d.Name())
	s := applied.Instance.Status
	sink(Check{"service", true, took(start), fmt.Sprintf("ready %.0f ms after its launch, tier %s", s.BootMillis, s.Tier)})
	at := net.JoinHostPort("127.0.0.1", fmt.Sprint(d.Workload.Listen[0].Port))
	x := &service{base: "http://" + at, address: at, client: &http.Client{Timeout: 2 * time.Minute}, instance: applied.Instance}
	for _, c := range []struct {
		name string
		run  func(context.Context) (string, error)
	}{
		{"connections", x.connections}, {"upload", x.upload}, {"download", x.download},
		{"panic", func(ctx context.Context) (string, error) { return x.survives(ctx, "/panic") }},
		{"wild-access", func(ctx context.Context) (string, error) { return x.survives(ctx, "/wild") }},
		{"restart", x.restart},
	} {
		start := time.Now()
		detail, err := c.run(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			detail = err.Error()
		}
		sink(Check{c.name, err == nil, took(start), detail})
	}
	return nil
}

func took(start time.Time) string { return time.Since(start).Round(10 * time.Microsecond).String() }

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// writeSelftest lays out the project of the service.
func writeSelftest(dir string, port int) error {
	for from, to := range map[string]string{"policy.yaml": "policy.yaml", "workload.yaml": "workload.yaml", "app/app.go": "app/app.go", "go.mod.txt": "app/go.mod"} {
		b, err := selftestFiles.ReadFile("selftest/" + from)
		if err != nil {
			return err
		}
		b = bytes.ReplaceAll(b, []byte("PORT"), []byte(strconv.Itoa(port)))
		at := filepath.Join(dir, filepath.FromSlash(to))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(at, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// A service is the image as its clients see it.
type service struct {
	base, address string
	client        *http.Client
	instance      *Instance
}

func (x *service) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", x.base+path, nil)
	if err != nil {
		return "", err
	}
	r, err := x.client.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", r.StatusCode)
	}
	return string(b), err
}

// connections holds all of them open at once, and asks twice over each.
func (x *service) connections(ctx context.Context) (string, error) {
	conns := make([]net.Conn, movedOver)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	var d net.Dialer
	for i := range conns {
		c, err := d.DialContext(ctx, "tcp", x.address)
		if err != nil {
			return "", fmt.Errorf("connection %d: %w", i, err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		conns[i] = c
	}
	var wg sync.WaitGroup
	errs := make([]error, len(conns))
	for round := range 2 {
		for i, c := range conns {
			wg.Go(func() {
				if err := ask(c); err != nil && errs[i] == nil {
					errs[i] = fmt.Errorf("connection %d, request %d: %w", i, round, err)
				}
			})
		}
		wg.Wait()
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) > 0 {
		return "", fmt.Errorf("%d of %d fail, such as %w", len(errs), len(conns), errs[0])
	}
	return fmt.Sprintf("%d at once, 2 requests over each", len(conns)), nil
}

func ask(c net.Conn) error {
	if _, err := io.WriteString(c, "GET /version HTTP/1.1\r\nHost: selftest\r\n\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || !strings.HasPrefix(string(b), "go") {
		return fmt.Errorf("status %d, %.20q, %v", r.StatusCode, b, err)
	}
	return nil
}

func (x *service) upload(ctx context.Context) (string, error) {
	b := make([]byte, movedBytes)
	rand.Read(b)
	req, err := http.NewRequestWithContext(ctx, "POST", x.base+"/sum", bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	r, err := x.client.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if want := fmt.Sprintf("%x", sha256.Sum256(b)); err != nil || string(got) != want {
		return "", fmt.Errorf("status %d, hash %.64q of %s, %v", r.StatusCode, got, want, err)
	}
	return fmt.Sprintf("%d bytes, SHA-256 %.16s...", len(b), got), nil
}

func (x *service) download(ctx context.Context) (string, error) {
	got, err := x.get(ctx, "/bytes/"+strconv.Itoa(movedBytes))
	if err != nil {
		return "", err
	}
	want := make([]byte, movedBytes)
	for i := range want {
		want[i] = byte(i % (64 << 10) * 7)
	}
	sum := sha256.Sum256([]byte(got))
	if sum != sha256.Sum256(want) {
		return "", fmt.Errorf("%d bytes, SHA-256 %x", len(got), sum)
	}
	return fmt.Sprintf("%d bytes, SHA-256 %.8x...", len(got), sum), nil
}

// survives asks for a path whose handler panics: the client is told so, or nothing,
// and the next request is served by the same life of the image.
func (x *service) survives(ctx context.Context, path string) (string, error) {
	if body, err := x.get(ctx, path); err == nil {
		return "", fmt.Errorf("it was answered: %.40q", body)
	}
	if _, err := x.get(ctx, "/version"); err != nil {
		return "", fmt.Errorf("afterwards: %w", err)
	}
	s, err := x.instance.Client.Status(ctx)
	if err == nil && s.Restarts > 0 {
		err = fmt.Errorf("the image was restarted: %s", s.LastError)
	}
	return "the next request is served", err
}

// restart has the application end the image, which is started again.
func (x *service) restart(ctx context.Context) (string, error) {
	// Once: a client of net/http repeats what was not answered.
	c, err := net.Dial("tcp", x.address)
	if err != nil {
		return "", err
	}
	io.WriteString(c, "GET /exit HTTP/1.1\r\nHost: selftest\r\n\r\n")
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	io.Copy(io.Discard, c)
	c.Close()
	for late := time.Now().Add(30 * time.Second); ; {
		version, err := x.get(ctx, "/version")
		if err == nil {
			s, err := x.instance.Client.Status(ctx)
			if err == nil && s.Restarts != 1 {
				err = fmt.Errorf("%d restarts", s.Restarts)
			}
			return version + ", again; before: " + s.LastError, err
		}
		if time.Now().After(late) {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
