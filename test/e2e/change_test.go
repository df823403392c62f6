package e2e

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A rule is changed while requests are made: the program is replaced, on the
// same instance, and no request is lost.
func TestRuleChangeLosesNoRequest(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	x, first := u.up(dir)
	addr := "127.0.0.1:" + port
	l := startLoad(addr, "/accounts/7", staff, func(a answer) bool { return a.status == 200 })
	time.Sleep(time.Second)

	if a := get(t, addr, "/accounts/7", teller); a.status != 403 {
		t.Fatalf("before the change a teller reads with %d", a.status)
	}
	edit(t, filepath.Join(dir, "policy.yaml"), `@id("teller-transfer")`,
		"@id(\"teller-read\")\n      permit (principal in Group::\"tellers\", action == Action::\"call\", resource in RouteGroup::\"reads\");\n\n      @id(\"teller-transfer\")")
	e := x.wait("applied")
	if e.Change != "program" || e.Status.Instance != first.Instance || e.Status.PID != first.PID || e.Status.Revision <= first.Revision {
		t.Errorf("after the change of a rule: %s, %+v; before it %+v", e.Change, e.Status, first)
	}
	a := get(t, addr, "/accounts/7", teller)
	if a.status != 200 {
		t.Errorf("after the change a teller reads with %d", a.status)
	}
	if d := x.find(a.decision); d.Rule != "teller-read" || d.Revision != e.Status.Revision || d.Program != e.Status.Program {
		t.Errorf("the record is %+v; in force is %+v", d, e.Status)
	}
	time.Sleep(time.Second)
	total, failed := l.end()
	t.Logf("%d requests, %d failed; the program was replaced in %.1f ms", total, len(failed), e.TookMillis)
	if len(failed) > 0 || total == 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), total, failed)
	}
}

// A change that comes as the image dies is not forgotten: it is in force without being
// saved again.
func TestAChangeWhileTheImageDies(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	x, first := u.up(dir)
	defer x.interrupt()
	addr := "127.0.0.1:" + port
	syscall.Kill(first.PID, syscall.SIGSTOP)
	edit(t, filepath.Join(dir, "policy.yaml"), `@id("teller-transfer")`,
		"@id(\"teller-read\")\n      permit (principal in Group::\"tellers\", action == Action::\"call\", resource in RouteGroup::\"reads\");\n\n      @id(\"teller-transfer\")")
	time.Sleep(12 * time.Second) // the change waits for its answer, but on a busy machine
	syscall.Kill(first.PID, syscall.SIGKILL)
	if e := x.wait("applied"); e.Status.Revision <= first.Revision {
		t.Errorf("revision %d is in force, after %d", e.Status.Revision, first.Revision)
	}
	if a := get(t, addr, "/accounts/7", teller); a.status != 200 {
		t.Errorf("after the change a teller reads with %d", a.status)
	}
}

