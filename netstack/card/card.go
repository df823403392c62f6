// Package card is the network of a microVM: a TCP/IP stack over the machine's network
// card, which joins it to its tender.
package card

import (
	"errors"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/kernel"
	"lorica.dev/lorica/netstack/direct"
	"lorica.dev/lorica/virtio"
)

// spare is the part of all memory below which no connection is accepted.
const spare = 16

// New returns the module.
func New(options ...direct.Option) *direct.Net {
	n := direct.New(open, options...)
	n.Short = func() bool {
		free, all := kernel.Memory()
		return free < all/spare
	}
	return n
}

func open(p *launch.Params) (direct.Device, error) {
	if !kernel.Booted() {
		return nil, errors.New("there is no card: the image does not run as a microVM")
	}
	devices, err := virtio.Find(virtio.Kernel{}, kernel.CommandLine())
	if err != nil {
		return nil, err
	}
	d, err := devices.Only(virtio.Network)
	if err != nil {
		return nil, err
	}
	c, err := virtio.NewNet(d)
	if err != nil {
		return nil, err
	}
	return card{c, p.Link.Verified}, nil
}

// A card is a network card as a Device.
type card struct {
	*virtio.Net
	verified bool // what arrives never left the memory of the host
}

func (c card) Traits() direct.Traits {
	a := c.Abilities()
	return direct.Traits{MAC: c.MAC(), MTU: c.MTU(), Checksums: a.Checksum, Segments: a.TCP4 && a.TCP6}
}

func (c card) Send(f *direct.Frame) error { return c.Net.Send(frame(f)) }

// frame is f as the driver takes it.
func frame(f *direct.Frame) *virtio.Frame {
	v := &virtio.Frame{Parts: f.Parts, Checksum: f.Checksum, ChecksumStart: f.ChecksumStart, ChecksumOffset: f.ChecksumOffset,
		SegmentSize: f.SegmentSize, HeaderSize: f.HeaderSize}
	switch f.Segmentation {
	case direct.TCP4:
		v.Segmentation = virtio.TCP4
	case direct.TCP6:
		v.Segmentation = virtio.TCP6
	}
	return v
}

func (c card) Receive(f func(direct.Packet)) error {
	if c.verified {
		return c.Net.Receive(func(p *virtio.Packet) { f(good{p}) })
	}
	return c.Net.Receive(func(p *virtio.Packet) { f(p) })
}

// A good packet needs no checksum, whatever the card says of it.
type good struct{ *virtio.Packet }

// ChecksumVerified implements direct.Packet.
func (good) ChecksumVerified() bool { return true }
