package filter

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

func TestAHostIsANameOrAnAddress(t *testing.T) {
	for host, want := range map[string]bool{
		"h": true, "a.example": true, "a.example.:8443": true, "127.0.0.1:80": true, "my_host": true, "[::1]": true, "[2001:db8::1]:65535": true,
		"": false, ":80": false, "h:": false, "h:0": false, "h:65536": false, "h:80:80": false, "h:8o": false, "h:+80": false, "h,g": false, "a@h": false,
		"h/x": false, "h g": false, "h%2f": false, "h;g": false, "h\x00": false, "h\u00e9": false, "::1": false, "[::1": false, "[]": false,
		"[::1]x": false, "[::1]:": false, "[h]": false, "[127.0.0.1]": false, "[fe80::1%eth0]": false,
	} {
		if got := plainHost(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestHeadersThatFrameInDisguise(t *testing.T) {
	for name, want := range map[string]bool{"Transfer_Encoding": true, "TRANSFER_encoding": true, "Content_Length": true, "content_length": true, "Content.Length": true, "Transfer~Encoding": true,
		"Transfer-Encoding": false, "X_Transfer_Encoding": false, "Content_Type": false} {
		if got := survey(&http.Request{Header: http.Header{name: {"1"}}}).disguised; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A host that passes is one host to whoever reads it as part of a URL.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"h", "a.example.:8443", "[2001:db8::1]:65535", "h:0", "[::1%eth0]", "a@h", "h,g", "127.0.0.1:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !plainHost(host) {
			return
		}
		u, err := url.Parse("http://" + host + "/x")
		if err != nil || u.Host != host || u.Path != "/x" || u.User != nil || u.Hostname() == "" {
			t.Fatalf("%q is read as %+v (%v)", host, u, err)
		}
		if strings.HasPrefix(host, "[") {
			if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.Is6() || a.Zone() != "" {
				t.Fatalf("%q is the address %v (%v)", host, a, err)
			}
		}
		if port := u.Port(); port != "" {
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				t.Fatalf("%q has the port %q", host, port)
			}
		}
	})
}