// A change that nobody takes, here since the tender is stopped, is tried three times and no
// more, also where it names other files, and each time it is said whether it is tried again.
// Ctrl-C does not wait for ever for a tender that is silent, and is no success then.
func TestAChangeThatNobodyTakes(t *testing.T) {
	u := newUser(t)
	dir := u.example(freePort(t))
	x, s := u.up(dir)
	if err := syscall.Kill(s.TenderPID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(s.TenderPID, syscall.SIGCONT)
	users, err := os.ReadFile(filepath.Join(dir, "users.txt"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "others.txt"), string(users))
	edit(t, filepath.Join(dir, "policy.yaml"), "users.txt", "others.txt")
	for n := 1; n <= 3; n++ {
		e := x.wait("refused")
		if again := strings.Contains(e.Text, "It is tried again in "); again != (n < 3) || !strings.Contains(e.Text, fmt.Sprintf("kill -CONT %d", s.TenderPID)) {
			t.Errorf("try %d: %s", n, e.Text)
		}
	}
	x.interrupt()
	if code := x.cmd.ProcessState.ExitCode(); code != 1 || x.stderr.String() != "" { // an event told of it
		t.Errorf("what it left runs, and its exit code is %d: %s", code, x.stderr.String())
	}
	syscall.Kill(s.TenderPID, syscall.SIGCONT)
	u.run("down", "accounts")
	eventually(t, "the tender is gone", func() bool { return !alive(s.TenderPID) })
}

// Where one of two workloads cannot be changed, the other one is; and whatever starts it again
// later does so as it was changed: a right that was withdrawn stays so.
func TestAChangeThatIsRefusedInPart(t *testing.T) {
	u := newUser(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, other, _ := net.SplitHostPort(taken.Addr().String())
	first, second := freePort(t), freePort(t)
	files := map[string]string{"public/index.html": "<p>\n"}
	for name, port := range map[string]string{"first": first, "second": second} {
		files[name+".yaml"] = strings.NewReplacer("NAME", name, "PORT", port).Replace(`apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: NAME, labels: {app: NAME}}
spec:
  app: {static: {dir: ./public}}
  listen: [{name: web, port: PORT}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  default: {network: Deny, authorization: Allow}
  endpoints: [{name: this-machine, cidrs: [127.0.0.0/8]}]
  network:
    ingress: [{name: web-in, action: Allow, from: [this-machine], ports: [{protocol: TCP}]}]
`)
	}
	dir := u.project(files)
	x, _ := u.up(dir)
	ask := func() error {
		c := client{addr: "127.0.0.1:" + first}
		defer c.close()
		_, err := c.do("GET", "/", "", "")
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	both := func(change func()) { // up sees one change
		syscall.Kill(x.cmd.Process.Pid, syscall.SIGSTOP)
		defer syscall.Kill(x.cmd.Process.Pid, syscall.SIGCONT)
		change()
	}
	both(func() {
		edit(t, filepath.Join(dir, "first.yaml"), "127.0.0.0/8", "192.0.2.0/24")
		edit(t, filepath.Join(dir, "second.yaml"), "port: "+second, "port: "+other)
	})
	e := x.wait("applied")
	if !strings.HasPrefix(e.Status.Instance, "first-") {
		t.Fatalf("applied: %+v", e.Status)
	}
	if e := x.wait("refused"); !strings.Contains(e.Text, "address already in use") {
		t.Errorf("refused with %q", e.Text)
	}
	kill(t, e.Status.TenderPID)
	x.wait("died")
	x.wait("ready")
	if err := ask(); err == nil {
		t.Error("what was withdrawn is allowed again")
	}
}

// A section that needs other modules is added while requests are made: a new
// image takes over, and no request is lost. Then it goes away again.
func TestModuleChangeLosesNoRequest(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.site(port)
	x, first := u.up(dir)
	addr := "127.0.0.1:" + port
	l := startLoad(addr, "/", "ada:lovelace", func(a answer) bool { return a.status == 200 })
	time.Sleep(time.Second)

	line := u.command("passwd", "ada", "--groups", "staff")
	line.Stdin = strings.NewReader("lovelace\n")
	users, err := line.Output()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "users.txt"), string(users))
	plain, err := os.ReadFile(filepath.Join(dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "policy.yaml"), uncomment(string(plain)))
	e := x.wait("applied")
	if e.Change != "image" || e.Status.ImageDigest == first.ImageDigest {
		t.Errorf("after the section was added: %s, %+v", e.Change, e.Status)
	}
	if a := get(t, addr, "/", ""); a.status != 401 {
		t.Errorf("without credentials: %d", a.status)
	}
	eventually(t, "the old image has ended", func() bool { return !alive(first.PID) && !alive(first.TenderPID) })

	write(t, filepath.Join(dir, "policy.yaml"), string(plain))
	back := x.wait("applied")
	if back.Change != "image" || back.Status.ImageDigest != first.ImageDigest {
		t.Errorf("after the section was removed: %s, %+v", back.Change, back.Status)
	}
	if a := get(t, addr, "/", ""); a.status != 200 {
		t.Errorf("without credentials, and without the section: %d", a.status)
	}
	time.Sleep(time.Second)
	total, failed := l.end()
	t.Logf("%d requests, %d failed; the images took over in %.0f and %.0f ms", total, len(failed), e.TookMillis, back.TookMillis)
	if len(failed) > 0 || total == 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), total, failed)
	}
}

