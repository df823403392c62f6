package policy

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/api"
)

// Values of a proxy where the workload writes none.
const (
	defaultConnectTimeout  = 5 * time.Second
	defaultResponseTimeout = 30 * time.Second
	defaultUpstreamIdle    = 30 * time.Second
	defaultConnections     = 64
)

func (d *decoder) proxy(a *api.App) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const p = "spec.app.proxy."
		x := &api.ProxyApp{Pos: d.pos(n), ConnectTimeout: defaultConnectTimeout, ResponseTimeout: defaultResponseTimeout, IdleTimeout: defaultUpstreamIdle}
		connections := uint64(defaultConnections)
		d.object(n, "spec.app.proxy",
			field{name: "upstream", must: true, read: d.upstream(x)},
			field{name: "trust", read: d.path(&x.Trust, p+"trust")},
			field{name: "serverName", read: func(n *yaml.Node) {
				var s string
				if d.str(&s, p+"serverName")(n); n.Tag != "!!str" {
					return
				}
				if _, err := netip.ParseAddr(s); err != nil && !egress.ValidName(s) {
					d.fail(n, "write the name in the certificate, such as api.example.com", "%sserverName %q is neither a lower-case DNS name nor an IP address", p, clip(s))
					return
				}
				x.ServerName = s
			}},
			field{name: "connectTimeout", read: d.duration(&x.ConnectTimeout, p+"connectTimeout", 100*time.Millisecond, time.Minute)},
			field{name: "responseTimeout", read: d.duration(&x.ResponseTimeout, p+"responseTimeout", 100*time.Millisecond, time.Hour)},
			field{name: "idleTimeout", read: d.duration(&x.IdleTimeout, p+"idleTimeout", 100*time.Millisecond, time.Hour)},
			field{name: "maxConnections", read: d.number(&connections, p+"maxConnections", 1, egress.MaxOpen)})
		x.MaxConnections = uint32(connections)
		a.Proxy = x
		if x.Host == "" {
			return
		}
		switch {
		case x.TLS && x.Trust == "" && !d.bad["spec.app.proxy.trust"]:
			d.fail(n, "add trust: ./ca.pem, the certificates that the upstream is verified with", "%strust is missing: an image has no certificates of its own, and an https upstream is always verified", p)
		case !x.TLS && x.Trust != "":
			d.fail(value(n, "trust"), "write https://, or remove trust", "%strust is used by nothing: the upstream is not https", p)
		case !x.TLS && x.ServerName != "":
			d.fail(value(n, "serverName"), "write https://, or remove serverName", "%sserverName is used by nothing: the upstream is not https", p)
		}
		if x.TLS && x.ServerName == "" {
			x.ServerName = x.Host
		}
	}
}

func (d *decoder) upstream(x *api.ProxyApp) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const what = "spec.app.proxy.upstream"
		var s string
		if d.str(&s, what)(n); n.Tag != "!!str" {
			return
		}
		if fix, wrong := parseUpstream(x, s); wrong != "" {
			d.fail(n, fix, "%s %q %s", what, clip(s), wrong)
		}
	}
}

// parseUpstream reads scheme://host or scheme://host:port into x, or returns what
// is wrong and what to write.
func parseUpstream(x *api.ProxyApp, s string) (fix, wrong string) {
	const fine = "write a URL such as http://127.0.0.1:9000 or https://api.example.com"
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case !ok:
		return "write http://" + clip(s) + " or https://" + clip(s), "has no scheme"
	case scheme != "http" && scheme != "https":
		return "write http:// or https://", "has the scheme " + strconv.Quote(scheme)
	}
	u, err := url.Parse(s)
	if err != nil {
		return fine, "is not a URL: " + errors.Unwrap(err).Error()
	}
	bare := scheme + "://" + clip(u.Host)
	switch {
	case u.User != nil:
		return "write " + bare + "; the application at the upstream gets who is asking in Lorica-Principal", "holds a user or a password"
	case u.RawQuery != "" || u.ForceQuery:
		return "write " + bare, "has a query"
	case u.Fragment != "" || strings.Contains(rest, "#"):
		return "write " + bare, "has a fragment"
	case u.Path != "" || u.RawPath != "" || u.Opaque != "":
		return "write " + bare + ": requests keep the path that was judged", "has a path"
	case u.Hostname() == "":
		return fine, "has no host"
	}
	port := uint16(80)
	if scheme == "https" {
		port = 443
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 || p[0] == '0' {
			return "write a port from 1 to 65535, or none", "has no valid port"
		}
		port = uint16(n)
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		switch {
		case a.Is4In6():
			return "write " + a.Unmap().String(), "is IPv4 in disguise"
		case a.Zone() != "":
			return "write the address without its zone", "has a zone"
		case a.IsUnspecified() || a.IsMulticast():
			return "write 127.0.0.1 for this machine", "names nobody that can be connected to"
		}
		host = a.String()
	} else if !egress.ValidName(host) {
		return nameFix(host), "has a host that is neither an IP address nor a lower-case DNS name"
	}
	x.TLS, x.Host, x.Port = scheme == "https", host, port
	return "", ""
}

// maxTrust bounds a file of certificates, in bytes.
const maxTrust = 1 << 20

// checkTrust looks into the file that an upstream is verified with.
func (p *parsing) checkTrust(w *workload, x *api.ProxyApp) {
	if w.Dir == "" || x.Trust == "" {
		return
	}
	const what = "spec.app.proxy.trust"
	path := resolve(w.Dir, x.Trust)
	info, err := os.Stat(path) // before it is opened: a pipe would be waited for
	if err == nil && !info.Mode().IsRegular() {
		w.failAt(x.Pos, "name a file of PEM certificates", "%s: %s is not a regular file", what, x.Trust)
		return
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	if err != nil {
		w.failAt(x.Pos, "create it, or write the path relative to "+x.Pos.File, "%s: %s", what, fileProblem(x.Trust, err))
		return
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTrust+1))
	if err == nil {
		err = onlyCertificates(b)
	}
	if err != nil {
		w.failAt(x.Pos, "name a file of PEM certificates: the authorities that may vouch for the upstream", "%s: %s %s", what, x.Trust, err)
	}
}

// onlyCertificates reports what else than certificates is in a PEM file.
func onlyCertificates(b []byte) error {
	if len(b) > maxTrust {
		return fmt.Errorf("has more than %d bytes", maxTrust)
	}
	n := 0
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a block of type %q", clip(block.Type))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("holds a certificate that cannot be read (number %d): %w", n, err)
		}
	}
	if n == 0 || len(bytes.TrimSpace(b)) > 0 {
		return errors.New("holds something that is not PEM")
	}
	return nil
}
