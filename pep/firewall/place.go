package firewall

import (
	"net/netip"

	"lorica.dev/lorica/abi/link"
)

const dhcpServer, dhcpClient = 67, 68

var (
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	allNodes  = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})
)

func address(a [16]byte, v6 bool) netip.Addr {
	if !v6 {
		return netip.AddrFrom4([4]byte(a[12:]))
	}
	return netip.AddrFrom16(a)
}

// possible reports whether somebody else can have the address. Loopback addresses of
// IPv4, and what stands for that of IPv6, are those of clients on the machine that the
// image runs on, where nobody but its tender is on the link.
func (f *filter) possible(src netip.Addr) bool {
	if f.place.Shared && (src.IsLoopback() || src == link.Loopback6) {
		return false
	}
	if src.Is4() {
		if a := src.As4(); a[0] == 0 || a[0] >= 224 && a[0] < 240 || src == broadcast { // this network; multicast
			return false
		}
	} else {
		a := src.As16()
		if a[0] == 0xff || [12]byte(a[:]) == [12]byte{} { // unspecified, ::1, or IPv4-compatible
			return false
		}
	}
	for _, own := range *f.own.Load() {
		if src == own {
			return false
		}
	}
	return true
}

// solicited reports whether dst is the group of those who have an address of the image,
// or one that ends alike.
func (f *filter) solicited(dst netip.Addr) bool {
	group := [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff}
	for _, own := range *f.own.Load() {
		if own.Is6() {
			a := own.As16()
			copy(group[13:], a[13:])
			if dst == netip.AddrFrom16(group) {
				return true
			}
		}
	}
	return false
}

// discovers judges neighbour discovery that arrived; from says that the source is
// possible, own that the destination is the image.
func (f *filter) discovers(p *packet, src, dst netip.Addr, from, own bool) bool {
	switch p.message {
	case neighbourSolicitation:
		group := f.solicited(dst)
		return from && (own || group) || src.IsUnspecified() && group // somebody asks whether an address is taken
	case neighbourAdvertisement:
		return from && (own || dst == allNodes)
	case routerAdvertisement:
		return f.place.SLAAC && from && src.IsLinkLocalUnicast() && (own || dst == allNodes)
	}
	return false
}

// discovered judges neighbour discovery that is about to leave; own says that the
// source is an address of the image.
func (f *filter) discovered(p *packet, src, dst netip.Addr, own bool) bool {
	near := dst.IsLinkLocalMulticast() || dst.IsLinkLocalUnicast() || f.place.SLAAC || f.place.Shared
	for _, host := range f.place.Hosts {
		near = near || dst == host
	}
	switch p.message {
	case neighbourSolicitation:
		return near && (own || src.IsUnspecified())
	case neighbourAdvertisement:
		return near && own
	case routerSolicitation:
		return f.place.SLAAC && near && (own || src.IsUnspecified())
	}
	return false
}
