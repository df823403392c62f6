package way

import (
	"bytes"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Of nf_conntrack_netlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	connGet    = 1
	connDelete = 2

	connReply   = 2 // the tuple of what comes back
	connIP      = 1 // of a tuple
	connSource4 = 1 // of an IP
	connSource6 = 3
)

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
		image := a.Addr().AsSlice()
		head := []byte{family(a.Addr()), unix.NFNETLINK_V0, 0, 0}
		n.list(message{kind: unix.NFNL_SUBSYS_CTNETLINK<<8 | connGet, body: head, what: "connections"}, func(b []byte) {
			attributes(b[len(head):]).read(func(kind uint16, v []byte) {
				if kind == connReply && bytes.Equal(source(v), image) {
					found = append(found, message{kind: unix.NFNL_SUBSYS_CTNETLINK<<8 | connDelete, body: head,
						attrs: attributes{}.nest(connReply, append([]byte{}, v...)), what: "a connection"})
				}
			})
		})
	}
	return found
}

// source returns the address that packets of a tuple come from.
func source(tuple []byte) (addr []byte) {
	attributes(tuple).read(func(kind uint16, v []byte) {
		if kind != connIP {
			return
		}
		attributes(v).read(func(kind uint16, v []byte) {
			if kind == connSource4 || kind == connSource6 {
				addr = v
			}
		})
	})
	return addr
}
