package api

import "time"

// Bounds of requests where the policy writes none.
const (
	DefaultMaxHeaderBytes   = 16 << 10
	DefaultMaxBodyBytes     = 1 << 20
	DefaultMaxPathBytes     = 2048
	DefaultMaxConnections   = 1024
	DefaultMaxHeaders       = 100
	DefaultMaxStreams       = 32
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultHeaderTimeout    = 10 * time.Second
	DefaultBodyTimeout      = 30 * time.Second
	DefaultWriteTimeout     = 60 * time.Second
	DefaultIdleTimeout      = 60 * time.Second
)

// WithDefaults returns f with every zero bound replaced by its default. A nil f
// gives the defaults, which refuse encoded slashes; f itself says otherwise only
// where the policy does.
func (f *RequestFilter) WithDefaults() RequestFilter {
	r := RequestFilter{RejectEncodedSlash: true}
	if f != nil {
		r = *f
	}
	orElse(&r.MaxHeaderBytes, DefaultMaxHeaderBytes)
	orElse(&r.MaxBodyBytes, DefaultMaxBodyBytes)
	orElse(&r.MaxPathBytes, DefaultMaxPathBytes)
	orElse(&r.MaxConnections, DefaultMaxConnections)
	orElse(&r.MaxHeaders, DefaultMaxHeaders)
	orElse(&r.MaxStreams, DefaultMaxStreams)
	orElse(&r.HandshakeTimeout, DefaultHandshakeTimeout)
	orElse(&r.HeaderTimeout, DefaultHeaderTimeout)
	orElse(&r.BodyTimeout, DefaultBodyTimeout)
	orElse(&r.WriteTimeout, DefaultWriteTimeout)
	orElse(&r.IdleTimeout, DefaultIdleTimeout)
	return r
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}
