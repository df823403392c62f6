package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"
)

// maxHead bounds the head of a response, interim ones included.
const maxHead = 64 << 10

var (
	errBusy = errors.New("no connection to the upstream became free in time")
	errLate = errors.New("the upstream could not be connected to in time")
)

// An upstream is the service behind the proxy, with a bound on the requests that
// are on their way to it. Everything it waits for is bounded in time.
type upstream struct {
	config    Config
	dial      Dialer
	tls       *tls.Config // nil: plain
	transport *http.Transport
	slots     chan struct{}
}

func newUpstream(c Config, dial Dialer) (*upstream, error) {
	if c.Host == "" || c.Port == 0 || c.MaxConnections <= 0 || c.ConnectTimeout <= 0 || c.ResponseTimeout <= 0 || c.IdleTimeout <= 0 {
		return nil, errors.New("proxy: the configuration is not complete")
	}
	u := &upstream{config: c, dial: dial, slots: make(chan struct{}, c.MaxConnections)}
	u.transport = &http.Transport{
		// Proxy is nil: the environment says nothing here.
		DialContext:            u.connect,
		DisableCompression:     true, // bodies pass as they are
		MaxConnsPerHost:        c.MaxConnections,
		MaxIdleConns:           c.MaxConnections,
		MaxIdleConnsPerHost:    c.MaxConnections,
		IdleConnTimeout:        c.IdleTimeout,
		ResponseHeaderTimeout:  c.ResponseTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHead,
		Protocols:              new(http.Protocols),
	}
	u.transport.Protocols.SetHTTP1(true)
	if !c.TLS {
		return u, nil
	}
	roots := x509.NewCertPool() // never the host's: there are none here
	if !roots.AppendCertsFromPEM([]byte(c.Trust)) {
		return nil, errors.New("proxy: there is no certificate to verify the upstream with")
	}
	u.tls = &tls.Config{RootCAs: roots, ServerName: c.ServerName, MinVersion: tls.VersionTLS12}
	u.transport.DialTLSContext = u.connect
	return u, nil
}

// connect makes a connection within the time for it, handshake included.
func (u *upstream) connect(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, u.config.ConnectTimeout, errLate)
	defer cancel()
	c, err := u.dial(ctx, u.config.Host, u.config.Port)
	if err == nil {
		c = &progressing{c, u.config.ResponseTimeout}
	}
	if err == nil && u.tls != nil {
		secured := tls.Client(c, u.tls)
		if err = secured.HandshakeContext(ctx); err != nil {
			c.Close()
			err = fmt.Errorf("TLS: %w", err)
		}
		c = secured
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errLate) {
			err = errLate
		}
		return nil, err
	}
	return c, nil
}

// RoundTrip implements http.RoundTripper.
func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	release, err := u.acquire(r.Context())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(untraced{r.Context()})
	done := func() {
		cancel()
		release()
	}
	r = r.WithContext(ctx)
	// Services that wrongly send a body after HEAD are not rare, and net/http can take
	// what is left on a kept connection for the next answer.
	r.Close = r.Method == http.MethodHead
	res, err := u.transport.RoundTrip(r)
	if err == nil {
		if err = refuse(r, res); err != nil {
			res.Body.Close()
		}
	}
	if err != nil {
		done()
		return nil, err
	}
	// A copy: the transport adds the trailers to the original.
	out := *res
	out.Trailer = nil
	for name := range out.Header {
		if ours(name) {
			delete(out.Header, name)
		}
	}
	if both, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		tunnel := &tunnelBody{ReadWriteCloser: both, closing: closing{done: done}}
		// ReverseProxy leaves it open where it finds that the upgrade came to nothing.
		context.AfterFunc(r.Context(), func() { tunnel.Close() })
		out.Body = tunnel
		return &out, nil
	}
	out.Body = &responseBody{ReadCloser: res.Body, late: time.AfterFunc(u.config.ResponseTimeout, cancel),
		patience: u.config.ResponseTimeout, closing: closing{done: done}}
	return &out, nil
}

// acquire waits until one more request may be on its way.
func (u *upstream) acquire(ctx context.Context) (release func(), err error) {
	select {
	case u.slots <- struct{}{}:
		return func() { <-u.slots }, nil
	default:
	}
	late := time.NewTimer(u.config.ConnectTimeout)
	defer late.Stop()
	select {
	case u.slots <- struct{}{}:
		return func() { <-u.slots }, nil
	case <-late.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refuse returns what is wrong with a response that cannot be passed on.
func refuse(r *http.Request, res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		want := r.Header.Get("Upgrade")
		_, open := res.Body.(io.ReadWriteCloser) // only where Connection says Upgrade, too
		if !open || want == "" || !strings.EqualFold(res.Header.Get("Upgrade"), want) {
			return errors.New("the upstream changed to a protocol that nobody asked for")
		}
	case res.StatusCode < 200 || res.StatusCode > 599:
		return fmt.Errorf("the upstream answered with status %d", res.StatusCode)
	}
	return nil
}

// untraced hides the trace with which ReverseProxy would forward interim
// responses.
type untraced struct{ context.Context }

func (c untraced) Value(key any) any {
	v := c.Context.Value(key)
	if _, trace := v.(*httptrace.ClientTrace); trace {
		return nil
	}
	return v
}

// A progressing connection fails where nothing of what is written is taken for a
// while. Reads are bounded where it is known what they wait for.
type progressing struct {
	net.Conn
	patience time.Duration
}

func (c *progressing) Write(p []byte) (int, error) {
	c.Conn.SetWriteDeadline(time.Now().Add(c.patience))
	return c.Conn.Write(p)
}

// closing lets go of a request's place once.
type closing struct {
	once sync.Once
	done func()
}

// A responseBody ends when its next part does not come in time.
type responseBody struct {
	io.ReadCloser
	late     *time.Timer
	patience time.Duration
	closing
}

func (b *responseBody) Read(p []byte) (int, error) {
	b.late.Reset(b.patience)
	n, err := b.ReadCloser.Read(p)
	b.late.Stop() // the client may take its time
	return n, err
}

func (b *responseBody) Close() error {
	b.late.Stop()
	err := b.ReadCloser.Close()
	b.once.Do(b.done)
	return err
}

// A tunnelBody is the upstream's side of a connection that changed its protocol.
type tunnelBody struct {
	io.ReadWriteCloser
	closing
}

func (b *tunnelBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.once.Do(b.done)
	return err
}
