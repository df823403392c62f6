package transport

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Bounds of the secrets.
const (
	MaxPEM   = 256 << 10 // bytes of one secret
	MaxChain = 16        // certificates that the server shows
	MaxTrust = 256       // certificates that clients are verified with
	minRSA   = 2048
	maxRSA   = 8192
)

// A PEMError says what is wrong in a secret, and where. It never quotes it.
type PEMError struct {
	Line    int // from 1; 0: the whole
	Message string
}

func (e *PEMError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}

func bad(line int, format string, args ...any) error {
	return &PEMError{line, fmt.Sprintf(format, args...)}
}

// Blocks of PEM.
const (
	typeCertificate  = "CERTIFICATE"
	typeParameters   = "EC PARAMETERS" // openssl writes them before a key
	typePKCS8        = "PRIVATE KEY"
	typeEC           = "EC PRIVATE KEY"
	typeRSA          = "RSA PRIVATE KEY"
	typeEncryptedKey = "ENCRYPTED PRIVATE KEY"
)

type block struct {
	*pem.Block
	line int
}

// blocks splits PEM. Text around blocks is explanatory (RFC 7468, section 5.2);
// a block that does not decode is an error, where pem.Decode would skip it.
func blocks(data []byte) ([]block, error) {
	if len(data) > MaxPEM {
		return nil, bad(0, "%d bytes; the limit is %d", len(data), MaxPEM)
	}
	begin, end := []byte("-----BEGIN"), []byte("-----END")
	var list []block
	line := 1
	for len(data) > 0 {
		if bytes.HasPrefix(data, end) {
			return nil, bad(line, "an END without its BEGIN")
		}
		if !bytes.HasPrefix(data, begin) {
			at := bytes.IndexByte(data, '\n')
			if at < 0 {
				break
			}
			data, line = data[at+1:], line+1
			continue
		}
		b, rest := pem.Decode(data)
		taken := data[:len(data)-len(rest)]
		if b == nil || bytes.Count(taken, begin) != 1 {
			return nil, bad(line, "the block is malformed: its base64 or its END line is not what PEM demands")
		}
		if b.Type == typeEncryptedKey || b.Headers["DEK-Info"] != "" {
			return nil, bad(line, "the key is encrypted; write it without a passphrase, in a file that only its owner can read")
		}
		list = append(list, block{b, line})
		data, line = rest, line+bytes.Count(taken, []byte("\n"))
	}
	return list, nil
}

func certificates(data []byte, limit int) ([]*x509.Certificate, []int, error) {
	list, err := blocks(data)
	if err != nil {
		return nil, nil, err
	}
	var certs []*x509.Certificate
	var lines []int
	for _, b := range list {
		switch {
		case b.Type != typeCertificate:
			return nil, nil, bad(b.line, "this is no certificate; keep nothing but certificates in this file")
		case len(certs) == limit:
			return nil, nil, bad(b.line, "more than %d certificates", limit)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, nil, bad(b.line, "the certificate is malformed")
		}
		certs, lines = append(certs, c), append(lines, b.line)
	}
	if len(certs) == 0 {
		return nil, nil, bad(1, "there is no certificate in PEM")
	}
	return certs, lines, nil
}

// ParseTrust reads the certificates that clients are verified with.
func ParseTrust(data []byte) ([]*x509.Certificate, error) {
	certs, _, err := certificates(data, MaxTrust)
	return certs, err
}

// ParseChain reads what the server shows: its certificate first, then what leads
// to an authority. It has no clock and does not ask whether they are valid now.
func ParseChain(data []byte) ([]*x509.Certificate, error) {
	return parseChain(data, x509.ExtKeyUsageServerAuth, "servers", "serverAuth")
}

// ParseClientChain reads in the same form what the image shows where it is the client.
func ParseClientChain(data []byte) ([]*x509.Certificate, error) {
	return parseChain(data, x509.ExtKeyUsageClientAuth, "clients", "clientAuth")
}

func parseChain(data []byte, usage x509.ExtKeyUsage, who, name string) ([]*x509.Certificate, error) {
	certs, lines, err := certificates(data, MaxChain)
	if err != nil {
		return nil, err
	}
	if why := weak(certs[0].PublicKey); why != "" {
		return nil, bad(lines[0], "%s", why)
	}
	if u := certs[0].ExtKeyUsage; len(u)+len(certs[0].UnknownExtKeyUsage) > 0 && !slices.Contains(u, usage) && !slices.Contains(u, x509.ExtKeyUsageAny) {
		return nil, bad(lines[0], "the certificate is not for %s: its extended key usage lacks %s", who, name)
	}
	for i, c := range certs[1:] {
		if certs[i].CheckSignatureFrom(c) != nil {
			return nil, bad(lines[i+1], "the certificate did not issue the one before it; write the server's first, then its issuer, and so on")
		}
	}
	return certs, nil
}

// ParseKey reads the one private key of a secret.
func ParseKey(data []byte) (crypto.Signer, error) {
	list, err := blocks(data)
	if err != nil {
		return nil, err
	}
	var key any
	var line int
	for _, b := range list {
		if b.Type == typeParameters {
			continue
		}
		if key != nil {
			return nil, bad(b.line, "there is a second block; keep one private key in this file")
		}
		switch line = b.line; b.Type {
		case typePKCS8:
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case typeEC:
			key, err = x509.ParseECPrivateKey(b.Bytes)
		case typeRSA:
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		default:
			return nil, bad(line, "this is no private key")
		}
		if err != nil {
			return nil, bad(line, "the private key is malformed")
		}
	}
	if key == nil {
		return nil, bad(1, "there is no private key in PEM")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, bad(line, "the key cannot sign; use ECDSA P-256, Ed25519 or RSA")
	}
	if why := weak(signer.Public()); why != "" {
		return nil, bad(line, "%s", why)
	}
	return signer, nil
}

// weak says why a public key must not secure connections; "" where it may.
func weak(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return fmt.Sprintf("the RSA key has %d bits; use %d to %d", n, minRSA, maxRSA)
		}
		return ""
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return ""
		}
	case ed25519.PublicKey:
		return ""
	}
	return "the kind of key is not supported; use ECDSA (P-256, P-384, P-521), Ed25519 or RSA"
}

// ErrMismatch reports a key that is not the certificate's.
var ErrMismatch = errors.New("the private key is not the certificate's")

// KeyPair reads the chain and its key as the server needs them.
func KeyPair(chain, key []byte) (tls.Certificate, error) { return pair(ParseChain, chain, key) }

// ClientPair reads them as a client needs them.
func ClientPair(chain, key []byte) (tls.Certificate, error) {
	return pair(ParseClientChain, chain, key)
}

func pair(parse func([]byte) ([]*x509.Certificate, error), chain, key []byte) (tls.Certificate, error) {
	certs, err := parse(chain)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
	}
	signer, err := ParseKey(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key: %w", err)
	}
	if !Matches(certs[0], signer) {
		return tls.Certificate{}, ErrMismatch
	}
	pair := tls.Certificate{PrivateKey: signer, Leaf: certs[0]}
	for _, c := range certs {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair, nil
}

// Matches reports whether key is the private key of c.
func Matches(c *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}
