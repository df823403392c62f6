package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/netstack/dhcp"
	"lorica.dev/lorica/netstack/direct"
	"lorica.dev/lorica/netstack/ip6"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
)

// Images that look for addresses meet the programs that others give addresses with, each
// on a network of its own: a namespace, and a pair of interfaces in it, of which the image
// has one.

// A cell is a namespace that is the test's, as long as a thread is in it.
type cell struct {
	do chan func()
}

// newCell returns nil where there can be none, and says so.
func newCell(t *testing.T, program string) *cell {
	if daemonPath(program) == "" {
		notrun.Say(t, t.Name(), program+" is not installed")
		return nil
	}
	c := &cell{do: make(chan func())}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with its thread
		failed <- syscall.Unshare(syscall.CLONE_NEWNET)
		for f := range c.do {
			f()
		}
	}()
	if err := <-failed; err != nil {
		close(c.do)
		notrun.Say(t, t.Name(), "no network namespace may be made: "+err.Error())
		return nil
	}
	t.Cleanup(func() { close(c.do) })
	return c
}

// in runs f in the namespace.
func (c *cell) in(f func()) {
	done := make(chan struct{})
	c.do <- func() {
		defer close(done)
		f()
	}
	<-done
}

// sh runs commands there.
func (c *cell) sh(t *testing.T, script string) {
	t.Helper()
	c.in(func() {
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	})
}

// daemon runs a program there until the test is over.
func (c *cell) daemon(t *testing.T, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(daemonPath(name), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	c.in(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s says:\n%s", name, &out)
		}
	})
}

// daemonPath returns where a program is that few have in their path; "" if nowhere.
func daemonPath(name string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// A cord is the image's interface: a socket of all packets there are.
type cord struct {
	fd  int
	mac [6]byte
}

func (c *cell) cord(t *testing.T, name string) *cord {
	t.Helper()
	d := &cord{}
	var err error
	c.in(func() {
		const everything = 0x0300 // ETH_P_ALL, in network order
		var i *net.Interface
		if i, err = net.InterfaceByName(name); err != nil {
			return
		}
		d.mac = [6]byte(i.HardwareAddr)
		if d.fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, everything); err == nil {
			err = errors.Join(syscall.Bind(d.fd, &syscall.SockaddrLinklayer{Protocol: everything, Ifindex: i.Index}),
				syscall.SetsockoptTimeval(d.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Usec: 50_000}))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *cord) Traits() direct.Traits { return direct.Traits{MAC: d.mac, MTU: 1500} }

func (d *cord) Send(f *direct.Frame) error {
	_, err := syscall.Write(d.fd, bytes.Join(f.Parts, nil))
	return err
}

func (d *cord) Receive(take func(direct.Packet)) error {
	b := make([]byte, 1<<16)
	for {
		switch n, from, err := syscall.Recvfrom(d.fd, b, 0); {
		case err == syscall.EAGAIN || err == syscall.EINTR:
		case err != nil:
			return err
		case from.(*syscall.SockaddrLinklayer).Pkttype != syscall.PACKET_OUTGOING:
			take(verified{frame(bytes.Clone(b[:n]))})
		}
	}
}

// verified is a frame that never left this machine, and has no checksum yet.
type verified struct{ frame }

func (verified) ChecksumVerified() bool { return true }

// serve brings an image up on a link, behind its firewall, and returns when clients can
// reach it. It says its address to who connects.
func (c *cell) serve(t *testing.T, l launch.Link) error {
	t.Helper()
	d := c.cord(t, "image")
	n := direct.New(func(*launch.Params) (direct.Device, error) { return d, nil }, ip6.New(), dhcp.New())
	p := &launch.Params{Link: l, MemoryLimit: 16 << 20, Listeners: []launch.Listener{{Name: "api", Port: 80, Bind: 80}}}
	fire := firewall.New()
	n.Packets(fire.Packets(n.Place(p)))
	rules := flow.List{Default: abi.Deny}
	for _, from := range []string{"10.9.8.0/24", "2001:db8:7::/64"} {
		rules.Rules = append(rules.Rules, flow.Rule{Verdict: abi.Allow, Protocol: flow.TCP, Src: netip.MustParsePrefix(from), FromHi: 65535, PortLo: 80, PortHi: 80})
	}
	st, err := fire.Prepare(&pep.Input{Section: (&flow.Section{Lists: []flow.List{rules}}).Encode()})
	if err != nil {
		t.Fatal(err)
	}
	st.(pep.PacketState).Enforce()
	if err := n.Open(p); err != nil {
		t.Fatal(err)
	}
	ln, err := n.Listen(0, p.Listeners[0])
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, conn.LocalAddr())
			conn.Close()
		}
	}()
	return n.Addressed()
}

// ask asks an image for its address.
func (c *cell) ask(t *testing.T, addr string) string {
	t.Helper()
	var b []byte
	var err error
	c.in(func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", addr, time.Minute); err == nil {
			conn.SetDeadline(time.Now().Add(time.Minute))
			b, err = io.ReadAll(conn)
			conn.Close()
		}
	})
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

const wires = "ip link set lo up; ip link add image type veth peer name there; echo 1 >/proc/sys/net/ipv6/conf/image/disable_ipv6; ip link set image up; ip link set there up; "

func TestDnsmasqLendsAnAddress(t *testing.T) {
	c := newCell(t, "dnsmasq")
	if c == nil {
		return
	}
	c.sh(t, wires+"ip addr add 10.9.8.1/24 dev there")
	c.daemon(t, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=there", "--bind-interfaces", "--no-ping",
		"--dhcp-range=10.9.8.50,10.9.8.50,2m", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--dhcp-authoritative", "--log-dhcp")
	if err := c.serve(t, launch.Link{DHCP: true}); err != nil {
		t.Fatal(err)
	}
	if got := c.ask(t, "10.9.8.50:80"); got != "10.9.8.50:80" {
		t.Errorf("the image is at %q", got)
	}
}

func TestRadvdAnnouncesAPrefix(t *testing.T) {
	c := newCell(t, "radvd")
	if c == nil {
		return
	}
	c.sh(t, wires+"echo 0 >/proc/sys/net/ipv6/conf/there/accept_dad; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; ip addr add 2001:db8:7::1/64 dev there nodad; sleep 1")
	conf := filepath.Join(t.TempDir(), "radvd.conf")
	if err := os.WriteFile(conf, []byte("interface there { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix 2001:db8:7::/64 {}; };\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.daemon(t, "radvd", "--nodaemon", "--logmethod", "stderr", "--config", conf, "--pidfile", conf+".pid", "--username", "root")
	if err := c.serve(t, launch.Link{SLAAC: true}); err != nil {
		t.Fatal(err)
	}
	var mac [6]byte
	c.in(func() {
		if i, err := net.InterfaceByName("image"); err == nil {
			mac = [6]byte(i.HardwareAddr)
		}
	})
	id := binary.BigEndian.AppendUint16(nil, uint16(mac[0]^2)<<8|uint16(mac[1]))
	id = append(id, mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5])
	want := net.JoinHostPort(netip.AddrFrom16([16]byte(append([]byte{0x20, 1, 0xd, 0xb8, 0, 7, 0, 0}, id...))).String(), "80")
	if got := c.ask(t, want); got != want || !strings.HasPrefix(got, "[2001:db8:7:") {
		t.Errorf("the image is at %q, and not at %q", got, want)
	}
}
