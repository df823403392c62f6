package try

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A file that is taken has requests that can be made and shown.
func FuzzFile(f *testing.F) {
	for _, name := range []string{"../../examples/accounts/requests.yaml", "../../examples/payments/requests.yaml"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("users: {ada: secret, bob: {token: {groups: [a], claims: {amr: [mfa], x: {1: y}}, for: -1m}}, eve: {certificate: {spiffe: s}}}\nrequests:\n- {send: HEAD /, as: bob, expect: 200}\n- {send: GET /, as: eve, expect: handshake}\n"))
	f.Add([]byte("requests: [{send: GET /a, expect: closed, from: 127.0.0.2, json: '{}'}]"))
	f.Add([]byte("requests: [{send: ' /a', expect: 200}]"))
	f.Add([]byte("users: {a: &x {password: p}, b: *x}\nrequests: [{send: GET /, as: c, expect: 200}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parse(b)
		if err != nil {
			if file != nil || err.Error() == "" {
				t.Fatalf("%+v and %v", file, err)
			}
			return
		}
		for _, r := range file.Requests {
			method, target, _ := strings.Cut(r.Send, " ")
			if method == "" || target == "" || target[0] != '/' || r.Expect == "" {
				t.Fatalf("%+v", r)
			}
			if head := text("127.0.0.1:1", r, ""); !strings.HasPrefix(head, r.Send+" HTTP/1.1\r\n") || !strings.HasSuffix(head, "\r\n\r\n"+r.JSON) {
				t.Fatalf("%+v is sent as %q", r, head)
			}
			line, ok := file.Curl(Reach{Base: "http://127.0.0.1:1", Command: "lorica", Documents: "."}, r)
			if ok != (line != "") || ok && !strings.Contains(line, "curl -i") {
				t.Fatalf("%+v is shown as %q", r, line)
			}
		}
	})
}

// What is quoted is one word to a shell, the same, whatever it holds.
func FuzzQuote(f *testing.F) {
	for _, s := range []string{"plain", "it's", "", "$(id)", "a\nb", "\\", "-n", "~", "\xff*", "'", "a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) || len(s) > 4096 { // nothing that a command line can hold
			return
		}
		out, err := exec.Command("/bin/sh", "-c", "printf '%s|' x "+quote(s)+" y").CombinedOutput()
		if err != nil || string(out) != "x|"+s+"|y|" {
			t.Fatalf("%q is written %s and read %q (%v)", s, quote(s), out, err)
		}
	})
}
