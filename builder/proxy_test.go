package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a proxy is told is part of its image, and decides its plan: the certificates
// above all.
func TestAProxyIsItsConfiguration(t *testing.T) {
	ca, err := os.ReadFile("testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	read := func(trust string, port uint16) (string, error) {
		dir := tree(t, map[string]string{"ca.pem": trust})
		w := frontIn(dir)
		w.App.Proxy.Port = port
		app, err := readProxy(dir, w.App.Proxy)
		if err != nil {
			return "", err
		}
		return app.proxy, nil
	}
	first, err := read(string(ca), 443)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := read("a comment\n"+string(ca), 443); err != nil || same != first {
		t.Errorf("a comment decides: %s, %v", same, err)
	}
	if other, err := read(string(ca), 444); err != nil || other == first {
		t.Errorf("the port does not decide: %v", err)
	}
	if other, err := read(string(ca)+string(ca), 443); err != nil || other == first {
		t.Errorf("the certificates do not decide: %v", err)
	}
	key := "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	for _, trust := range []string{"", "garbage", key, string(ca) + key, strings.Repeat("x", maxTrust+1)} {
		var source *SourceError
		if _, err := read(trust, 443); !errors.As(err, &source) || source.Pos.Line != 7 {
			t.Errorf("%.20q: %v", trust, err)
		}
	}
	w := frontIn(t.TempDir())
	if _, err := readProxy(filepath.Dir(w.Dir), w.App.Proxy); err == nil {
		t.Error("a file that is not there")
	}
}
