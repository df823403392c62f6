package usernet

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	ethernetSize = header.EthernetMinimumSize
	leastMTU     = header.IPv4MinimumMTU
	mostMTU      = 1<<16 - 1

	maxQueued = 16 << 20 // bytes that QEMU has not taken yet; what is above is dropped
	maxBatch  = 64       // frames that are passed at once
	readAhead = 256 << 10
)

// A wire is QEMU's socket as the stack knows it: each frame has its length before it,
// four bytes, big-endian.
//
// Only the guest is at the other end, and only TCP is spoken with it. What says that it
// comes from somebody else, goes to somebody else, or is something else is dropped.
type wire struct {
	sock        net.Conn
	mtu         int
	guest, host [4]byte
	dispatcher  stack.NetworkDispatcher
	queue       chan *stack.PacketBuffer
	queued      atomic.Int64 // bytes
	dropped     atomic.Uint64
	alive       context.Context // until the socket is closed, at either end
	shut        func()
}

// hardware is the address of the tender, which has no other neighbour.
const hardware = tcpip.LinkAddress("\x02LORIC")

func newWire(sock net.Conn, guest, host netip.Addr, mtu int) *wire {
	w := &wire{sock: sock, mtu: mtu, guest: guest.As4(), host: host.As4(), queue: make(chan *stack.PacketBuffer, 4096)}
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
// very machine: nothing on the way could damage them.
func (w *wire) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}

func (w *wire) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(ethernetSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress, DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber})
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
func (w *wire) read() error {
	r := bufio.NewReaderSize(w.sock, readAhead)
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		size := int64(binary.BigEndian.Uint32(head[:]))
		if size < ethernetSize || size > int64(ethernetSize+w.mtu) {
			w.dropped.Add(1)
			if _, err := io.CopyN(io.Discard, r, size); err != nil {
				return err
			}
			continue
		}
		v := buffer.NewViewSize(int(size))
		if _, err := io.ReadFull(r, v.AsSlice()); err != nil {
			v.Release()
			return err
		}
		w.deliver(v)
	}
}

func (w *wire) deliver(v *buffer.View) {
	frame := v.AsSlice()
	if !w.ours(frame) {
		w.dropped.Add(1)
		v.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	pkt.LinkHeader().Consume(ethernetSize)
	pkt.PktType = tcpip.PacketHost
	w.dispatcher.DeliverNetworkPacket(header.Ethernet(frame).Type(), pkt)
	pkt.DecRef()
}

// ours reports whether a frame is one that a guest has reason to send: ARP, or TCP in a
// whole packet of IPv4 without options.
func (w *wire) ours(frame []byte) bool {
	to, p := header.Ethernet(frame).DestinationAddress(), frame[ethernetSize:]
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		a := header.ARP(p)
		if !a.IsValid() || [4]byte(a.ProtocolAddressSender()) != w.guest {
			return false
		}
		target := [4]byte(a.ProtocolAddressTarget())
		return to == hardware && target == w.host || to == header.EthernetBroadcastAddress && (target == w.host || target == w.guest)
	case header.IPv4ProtocolNumber:
		const df, whole = 0x4000, 0x45 // version 4, a header of 20 bytes
		return to == hardware && len(p) >= header.IPv4MinimumSize+header.TCPMinimumSize && p[0] == whole && binary.BigEndian.Uint16(p[6:])&^df == 0 &&
			[4]byte(p[12:16]) == w.guest && [4]byte(p[16:20]) == w.host && header.IPv4(p).TransportProtocol() == header.TCPProtocolNumber
	}
	return false
}

// WritePackets implements stack.LinkWriter. It never waits: a guest that does not take
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

// write passes what is queued to QEMU, many frames at a time.
func (w *wire) write() error {
	heads := make([][4]byte, maxBatch)
	pkts := make([]*stack.PacketBuffer, 0, maxBatch)
	var pieces net.Buffers
	for {
		pkts, pieces = pkts[:0], pieces[:0]
		select {
		case pkt := <-w.queue:
			pkts = append(pkts, pkt)
		case <-w.alive.Done():
			return net.ErrClosed
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
		for i, pkt := range pkts {
			binary.BigEndian.PutUint32(heads[i][:], uint32(pkt.Size()))
			size += int64(pkt.Size())
			pieces = append(append(pieces, heads[i][:]), pkt.AsSlices()...)
		}
		all := pieces
		_, err := all.WriteTo(w.sock)
		w.queued.Add(-size)
		for _, pkt := range pkts {
			pkt.DecRef()
		}
		if err != nil {
			return err
		}
	}
}
