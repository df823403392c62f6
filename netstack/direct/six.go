package direct

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A Six is IPv6, for a network that has it beside IPv4: package ip6 makes one. Without
// it, frames of IPv6 are dropped before anybody has looked into them.
type Six struct {
	Network   stack.NetworkProtocolFactory
	Transport stack.TransportProtocolFactory // ICMPv6

	// Ours reports whether a packet, in a frame to a hardware address, is one that this
	// image has any use for.
	Ours func(to tcpip.LinkAddress, p []byte) bool
	// Refusal returns the packet that tells the sender of p that an administrator
	// prohibits it; nil where that may not be answered.
	Refusal func(p []byte) []byte
	// Announcement returns the packet that says where an address of the image is, and to
	// whom it goes.
	Announcement func(a netip.Addr) (to tcpip.LinkAddress, p []byte)
}

// Speaking has the network speak IPv6 as well. What open returns follows routers where
// slaac says so, and nobody otherwise.
func Speaking(open func(l *Local, slaac bool) Six) Option { return func(n *Net) { n.six = open } }

// A Local is the network as IPv6 needs it: who it is, and what it learns.
type Local struct{ net *Net }

// Hardware returns the address of the card.
func (l *Local) Hardware() tcpip.LinkAddress { return l.net.card.LinkAddress() }

// Own returns the addresses of the image, of both families, with their networks. It is
// not to be changed.
func (l *Local) Own() []netip.Prefix { return *l.net.card.own.Load() }

// Has reports whether a is an address of the image.
func (l *Local) Has(a netip.Addr) bool {
	_, own := l.net.card.find(a)
	return own
}

// Client reports whether a may be the source of what somebody sends to the image.
func (l *Local) Client(a netip.Addr) bool { return l.net.card.client(a) }

// Learn changes what is known of routers. It may be called by the stack.
func (l *Local) Learn(f func(*Learned)) { l.net.change(func(o *owned) { f(&o.learned) }) }

// Learned is what routers have said, and what follows from it.
type Learned struct {
	Addrs  []netip.Prefix // of the image
	OnLink []netip.Prefix // whose addresses are neighbours
	Ways   []Way
}

// A Way is a route that a router announced.
type Way struct {
	To       netip.Prefix
	By       netip.Addr
	Dislikes int // the router's preference, the best first
}
