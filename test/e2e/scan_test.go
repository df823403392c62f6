package e2e

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
)

// tool returns the path of an external tool, or "" after saying that it is not
// there.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		notrun.Say(t, name, "it is not installed: apt-get install "+pkg)
		return ""
	}
	return path
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

var (
	protocolLine = regexp.MustCompile(`(?m)^((?:SSL|TLS)v[0-9.]+) +(enabled|disabled)$`)
	cipherLine   = regexp.MustCompile(`(?m)^(?:Preferred|Accepted) +(\S+)`)
)

// A scanner that tries what clients may not use finds TLS 1.3 and nothing below.
func TestScannerFindsNothingBelowTLS13(t *testing.T) {
	sslscan := tool(t, "sslscan", "sslscan")
	if sslscan == "" {
		return
	}
	u := newUser(t)
	s := u.secured("SIMPLE")
	u.up(s.dir)
	out := output(t, sslscan, "--no-colour", s.addr)
	protocols := map[string]string{}
	for _, m := range protocolLine.FindAllStringSubmatch(out, -1) {
		protocols[m[1]] = m[2]
	}
	for _, p := range []string{"SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2"} {
		if protocols[p] != "disabled" {
			t.Errorf("%s is %q", p, protocols[p])
		}
	}
	if protocols["TLSv1.3"] != "enabled" {
		t.Errorf("TLSv1.3 is %q", protocols["TLSv1.3"])
	}
	ciphers := cipherLine.FindAllStringSubmatch(out, -1)
	if len(ciphers) == 0 {
		t.Error("no cipher is accepted")
	}
	for _, c := range ciphers {
		if c[1] != "TLSv1.3" {
			t.Errorf("accepted: %s", c[0])
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

var statusCodes = regexp.MustCompile(`status codes: (\d+) 2xx`)

// A load of HTTP/2 at full speed has no request that fails, with as many streams
// as the server allows and on many connections.
func TestLoadOfHTTP2(t *testing.T) {
	h2load := tool(t, "h2load", "nghttp2-client")
	if h2load == "" {
		return
	}
	u := newUser(t)
	s := u.secured("SIMPLE")
	// Many handshakes at once, in a microVM without KVM: it is not for this test to say how long.
	edit(t, s.dir+"/policy.yaml", "  secrets:\n", "  requestFilter: {handshakeTimeout: 2m, headerTimeout: 2m}\n  secrets:\n")
	u.up(s.dir)
	n, many := 10_000, "100"
	if target != "" {
		n, many = 1000, "25"
	}
	for _, load := range [][]string{{"-c", "1", "-m", "1"}, {"-c", "8", "-m", "32"}, {"-c", many, "-m", "10"}, {"-c", "8", "-m", "8", "-d", s.dir + "/policy.yaml", "-w", "16"}} {
		out := output(t, h2load, append(load, "-n", strconv.Itoa(n), "https://"+s.addr+"/")...)
		m := statusCodes.FindStringSubmatch(out)
		want := strconv.Itoa(n)
		if strings.Contains(strings.Join(load, " "), "-d") { // nobody may POST to files
			want = "0"
			if !strings.Contains(out, strconv.Itoa(n)+" 4xx") {
				t.Errorf("h2load %v:\n%s", load, out)
			}
		}
		if m == nil || m[1] != want || !strings.Contains(out, "Application protocol: h2") {
			t.Errorf("h2load %v:\n%s", load, out)
		}
		if t.Failed() {
			t.Log(u.run("logs", "site"))
		}
		t.Logf("h2load %v: %s", load, regexp.MustCompile(`finished in.*`).FindString(out))
	}
}

// A client of TLS 1.2 that asks for another handshake gets none.
func TestRenegotiationIsRefused(t *testing.T) {
	openssl := tool(t, "openssl", "openssl")
	if openssl == "" {
		return
	}
	u := newUser(t)
	s := u.secured("SIMPLE")
	edit(t, s.dir+"/policy.yaml", "mode: SIMPLE", `mode: SIMPLE, minVersion: "1.2"`)
	u.up(s.dir)
	cmd := exec.Command(openssl, "s_client", "-connect", s.addr, "-tls1_2")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer in.Close()
		time.Sleep(time.Second)
		in.Write([]byte("R\n"))
		time.Sleep(2 * time.Second)
	}()
	out, err := cmd.CombinedOutput()
	text := string(out)
	_, after, asked := strings.Cut(text, "RENEGOTIATING")
	if err == nil || !asked || !strings.Contains(text, "Protocol  : TLSv1.2") || !strings.Contains(after, "SSL alert number") {
		t.Errorf("%v\n%s", err, text)
	}
}
