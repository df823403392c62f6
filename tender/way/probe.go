package way

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/tender/process"
)

// A Report is which links this machine gives to images.
type Report struct {
	Routed, Private, Nested process.Finding
	// Notes says which clients of a routed link would be out of reach by how the machine is set.
	Notes []string
}

// Findings lists what was found, best first.
func (r Report) Findings() []process.Finding {
	return []process.Finding{r.Routed, r.Private, r.Nested}
}

// Probe makes a link of each kind, in namespaces that are thrown away, and uses it as a
// tender does. The running program must act as the helper (see HelperCommand).
func Probe() Report {
	r := Report{
		Routed:  finding("routed network", "clients' packets are routed to an image as they are", tryRouted()),
		Private: finding("private network", "a TAP device in a network namespace", try(OpenPrivate)),
		Nested:  finding("nested network", "a TAP device in namespaces of an ordinary user", try(OpenNested)),
	}
	if n, err := openNetlink(unix.NETLINK_NETFILTER); err == nil && r.Routed.OK {
		defer n.close()
		list, err := obstacles(n)
		if err != nil {
			list = []obstacle{{what: err.Error()}}
		}
		for _, o := range list {
			r.Notes = append(r.Notes, o.what)
		}
	}
	return r
}

func finding(name, good string, err error) process.Finding {
	f := process.Finding{Name: name, OK: err == nil, Detail: good}
	if err == nil {
		return f
	}
	f.Detail = strings.TrimPrefix(err.Error(), "way: ")
	info, missing := os.Stat(tunDevice)
	switch {
	case errors.Is(missing, fs.ErrNotExist):
		f.Fix = "sudo modprobe tun; in a container: --device " + tunDevice
	case name != "nested network" && os.Geteuid() != 0:
		f.Fix = "run it as root"
	case strings.Contains(f.Detail, tunDevice) && missing == nil && info.Mode()&0o006 != 0o006:
		f.Fix = "sudo chmod 0666 " + tunDevice + " (it gives nobody more than networks of their own)"
	case name == "nested network":
		f.Fix = "user namespaces must be allowed: see namespaces"
	case name == "routed network":
		f.Fix = "a kernel with nf_tables, its fib and nat expressions, and conntrack (Linux 5.2 or later)"
	}
	return f
}

// try opens a link and connects to an image that is not there.
func try(open func(Spec) (Way, error)) error {
	w, err := open(Spec{MTU: 1500, Raw: true})
	if err != nil {
		return err
	}
	defer w.Close()
	l, err := w.Listen()
	if err != nil {
		return err
	}
	defer l.Close()
	for _, client := range []string{"192.0.2.1:1", "[2001:db8::1]:1"}[:len(w.Link().Addrs)] {
		if err := w.(*dialled).reachable(netip.MustParseAddrPort(client)); err != nil {
			return err
		}
	}
	return nil
}

// reachable reports why a connection could not be begun from a client's address.
func (w *dialled) reachable(client netip.AddrPort) error {
	to, _, err := w.address(client.Addr())
	if err != nil {
		return err
	}
	f, err := w.sockets.socket(family(client.Addr()))
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = start(int(fd), client, netip.AddrPortFrom(to, 1)) })
	if errors.Is(failed, unix.EINPROGRESS) {
		failed = nil
	}
	return errors.Join(err, failed)
}

func tryRouted() error {
	t := newThread()
	defer t.close()
	ready := make(chan error)
	go t.live(ready, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("a network namespace: %w", err)
		}
		r, err := OpenRouted("probe", Spec{MTU: 1500, Raw: true})
		if err != nil {
			return err
		}
		return errors.Join(r.Admit([]Door{{netip.AddrPortFrom(netip.IPv4Unspecified(), 1), 1}}), r.Close())
	})
	return <-ready
}

// An obstacle keeps clients of other machines from a routed link.
type obstacle struct {
	v4, v6 bool // which of them
	what   string
}

// bars reports whether some clients do not find what listens at the address.
func (o *obstacle) bars(listen netip.Addr) bool {
	switch {
	case listen.IsLoopback():
		return false
	case listen.IsUnspecified(): // both families
		return true
	}
	return o.v4 && listen.Is4() || o.v6 && listen.Is6()
}

// obstacles says which clients a routed link does not reach in the namespace of the
// calling thread.
func obstacles(tables *netlink) (list []obstacle, err error) {
	here, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var off []string
	for _, i := range here {
		if i.Flags&net.FlagLoopback == 0 && !ours(i.Name) && hasIPv4(i) && isZero("ipv4/conf/"+i.Name+"/forwarding") {
			off = append(off, i.Name)
		}
	}
	if len(off) > 0 {
		list = append(list, obstacle{v4: true, what: fmt.Sprintf("IPv4 clients that come in by %s are not routed: net.ipv4.conf.%s.forwarding is 0 (sudo sysctl -w net.ipv4.ip_forward=1)",
			strings.Join(off, ", "), off[0])})
	}
	if isZero("ipv6/conf/all/forwarding") {
		list = append(list, obstacle{v6: true, what: "IPv6 clients of other machines are not routed: net.ipv6.conf.all.forwarding is 0 (sudo sysctl -w net.ipv6.conf.all.forwarding=1)"})
	}
	chains, err := tables.chains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if c.hook == unix.NF_INET_FORWARD && c.drops && !ours(c.table) {
			list = append(list, obstacle{true, true, fmt.Sprintf("clients of other machines may not get through: the chain %s of the table %s drops what it does not know", c.name, c.table)})
		}
	}
	return list, nil
}

// hasIPv4 reports whether clients of IPv4 may come in by i.
func hasIPv4(i net.Interface) bool {
	list, err := i.Addrs()
	return err != nil || i.Flags&net.FlagUp != 0 && slices.ContainsFunc(list, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.To4() != nil
	})
}

func isZero(sysctl string) bool {
	b, err := os.ReadFile(sysctls + sysctl)
	return err == nil && strings.TrimSpace(string(b)) == "0"
}