// The ports change while requests are made: the socket that stays is handed
// over, the other is opened, and no request and no record of one is lost. A
// workload that is renamed takes the sockets of its old name.
func TestPortsAndNamesChange(t *testing.T) {
	u := newUser(t)
	port, more := freePort(t), freePort(t)
	dir := u.example(port)
	x, first := u.up(dir)
	var mu sync.Mutex
	var answered []string
	l := startLoad("127.0.0.1:"+port, "/accounts/7", staff, func(a answer) bool {
		// No more than a reader can follow: the spool of an instance is bounded.
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		answered = append(answered, a.decision)
		return a.status == 200
	})
	time.Sleep(500 * time.Millisecond)
	workload := filepath.Join(dir, "workload.yaml")
	edit(t, workload, "port: "+port+"}", "port: "+port+"}\n    - {name: more, port: "+more+"}")
	edit(t, filepath.Join(dir, "policy.yaml"), "ports: [{protocol: TCP, port: "+port+"}]", "ports: [{protocol: TCP, port: "+port+"}, {protocol: TCP, port: "+more+"}]")
	e := x.wait("applied")
	if e.Change != "launch" || e.Status.ImageDigest != first.ImageDigest {
		t.Errorf("another port: %s, %+v", e.Change, e.Status)
	}
	if a := get(t, "127.0.0.1:"+more, "/accounts/7", staff); a.status != 200 {
		t.Errorf("the new port answers %d", a.status)
	}
	edit(t, workload, "name: accounts", "name: renamed")
	if e := x.wait("ready"); !strings.HasPrefix(e.Status.Instance, "renamed-") {
		t.Errorf("renamed: %+v", e.Status)
	}
	x.wait("drained")
	time.Sleep(500 * time.Millisecond)
	total, failed := l.end()
	t.Logf("%d requests, %d failed", total, len(failed))
	if len(failed) > 0 || total == 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), total, failed)
	}
	eventually(t, "every decision is shown", func() bool {
		shown := map[string]bool{}
		x.mu.Lock()
		for _, d := range x.decisions {
			shown[d.ID] = true
		}
		x.mu.Unlock()
		lost := 0
		for _, id := range answered {
			if !shown[id] {
				lost++
			}
		}
		t.Logf("%d of %d decisions are not shown", lost, len(answered))
		return lost == 0
	})
}

// uncomment puts the optional sections of the starter in force.
func uncomment(policy string) string {
	lines := strings.Split(policy, "\n")
	in := false
	for i, l := range lines {
		if strings.HasPrefix(l, "  # authentication:") {
			in = true
		}
		if in && !strings.HasPrefix(l, "  #") {
			break
		}
		if in {
			lines[i] = "  " + strings.TrimPrefix(l, "  # ")
		}
	}
	return strings.Join(lines, "\n")
}

