package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lorica.dev/lorica/internal/notrun"
)

// somebody is a user id without a name, without rights, and not the one that
// images get where their tender is root.
const somebody = 64321

// All of it works for an ordinary user, in every example. Where the tests run as
// one, every other test shows it; as root, this one does. What is built is built
// beforehand, since the caches of root are root's.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		return
	}
	for _, of := range []struct{ example, target, network string }{
		{"accounts", "", ""}, {"payments", "", ""}, {"payments", "", "direct"}, {"site", "", ""}, {"accounts", "microvm", ""},
	} {
		example := of.example
		t.Run(strings.Join(strings.Fields(example+" "+of.target+" "+of.network), " "), func(t *testing.T) {
			u := newUser(t)
			if of.target != "" && !canHaveMachines(t, "a microVM of an ordinary user") {
				return
			}
			var onto []string
			if of.target != "" {
				onto = []string{"--target", of.target}
			}
			if of.network != "" {
				onto = append(onto, "--net", of.network)
			}
			port, upstream := freePort(t), freePort(t)
			dir := u.copied(example, "8443", port, "8444", port, "8445", port, ":9000", ":"+upstream, "port: 9000", "port: "+upstream)
			if example == "payments" {
				legacyAPI(t, "127.0.0.1:"+upstream)
			}
			u.run(append([]string{"build", "-f", dir}, onto...)...)
			give(t, filepath.Dir(binary), u.home)
			requests, err := os.ReadFile(filepath.Join(dir, "requests.yaml"))
			if err != nil {
				t.Fatal(err)
			}

			cmd := u.command(append([]string{"up", "-f", dir, "--try", filepath.Join(dir, "requests.yaml"), "--exit"}, onto...)...)
			cmd.Env = []string{"HOME=" + u.home, "PATH=" + os.Getenv("PATH")}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: somebody, Gid: somebody}}
			out, err := cmd.CombinedOutput()
			if err != nil {
				if strings.Contains(string(out), "go: ") && strings.Contains(string(out), "permission denied") {
					notrun.Say(t, "the command as an ordinary user", "another user cannot execute the Go toolchain here")
					return
				}
				t.Fatalf("%v\n%s", err, out)
			}
			want := strings.Count(string(requests), "{name: ")
			if n := strings.Count(string(out), " ok\n"); n != want || n == 0 {
				t.Errorf("%d of %d requests came out as expected:\n%s", n, want, out)
			}
		})
	}
}

// give lets others read the folder of the command, and makes a home somebody's.
func give(t *testing.T, readable, home string) {
	t.Helper()
	if err := os.Chmod(readable, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(home), 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(home, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, somebody, somebody)
	})
	if err != nil {
		t.Fatal(err)
	}
}
