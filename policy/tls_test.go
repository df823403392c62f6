package policy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/abi/transport/certtest"
	"lorica.dev/lorica/policy"
)

// securedFolder has the files that the cases name.
func securedFolder(t *testing.T) string {
	t.Helper()
	dir := folder(t)
	ca := certtest.New(t, "servers")
	pair, other := ca.Server(t, nil), ca.Server(t, nil)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak := ca.Issue(t, "weak", p224, func(*x509.Certificate) {})
	for name, b := range map[string][]byte{
		"server.pem": pair.Chain, "server.key": pair.Key, "other.key": other.Key, "clients.pem": certtest.New(t, "people").PEM,
		"cut.pem": pair.Chain[:len(pair.Chain)-20], "two.key": append(append([]byte(nil), pair.Key...), other.Key...),
		"weak.key": weak.Key, "weak.pem": weak.Chain, "clientonly.pem": ca.Client(t, "ada", nil).Chain, "empty.pem": []byte("\n# nothing yet\n"),
		"large.pem": make([]byte, transport.MaxPEM+1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	securedTLS     = "  tls: {mode: MUTUAL, certificate: secret/cert, key: secret/key, clientTrust: secret/people}\n  levels:"
	securedSecrets = "  secrets:\n    cert: {file: ./server.pem}\n    key: {file: ./server.key}\n    people: {file: ./clients.pem}\n"
)

// securedText is base with TLS; pairs replace text in it.
func securedText(pairs ...string) string {
	text := strings.NewReplacer("  levels:", securedTLS, "  secrets:\n", securedSecrets).Replace(base)
	return strings.NewReplacer(pairs...).Replace(text)
}

func TestTLSAsItIsMeant(t *testing.T) {
	dir := securedFolder(t)
	for name, pairs := range map[string][]string{
		"mutual":          nil,
		"optional":        {"mode: MUTUAL", "mode: OPTIONAL_MUTUAL"},
		"simple":          {"mode: MUTUAL", "mode: SIMPLE", ", clientTrust: secret/people", "", "    people: {file: ./clients.pem}\n", ""},
		"TLS 1.2":         {"mode: MUTUAL", `mode: MUTUAL, minVersion: "1.2"`},
		"without HTTP/2":  {"mode: MUTUAL", "mode: MUTUAL, http2: false"},
		"for the network": {"port: 8080}\n", "port: 8080, address: 0.0.0.0}\n"},
		"none":            {securedTLS, "  tls: {mode: NONE}\n  levels:", securedSecrets, "  secrets:\n"},
		"development":     {"certificate: secret/cert, key: secret/key, ", "", "    cert: {file: ./server.pem}\n    key: {file: ./server.key}\n", ""},
	} {
		b, err := parse(dir, securedText(pairs...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if x := b.Deployments[0].Policy.TLS; x == nil || x.HTTP2 != (name != "without HTTP/2") || (x.MinVersion == transport.TLS12) != (name == "TLS 1.2") {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

func TestLimitsOfTLSAreRead(t *testing.T) {
	b, err := parse(securedFolder(t), securedText("  secrets:\n", "  requestFilter: {maxStreams: 8, handshakeTimeout: 2s}\n  secrets:\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f := b.Deployments[0].Policy.RequestFilter.WithDefaults(); f.MaxStreams != 8 || f.HandshakeTimeout != 2*time.Second {
		t.Errorf("%+v", f)
	}
}

// What is wrong with TLS is held to testdata/tls.golden.
func TestMistakesOfTLS(t *testing.T) {
	dir := securedFolder(t)
	var got strings.Builder
	for _, m := range []struct {
		name  string
		pairs []string
	}{
		{"no mode", []string{"mode: MUTUAL, ", ""}},
		{"mode misspelt", []string{"mode: MUTUAL", "mode: MUTAL"}},
		{"version without quotes", []string{"mode: MUTUAL", "mode: MUTUAL, minVersion: 1.2"}},
		{"version of old", []string{"mode: MUTUAL", `mode: MUTUAL, minVersion: "1.1"`}},
		{"certificate by file", []string{"certificate: secret/cert", "certificate: ./server.pem"}},
		{"no key", []string{", key: secret/key", ""}},
		{"no certificate", []string{"certificate: secret/cert, ", ""}},
		{"no trust", []string{", clientTrust: secret/people", ""}},
		{"trust that nobody asks for", []string{"mode: MUTUAL", "mode: SIMPLE"}},
		{"certificates of nothing", []string{"mode: MUTUAL", "mode: NONE"}},
		{"secret misspelt", []string{"certificate: secret/cert", "certificate: secret/certs"}},
		{"secret missing", []string{"    key: {file: ./server.key}\n", ""}},
		{"secret unused", []string{"  secrets:\n", "  secrets:\n    spare: {file: ./server.key}\n"}},
		{"file missing", []string{"./server.pem", "./serve.pem"}},
		{"a folder", []string{"./server.pem", "./public"}},
		{"file too large", []string{"./server.pem", "./large.pem"}},
		{"certificate cut short", []string{"./server.pem", "./cut.pem"}},
		{"certificate empty", []string{"./server.pem", "./empty.pem"}},
		{"certificate for clients", []string{"./server.pem", "./clientonly.pem"}},
		{"key for certificate", []string{"./server.pem", "./server.key"}},
		{"another's key", []string{"./server.key", "./other.key"}},
		{"two keys", []string{"./server.key", "./two.key"}},
		{"weak key", []string{"./server.key", "./weak.key", "./server.pem", "./weak.pem"}},
		{"key in trust", []string{"./clients.pem", "./server.key"}},
		{"development certificate for the network", []string{"certificate: secret/cert, key: secret/key, ", "", "    cert: {file: ./server.pem}\n    key: {file: ./server.key}\n", "", "port: 8080}\n", "port: 8080, address: 0.0.0.0}\n"}},
		{"passwords in the clear", []string{securedTLS, "  tls: {mode: NONE}\n  levels:", securedSecrets, "  secrets:\n", "port: 8080}\n", "port: 8080, address: 0.0.0.0}\n"}},
	} {
		fmt.Fprintf(&got, "== %s\n", m.name)
		_, err := parse(dir, securedText(m.pairs...))
		var es policy.Errors
		if !errors.As(err, &es) || len(es) == 0 {
			t.Errorf("%s: accepted", m.name)
			continue
		}
		for _, e := range es {
			if e.Fix == "" || e.Pos.Line == 0 {
				t.Errorf("%s: %q lacks a place or a fix", m.name, e.Message)
			}
			if strings.Contains(e.Text, "-----") || strings.HasSuffix(e.Pos.File, ".pem") && e.Text != "" || strings.HasSuffix(e.Pos.File, ".key") && e.Text != "" {
				t.Errorf("%s: it shows a secret: %q", m.name, e.Text)
			}
			fmt.Fprintf(&got, "%s\n", strings.ReplaceAll(e.Error(), dir, "DIR"))
		}
		got.WriteByte('\n')
	}
	compareGolden(t, "testdata/tls.golden", got.String())
}
