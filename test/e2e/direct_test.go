package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/test/wire"
)

// soon is sooner than anybody on the way ends a connection that nobody has refused.
const soon = 10 * time.Second

// inside names the folder of the command under test in the environment of tests that
// run in a network namespace of their own. As root, clients' packets are routed to
// images that have a stack by rules of the kernel, and the machine's stay as they are.
const inside = "LORICA_E2E_INSIDE"

// alone runs this program once more, in a network namespace of its own.
func alone(dir string, args ...string) error {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	return cmd.Run()
}

func runAlone(m *testing.M) int {
	err := wire.Up("lo")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// isolated reports whether a test may go on here: as root it runs in another network,
// with the images that ready has built before, while there is one to fetch them from.
func isolated(t *testing.T, ready func(u *user)) bool {
	t.Helper()
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		return true
	}
	t.Run("images", func(t *testing.T) { ready(newUser(t)) })
	if err := alone(filepath.Dir(binary), "-test.run", "^"+t.Name()+"$", "-test.v"); err != nil {
		t.Errorf("in a network of its own: %v", err)
	}
	return false
}

// payments copies that example, with the API behind it.
func (u *user) payments() (dir, port, upstream string) {
	port, upstream = freePort(u.t), freePort(u.t)
	return u.copied("payments", "8443", port, ":9000", ":"+upstream, "port: 9000", "port: "+upstream), port, upstream
}

// inspected is what inspect says of the one instance that runs.
type inspected struct {
	Instance struct {
		Way   string
		Stats struct {
			Packets struct {
				In, Denied uint64
				Rules      []struct {
					Rule    string
					Packets uint64
				}
			}
		}
	}
}

func (u *user) inspect(name string) (x inspected) {
	u.t.Helper()
	if err := json.Unmarshal([]byte(u.run("inspect", name, "-o", "json")), &x); err != nil {
		u.t.Fatal(err)
	}
	return x
}

// With a stack of its own an image of a process decides about the same requests as with
// sockets, and judges packets: who is denied makes no handshake, and is counted.
func TestDirect(t *testing.T) {
	direct := func(args ...string) []string { return append(args, "--net", "direct") }
	if !isolated(t, func(u *user) { dir, _, _ := u.payments(); u.run(direct("build", "-f", dir)...) }) {
		return
	}
	u := newUser(t)
	dir, port, upstream := u.payments()
	legacyAPI(t, "127.0.0.1:"+upstream)

	plan := u.run(direct("plan", "-f", dir)...)
	for _, want := range []string{"packet", "before its TCP sees it"} {
		if !strings.Contains(plan, want) {
			t.Errorf("plan does not say %q:\n%s", want, plan)
		}
	}
	requests, err := os.ReadFile(filepath.Join(dir, "requests.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	out := u.run(direct("up", "-f", dir, "--try", filepath.Join(dir, "requests.yaml"), "--exit")...)
	if n, want := strings.Count(out, " ok\n"), strings.Count(string(requests), "{name: "); n != want || n == 0 {
		t.Errorf("%d of %d requests came out as expected:\n%s", n, want, out)
	}
	u.gone("127.0.0.1:" + port)

	_, s := u.up(dir, direct()...)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}
	if c, err := from.Dial("tcp", "127.0.0.1:"+port); err == nil {
		// Where the tender's machine makes the handshake, the image still does not.
		c.SetDeadline(time.Now().Add(soon))
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("who is denied is left waiting: %d, %v", n, err)
		}
		c.Close()
	} else if !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("who is denied is told %v", err)
	}
	var seen inspected
	eventually(t, "the packet that was denied is counted", func() bool {
		seen = u.inspect(s.Instance)
		return seen.Instance.Stats.Packets.Denied > 0
	})
	if seen.Instance.Way == "" {
		t.Error("it is not said which way packets come")
	}
	t.Logf("packets come %s: %+v", seen.Instance.Way, seen.Instance.Stats.Packets)
	counted := false
	for _, r := range seen.Instance.Stats.Packets.Rules {
		counted = counted || r.Rule == "default:network" && r.Packets > 0
	}
	if !counted {
		t.Errorf("by no rule: %+v", seen)
	}
}

