package way

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/internal/notrun"
)

// A machine is a namespace with clients on it, and one client in a namespace beside it.
type machine struct {
	*thread
	client *thread
}

var (
	machineAddrs = []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")}
	clientAddrs  = []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24"), netip.MustParsePrefix("2001:db8:1::2/64")}
)

// newMachine makes the two, with a cable between them; nil where this machine gives no TAP device.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if openPrivate(t) == nil {
		return nil
	}
	var there int
	m := &machine{}
	ready := func(name string, own []netip.Prefix, routes ...message) error {
		n, err := openNetlink(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer n.close()
		var list []message
		for _, name := range []string{"lo", name} {
			i, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			if name != "lo" {
				for _, a := range own {
					list = append(list, newAddress(int32(i.Index), a))
				}
			}
			list = append(list, setUp(int32(i.Index)))
		}
		return n.do(append(list, routes...)...)
	}
	m.client = newNamespace(t, func() (err error) {
		there, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	defer unix.Close(there)
	m.thread = newNamespace(t, func() error {
		n, err := openNetlink(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer n.close()
		peer := append(ifinfo(0, 0), attributes{}.text(unix.IFLA_IFNAME, "eth0").u32(unix.IFLA_NET_NS_FD, uint32(there))...)
		const peerOf = 1 // VETH_INFO_PEER
		info := attributes{}.text(unix.IFLA_INFO_KIND, "veth").nest(unix.IFLA_INFO_DATA, attributes{}.bytes(peerOf, peer))
		cable := message{kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: ifinfo(0, 0),
			attrs: attributes{}.text(unix.IFLA_IFNAME, "eth0").nest(unix.IFLA_LINKINFO, info), what: "a cable"}
		if err := n.do(cable); err != nil {
			return err
		}
		for _, s := range [][2]string{{"ipv4/conf/eth0/forwarding", "1"}, {"ipv6/conf/all/forwarding", "1"}} {
			if err := setSysctl(s[0], s[1]); err != nil {
				return err
			}
		}
		return ready("eth0", machineAddrs)
	})
	var err error
	if m.client.do(func() { err = ready("eth0", clientAddrs, gateways(machineAddrs)...) }); err != nil {
		t.Fatal(err)
	}
	return m
}

// gateways are default routes by the addresses of a neighbour.
func gateways(list []netip.Prefix) (routes []message) {
	for _, p := range list {
		routes = append(routes, newRoute(family(p.Addr()), unix.RT_TABLE_MAIN, unix.RTN_UNICAST, netip.Prefix{},
			attributes{}.bytes(unix.RTA_GATEWAY, p.Addr().AsSlice()), "default route"))
	}
	return routes
}

// open makes a routed link on the machine, and an image that greets with name.
func (m *machine) open(t *testing.T, name string) (*Routed, *image) {
	t.Helper()
	return m.openAs(t, name, Spec{MTU: testMTU, Raw: true})
}

func (m *machine) openAs(t *testing.T, name string, s Spec) (*Routed, *image) {
	t.Helper()
	var r *Routed
	var err error
	m.do(func() { r, err = OpenRouted(name, s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.do(func() { r.Close() }) })
	i := newImage(t, r)
	i.listen(t, 8443, func(l net.Listener) { greet(l, name) })
	return r, i
}

// admit opens the doors of r.
func (m *machine) admit(t *testing.T, r *Routed, doors ...Door) {
	t.Helper()
	var err error
	m.do(func() { err = r.Admit(doors) })
	if err != nil {
		t.Fatal(err)
	}
}

var everyDoor = []Door{{netip.MustParseAddrPort("0.0.0.0:443"), 8443}}

// greet answers every connection with a name and the address it comes from, and then
// each line with itself.
func greet(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%s %v\n", name, c.RemoteAddr())
			in := bufio.NewReader(c)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				fmt.Fprint(c, line)
			}
		}()
	}
}

// A visit is a connection with its greeting read.
type visit struct {
	net.Conn
	in *bufio.Reader
}

// call connects from th to a and returns who answers, and what address it sees.
func call(th *thread, a string) (v *visit, name string, seen netip.AddrPort, err error) {
	return callWithin(th, a, patience)
}

func callWithin(th *thread, a string, within time.Duration) (v *visit, name string, seen netip.AddrPort, err error) {
	c, err := th.dial(netip.MustParseAddrPort(a), within)
	if err != nil {
		return nil, "", seen, err
	}
	c.SetDeadline(time.Now().Add(patience))
	v = &visit{c, bufio.NewReader(c)}
	line, err := v.in.ReadString('\n')
	if err == nil {
		var from string
		fmt.Sscan(line, &name, &from)
		seen, err = netip.ParseAddrPort(from)
	}
	return v, name, seen, err
}

// says holds that the image still answers.
func (v *visit) says(line string) error {
	if _, err := fmt.Fprintln(v, line); err != nil {
		return err
	}
	got, err := v.in.ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

// checkCall holds that name answers at a, and sees the client's own address.
func checkCall(t *testing.T, th *thread, a, name string) *visit {
	t.Helper()
	v, got, seen, err := call(th, a)
	if err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	want := v.LocalAddr().(*net.TCPAddr).AddrPort()
	if want.Addr() == netip.IPv6Loopback() {
		want = netip.AddrPortFrom(link.Loopback6, want.Port())
	}
	if got != name || seen != want {
		t.Errorf("at %s %q answers and sees %v, want %s and %v", a, got, seen, name, want)
	}
	return v
}

func TestClientsAreRouted(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	r, _ := m.open(t, "a")
	if c, err := m.client.dial(netip.MustParseAddrPort("10.1.0.1:443"), patience); err == nil {
		t.Errorf("there is a door before there is any: %v", c)
	}
	if l := r.Link(); l.Verified || !l.Offload || l.MTU != testMTU || l.MAC != imageMAC || len(l.Addrs) != 2 {
		t.Errorf("the image is told %+v", l)
	}
	m.admit(t, r, everyDoor...)
	for _, a := range []string{"10.1.0.1:443", "[2001:db8:1::1]:443"} {
		v := checkCall(t, m.client, a, "a")
		if err := v.says(strings.Repeat("x", 1<<20)); err != nil {
			t.Errorf("from outside to %s: %v", a, err)
		}
		v.Close()
	}
	for _, a := range []string{"127.0.0.1:443", "127.9.9.9:443", "10.1.0.1:443", "[::1]:443", "[2001:db8:1::1]:443"} {
		v := checkCall(t, m.thread, a, "a")
		if err := v.says(strings.Repeat("x", 1<<20)); err != nil {
			t.Errorf("from the machine itself to %s: %v", a, err)
		}
		v.Close()
	}
	m.admit(t, r, Door{netip.MustParseAddrPort("[::]:445"), 8443})
	for _, a := range []string{"10.1.0.1:445", "[2001:db8:1::1]:445"} {
		checkCall(t, m.client, a, "a").Close()
	}
	// A door of one address is none of another.
	m.admit(t, r, Door{netip.MustParseAddrPort("10.1.0.1:444"), 8443})
	checkCall(t, m.client, "10.1.0.1:444", "a").Close()
	m.admit(t, r, Door{netip.MustParseAddrPort("[2001:db8:1::1]:446"), 8443}, Door{netip.MustParseAddrPort("10.1.0.1:444"), 8443})
	checkCall(t, m.client, "[2001:db8:1::1]:446", "a").Close()
	for _, a := range []string{"127.0.0.1:444", "[2001:db8:1::1]:444", "10.1.0.1:443", "10.1.0.1:446"} {
		if c, err := m.dial(netip.MustParseAddrPort(a), time.Second); err == nil {
			t.Errorf("%s is a door: %v", a, c)
		}
	}
	for _, d := range []Door{{}, {netip.MustParseAddrPort("10.1.0.1:0"), 1}, {netip.MustParseAddrPort("10.1.0.1:1"), 0}} {
		if err := r.Admit([]Door{d}); err == nil {
			t.Errorf("%v is a door", d)
		}
	}
	r.remembers = true // as where the kernel knows no rule that forgets
	m.admit(t, r, everyDoor...)
	checkCall(t, m.client, "10.1.0.1:443", "a").Close()
}

// Connections that the machine itself has go on when doors are put in their way, though
// nobody kept track of them before, and new ones come to the image.
func TestClientsOfIPv4AloneAreRouted(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	r, _ := m.openAs(t, "a", Spec{MTU: testMTU, Raw: true, IPv4: true})
	if l := r.Link(); len(l.Addrs) != 1 || !l.Addrs[0].Addr().Is4() || len(l.Hosts) != 1 {
		t.Errorf("the image is told %+v", l)
	}
	m.admit(t, r, everyDoor...)
	for _, a := range []string{"10.1.0.1:443", "127.0.0.1:443"} {
		checkCall(t, m.thread, a, "a").Close()
	}
	for _, a := range []string{"[::1]:443", "[2001:db8:1::1]:443"} {
		if c, err := m.dial(netip.MustParseAddrPort(a), time.Second); err == nil {
			t.Errorf("%s is a door: %v", a, c)
		}
	}
	if err := r.Admit([]Door{{netip.MustParseAddrPort("[2001:db8:1::1]:446"), 8443}}); err == nil {
		t.Error("there is a door of IPv6")
	}
}

func TestConnectionsFromBeforeGoOn(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	var before []*visit
	for _, at := range []string{"10.1.0.1:443", "[2001:db8:1::1]:443", "127.0.0.1:443"} {
		var ln net.Listener
		var err error
		m.do(func() { ln, err = net.Listen("tcp", at) })
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go greet(ln, "machine")
		from := m.client
		if at == "127.0.0.1:443" {
			from = m.thread
		}
		before = append(before, checkCall(t, from, at, "machine"))
	}
	r, _ := m.open(t, "image")
	m.admit(t, r, everyDoor...)
	for i, v := range before {
		if err := v.says(strings.Repeat("x", 1<<20)); err != nil {
			t.Errorf("connection %d of before: %v", i, err)
		}
	}
	checkCall(t, m.client, "10.1.0.1:443", "image")
}

// Of a connection that the machine had itself the kernel may see the last packets alone,
// when it begins to keep track. A client that is done with it has the next one, from the
// same port, with the image: whoever ended the first, and whenever that was.
func TestAPortOfBeforeComesToTheImage(t *testing.T) {
	var each []Door
	for _, at := range []string{"10.1.0.1:443", "[2001:db8:1::1]:443", "127.0.0.1:443", "[::1]:443"} {
		each = append(each, Door{netip.MustParseAddrPort(at), 8443})
	}
	t.Run("a door at each address", func(t *testing.T) { checkPortsOfBefore(t, each, each...) })
	t.Run("a door at all of them", func(t *testing.T) { checkPortsOfBefore(t, each, everyDoor...) })
}

func checkPortsOfBefore(t *testing.T, at []Door, doors ...Door) {
	m := newMachine(t)
	if m == nil {
		return
	}
	for _, th := range []*thread{m.client, m.thread} { // a port is free as soon as its connection has ended
		var err error
		if th.do(func() { err = setSysctl("ipv4/tcp_max_tw_buckets", "0") }); err != nil {
			t.Fatal(err)
		}
	}
	accepted := make(chan net.Conn, 32)
	m.listen(t, 443, func(l net.Listener) {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			fmt.Fprintf(c, "machine %v\n", c.RemoteAddr())
			accepted <- c
		}
	})
	type ending struct {
		from        *thread
		at          netip.AddrPort
		how         string
		port        int
		late        bool // it ends when there are doors
		first, last net.Conn
	}
	var all []*ending
	for _, d := range at {
		for i := range 4 {
			e := &ending{at: d.Listen, from: m.client, port: 40000 + len(all), late: i < 2}
			if e.at.Addr().IsLoopback() {
				e.from = m.thread
			}
			var err error
			if e.first, err = e.from.dialFrom(e.port, e.at, patience); err != nil {
				t.Fatal(err)
			}
			e.last, e.how = <-accepted, "its client ends it first"
			if i%2 == 0 {
				e.first, e.last, e.how = e.last, e.first, "the machine ends it first"
			}
			defer e.first.Close()
			defer e.last.Close()
			if err := errors.Join(e.first.(*net.TCPConn).CloseWrite(), ended(e.last)); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
	}
	end := func(late bool) {
		for _, e := range all {
			if e.late != late {
				continue
			}
			if err := errors.Join(e.last.Close(), ended(e.first), e.first.Close()); err != nil {
				t.Errorf("at %v, %s: %v", e.at, e.how, err)
			}
		}
	}
	r, _ := m.open(t, "image")
	end(false)
	m.admit(t, r, doors...)
	end(true)
	if r.remembers {
		notrun.Say(t, "ports of connections that end when a routed image has taken over", "this kernel has no CONFIG_NF_CONNTRACK_TIMEOUT")
		all = slices.DeleteFunc(all, func(e *ending) bool { return e.late })
	}
	for _, e := range all {
		if who, err := next(e.from, e.port, e.at); err != nil || who != "image" {
			t.Errorf("at %v, %s, with doors %v: the next one has %q: %v", e.at, e.how, e.late, who, err)
		}
	}
}

// next connects from a port as soon as the connection before is over, and returns who answers.
func next(th *thread, port int, at netip.AddrPort) (who string, err error) {
	c, err := th.dialFrom(port, at, patience)
	for late := time.Now().Add(patience); errors.Is(err, unix.EADDRINUSE) && time.Now().Before(late); {
		time.Sleep(time.Millisecond) // the last packet of that is on its way
		c, err = th.dialFrom(port, at, patience)
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	_, err = fmt.Fscan(c, &who)
	return who, err
}

// The kernel tracks connections while somebody's rules ask for it. One of the machine that
// ends when nobody's do is taken for open later, and yet the client has its next one, from
// the same port, with the image. One that goes on is tracked as before.
func TestWhatEndedUnseenIsForgotten(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	accepted := make(chan net.Conn, 8)
	m.listen(t, 443, func(l net.Listener) {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			fmt.Fprintf(c, "machine %v\n", c.RemoteAddr())
			accepted <- c
		}
	})
	before, _ := m.open(t, "before")
	m.admit(t, before, everyDoor...)
	m.admit(t, before) // clients come to the machine again, and the kernel sees it
	type pair struct{ machine, client net.Conn }
	var all []pair
	for i, at := range []string{"10.1.0.1:443", "[2001:db8:1::1]:443", "10.1.0.1:443", "[2001:db8:1::1]:443"} {
		c, err := m.client.dialFrom(40000+i, netip.MustParseAddrPort(at), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, pair{<-accepted, c})
		defer all[i].machine.Close()
	}
	m.do(func() { before.Close() })
	end, stay := all[:2], all[2:]
	for _, p := range end {
		if err := errors.Join(p.machine.Close(), ended(p.client), p.client.Close()); err != nil {
			t.Fatal(err)
		}
	}
	open := func(p pair) (is bool) {
		var err error
		m.do(func() {
			var all map[socket]bool
			all, err = established()
			is = all[socket{p.machine.LocalAddr().(*net.TCPAddr).AddrPort(), p.machine.RemoteAddr().(*net.TCPAddr).AddrPort()}]
		})
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	for _, p := range stay {
		if !open(p) {
			t.Errorf("nobody has the connection of %v", p.client.LocalAddr())
		}
	}
	for late := time.Now().Add(patience); open(end[0]) || open(end[1]); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("what has ended goes on")
		}
	}

	r, _ := m.open(t, "image")
	m.admit(t, r, everyDoor...)
	for _, p := range end {
		if who, err := next(m.client, p.client.LocalAddr().(*net.TCPAddr).Port, p.client.RemoteAddr().(*net.TCPAddr).AddrPort()); err != nil || who != "image" {
			t.Errorf("the next one from %v has %q: %v", p.client.LocalAddr(), who, err)
		}
	}
	for _, p := range stay {
		from := p.client.LocalAddr().(*net.TCPAddr).AddrPort()
		if len(r.tables.which(family(from.Addr()), func(c *connection) bool { first, _ := ends(c.begin); return first == from })) == 0 {
			t.Errorf("what goes on from %v is forgotten", from)
		}
	}
}

// ended reads all that there is of c.
func ended(c net.Conn) error {
	c.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, c)
	return err
}

