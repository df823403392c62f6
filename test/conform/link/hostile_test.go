package link

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"lorica.dev/lorica/abi/link"
)

// packet is a frame with a segment of TCP, from one end of the link to the other.
func packet(from, to netip.AddrPort, hardware [6]byte, flags byte, seq, ack uint32, payload string) []byte {
	f := append(hardware[:], 2, 9, 9, 9, 9, 9, 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+len(payload)))
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	return append(append(append(f, sum(ip)...), tcp...), payload...)
}

// sum completes a header of IPv4.
func sum(ip []byte) []byte {
	ip[10], ip[11] = 0, 0
	n := uint32(0)
	for i := 0; i < 20; i += 2 {
		n += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	n = n>>16 + n&0xffff
	n += n >> 16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(n))
	return ip
}

const (
	fin, syn, rst, ack = 1, 2, 4, 16
)

var (
	imageAddress  = [6]byte{2, 'L', 0, 0, 0, 2}
	tenderAddress = [6]byte{2, 'L', 'O', 'R', 'I', 'C'}

	imageIP  = netip.MustParseAddr("169.254.76.2")
	tenderIP = netip.MustParseAddr("169.254.76.1")
	clientIP = netip.MustParseAddr("192.0.2.1")
)

func heap() int64 {
	for range 3 { // pools let go of what two collections did not need
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A flood of beginnings costs little memory, and does not keep others out.
func TestFloodsOfBeginnings(t *testing.T) {
	const flood = 10_000
	for name, send := range map[string]func(r *rig) (frame func(i int) []byte, put func([]byte)){
		"to the image": func(r *rig) (func(int) []byte, func([]byte)) {
			return func(i int) []byte {
				return packet(netip.AddrPortFrom(clientIP, uint16(1+i%1023)), netip.AddrPortFrom(imageIP, port(0)), imageAddress, syn, uint32(i), 0, "")
			}, r.cable.toImage
		},
		"to the tender": func(r *rig) (func(int) []byte, func([]byte)) {
			return func(i int) []byte {
				return packet(netip.AddrPortFrom(imageIP, uint16(1+i%1023)), netip.AddrPortFrom(tenderIP, link.DialPort), tenderAddress, syn, uint32(i), 0, "")
			}, r.cable.toTender
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, faults{}, mtu)
			ln, err := r.tender.Listen()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
					go mirror(c)
				}
			}()
			r.serve(0, mirror)
			if err := ask(r.addrs[0], 0); err != nil {
				t.Fatal(err)
			}
			had := heap()
			frame, put := send(r)
			r.cable.deaf.Store(true) // or the answers would be refused, and all forgotten
			for i := range flood {
				put(frame(i))
			}
			r.cable.deaf.Store(false)
			if err := ask(r.addrs[0], 1); err != nil {
				t.Errorf("behind the flood: %v", err)
			}
			if got := heap() - had; got > 16<<20 {
				t.Errorf("%d beginnings cost %d MiB", flood, got>>20)
			} else {
				t.Logf("%d KiB", got>>10)
			}
		})
	}
}

// An image that takes nothing costs the tender little memory, and no patience.
func TestAGuestThatTakesNothing(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	r.serve(0, func(c net.Conn) { io.Copy(io.Discard, c) })
	if err := askNothing(r); err != nil {
		t.Fatal(err)
	}
	much := make([]byte, 4<<20)
	had := heap()
	stalled := make(chan struct{})
	defer close(stalled)
	r.cable.stalled.Store(&stalled)
	for range 200 { // more than the tender lets wait
		c, err := net.Dial("tcp", r.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go c.Write(much)
	}
	time.Sleep(500 * time.Millisecond)
	if got := heap() - had; got > 64<<20 {
		t.Errorf("it costs %d MiB", got>>20)
	} else {
		t.Logf("%d KiB", got>>10)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if c, err := r.tender.Dial(ctx, netip.AddrPortFrom(clientIP, 5000), port(0)); err == nil {
		t.Errorf("connected to %v", c)
	}
	r.fwd.Close()
	r.tender.Close()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v to give up and to close", took)
	}
}

// An image that accepts and reads nothing costs the tender what its buffers hold.
func TestAGuestThatReadsNothing(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	done := make(chan struct{})
	r.serve(0, func(c net.Conn) {
		<-done
		c.Close()
	})
	defer r.serving.Wait()
	defer r.ports[0].Close()
	defer close(done)
	const clients = 200
	much := make([]byte, 4<<20)
	had := heap()
	for range clients {
		c, err := net.Dial("tcp", r.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go c.Write(much)
	}
	time.Sleep(500 * time.Millisecond)
	if got := heap() - had; got > 100<<20 {
		t.Errorf("%d connections cost %d MiB", clients, got>>20)
	} else {
		t.Logf("%d MiB", got>>20)
	}
}

func askNothing(r *rig) error {
	c, err := net.Dial("tcp", r.addrs[0])
	if err != nil {
		return err
	}
	return c.Close()
}
