package filter

import (
	"net/http"
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
