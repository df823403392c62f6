// Package way is the kernel's part of the link between a tender and an image with a
// network of its own: a TAP device whose other end the image has, and how clients'
// packets get there with the addresses and ports of the clients themselves.
//
// A private link is in a network namespace of its own, in which there is nobody else
// and from which no route leads on: the tender makes each client's connection once
// more, in there, from the client's address. A nested one is the same for an ordinary
// user, whose namespaces a helper process makes. A routed one is in the tender's own
// namespace, and the kernel translates where packets go, and nothing else of them.
//
// What the kernel is told goes over netlink, in messages that are written here: they
// are few, and what the tables of a routed link rely on, an owner and a generation, no
// library of Go can say.
package way

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"lorica.dev/lorica/abi/launch"
)

// MaxMTU leaves room for Ethernet's header in what a TAP device takes.
const MaxMTU = 65535 - 14

// imageMAC is the hardware address that an image has on every link, where it is alone
// with its tender. The kernel knows it beforehand and asks nobody: packets wait in the
// device for an image that starts, instead of being answered as unreachable.
var imageMAC = [6]byte{0x02, 0x4c, 0, 0, 0, 2}

// A Way is the tender's end of an image's link. Safe for concurrent use.
type Way interface {
	// Dial connects to a port of the image, from the address and port of client, which
	// must not be those of another open connection to that port; from the tender's own
	// where client is the zero AddrPort. An image that refuses is ECONNREFUSED, one that
	// prohibits EHOSTUNREACH (IPv4) or EACCES (IPv6). The connection is a *net.TCPConn.
	// Clients at addresses that mean something else on the link are errors.ErrUnsupported:
	// its own, those of IPv6 that are of one cable (fe80::), and what stands for ::1; and
	// all of IPv6 where the link has IPv4 alone.
	Dial(ctx context.Context, client netip.AddrPort, port uint16) (net.Conn, error)
	// Listen returns where the image connects to the tender: abi/link.DialPort.
	Listen() (net.Listener, error)
	// Link is what the image is to be told of its end.
	Link() launch.Link
	// File is the image's end: each read and write is a frame behind a virtio_net_hdr of
	// 10 bytes. It does not block, and stays the Way's.
	File() *os.File
	// Close takes the link away, once the image has ended too. Connections stay open and
	// reach nobody.
	Close() error
}

// A Spec is what a link is to be.
type Spec struct {
	MTU  int  // bytes of a packet
	Raw  bool // for a process, which is handed the descriptor; else for QEMU
	IPv4 bool // alone: neither end has an address of IPv6, and the kernel speaks none of it there
}

// check holds that packets fit, and that IPv6 can use them.
func (s Spec) check() error {
	if s.MTU < 1280 || s.MTU > MaxMTU {
		return fmt.Errorf("way: packets of %d bytes: they must have 1280 to %d", s.MTU, MaxMTU)
	}
	return nil
}
