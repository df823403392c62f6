package usernet

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/abi/launch"
)

const (
	ethernetSize = header.EthernetMinimumSize
	leastMTU     = header.IPv6MinimumMTU
	mostPacket   = 1<<16 - 1
	mostMTU      = mostPacket - ethernetSize

	maxQueued = 16 << 20 // bytes that nobody has taken yet; what is above is dropped
	maxBatch  = 64       // frames that are passed at once
)

// A wire is the socket as the stack knows it.
//
// Only the image is at the other end, and only TCP is spoken with it. What says that it
// comes from somebody else, or is something else, is dropped: the stack sees none of it.
// Of ICMP, questions for neighbors are answered, and it counts that the image prohibits a
// connection.
type wire struct {
	sock       net.Conn
	framing    framing
	mtu        int
	image      tcpip.LinkAddress
	addr       [2]netip.Addr // of the image: IPv4, IPv6
	host       [2]netip.Addr
	refused    func(flow)
	dispatcher stack.NetworkDispatcher
	queue      chan *stack.PacketBuffer
	queued     atomic.Int64 // bytes
	dropped    atomic.Uint64
	alive      context.Context // until the socket is closed, at either end
	shut       func()
}

// hardware is the address of the tender, which has no other neighbour.
const hardware = tcpip.LinkAddress("\x02LORIC")

func newWire(sock net.Conn, f framing, l *launch.Link, mtu int, refused func(flow)) *wire {
	w := &wire{sock: sock, framing: f, mtu: mtu, image: tcpip.LinkAddress(l.MAC[:]), refused: refused, queue: make(chan *stack.PacketBuffer, 4096)}
	for i, p := range l.Addrs {
		family := 0
		if p.Addr().Is6() {
			family = 1
		}
		w.addr[family], w.host[family] = p.Addr(), l.Hosts[i]
	}
	w.alive, w.shut = context.WithCancel(context.Background())
	context.AfterFunc(w.alive, func() { sock.Close() })
	return w
}

func (w *wire) MTU() uint32                             { return uint32(w.mtu) }
func (w *wire) SetMTU(uint32)                           {}
func (w *wire) MaxHeaderLength() uint16                 { return ethernetSize }
func (w *wire) LinkAddress() tcpip.LinkAddress          { return hardware }
func (w *wire) SetLinkAddress(tcpip.LinkAddress)        {}
func (w *wire) IsAttached() bool                        { return w.dispatcher != nil }
func (w *wire) Wait()                                   {}
func (w *wire) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (w *wire) Close()                                  {}
func (w *wire) SetOnCloseAction(func())                 {}
func (w *wire) ParseHeader(*stack.PacketBuffer) bool    { return true }

// Capabilities implements stack.LinkEndpoint. Frames come out of the memory of this
// very machine: nothing on the way could damage them, and the image is told so.
func (w *wire) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityTXChecksumOffload
}

// AddHeader implements stack.LinkEndpoint. The image is the only neighbour, and known.
func (w *wire) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(ethernetSize)).Encode(&header.EthernetFields{SrcAddr: hardware, DstAddr: w.image, Type: pkt.NetworkProtocolNumber})
}

// Attach implements stack.LinkEndpoint.
func (w *wire) Attach(d stack.NetworkDispatcher) {
	if w.dispatcher != nil || d == nil {
		return
	}
	w.dispatcher = d
	go func() {
		w.read()
		w.shut()
	}()
	go func() {
		w.write()
		w.shut()
	}()
}

// read delivers frames until the socket breaks.
func (w *wire) read() {
	for {
		v, err := w.framing.next()
		switch {
		case err != nil:
			return
		case v == nil:
			w.dropped.Add(1)
		default:
			w.deliver(v)
		}
	}
}

func (w *wire) deliver(v *buffer.View) {
	frame := v.AsSlice()
	switch w.judge(frame) {
	case drop:
		w.dropped.Add(1)
		fallthrough
	case heard:
		v.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	pkt.LinkHeader().Consume(ethernetSize)
	pkt.PktType = tcpip.PacketHost
	w.dispatcher.DeliverNetworkPacket(header.Ethernet(frame).Type(), pkt)
	pkt.DecRef()
}

// WritePackets implements stack.LinkWriter. It never waits: an image that does not take
// its frames loses them.
func (w *wire) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		size := int64(pkt.Size())
		if w.queued.Add(size) <= maxQueued {
			select {
			case w.queue <- pkt.IncRef():
				continue
			case <-w.alive.Done():
				w.queued.Add(-size)
				pkt.DecRef()
				return i, &tcpip.ErrClosedForSend{}
			default:
				pkt.DecRef()
			}
		}
		w.queued.Add(-size)
		w.dropped.Add(1)
		return i, &tcpip.ErrNoBufferSpace{}
	}
	return list.Len(), nil
}

// write passes on what is queued, many frames at a time.
func (w *wire) write() {
	pkts := make([]*stack.PacketBuffer, 0, maxBatch)
	for {
		pkts = pkts[:0]
		select {
		case pkt := <-w.queue:
			pkts = append(pkts, pkt)
		case <-w.alive.Done():
			return
		}
	more:
		for len(pkts) < maxBatch {
			select {
			case pkt := <-w.queue:
				pkts = append(pkts, pkt)
			default:
				break more
			}
		}
		size := int64(0)
		for _, pkt := range pkts {
			size += int64(pkt.Size())
		}
		err := w.framing.pass(pkts)
		w.queued.Add(-size)
		for _, pkt := range pkts {
			pkt.DecRef()
		}
		if err != nil {
			return
		}
	}
}