// A found is a network that doctor has tried.
type found struct {
	Name, Detail, Fix string
	OK                bool
}

func (u *user) networks() []found {
	u.t.Helper()
	var all struct{ Networks []found }
	out, err := u.command("doctor", "-o", "json").Output()
	if err := errors.Join(err, json.Unmarshal(out, &all)); err != nil || len(all.Networks) != 4 {
		u.t.Fatalf("%v: %s", err, out)
	}
	return all.Networks
}

// The first network that doctor finds to work is the one that an image gets.
func TestDoctorFindsNetworks(t *testing.T) {
	if !isolated(t, func(u *user) { u.run("build", "-f", u.example(freePort(t)), "--net", "direct") }) {
		return
	}
	u := newUser(t)
	best := ""
	for _, n := range u.networks() {
		if n.OK && best == "" {
			best = n.Name
		}
		if n.Detail == "" || !n.OK && n.Fix == "" {
			t.Errorf("%+v: what was found, and what would change it?", n)
		}
	}
	_, s := u.up(u.example(freePort(t)), "--net", "direct")
	if s.Way != best {
		t.Errorf("doctor finds %q first, and packets come %q", best, s.Way)
	}
	if text := u.run("doctor"); !strings.Contains(text, "network "+best) {
		t.Errorf("the text does not name network %s:\n%s", best, text)
	}
}

// open writes the site of init, which listens at a port of every address.
func (u *user) open(port string) string {
	u.run("init", "site")
	dir := filepath.Join(u.home, "site")
	for _, name := range []string{"workload.yaml", "policy.yaml"} {
		edit(u.t, filepath.Join(dir, name), "port: 8080", "port: "+port)
	}
	edit(u.t, filepath.Join(dir, "policy.yaml"), "port: 8080}, expect", "port: "+port+"}, expect")
	edit(u.t, filepath.Join(dir, "workload.yaml"), "port: "+port+"}", "port: "+port+", address: 0.0.0.0}")
	return dir
}

// six lets clients of IPv6 in where open lets those of IPv4.
func (u *user) six(dir string) string {
	edit(u.t, filepath.Join(dir, "policy.yaml"), "cidrs: [127.0.0.1/32]", `cidrs: [127.0.0.1/32, "::1/128"]`)
	return dir
}

// Clients of other machines are routed where the machine forwards to all of them, and
// else reach the image by its tender.
func TestNobodyIsOutOfReach(t *testing.T) {
	if os.Geteuid() != 0 {
		notrun.Say(t, "clients' packets, routed where a machine does not forward", "only root's are routed: run the tests as root")
		return
	}
	if !isolated(t, func(u *user) { u.run("build", "-f", u.six(u.open(freePort(t))), "--net", "direct") }) {
		return
	}
	u := newUser(t)
	if routed := u.networks()[0]; !routed.OK {
		notrun.Say(t, "clients' packets, routed where a machine does not forward", routed.Detail)
		return
	}
	port := freePort(t)
	dir := u.six(u.open(port))
	for _, c := range []struct{ forward, way string }{{"0", "private"}, {"1", "routed"}} {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			write(t, "/proc/sys/net/"+name, c.forward)
		}
		x, s := u.up(dir, "--net", "direct")
		if s.Way != c.way {
			t.Errorf("where forwarding is %s, packets come %q:\n%s", c.forward, s.Way, u.run("logs", "site"))
		}
		if a := get(t, "127.0.0.1:"+port, "/", ""); a.status != 200 {
			t.Errorf("where forwarding is %s: %d", c.forward, a.status)
		}
		x.interrupt()
	}
}