// Nothing reaches an image but clients of its doors, and an image reaches nothing but its tender.
func TestNothingElseGetsThrough(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	r, i := m.open(t, "a")
	other, j := m.open(t, "b")
	m.admit(t, r, everyDoor...)
	m.admit(t, other, Door{netip.MustParseAddrPort("0.0.0.0:444"), 8443})
	m.listen(t, 9999, func(l net.Listener) { greet(l, "machine") })
	m.client.listen(t, 9999, func(l net.Listener) { greet(l, "client") })
	dials, err := m.listenFor(r)
	if err != nil {
		t.Fatal(err)
	}
	defer dials.Close()
	go greet(dials, "tender")

	host := netip.AddrPortFrom(r.Link().Hosts[0], link.DialPort)
	if v, name, _, err := call(i.thread, host.String()); err != nil || name != "tender" {
		t.Errorf("the image reaches %q as its tender, %v: %v", name, v, err)
	}
	image4, image6 := r.Link().Addrs[0].Addr(), r.Link().Addrs[1].Addr()
	for _, c := range []struct {
		who  string
		from *thread
		to   string
	}{
		{"a client, the image itself", m.client, netip.AddrPortFrom(image4, 8443).String()},
		{"a client, the image itself in IPv6", m.client, netip.AddrPortFrom(image6, 8443).String()},
		{"the machine, the image itself", m.thread, netip.AddrPortFrom(image4, 8443).String()},
		{"the machine, the image itself in IPv6", m.thread, netip.AddrPortFrom(image6, 8443).String()},
		{"a client, the tender's port", m.client, host.String()},
		{"the machine, the tender's port", m.thread, host.String()},
		{"another image, the tender's port", j.thread, host.String()},
		{"another image, the image", j.thread, netip.AddrPortFrom(image4, 8443).String()},
		{"another image, its door", j.thread, "10.1.0.1:443"},
		{"the image, its own door", i.thread, "10.1.0.1:443"},
		{"the image, the machine", i.thread, "10.1.0.1:9999"},
		{"the image, the machine in IPv6", i.thread, "[2001:db8:1::1]:9999"},
		{"the image, the machine by the link", i.thread, netip.AddrPortFrom(host.Addr(), 9999).String()},
		{"the image, the machine by the link in IPv6", i.thread, netip.AddrPortFrom(r.Link().Hosts[1], 9999).String()},
		{"the image, a client", i.thread, "10.1.0.2:9999"},
		{"the image, a client in IPv6", i.thread, "[2001:db8:1::2]:9999"},
	} {
		if v, name, seen, err := callWithin(c.from, c.to, 100*time.Millisecond); err == nil {
			v.Close()
			t.Errorf("%s: %s answers, and sees %v", c.who, name, seen)
		}
	}
	// What is refused above is there, and reached by others.
	checkCall(t, m.client, "10.1.0.1:9999", "machine")
	checkCall(t, m.thread, "[2001:db8:1::2]:9999", "client")
}

