package builder

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"lorica.dev/lorica/api"
)

// maxTrust bounds a file of certificates, in bytes.
const maxTrust = 1 << 20

// readProxy turns a proxy into a literal of the configuration that is compiled
// into its image, the certificates that it verifies its upstream with included.
func readProxy(base string, app *api.ProxyApp) (*application, error) {
	trust, err := readTrust(base, app)
	if err != nil {
		return nil, &SourceError{Pos: app.Pos, Message: fmt.Sprintf("app.proxy trust %s: %s", app.Trust, err)}
	}
	text := fmt.Sprintf("proxy.Config{\n\tHost: %q, Port: %d,\n", app.Host, app.Port)
	if app.TLS {
		text += fmt.Sprintf("\tTLS: true, ServerName: %q,\n\tTrust: %q,\n", app.ServerName, trust)
	}
	text += fmt.Sprintf("\tConnectTimeout: %s, ResponseTimeout: %s, IdleTimeout: %s,\n\tMaxConnections: %d,\n}",
		span(app.ConnectTimeout), span(app.ResponseTimeout), span(app.IdleTimeout), app.MaxConnections)
	return &application{pos: app.Pos, proxy: text}, nil
}

func readTrust(base string, app *api.ProxyApp) (string, error) {
	if !app.TLS {
		return "", nil
	}
	f, err := os.Open(resolve(base, app.Trust))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTrust+1))
	switch {
	case err != nil:
		return "", err
	case len(b) > maxTrust:
		return "", fmt.Errorf("it has more than %d bytes", maxTrust)
	}
	return certificates(b)
}

// certificates returns the certificates of a file and nothing else: they alone
// become part of an image, never a key that lies with them.
func certificates(b []byte) (string, error) {
	var certs []byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			return "", errors.New("it holds something else than certificates")
		}
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(certs) == 0 {
		return "", errors.New("it holds no certificate")
	}
	return string(certs), nil
}

// span writes a duration as Go source.
func span(d time.Duration) string { return fmt.Sprintf("%d * time.Millisecond", d.Milliseconds()) }
