package direct

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/virtio"
)

// A Device moves Ethernet frames.
type Device interface {
	Traits() Traits
	// Send takes a frame, and waits while there is no room for it.
	Send(*virtio.Frame) error
	// Receive calls f with each frame that arrives, until the device breaks. f does not
	// keep it.
	Receive(f func(Packet)) error
}

// Traits are what a device is.
type Traits struct {
	MAC       [6]byte
	MTU       int  // bytes of a packet, without the Ethernet header
	Checksums bool // the device completes the checksums of TCP
	Segments  bool // the device cuts what is longer than the MTU
}

// A Packet is a frame that has arrived. It lies in memory of the device, which can
// still change it.
type Packet interface {
	Len() int
	CopyTo([]byte) int
}

const (
	ethernetSize = header.EthernetMinimumSize
	maxPacket    = 1<<16 - 1
)

// An endpoint is a device as the stack knows it. Only the tender is at the other
// end: what says that it comes from somebody else, goes to somebody else, or is
// something that the tender has no use for is dropped, so that little of the stack
// can be reached at all.
type endpoint struct {
	device     Device
	traits     Traits
	addr, host [4]byte
	dispatcher stack.NetworkDispatcher
	dropped    atomic.Uint64
	failed     func(error) // the device broke
	acks       *acks
	clock      *clock
}

func newEndpoint(d Device, addr, host netip.Addr, c *clock, failed func(error)) *endpoint {
	return &endpoint{device: d, traits: d.Traits(), addr: addr.As4(), host: host.As4(), failed: failed, acks: newAcks(), clock: c}
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

// Capabilities implements stack.LinkEndpoint. Frames come out of the memory of this
// very machine: nothing on the way could damage them.
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}

// SupportedGSO implements stack.GSOEndpoint.
func (e *endpoint) SupportedGSO() stack.SupportedGSO {
	if e.traits.Checksums && e.traits.Segments {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// GSOMaxSize implements stack.GSOEndpoint. It leaves room for all headers in a
// packet of IPv4.
func (e *endpoint) GSOMaxSize() uint32 { return maxPacket - 128 }

// Attach implements stack.LinkEndpoint.
func (e *endpoint) Attach(d stack.NetworkDispatcher) {
	if e.dispatcher != nil || d == nil {
		return
	}
	e.dispatcher = d
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
	if p.CopyTo(frame) != size || !e.ours(frame) {
		e.dropped.Add(1)
		v.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	pkt.LinkHeader().Consume(ethernetSize)
	pkt.PktType = tcpip.PacketHost
	e.dispatcher.DeliverNetworkPacket(header.Ethernet(frame).Type(), pkt)
	pkt.DecRef()
}

// ours reports whether a frame is one that the tender sends to this image: ARP, or a
// whole packet of IPv4 without options that carries TCP or an echo request.
func (e *endpoint) ours(frame []byte) bool {
	to, p := header.Ethernet(frame).DestinationAddress(), frame[ethernetSize:]
	mine := to == e.LinkAddress()
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		a := header.ARP(p)
		return (mine || to == header.EthernetBroadcastAddress) && a.IsValid() && [4]byte(a.ProtocolAddressSender()) == e.host &&
			[4]byte(a.ProtocolAddressTarget()) == e.addr
	case header.IPv4ProtocolNumber:
		const df, whole = 0x4000, 0x45 // version 4, a header of 20 bytes
		if !mine || len(p) < header.IPv4MinimumSize || p[0] != whole || binary.BigEndian.Uint16(p[6:])&^df != 0 ||
			[4]byte(p[12:16]) != e.host || [4]byte(p[16:20]) != e.addr {
			return false
		}
		body := p[header.IPv4MinimumSize:]
		switch header.IPv4(p).TransportProtocol() {
		case header.TCPProtocolNumber:
			return len(body) >= header.TCPMinimumSize
		case header.ICMPv4ProtocolNumber:
			return len(body) >= header.ICMPv4MinimumSize && header.ICMPv4(body).Type() == header.ICMPv4Echo
		}
	}
	return false
}

// WritePackets implements stack.LinkWriter. It waits for room: nothing is dropped.
func (e *endpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		before, hold := e.acks.pass(pkt)
		err := error(nil)
		if before != nil {
			err = e.device.Send(before)
		}
		if err == nil && !hold {
			err = e.device.Send(frame(pkt))
		}
		if err != nil {
			e.failed(err)
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return list.Len(), nil
}

// frame says what the device does to a packet.
func frame(pkt *stack.PacketBuffer) *virtio.Frame {
	f := &virtio.Frame{Parts: pkt.AsSlices()}
	gso := pkt.GSOOptions
	if gso.Type != stack.GSOTCPv4 || !gso.NeedsCsum {
		return f
	}
	f.Checksum, f.ChecksumStart, f.ChecksumOffset = true, ethernetSize+gso.L3HdrLen, gso.CsumOffset
	if pkt.Data().Size() > int(gso.MSS) {
		f.Segmentation, f.SegmentSize, f.HeaderSize = virtio.TCP4, gso.MSS, uint16(pkt.HeaderSize())
	}
	return f
}