// A fate is what becomes of a frame.
type fate uint8

const (
	drop  fate = iota // no image has reason to send it
	heard             // it has been acted upon
	pass              // the stack is to see it
)

func passes(ok bool) fate {
	if ok {
		return pass
	}
	return drop
}

// judge lets the stack see what an image asks ARP, and TCP in whole packets without
// options.
func (w *wire) judge(frame []byte) fate {
	e, p := header.Ethernet(frame), frame[ethernetSize:]
	to := e.DestinationAddress()
	switch e.Type() {
	case header.ARPProtocolNumber:
		return passes((to == hardware || to == header.EthernetBroadcastAddress) && w.asks4(p))
	case header.IPv4ProtocolNumber:
		if to == hardware {
			return w.packet4(p)
		}
	case header.IPv6ProtocolNumber:
		if w.addr[1].IsValid() { // else an image has IPv4 alone
			return w.packet6(p, to)
		}
	}
	return drop
}

// asks4 reports whether an ARP packet of the image is about an address on the link.
func (w *wire) asks4(p []byte) bool {
	a := header.ARP(p)
	if !a.IsValid() || ip(a.ProtocolAddressSender()) != w.addr[0] {
		return false
	}
	target := ip(a.ProtocolAddressTarget())
	return target == w.host[0] || target == w.addr[0]
}

func (w *wire) packet4(p []byte) fate {
	const df, whole = 0x4000, 0x45 // version 4, a header of 20 bytes
	if len(p) < header.IPv4MinimumSize || p[0] != whole || binary.BigEndian.Uint16(p[6:])&^df != 0 || ip(p[12:16]) != w.addr[0] {
		return drop
	}
	body := p[header.IPv4MinimumSize:]
	switch header.IPv4(p).TransportProtocol() {
	case header.TCPProtocolNumber:
		return passes(len(body) >= header.TCPMinimumSize)
	case header.ICMPv4ProtocolNumber:
		const quoted = header.ICMPv4MinimumSize
		m := header.ICMPv4(body)
		if len(body) < quoted+header.IPv4MinimumSize+4 || m.Type() != header.ICMPv4DstUnreachable || m.Code() != header.ICMPv4AdminProhibited || body[quoted] != whole {
			return drop
		}
		return w.refuse(body[quoted+12:][:4], body[quoted+16:][:4], body[quoted+header.IPv4MinimumSize:])
	}
	return drop
}

func (w *wire) packet6(p []byte, to tcpip.LinkAddress) fate {
	if len(p) < header.IPv6MinimumSize || p[0]>>4 != 6 || ip(p[8:24]) != w.addr[1] {
		return drop
	}
	body := p[header.IPv6MinimumSize:]
	switch tcpip.TransportProtocolNumber(header.IPv6(p).NextHeader()) { // whoever extends it sends what nobody here reads
	case header.TCPProtocolNumber:
		return passes(to == hardware && len(body) >= header.TCPMinimumSize)
	case header.ICMPv6ProtocolNumber:
		if len(body) < header.ICMPv6NeighborSolicitMinimumSize {
			return drop
		}
		const quoted = header.ICMPv6MinimumSize
		m := header.ICMPv6(body)
		switch {
		case m.Type() == header.ICMPv6NeighborSolicit:
			return w.advertise(ip(m.MessageBody()[4:20]))
		case m.Type() == header.ICMPv6DstUnreachable && m.Code() == header.ICMPv6Prohibited && len(body) >= quoted+header.IPv6MinimumSize+4:
			return w.refuse(body[quoted+8:][:16], body[quoted+24:][:16], body[quoted+header.IPv6MinimumSize:])
		}
	}
	return drop
}

// advertise says that the tender has an address. The image asks for those of clients as
// well, where they are what neighbors have; the stack knows of none that is only a
// client's.
func (w *wire) advertise(target netip.Addr) fate {
	const size = header.ICMPv6NeighborAdvertMinimumSize + header.NDPLinkLayerAddressSize
	if target == w.addr[1] || target.IsMulticast() {
		return drop
	}
	f := make([]byte, ethernetSize+header.IPv6MinimumSize+size)
	header.Ethernet(f).Encode(&header.EthernetFields{SrcAddr: hardware, DstAddr: w.image, Type: header.IPv6ProtocolNumber})
	header.IPv6(f[ethernetSize:]).Encode(&header.IPv6Fields{PayloadLength: size, TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: header.NDPHopLimit,
		SrcAddr: address(target), DstAddr: address(w.addr[1])})
	m := header.ICMPv6(f[ethernetSize+header.IPv6MinimumSize:])
	m.SetType(header.ICMPv6NeighborAdvert)
	a := header.NDPNeighborAdvert(m.MessageBody())
	a.SetSolicitedFlag(true)
	a.SetOverrideFlag(true)
	a.SetTargetAddress(address(target))
	a.Options().Serialize(header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(hardware)})
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: address(target), Dst: address(w.addr[1])}))
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f)})
	defer pkt.DecRef()
	var list stack.PacketBufferList
	list.PushBack(pkt)
	w.WritePackets(list)
	return heard
}

// refuse takes note of an answer to the first packet of a connection, of which it quotes
// the addresses and the ports.
func (w *wire) refuse(client, image, ports []byte) fate {
	if a := ip(image); a != w.addr[0] && a != w.addr[1] {
		return drop
	}
	w.refused(flow{netip.AddrPortFrom(ip(client), binary.BigEndian.Uint16(ports)), binary.BigEndian.Uint16(ports[2:])})
	return heard
}

// ip makes an address of its bytes.
func ip(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
