// Command echo is an image that tests the drivers in a machine: what arrives on its
// console or its network goes back, frames to whoever sent them. It says on the serial
// line what it found, and ends the machine with code 1 where a device fails.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"lorica.dev/lorica/kernel"
	"lorica.dev/lorica/virtio"
)

func main() {
	if !kernel.Booted() {
		check(errors.New("this runs in a machine only; see test/boot"))
	}
	list, err := virtio.Find(virtio.Kernel{}, kernel.CommandLine())
	check(err)
	port, err := list.Only(virtio.Port)
	check(err)
	console, err := virtio.NewConsole(port)
	check(err)
	card, err := list.Only(virtio.Network)
	check(err)
	net, err := virtio.NewNet(card)
	check(err)
	check(kernel.Seal())
	free, total := kernel.Memory()
	fmt.Printf("echo: %v\n", list)
	fmt.Printf("echo: address %x, MTU %d, %+v, %d KiB of %d free\n", net.MAC(), net.MTU(), net.Abilities(), free>>10, total>>10)
	fmt.Println("echo: ready")

	go func() {
		_, err := io.Copy(console, struct{ io.Reader }{console})
		check(fmt.Errorf("the console: %w", err))
	}()
	check(net.Receive(func(p *virtio.Packet) { check(net.Send(back(net, p))) }))
}

// back is the frame that a packet is answered with. What is longer than the link takes
// is segmented by the device, as it must have been put together by one.
func back(net *virtio.Net, p *virtio.Packet) *virtio.Frame {
	const ipv4, ipv6, tcp = 0x0800, 0x86dd, 6
	b := make([]byte, p.Len())
	p.CopyTo(b)
	if len(b) < 14 {
		check(fmt.Errorf("a frame of %d bytes", len(b)))
	}
	mac := net.MAC()
	copy(b, b[6:12])
	copy(b[6:], mac[:])
	f := &virtio.Frame{Parts: [][]byte{b[:14], b[14:]}}
	if !p.ChecksumVerified() || len(b) <= 14+net.MTU() {
		return f
	}
	f.Checksum, f.ChecksumOffset = true, 16
	switch kind := binary.BigEndian.Uint16(b[12:]); {
	case kind == ipv4 && b[14+9] == tcp:
		f.Segmentation, f.ChecksumStart = virtio.TCP4, 14+20
	case kind == ipv6 && b[14+6] == tcp:
		f.Segmentation, f.ChecksumStart = virtio.TCP6, 14+40
	default:
		check(fmt.Errorf("a long frame of type %#x", kind))
	}
	f.HeaderSize = f.ChecksumStart + 20
	f.SegmentSize = uint16(net.MTU()) + 14 - f.HeaderSize
	return f
}

func check(err error) {
	if err != nil {
		fmt.Println("echo: FAILED:", err)
		os.Exit(1)
	}
}
