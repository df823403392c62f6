package e2e

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// provable is a small site: a firewall, routes, and nothing else that can be left out.
const provable = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: small, tenant: acme, labels: {app: small}}
spec:
  app: {static: {dir: ./public}}
  listen: [{name: web, port: PORT}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: small, tenant: acme}
spec:
  selector: {matchLabels: {app: small}}
  default: {network: Deny, authorization: Allow}
  endpoints: [{name: this-machine, cidrs: [127.0.0.1/32]}]
  network:
    ingress: [{name: web-in, action: Allow, from: [this-machine], ports: [{protocol: TCP, port: PORT}]}]
  routes: [{name: pages, match: {method: GET, path: "/{page}"}}]
`

// plan --prove says of every module what breaks without it, beside an instance that serves
// on, and leaves nothing behind, in the store neither.
func TestPlanProves(t *testing.T) {
	u, port := newUser(t), freePort(t)
	dir := u.project(map[string]string{"all.yaml": strings.ReplaceAll(provable, "PORT", port), "public/index.html": "<p>hello\n"})
	tmp := t.TempDir()
	u.settings = append(u.settings, "TMPDIR="+tmp)
	up, before := u.up(dir)
	images := entries(t, filepath.Join(u.home, ".local", "share", "lorica", "images"))
	out, err := u.command("plan", "--prove", "-f", dir, "-o", "json").Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var list []struct {
		Image, Untried string
		Levels         []string
		Packages       int
		Outside        []string
		OK             bool
		Modules        []struct {
			Module, Why, Build, Start, Bare, State string
			Case                                   *struct{ Rule, Line, Witness, Expected, Got string }
		}
	}
	if err := json.Unmarshal(out, &list); err != nil || len(list) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	p := list[0]
	if !p.OK || p.Image != before.ImageDigest || p.Packages < 100 || len(p.Outside) > 0 || p.Untried != "" || len(p.Modules) < 7 {
		t.Errorf("%s", out)
	}
	for _, m := range p.Modules {
		if m.State != "needed" || m.Build == "" && m.Start == "" && m.Case == nil || !strings.Contains(m.Why, "all.yaml:") && !strings.HasPrefix(m.Why, "chosen: without it ") {
			t.Errorf("%+v", m)
		}
		if m.Module == "pep/firewall" && (m.Case == nil || m.Case.Expected != "Deny by default:network" || !strings.HasPrefix(m.Case.Got, "let in")) {
			t.Errorf("what is let in without a firewall: %+v", m.Case)
		}
	}
	if left := entries(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if now := entries(t, filepath.Join(u.home, ".local", "share", "lorica", "images")); !slices.Equal(now, images) {
		t.Errorf("in the store are %q, and were %q", now, images)
	}
	if s := u.ps(); s.Instance != before.Instance || s.PID != before.PID || s.Restarts > 0 {
		t.Errorf("what ran is %+v, and was %+v", s, before)
	}
	up.interrupt()
	if target != "" || network != "" {
		return
	}
	// What the policy asks for, and no image with sockets calls.
	edit(t, filepath.Join(dir, "all.yaml"), "  endpoints:", "  modules: {require: [netstack/direct]}\n  endpoints:")
	cmd := u.command("plan", "--prove", "-f", dir)
	out, err = cmd.Output()
	if cmd.ProcessState.ExitCode() != 1 || strings.Count(string(out), "NEEDLESS") != 1 || !regexp.MustCompile(`(?m)^  netstack/direct +NEEDLESS  .*\n +nothing breaks without it$`).Match(out) || !strings.Contains(string(out), "\n  REFUTED: 1 of ") {
		t.Errorf("%v\n%s", err, out)
	}
	// Where no image can be started nothing is shown of that one, and it is said so.
	taken, err := net.Listen("tcp4", "0.0.0.0:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cmd = u.command("plan", "--prove", "-f", dir)
	out, err = cmd.Output()
	if cmd.ProcessState.ExitCode() != 3 || !regexp.MustCompile(`(?m)^  NOT PROVEN: of \d+ of \d+ modules it is not shown that they are needed: .*netstack/direct`).Match(out) || !strings.Contains(string(out), "no image was started: ") {
		t.Errorf("with a port that is taken: %v\n%s", err, out)
	}
}

// An interrupt while images are tried ends all of them.
func TestAnInterruptedProofLeavesNothing(t *testing.T) {
	u := newUser(t)
	dir := u.project(map[string]string{"all.yaml": strings.ReplaceAll(provable, "PORT", freePort(t)), "public/index.html": "<p>hello\n"})
	tmp := t.TempDir()
	u.settings = append(u.settings, "TMPDIR="+tmp)
	for _, at := range []string{"compile", "what it enforces", "1 of "} {
		cmd := u.command("plan", "--prove", "-f", dir)
		progress, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said []string
		for lines := bufio.NewScanner(progress); lines.Scan(); {
			said = append(said, lines.Text())
			if strings.Contains(lines.Text(), at) {
				time.Sleep(200 * time.Millisecond)
				cmd.Process.Signal(syscall.SIGINT)
			}
		}
		err = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(strings.Join(said, "\n"), "interrupted") {
			t.Errorf("at %q: exit code %d, %v: %q", at, code, err, said)
		}
		if left := entries(t, tmp); len(left) > 0 {
			t.Errorf("at %q: left behind: %q", at, left)
		}
		if left := naming(tmp); len(left) > 0 {
			t.Errorf("at %q: still running: %q", at, left)
		}
		eventually(t, "no image that was tried is left", func() bool { return len(leftovers()) == 0 })
	}
}

// naming returns the command lines of processes that name a folder.
func naming(dir string) (list []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range all {
		if line, err := os.ReadFile(name); err == nil && strings.Contains(string(line), dir) {
			list = append(list, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return list
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
