package e2e

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lorica.dev/lorica/internal/notrun"
)

// onInterface writes a site whose image is on tap7 with port 8080, where the machine's end
// may come in.
func onInterface(u *user, more string) string {
	u.run("init", "site")
	dir := filepath.Join(u.home, "site")
	edit(u.t, filepath.Join(dir, "workload.yaml"), "spec:\n", "spec:\n  network: {mode: direct, interface: tap7"+more+"}\n")
	edit(u.t, filepath.Join(dir, "policy.yaml"), "cidrs: [127.0.0.1/32]", `cidrs: [127.0.0.0/8, 192.0.2.1/32, "2001:db8:7::/64"]`)
	return dir
}

// sh runs commands as an administrator of the network.
func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

const static = `, addresses: [192.0.2.10/24, "2001:db8:7::10/64"], gateway: 192.0.2.1`

// An image on an interface gets its addresses from who gives them there, and answers at
// them; with those that are written it needs nobody. What takes its place waits for its
// end, and where that comes to nothing, what ran is started again.
func TestInterface(t *testing.T) {
	const what = "an image on an interface of the machine, with DHCP and SLAAC of dnsmasq"
	if network != "" {
		return // it has its own
	}
	server, err := exec.LookPath("dnsmasq")
	if err != nil {
		if server, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			notrun.Say(t, what, "there is no dnsmasq here: apt-get install dnsmasq-base")
			return
		}
	}
	if os.Geteuid() != 0 {
		notrun.Say(t, what, "its network is made by root: run the tests as root")
		return
	}
	if !isolated(t, func(u *user) {
		dir := onInterface(u, "")
		u.run("build", "-f", dir)
		edit(t, filepath.Join(dir, "workload.yaml"), "tap7", "tap7"+static)
		u.run("build", "-f", dir)
	}) {
		return
	}
	if out, err := exec.Command("ip", "tuntap", "add", "dev", "tap7", "mode", "tap").CombinedOutput(); err != nil {
		notrun.Say(t, what, strings.TrimSpace(string(out))+": "+err.Error())
		return
	}
	sh(t, `ip addr add 192.0.2.1/24 dev tap7; ip addr add 192.0.2.2/24 dev tap7
		ip addr add 2001:db8:7::1/64 dev tap7 nodad; ip link set tap7 up`)
	var said bytes.Buffer
	cmd := exec.Command(server, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=tap7", "--bind-dynamic", "--log-facility=-", "--log-dhcp", "--user=root",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--dhcp-authoritative", "--no-ping", "--dhcp-range=192.0.2.50,192.0.2.59,2m", "--enable-ra", "--dhcp-range=2001:db8:7::,ra-only")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq says:\n%s", &said)
		}
	})

	u := newUser(t)
	dir := onInterface(u, "")
	workload := filepath.Join(dir, "workload.yaml")
	if plan := u.run("plan", "-f", dir); !strings.Contains(plan, "interface tap7: dhcp, slaac") || !strings.Contains(plan, "netstack/dhcp") {
		t.Errorf("plan does not show the interface and what asks for addresses there:\n%s", plan)
	}
	x, s := u.up(dir)
	if s.Way != "interface" {
		t.Errorf("packets come %q", s.Way)
	}
	// Routers are heard of a moment later than servers.
	leased, made := netip.MustParsePrefix("192.0.2.48/28"), netip.MustParsePrefix("2001:db8:7::/64")
	var at []netip.Addr
	eventually(t, "the image has an address of each family", func() bool {
		at = nil
		for _, a := range u.ps().Stats.Addresses {
			if p, err := netip.ParsePrefix(a); err == nil && (leased.Contains(p.Addr()) || made.Contains(p.Addr())) {
				at = append(at, p.Addr())
			}
		}
		return len(at) == 2
	})
	t.Logf("it has %v", at)
	answers := func(a netip.Addr) {
		t.Helper()
		if got := get(t, netip.AddrPortFrom(a, 8080).String(), "/", ""); got.status != 200 {
			t.Errorf("at %v: %d", a, got.status)
		}
	}
	for _, a := range at {
		answers(a)
	}
	if text := u.run("ps"); !strings.Contains(text, netip.AddrPortFrom(at[0], 8080).String()) {
		t.Errorf("ps does not say where it is:\n%s", text)
	}
	for _, a := range at {
		if a.Is6() {
			continue
		}
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)}, Timeout: patience}
		if c, err := from.Dial("tcp", netip.AddrPortFrom(a, 8080).String()); err == nil || !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("who is denied there is told %v", err)
			if c != nil {
				c.Close()
			}
		}
	}

	edit(t, workload, "tap7", "tap7"+static)
	e := x.wait("applied")
	if e.Change != "image" || !strings.Contains(e.Text, "one instance at a time has the interface tap7") {
		t.Errorf("a change with a gap: %s, %q", e.Change, e.Text)
	}
	for _, a := range []string{"192.0.2.10", "2001:db8:7::10"} {
		answers(netip.MustParseAddr(a))
	}

	edit(t, workload, "tap7", "tap8")
	if e := x.wait("refused"); !strings.Contains(e.Text, "interface tap8: it is not there: sudo ip tuntap add") {
		t.Errorf("an interface that is not there: %s", e.Text)
	}
	answers(netip.MustParseAddr("192.0.2.10"))
	sh(t, "ip link set tap7 down")
	edit(t, workload, "tap8"+static, "tap7")
	if e := x.wait("refused"); !strings.Contains(e.Text, "it is down: sudo ip link set tap7 up") || !strings.Contains(e.Text, "what ran was ended before") {
		t.Errorf("an interface that is down: %s", e.Text)
	}
	x.wait("died")
	sh(t, "ip link set tap7 up; ip addr replace 2001:db8:7::1/64 dev tap7 nodad")
	x.wait("ready")
	answers(netip.MustParseAddr("192.0.2.10"))
}
