package way

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Of nf_conntrack_netlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	connGet    = 1
	connDelete = 2

	connBegin    = 1 // the tuple of what began it
	connReply    = 2 // the tuple of what comes back
	connStatus   = 3
	connProtocol = 4
	connIP       = 1 // of a tuple
	connPorts    = 2
	connSource4  = 1 // of an IP
	connTarget4  = 2
	connSource6  = 3
	connTarget6  = 4
	connSource   = 2 // of ports
	connTarget   = 3
	connTCP      = 1 // of a protocol
	connFlags    = 4 // of TCP, in the direction of what began it
	connFlagsToo = 5 // in the other

	flagLiberal = 1 << 3 // IP_CT_TCP_FLAG_BE_LIBERAL
)

// A connection is one that the kernel tracks.
type connection struct {
	family       byte
	begin, reply []byte // tuples
	translated   bool   // where it goes
	joined       bool   // it was under way when the kernel began to track it
}

// forget has the kernel forget the connections to an image: what a client still sends
// of one is judged anew, and answered, instead of going where nobody is. A kernel that
// tells nobody its connections keeps them until they are old.
func (n *netlink) forget(addrs []netip.Prefix) {
	for _, m := range n.connections(addrs) {
		n.do(m) // it may have ended by itself
	}
}

// connections returns what forgets those to an image. They go by what the image answers
// with, which no other has: a client that has closed one may have another by now, to the
// next image, from the same port.
func (n *netlink) connections(addrs []netip.Prefix) (found []message) {
	for _, a := range addrs {
		for _, c := range n.which(family(a.Addr()), func(c *connection) bool {
			from, _ := ends(c.reply)
			return from.Addr() == a.Addr()
		}) {
			found = append(found, c.forgotten())
		}
	}
	return found
}

// forgetOwn has the kernel forget connections to doors that go to this machine itself, which
// has some addresses, and that are not what they are taken for: they were under way when it
// began to track them, or they ended when it no longer did, and nobody has them. Those that
// go on are taken up again.
func (n *netlink) forgetOwn(doors []Door, addrs []netip.Addr) {
	if len(doors) == 0 {
		return
	}
	own := func(c *connection) bool { return c.own(doors, addrs) }
	list := append(n.which(unix.AF_INET, own), n.which(unix.AF_INET6, own)...)
	if len(list) == 0 {
		return
	}
	has, err := established() // after the list, which has none then that only begins
	for _, c := range list {
		from, to := ends(c.begin)
		if c.joined || err == nil && !has[socket{to, from}] && !has[socket{from, to}] {
			n.do(c.forgotten())
		}
	}
}

// own reports whether a machine that has some addresses has one end of c itself, where there
// is a door. Those that it forwards to others are theirs, whatever port they go to.
func (c *connection) own(doors []Door, addrs []netip.Addr) bool {
	from, to := ends(c.begin)
	is := func(a netip.AddrPort) bool {
		return (a.Addr().IsLoopback() || slices.Contains(addrs, a.Addr())) && slices.ContainsFunc(doors, func(d Door) bool { return d.at(a) })
	}
	return !c.translated && (is(from) || is(to))
}

// at reports whether clients find the image at a.
func (d Door) at(a netip.AddrPort) bool {
	listen := d.Listen.Addr().Unmap()
	return d.Listen.Port() == a.Port() && (listen.IsUnspecified() || listen == a.Addr())
}

// which returns the connections of a family that are meant.
func (n *netlink) which(family byte, meant func(*connection) bool) (found []connection) {
	head := nfnetlink(family)
	n.list(message{kind: unix.NFNL_SUBSYS_CTNETLINK<<8 | connGet, body: head, what: "connections"}, func(b []byte) {
		c := connection{family: family}
		attributes(b[len(head):]).read(c.take)
		if meant(&c) {
			c.begin, c.reply = slices.Clone(c.begin), slices.Clone(c.reply)
			found = append(found, c)
		}
	})
	return found
}

// forgotten is what forgets c.
func (c *connection) forgotten() message {
	return message{kind: unix.NFNL_SUBSYS_CTNETLINK<<8 | connDelete, body: nfnetlink(c.family), attrs: attributes{}.nest(connReply, c.reply), what: "a connection"}
}

func nfnetlink(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

func (c *connection) take(kind uint16, v []byte) {
	switch {
	case kind == connBegin:
		c.begin = v
	case kind == connReply:
		c.reply = v
	case kind == connStatus && len(v) == 4:
		c.translated = binary.BigEndian.Uint32(v)&statusDNAT != 0
	case kind == connProtocol:
		attributes(v).read(func(kind uint16, v []byte) {
			if kind != connTCP {
				return
			}
			attributes(v).read(func(kind uint16, v []byte) {
				if (kind == connFlags || kind == connFlagsToo) && len(v) > 0 {
					c.joined = c.joined || v[0]&flagLiberal != 0
				}
			})
		})
	}
}

// ends returns where packets of a tuple come from and go to.
func ends(tuple []byte) (from, to netip.AddrPort) {
	var a, b netip.Addr
	var p, q uint16
	attributes(tuple).read(func(part uint16, v []byte) {
		attributes(v).read(func(kind uint16, v []byte) {
			switch {
			case part == connIP && (kind == connSource4 || kind == connSource6):
				a, _ = netip.AddrFromSlice(v)
			case part == connIP && (kind == connTarget4 || kind == connTarget6):
				b, _ = netip.AddrFromSlice(v)
			case part == connPorts && kind == connSource && len(v) == 2:
				p = binary.BigEndian.Uint16(v)
			case part == connPorts && kind == connTarget && len(v) == 2:
				q = binary.BigEndian.Uint16(v)
			}
		})
	})
	return netip.AddrPortFrom(a, p), netip.AddrPortFrom(b, q)
}