// Whoever has the address that stands for ::1 of this machine, and the way back to it, is not
// taken for somebody on this machine.
func TestNobodyElseIsLoopback(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	r, _ := m.open(t, "a")
	m.admit(t, r, everyDoor...)
	claimed := netip.PrefixFrom(link.Loopback6, 128)
	change := func(th *thread, list func(eth0 int32) message) {
		t.Helper()
		var err error
		th.do(func() {
			var n *netlink
			var i *net.Interface
			if n, err = openNetlink(unix.NETLINK_ROUTE); err != nil {
				return
			}
			defer n.close()
			if i, err = net.InterfaceByName("eth0"); err == nil {
				err = n.do(list(int32(i.Index)))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change(m.client, func(eth0 int32) message { return newAddress(eth0, claimed) })
	change(m.thread, func(int32) message {
		return newRoute(unix.AF_INET6, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, claimed, attributes{}.bytes(unix.RTA_GATEWAY, clientAddrs[1].Addr().AsSlice()), "a way back")
	})
	m.listen(t, 9999, func(l net.Listener) { greet(l, "machine") })
	for a, want := range map[string]bool{"[2001:db8:1::1]:9999": true, "[2001:db8:1::1]:443": false} {
		var c net.Conn
		var err error
		m.client.do(func() {
			d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: link.Loopback6.AsSlice()}}
			if want {
				d.Timeout = patience
			}
			c, err = d.Dial("tcp", a)
		})
		if (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
		if err == nil {
			c.Close()
		}
	}
	checkCall(t, m.client, "10.1.0.1:443", "a").Close()
	checkCall(t, m.thread, "[::1]:443", "a").Close()
}

// listenFor has the tender of r listen.
func (m *machine) listenFor(r *Routed) (l net.Listener, err error) {
	m.do(func() { l, err = r.Listen() })
	return l, err
}

func TestDoorsChangeAtOnce(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	a, _ := m.open(t, "a")
	m.admit(t, a, everyDoor...)
	before := []*visit{checkCall(t, m.client, "10.1.0.1:443", "a"), checkCall(t, m.client, "[2001:db8:1::1]:443", "a"), checkCall(t, m.thread, "[::1]:443", "a")}
	b, _ := m.open(t, "b")
	checkCall(t, m.client, "10.1.0.1:443", "a")
	m.admit(t, b, everyDoor...)
	for _, at := range []string{"10.1.0.1:443", "[2001:db8:1::1]:443"} {
		checkCall(t, m.client, at, "b")
	}
	after := checkCall(t, m.thread, "127.0.0.1:443", "b")
	for i, v := range before {
		if err := v.says("hello"); err != nil {
			t.Errorf("connection %d of the older one: %v", i, err)
		}
	}
	// The older one says its doors again, and still is the older one.
	m.admit(t, a, everyDoor...)
	m.do(func() { a.Close() })
	checkCall(t, m.client, "10.1.0.1:443", "b")
	if err := after.says("hello"); err != nil {
		t.Error(err)
	}
	// What a client still sends of a connection to one that is gone is answered.
	before[0].SetDeadline(time.Now().Add(patience))
	if err := before[0].says("hello"); err == nil || os.IsTimeout(err) {
		t.Errorf("a connection to an image that is gone: %v", err)
	}
}

// A client that has closed its connection to an image may have another to the next one,
// from the same port, when the first is forgotten.
func TestForgettingIsOfOneImage(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	const port = 40000
	door := Door{netip.MustParseAddrPort("0.0.0.0:444"), 8444}
	at := netip.MustParseAddrPort("10.1.0.1:444")
	a, imageA := m.open(t, "a")
	imageA.listen(t, 8444, func(l net.Listener) { // ends first, so that the port is free at once
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	})
	m.admit(t, a, door)
	c, err := m.client.dialFrom(port, at, patience)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("the first one: %v", err)
	}
	c.Close()
	first := a.tables.connections(a.link.Addrs)
	if len(first) == 0 {
		t.Fatal("no connection is known")
	}

	b, imageB := m.open(t, "b")
	imageB.listen(t, 8444, func(l net.Listener) { greet(l, "b") })
	m.admit(t, b, door)
	if c, err = m.client.dialFrom(port, at, patience); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	v := &visit{c, bufio.NewReader(c)}
	if _, err := v.in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for _, forgets := range first {
		a.tables.do(forgets)
	}
	if err := v.says("hello"); err != nil {
		t.Errorf("the second one: %v", err)
	}
}

// A door at all addresses is at none of others: what the machine forwards to the same port
// stays known.
func TestConnectionsOfOthersAreTheirs(t *testing.T) {
	all := []Door{{netip.MustParseAddrPort("0.0.0.0:443"), 8443}}
	own := []netip.Addr{netip.MustParseAddr("10.1.0.1")}
	for _, c := range []struct {
		from, to   string
		translated bool
		want       bool
	}{
		{"10.1.0.2:40000", "10.1.0.1:443", false, true},
		{"10.1.0.1:443", "10.1.0.2:40000", false, true}, // it was under way
		{"127.0.0.1:40000", "127.0.0.9:443", false, true},
		{"10.1.0.2:40000", "10.1.0.1:443", true, false},
		{"10.1.0.2:40000", "10.1.0.1:444", false, false},
		{"10.1.0.2:40000", "192.0.2.1:443", false, false},
		{"10.1.0.1:40000", "192.0.2.1:443", false, false},
	} {
		from, to := netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to)
		tuple := attributes{}.nest(connIP, attributes{}.bytes(connSource4, from.Addr().AsSlice()).bytes(connTarget4, to.Addr().AsSlice())).
			nest(connPorts, attributes{}.bytes(connSource, port(from.Port())).bytes(connTarget, port(to.Port())))
		x := connection{family: unix.AF_INET, begin: tuple, translated: c.translated}
		if got := x.own(all, own); got != c.want {
			t.Errorf("from %s to %s, translated %v: %v", c.from, c.to, c.translated, got)
		}
	}
}
