package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A list of users of one scheme has an image with the module of that one; a line of
// another brings an image that has both; nobody who was let in is locked out, and an
// unknown user gets the answer of a wrong password throughout.
func TestPasswordSchemes(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.site(port)
	list := filepath.Join(dir, "users.txt")
	line := func(user, scheme string) string {
		t.Helper()
		cmd := u.command("passwd", user, "--scheme", scheme)
		cmd.Stdin = strings.NewReader("lovelace\n")
		b, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	policy, err := os.ReadFile(filepath.Join(dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "policy.yaml"), uncomment(string(policy)))
	lines := line("ada", "bcrypt")
	write(t, list, lines)
	x, s := u.up(dir)
	addr, users, images := "127.0.0.1:"+port, []string{"ada"}, []string{s.ImageDigest}
	check := func(schemes ...string) {
		t.Helper()
		for _, name := range users {
			if a := get(t, addr, "/", name+":lovelace"); a.status != 200 {
				t.Errorf("%s: %d", name, a.status)
			}
			if a := get(t, addr, "/", name+":byron"); a.status != 401 {
				t.Errorf("%s with another password: %d", name, a.status)
			}
		}
		if a := get(t, addr, "/", "nobody:lovelace"); a.status != 401 {
			t.Errorf("an unknown user: %d", a.status)
		}
		plan := u.run("plan", "-f", dir)
		for _, scheme := range []string{"argon2id", "bcrypt", "pbkdf2"} {
			if got := strings.Contains(plan, "\n    pep/authn/basic/"+scheme+" "); got != slices.Contains(schemes, scheme) {
				t.Errorf("the image has %s: %v\n%s", scheme, got, plan)
			}
		}
	}
	check("bcrypt")
	lines += line("bob", "pbkdf2") + line("eve", "argon2id")
	users = append(users, "bob", "eve")
	write(t, list, lines)
	e := x.wait("applied")
	if images = append(images, e.Status.ImageDigest); e.Change != "image" || images[0] == images[1] {
		t.Errorf("after lines of other schemes: %s, images %v", e.Change, images)
	}
	check("argon2id", "bcrypt", "pbkdf2")
	t.Logf("another image in %.0f ms", e.TookMillis)
}

// Files are served compressed where the workload asks for it, and what the client gets
// is what is in the folder.
func TestFilesAreServedCompressed(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.site(port)
	edit(t, filepath.Join(dir, "workload.yaml"), "static: {dir: ./public}", "static: {dir: ./public, compression: Required}")
	page := strings.Repeat("<p>the same words again and again</p>\n", 200)
	write(t, filepath.Join(dir, "public", "long.html"), page)
	u.up(dir)
	c := &client{addr: "127.0.0.1:" + port}
	defer c.close()
	ask := func(header string) answer {
		t.Helper()
		a, err := c.say("GET", fmt.Sprintf("GET /long.html HTTP/1.1\r\nHost: %s\r\n%s\r\n", c.addr, header))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	plain, small := ask(""), ask("Accept-Encoding: br;q=1.0, gzip;q=0.8\r\n")
	if plain.status != 200 || plain.body != page || plain.header.Get("Content-Encoding") != "" || plain.header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("plain: %d, %v", plain.status, plain.header)
	}
	r, err := gzip.NewReader(bytes.NewReader([]byte(small.body)))
	if err != nil {
		t.Fatalf("%v: %v", err, small.header)
	}
	back, err := io.ReadAll(r)
	if err != nil || string(back) != page || len(small.body) > len(page)/10 || small.header.Get("Content-Length") != fmt.Sprint(len(small.body)) || small.header.Get("Etag") == plain.header.Get("Etag") {
		t.Errorf("compressed: %v, %d bytes, %v", err, len(small.body), small.header)
	}
	if a := ask("Accept-Encoding: gzip\r\nIf-None-Match: " + small.header.Get("Etag") + "\r\n"); a.status != 304 {
		t.Errorf("what the client has: %d", a.status)
	}
	if a := ask("Accept-Encoding: gzip\r\nRange: bytes=0-9\r\n"); a.status != 206 || a.body != small.body[:10] {
		t.Errorf("a range: %d %q", a.status, a.body)
	}
}
