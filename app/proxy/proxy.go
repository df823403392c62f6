// Package proxy is the workload kind that stands in front of an HTTP/1.1 service:
// it forwards what the guards let through, and nothing else.
//
// The path goes out as it was judged, the query as it came. Who the client is says
// the image alone: what clients claim in Forwarded, X-Forwarded-* and their like is
// dropped and written anew; Lorica-Principal and Lorica-Groups pass on. Bodies are
// streamed both ways; trailers and interim responses, which nothing judges, are not
// forwarded. A response that the service cuts short is cut short for the client.
//
// A request is sent again only where net/http can tell that it never arrived, or
// where its method may be repeated and a kept connection was closed under it.
package proxy

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/route"
)

// A Config is one upstream service. The builder checks it.
type Config struct {
	TLS             bool
	Host            string // a name or an IP address, without brackets
	Port            uint16
	Trust           string        // PEM certificates that the service is verified with; TLS only
	ServerName      string        // that it is verified for; TLS only
	ConnectTimeout  time.Duration // to a connection, TLS included; and for one to become free
	ResponseTimeout time.Duration // without progress: to the head of a response, and between its parts
	IdleTimeout     time.Duration // of kept connections
	MaxConnections  int           // at once
}

// A Dialer connects to a TCP port. Its error may be an egress.Refused.
type Dialer func(ctx context.Context, host string, port uint16) (net.Conn, error)

// New returns the application's constructor.
func New(c Config, dial Dialer) func() (http.Handler, error) {
	return func() (http.Handler, error) {
		u, err := newUpstream(c, dial)
		if err != nil {
			return nil, err
		}
		h := &handler{authority: c.authority(), scheme: "http", log: log.New(os.Stderr, "proxy: ", 0)}
		if c.TLS {
			h.scheme = "https"
		}
		h.reverse = &httputil.ReverseProxy{
			Rewrite: h.rewrite, Transport: u, ErrorHandler: h.fail, ErrorLog: h.log,
			BufferPool: &buffers{sync.Pool{New: func() any { return new([bufferSize]byte) }}},
		}
		return h, nil
	}
}

// authority is the upstream as its URL and its Host header name it.
func (c *Config) authority() string {
	host := c.Host
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	if c.TLS && c.Port == 443 || !c.TLS && c.Port == 80 {
		return host
	}
	return host + ":" + strconv.Itoa(int(c.Port))
}

type handler struct {
	scheme, authority string
	reverse           *httputil.ReverseProxy
	log               *log.Logger
}

type bodyKey struct{}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := &requestBody{ReadCloser: r.Body}
	ctx := context.WithValue(r.Context(), bodyKey{}, body)
	// ReverseProxy would complete a response that was cut short, unless it finds
	// that there is a server.
	r = r.WithContext(context.WithValue(ctx, http.ServerContextKey, h))
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = body
	}
	h.reverse.ServeHTTP(w, r)
}

// rewrite makes the request of the upstream. Hop-by-hop headers are gone already.
func (h *handler) rewrite(p *httputil.ProxyRequest) {
	in, out := p.In, p.Out
	out.URL.Scheme, out.URL.Host, out.Host = h.scheme, h.authority, h.authority
	out.URL.RawQuery = in.URL.RawQuery // as it was judged, not cleaned
	out.Trailer = nil
	out.Header.Del("Te")
	for name := range out.Header {
		if claims(name) {
			delete(out.Header, name)
		}
	}
	// A client cannot remove what the image says by naming it in Connection.
	for name, values := range in.Header {
		if ours(name) {
			out.Header[name] = values
		}
	}
	// net/http takes these for leave to repeat a POST. The service reads them in any
	// case of letters.
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := out.Header[name]; ok {
			delete(out.Header, name)
			out.Header[strings.ToLower(name)] = values
		}
	}
	client, proto := "unknown", "http"
	if a, err := netip.ParseAddrPort(in.RemoteAddr); err == nil {
		client = a.Addr().Unmap().WithZone("").String()
	}
	if in.TLS != nil {
		proto = "https"
	}
	out.Header.Set("X-Forwarded-For", client)
	out.Header.Set("X-Forwarded-Host", in.Host)
	out.Header.Set("X-Forwarded-Proto", proto)
	out.Header.Set("Forwarded", forwarded(client, in.Host, proto))
	out.Header.Set("Via", "1.1 lorica")
}

// forwarded is one element of RFC 7239.
func forwarded(client, host, proto string) string {
	if strings.Contains(client, ":") {
		client = `"[` + client + `]"`
	}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	return "for=" + client + `;host="` + quote.Replace(host) + `";proto=` + proto
}

// claims reports headers in which somebody says who the client is or what it asked
// for, and Proxy, which CGI programs take for a setting of theirs.
func claims(name string) bool {
	name = route.PlainName(name)
	switch name {
	case "forwarded", "via", "proxy", "x-host", "remote-user", "x-remote-user", "client-ip", "x-client-ip", "x-real-ip", "x-remote-ip", "x-remote-addr",
		"x-originating-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip":
		return true
	}
	return strings.HasPrefix(name, "x-forwarded") || strings.HasPrefix(name, "x-original-")
}

// ours reports headers that the image alone may write.
func ours(name string) bool { return strings.HasPrefix(route.PlainName(name), "lorica-") }

// fail answers where the upstream did not. The client learns no more than a
// status, a word and the decision's name; the reason goes to the log.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	body, _ := r.Context().Value(bodyKey{}).(*requestBody)
	status := http.StatusBadGateway
	var refused egress.Refused
	var timeout interface{ Timeout() bool }
	switch {
	case body != nil && body.failed() != nil:
		status = body.status()
	case r.Context().Err() != nil: // the client is gone
		panic(http.ErrAbortHandler)
	case errors.Is(err, errBusy):
		status = http.StatusServiceUnavailable
	case errors.As(err, &refused):
		switch refused.Code {
		case egress.Busy:
			status = http.StatusServiceUnavailable
		case egress.Late:
			status = http.StatusGatewayTimeout
		}
	case errors.Is(err, errLate) || errors.As(err, &timeout) && timeout.Timeout():
		status = http.StatusGatewayTimeout
	}
	if status >= 500 {
		h.log.Printf("%d: %v", status, err)
	}
	head := w.Header()
	if status == http.StatusServiceUnavailable {
		head.Set("Retry-After", "1")
	}
	head.Set("Content-Type", "text/plain; charset=utf-8")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	io.WriteString(w, "error\n"+head.Get("Lorica-Decision")+"\n") // the image has written it by now
}

// A requestBody remembers why it could not be read: that is the client's fault,
// not the upstream's.
type requestBody struct {
	io.ReadCloser
	mu  sync.Mutex
	err error
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && err != http.ErrBodyReadAfterClose {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

func (b *requestBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *requestBody) status() int {
	var tooLarge *http.MaxBytesError
	switch err := b.failed(); {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

const bufferSize = 32 << 10

// buffers are what responses are copied through.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte { return b.pool.Get().(*[bufferSize]byte)[:] }

func (b *buffers) Put(p []byte) {
	if len(p) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(p))
	}
}
