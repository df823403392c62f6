package direct

import (
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/pep"
)

const (
	ethernetSize = header.EthernetMinimumSize
	maxPacket    = 1<<16 - 1
)

// An endpoint is a device as the stack knows it. What no firewall has to judge because
// it is nobody's business here is dropped before the stack sees it (see ours).
type endpoint struct {
	device     Device
	traits     Traits
	own        atomic.Pointer[[]netip.Prefix] // addresses of the image
	shared     bool                           // others than the tender are on the link
	six        *Six                           // nil where there is IPv4 alone
	leases     *Lessee                        // nil where nobody is asked for one
	filter     pep.PacketFilter               // nil lets everything pass
	dispatcher stack.NetworkDispatcher
	verified   atomic.Bool   // of the packet that is delivered
	near       atomic.Uint64 // hardware address of where loopback addresses are
	refusals   bucket
	openings   bucket
	dropped    atomic.Uint64
	failed     func(error) // the device broke
	acks       *acks
	windows    *windows // nil where nothing overtakes anything
	clock      *clock
}

func newEndpoint(d Device, own []netip.Prefix, filter pep.PacketFilter, c *clock, failed func(error)) *endpoint {
	e := &endpoint{device: d, traits: d.Traits(), filter: filter, failed: failed, acks: newAcks(), clock: c}
	e.own.Store(&own)
	return e
}

func (e *endpoint) MTU() uint32                             { return uint32(e.traits.MTU) }
func (e *endpoint) SetMTU(uint32)                           {}
func (e *endpoint) MaxHeaderLength() uint16                 { return ethernetSize }
func (e *endpoint) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(e.traits.MAC[:]) }
func (e *endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *endpoint) IsAttached() bool                        { return e.dispatcher != nil }
func (e *endpoint) Wait()                                   {}
func (e *endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (e *endpoint) Close()                                  {}
func (e *endpoint) SetOnCloseAction(func())                 {}
func (e *endpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }

// Capabilities implements stack.LinkEndpoint. The stack asks for each packet that it is
// given, while it is given it, whether it has to verify checksums.
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	if e.verified.Load() {
		return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
	}
	return stack.CapabilityResolutionRequired
}

// SupportedGSO implements stack.GSOEndpoint.
func (e *endpoint) SupportedGSO() stack.SupportedGSO {
	if e.traits.Checksums && e.traits.Segments {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// GSOMaxSize implements stack.GSOEndpoint. It leaves room for all headers in a packet.
func (e *endpoint) GSOMaxSize() uint32 { return maxPacket - 128 }

// Attach implements stack.LinkEndpoint.
func (e *endpoint) Attach(d stack.NetworkDispatcher) {
	if e.dispatcher == nil {
		e.dispatcher = d
	}
}

// start receives until the device breaks.
func (e *endpoint) start() {
	done := make(chan struct{})
	go e.acks.release(e.device.Send, done)
	go func() {
		err := e.device.Receive(e.receive)
		close(done)
		e.failed(err)
	}()
}

func (e *endpoint) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(ethernetSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress, DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber})
}

func (e *endpoint) receive(p Packet) {
	size := p.Len()
	if size < ethernetSize || size > ethernetSize+maxPacket {
		e.dropped.Add(1)
		return
	}
	e.clock.move()
	v := buffer.NewViewSize(size)
	frame := v.AsSlice()
	if p.CopyTo(frame) != size || !e.speaks(frame) || !e.judge(frame) {
		e.dropped.Add(1)
		v.Release()
		return
	}
	if e.leases != nil && e.leases.take(frame, p.ChecksumVerified()) {
		v.Release()
		return
	}
	if !e.ours(frame) || !e.segment(frame) {
		e.dropped.Add(1)
		v.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	pkt.LinkHeader().Consume(ethernetSize)
	pkt.PktType = tcpip.PacketHost
	e.verified.Store(p.ChecksumVerified())
	e.dispatcher.DeliverNetworkPacket(header.Ethernet(frame).Type(), pkt)
	pkt.DecRef()
}

// speaks reports whether a frame may be looked into: one of IPv6 only where that is spoken.
func (e *endpoint) speaks(frame []byte) bool {
	return e.six != nil || header.Ethernet(frame).Type() != header.IPv6ProtocolNumber
}

// segment looks at TCP in a frame that is ours. It reports whether the stack may see it.
func (e *endpoint) segment(frame []byte) bool {
	if !isIP(header.Ethernet(frame).Type()) {
		return true
	}
	from, t, ok := parseTCP(frame[ethernetSize:])
	if !ok {
		return true
	}
	if e.floods(t) {
		return false
	}
	if e.windows != nil {
		e.windows.settle(from, t)
	}
	return true
}

// judge asks the filter about a packet of IP that arrived.
func (e *endpoint) judge(frame []byte) bool {
	if e.filter == nil || !isIP(header.Ethernet(frame).Type()) {
		return true
	}
	switch e.filter.In(frame[ethernetSize:]) {
	case pep.Pass:
		return true
	case pep.Refuse:
		e.refuse(frame)
	}
	return false
}

func isIP(t tcpip.NetworkProtocolNumber) bool {
	return t == header.IPv4ProtocolNumber || t == header.IPv6ProtocolNumber
}

// WritePackets implements stack.LinkWriter. It waits for room: nothing is dropped but
// what the filter denies.
func (e *endpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		parts := pkt.AsSlices()
		if e.filter != nil && isIP(pkt.NetworkProtocolNumber) && e.filter.Out(headers(pkt, parts)) != pep.Pass {
			continue
		}
		before, hold := e.acks.pass(pkt, parts)
		err := error(nil)
		if before != nil {
			err = e.device.Send(before)
		}
		if err == nil && !hold {
			err = e.device.Send(frame(pkt, parts))
		}
		if err != nil {
			e.failed(err)
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return list.Len(), nil
}

// headers returns the beginning of a packet that is sent, from its IP header on, with
// all headers: of ICMP those of the packet that it is about too.
func headers(pkt *stack.PacketBuffer, parts [][]byte) []byte {
	const most = 256
	first := parts[0][ethernetSize:]
	if len(parts) == 1 || pkt.TransportProtocolNumber == header.TCPProtocolNumber && len(first) >= pkt.HeaderSize()-ethernetSize {
		return first
	}
	b := append(make([]byte, 0, most), first...)
	for _, p := range parts[1:] {
		b = append(b, p[:min(len(p), most-len(b))]...)
	}
	return b
}

// frame says what the device does to a packet.
func frame(pkt *stack.PacketBuffer, parts [][]byte) *Frame {
	f := &Frame{Parts: parts}
	gso := pkt.GSOOptions
	if gso.Type != stack.GSOTCPv4 && gso.Type != stack.GSOTCPv6 || !gso.NeedsCsum {
		return f
	}
	f.Checksum, f.ChecksumStart, f.ChecksumOffset = true, ethernetSize+gso.L3HdrLen, gso.CsumOffset
	if pkt.Data().Size() > int(gso.MSS) {
		f.Segmentation, f.SegmentSize, f.HeaderSize = TCP4, gso.MSS, uint16(pkt.HeaderSize())
		if gso.Type == stack.GSOTCPv6 {
			f.Segmentation = TCP6
		}
	}
	return f
}
