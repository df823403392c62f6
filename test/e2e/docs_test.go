package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/transport/certtest"
)

// A shown is a block of docs/policy.md that says what commands answer:
//
//	<!-- run: examples/payments; count: 20 => count: 3 -->
//	```console
//	$ command
//	what it prints
//	```
//
// Behind the example come changes of its files.
var shown = regexp.MustCompile("(?s)<!-- run: examples/([a-z]+)(.*?) -->\n```console\n(.*?)```")

// Whoever types what docs/policy.md shows gets what docs/policy.md shows.
func TestTheLinesOfTheDocs(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("curl is missing: scripts/test installs it")
	}
	blocks := shown.FindAllStringSubmatch(string(doc), -1)
	if all := strings.Count(string(doc), "```console"); len(blocks) == 0 || len(blocks) != all {
		t.Fatalf("%d of %d blocks say where they run", len(blocks), all)
	}
	u := newUser(t)
	for len(blocks) > 0 { // neighbours of one example share its start
		n := 1
		for n < len(blocks) && blocks[n][1] == blocks[0][1] && blocks[n][2] == blocks[0][2] {
			n++
		}
		u.shows(t, blocks[0][1], blocks[0][2], blocks[:n])
		blocks = blocks[n:]
	}
}

// shows brings an example up and compares what the commands of blocks print.
func (u *user) shows(t *testing.T, example, changes string, blocks [][]string) {
	t.Helper()
	port, upstream := freePort(t), freePort(t)
	ports := []string{"8443", port, "8444", port, ":9000", ":" + upstream, "port: 9000", "port: " + upstream}
	dir := u.copied(example, ports...)
	for change := range strings.SplitSeq(strings.TrimPrefix(changes, ";"), ";") {
		if old, new, ok := strings.Cut(change, " => "); ok {
			edit(t, filepath.Join(dir, "policy.yaml"), strings.TrimSpace(old), strings.ReplaceAll(strings.TrimSpace(new), `\n`, "\n"))
		}
	}
	write(t, filepath.Join(dir, "logs-ca.pem"), string(certtest.New(t, "logs").PEM)) // for a collector of records
	if example == "payments" {
		legacyAPI(t, "127.0.0.1:"+upstream)
	}
	x, _ := u.up(dir)
	defer x.interrupt()
	for _, b := range blocks {
		var script strings.Builder
		var typed, want []string
		for command, output := range commands(b[3]) {
			typed, want = append(typed, command), append(want, output)
			script.WriteString(strings.NewReplacer(append(ports, "examples/"+example, dir)...).Replace(command) + "\nprintf '\\n%s\\n' '" + endOfOutput + "'\n")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		sh := exec.CommandContext(ctx, "bash", "-c", script.String())
		sh.Dir = u.home
		sh.Env = append(u.env(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		out, err := sh.CombinedOutput()
		cancel()
		got := strings.Split(string(out), endOfOutput)
		if err != nil || len(got) != len(typed)+1 {
			t.Fatalf("examples/%s%s: %v\n%s\n%s", example, changes, err, script.String(), out)
		}
		for i, command := range typed {
			printed := strings.NewReplacer(port, "8443", upstream, "9000").Replace(got[i])
			if trimmed(printed) != trimmed(want[i]) {
				t.Errorf("examples/%s%s\n$ %s\n%s\nthe document shows\n%s", example, changes, command, printed, want[i])
			}
		}
	}
}

// endOfOutput stands behind what a command prints.
const endOfOutput = "== the end of the output =="

// commands returns each command of a block with what it prints, in order.
func commands(block string) func(yield func(command, output string) bool) {
	return func(yield func(command, output string) bool) {
		for part := range strings.SplitSeq("\n"+block, "\n$ ") {
			command, output, _ := strings.Cut(part, "\n")
			if command != "" && !yield(command, output) {
				return
			}
		}
	}
}

// trimmed is text without what differs between terminals.
func trimmed(s string) string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
		lines = append(lines, strings.TrimRight(line, " \r"))
	}
	return strings.Join(lines, "\n")
}

// legacyAPI runs the API that examples/payments protects.
func legacyAPI(t *testing.T, addr string) {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "legacy")
	build := exec.Command("go", "build", "-C", filepath.Join("..", "..", "examples", "payments", "legacy"), "-o", exe, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(exe, "-addr", addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, "the legacy API listens", func() bool {
		c := &client{addr: addr}
		defer c.close()
		a, err := c.do("GET", "/accounts", "", "")
		return err == nil && a.status == 200
	})
}