// modules says which modules each level has, and why.
func (u *user) modules(args ...string) (levels []map[string]string) {
	u.t.Helper()
	var p []struct {
		Modules []struct {
			Module  string
			Because []string
		}
	}
	out := u.run(append([]string{"plan", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &p); err != nil || len(p) == 0 {
		u.t.Fatalf("%v\n%s", err, out)
	}
	for _, l := range p {
		x := map[string]string{}
		for _, m := range l.Modules {
			x[m.Module] = strings.Join(m.Because, "; ")
		}
		levels = append(levels, x)
	}
	return levels
}

// IPv6 is in an image where something needs it. One of IPv4 alone takes nothing of IPv6,
// and where a rule lets clients of it in, an image that has it takes over.
func TestIPv6WhereItIsNeeded(t *testing.T) {
	if network != "" || target != "" { // they are what is chosen here
		return
	}
	const module = "netstack/ip6"
	site := func(u *user, port string) string {
		dir := u.open(port)
		edit(t, filepath.Join(dir, "workload.yaml"), "spec:\n", "spec:\n  network: direct\n")
		return dir
	}
	if !isolated(t, func(u *user) {
		for name, needs := range map[string]bool{"payments": false, "accounts": false, "clinic": true} {
			dir := u.copied(name)
			for _, c := range []struct {
				net   string
				needs bool
			}{{"socket", false}, {"direct", needs}} {
				for _, l := range u.modules("-f", dir, "--net", c.net) {
					why, has := l[module]
					if len(l) == 0 || has != c.needs {
						t.Errorf("%s, %s: it has %v", name, c.net, l)
					} else if has && !strings.Contains(why, "the workload listens at the IPv6 address ::1") {
						t.Errorf("%s, %s: it has IPv6 because of %q", name, c.net, why)
					}
				}
			}
		}
		dir := site(u, freePort(t))
		u.run("build", "-f", dir)
		u.run("build", "-f", u.six(dir))
	}) {
		return
	}
	u := newUser(t)
	port := freePort(t)
	dir := site(u, port)
	x, s := u.up(dir)
	t.Logf("packets come %s", s.Way)
	at4, at6 := "127.0.0.1:"+port, "[::1]:"+port
	if a := get(t, at4, "/", ""); a.status != 200 {
		t.Errorf("over IPv4: %d", a.status)
	}
	if c, err := net.DialTimeout("tcp", at6, patience); err == nil { // of the tender's machine, which cannot pass it on
		c.SetDeadline(time.Now().Add(soon))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an image of IPv4 alone has a client of IPv6: %d bytes, %v", n, err)
		}
		c.Close()
	}
	u.six(dir)
	if e := x.wait("applied"); e.Change != "image" {
		t.Errorf("a rule for IPv6 changes %s: %+v", e.Change, e)
	}
	for _, at := range []string{at4, at6} {
		if a := get(t, at, "/", ""); a.status != 200 {
			t.Errorf("with IPv6, at %s: %d", at, a.status)
		}
	}
}

// The network of a workload is changed while requests are made: an image with a stack
// takes over from one with sockets, and the other way, and no request is lost.
func TestNetworkChangeLosesNoRequest(t *testing.T) {
	if network != "" || target != "" { // they are what is changed here
		return
	}
	if !isolated(t, func(u *user) {
		dir := u.example(freePort(t))
		u.run("build", "-f", dir)
		u.run("build", "-f", dir, "--net", "direct")
	}) {
		return
	}
	u := newUser(t)
	port := freePort(t)
	dir, addr := u.example(port), "127.0.0.1:"+port
	u.run("build", "-f", dir, "--net", "direct")
	x, _ := u.up(dir)
	l := startLoad(addr, "/accounts/7", staff, func(a answer) bool { return a.status == 200 })
	workload := filepath.Join(dir, "workload.yaml")
	for i, change := range [][2]string{{"spec:\n", "spec:\n  network: direct\n"}, {"network: direct", "network: socket"}} {
		time.Sleep(time.Second)
		edit(t, workload, change[0], change[1])
		e := x.wait("applied")
		if e.Change != "image" {
			t.Errorf("after %q: %s, %+v", change[1], e.Change, e.Status)
		}
		if way := u.ps().Way; (way != "") != (i == 0) {
			t.Errorf("after %q packets come %q", change[1], way)
		}
	}
	time.Sleep(time.Second)
	total, failed := l.end()
	t.Logf("%d requests, %d failed", total, len(failed))
	if len(failed) > 0 || total == 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), total, failed)
	}
}
