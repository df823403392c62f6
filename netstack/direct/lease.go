package direct

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lorica.dev/lorica/pep"
)

// Leasing has f ask for an IPv4 address, for as long as the image lives, where it is
// launched to: package dhcp does.
func Leasing(f func(*Lessee)) Option { return func(n *Net) { n.lease = f } }

// A Lessee is the network as who asks for an address needs it: the two ports of DHCP, and
// an address to set. Its packets pass the stack by: it has no address yet.
type Lessee struct {
	net    *Net
	heard  chan []byte
	server atomic.Uint64 // hardware address of who was heard last
}

const (
	serverPort, clientPort = 67, 68
	heardMost              = 8 // messages that wait; more are lost
)

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func newLessee(n *Net) *Lessee { return &Lessee{net: n, heard: make(chan []byte, heardMost)} }

// MAC returns the hardware address of the image.
func (l *Lessee) MAC() [6]byte { return l.net.card.traits.MAC }

// Heard returns the messages of servers that arrive.
func (l *Lessee) Heard() <-chan []byte { return l.heard }

// Done is closed when the network has ended.
func (l *Lessee) Done() <-chan struct{} { return l.net.broken }

// take takes a message of a server, and reports whether a frame is one. What a device on
// the same machine sends has its checksum verified, and often none.
func (l *Lessee) take(frame []byte, verified bool) bool {
	const df, whole = 0x4000, 0x45
	p := frame[ethernetSize:]
	if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber || len(p) < header.IPv4MinimumSize+header.UDPMinimumSize || p[0] != whole ||
		header.IPv4(p).TransportProtocol() != header.UDPProtocolNumber || binary.BigEndian.Uint16(p[6:])&^df != 0 {
		return false
	}
	ip, udp := header.IPv4(p), header.UDP(p[header.IPv4MinimumSize:])
	if udp.SourcePort() != serverPort || udp.DestinationPort() != clientPort {
		return false
	}
	e := l.net.card
	dst := netip.AddrFrom4([4]byte(p[16:20]))
	_, own := e.find(dst)
	to := header.Ethernet(frame).DestinationAddress()
	size := int(udp.Length())
	if !own && dst != broadcast || to != e.LinkAddress() && to != header.EthernetBroadcastAddress ||
		size < header.UDPMinimumSize || size > len(udp) || !ip.IsChecksumValid() {
		e.dropped.Add(1)
		return true
	}
	message := udp[header.UDPMinimumSize:size]
	if !verified && udp.Checksum() != 0 && !udp.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), checksum.Checksum(message, 0)) {
		e.dropped.Add(1)
		return true
	}
	l.server.Store(hardware(frame[6:]))
	select {
	case l.heard <- append([]byte(nil), message...):
	default:
		e.dropped.Add(1)
	}
	return true
}

// Ask sends a message to a server, from an address of the image; to everybody, if to is
// not valid, and from nobody, if from is not. A server that is on another network is
// reached by who relayed what was heard of it.
func (l *Lessee) Ask(from, to netip.Addr, message []byte) error {
	if !from.IsValid() {
		from = netip.IPv4Unspecified()
	}
	e := l.net.card
	const headers = ethernetSize + header.IPv4MinimumSize + header.UDPMinimumSize
	f := append(make([]byte, headers, headers+len(message)), message...)
	if to.IsValid() {
		copy(f, binary.BigEndian.AppendUint64(nil, l.server.Load())[2:])
	} else {
		to = broadcast
		copy(f, header.EthernetBroadcastAddress)
	}
	copy(f[6:], e.traits.MAC[:])
	binary.BigEndian.PutUint16(f[12:], uint16(header.IPv4ProtocolNumber))
	p := f[ethernetSize:]
	ip, udp := header.IPv4(p), header.UDP(p[header.IPv4MinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: addr(from), DstAddr: addr(to)})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp.Encode(&header.UDPFields{SrcPort: clientPort, DstPort: serverPort, Length: uint16(len(udp))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(udp)))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(message, sum)))
	return l.net.send(f)
}

// send sends a frame of IP, if the filter lets it pass.
func (n *Net) send(f []byte) error {
	if n.filter != nil && n.filter.Out(f[ethernetSize:]) != pep.Pass {
		return nil
	}
	return n.card.device.Send(&Frame{Parts: [][]byte{f}})
}

// Hold makes an address the image's, in place of the one that it had; none, if it is not
// valid. By way of the router, if it is valid, are all others.
func (l *Lessee) Hold(a netip.Prefix, router netip.Addr) error {
	n := l.net
	n.owned.mu.Lock()
	was := n.owned.leased
	n.owned.mu.Unlock()
	if was.IsValid() && was != a {
		n.change(func(o *owned) { o.leased, o.router = netip.Prefix{}, netip.Addr{} })
		if err := n.stack.RemoveAddress(nic, addr(was.Addr())); err != nil {
			return fmt.Errorf("network: %v: %s", was, err)
		}
	}
	if !a.IsValid() {
		return nil
	}
	if was != a {
		if err := n.add(a); err != nil {
			return err
		}
	}
	n.change(func(o *owned) { o.leased, o.router = a, router })
	n.setRoutes()
	if was == a {
		return nil
	}
	return n.tell(a.Addr())
}