// What is saved and wrong is reported and changes nothing; what is saved next
// and right is taken over.
func TestBadChangeIsRefused(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	x, first := u.up(dir)
	addr := "127.0.0.1:" + port

	edit(t, filepath.Join(dir, "policy.yaml"), "  routes:", "  rotues:")
	if e := x.wait("refused"); len(e.Errors) == 0 || !strings.Contains(e.Errors[0].Message, "rotues") {
		t.Errorf("refused with %+v", e)
	}
	if a := get(t, addr, "/accounts/7", staff); a.status != 200 {
		t.Errorf("after a bad change: %d", a.status)
	}
	edit(t, filepath.Join(dir, "api", "api.go"), "type bank struct", "var broken = nothing\n\ntype bank struct")
	edit(t, filepath.Join(dir, "policy.yaml"), "  rotues:", "  routes:")
	if e := x.wait("refused"); !strings.Contains(e.Text, "api.go") || !strings.Contains(e.Text, "nothing") {
		t.Errorf("an application that does not compile was refused with %q", e.Text)
	}
	edit(t, filepath.Join(dir, "api", "api.go"), "var broken = nothing\n\n", "")
	if e := x.wait("applied"); e.Change != "none" || e.Status.PID != first.PID {
		t.Errorf("after all was as before: %s, %+v", e.Change, e.Status)
	}

	// What a policy names and lacks may come after it.
	users, err := os.ReadFile(filepath.Join(dir, "users.txt"))
	if err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(dir, "policy.yaml"), "users.txt", "others.txt")
	if e := x.wait("refused"); !strings.Contains(e.Text, "others.txt does not exist") {
		t.Errorf("users who are not there were refused with %q", e.Text)
	}
	write(t, filepath.Join(dir, "others.txt"), "nothing of users")
	if e := x.wait("refused"); !strings.Contains(e.Text, "others.txt:1") {
		t.Errorf("users who are none were refused with %q", e.Text)
	}
	write(t, filepath.Join(dir, "others.txt"), string(users))
	if e := x.wait("applied"); e.Status.PID != first.PID {
		t.Errorf("users who came later: %s, %+v", e.Change, e.Status)
	}
}

// A user who is taken off the list is refused from the next request on, without
// a new image and on a connection that was open before.
func TestRevokedUser(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	x, first := u.up(dir)
	c := &client{addr: "127.0.0.1:" + port}
	defer c.close()
	if a, err := c.do("GET", "/accounts/7", staff, ""); err != nil || a.status != 200 {
		t.Fatalf("%v %d", err, a.status)
	}
	edit(t, filepath.Join(dir, "users.txt"), "\nstaff-3:", "\nsomebody-else:")
	if e := x.wait("applied"); e.Change != "program" || e.Status.ImageDigest != first.ImageDigest {
		t.Errorf("a changed secret was taken over by %s", e.Change)
	}
	if a, err := c.do("GET", "/accounts/7", staff, ""); err != nil || a.status != 401 {
		t.Errorf("a revoked user got %d (%v)", a.status, err)
	}
}

// A decision is remembered only under everything it read: another amount on the
// same connection is another decision.
func TestChangedAmountIsDecidedAgain(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	_, _ = u.up(u.example(port))
	c := &client{addr: "127.0.0.1:" + port}
	defer c.close()
	for _, step := range []struct {
		amount string
		status int
	}{{"5", 201}, {"50000", 403}, {"5", 201}, {"10001", 403}} {
		a, err := c.do("POST", "/accounts/7/transfers", teller, `{"to": "1", "amount": `+step.amount+`}`)
		if err != nil || a.status != step.status {
			t.Errorf("%s: %d (%v), expected %d", step.amount, a.status, err, step.status)
		}
	}
}

// Clients whose bodies do not come hold the programs that judge them, for as
// long as the policy gives a body; a change waits for that and is not refused.
func TestSlowBodiesDelayAChangeAndNoMore(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	file := filepath.Join(dir, "policy.yaml")
	edit(t, file, "maxBodyBytes: 65536,", "maxBodyBytes: 65536, bodyTimeout: 5s,")
	x, _ := u.up(dir)
	for _, limit := range []string{"10000", "10001", "10002"} {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /accounts/7/transfers HTTP/1.1\r\nHost: a\r\nAuthorization: Basic %s\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{",
			base64.StdEncoding.EncodeToString([]byte(teller)))
		time.Sleep(500 * time.Millisecond)
		edit(t, file, "context.amount > 0 && context.amount <= "+limit, "context.amount > 0 && context.amount <= 1000"+string(limit[4]+1))
		if e := x.wait("applied"); e.Change != "program" {
			t.Errorf("a changed limit was taken over by %s", e.Change)
		} else {
			t.Logf("in force after %.0f ms", e.TookMillis)
		}
	}
	c := &client{addr: "127.0.0.1:" + port}
	defer c.close()
	if a, err := c.do("POST", "/accounts/7/transfers", teller, `{"to": "1", "amount": 10003}`); err != nil || a.status != 201 {
		t.Errorf("under the last limit: %d (%v)", a.status, err)
	}
}
