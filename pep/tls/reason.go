package tls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

const (
	reasonNoCertificate = "the client shows no certificate"
	reasonUnverified    = "the client certificate cannot be verified"
)

// reason says in our own words why a handshake failed. Some errors of crypto/tls
// have no type; what is not recognised is just a failure.
func reason(ctx context.Context, err error) string {
	var record tls.RecordHeaderError
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	var op *net.OpError
	text := err.Error()
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return "the handshake took too long"
	case errors.As(err, &cert):
		return verification(cert.Err)
	case errors.Is(err, errAmbiguous):
		return "the client certificate has a malformed SPIFFE ID, or other URIs beside it"
	case errors.As(err, &record):
		return "the client does not speak TLS"
	case has("didn't provide a certificate"):
		return reasonNoCertificate
	case has("unsupported versions") || has("inappropriate protocol fallback"):
		return "the client offers no version of TLS that the policy allows"
	case has("unsupported application protocols"):
		return "the client offers no protocol that is served"
	case has("no cipher suite supported") || has("no mutually supported") || has("handshake_failure"):
		return "client and server have no algorithms in common"
	case has("invalid signature by the client"):
		return "the client does not hold the key of its certificate"
	case errors.As(err, &alert) || errors.As(err, &op) && op.Op == "remote error":
		return "the client refused the handshake"
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return "the client went away during the handshake"
	}
	return "the handshake is malformed"
}

// verification says why a chain is not good.
func verification(err error) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return "the client certificate is not from an authority of the trust bundle"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the client certificate, or one it depends on, is expired or not valid yet"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "the client certificate is not for clients"
	}
	return reasonUnverified
}
