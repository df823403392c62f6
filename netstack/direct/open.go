package direct

import (
	"errors"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/kernel"
	"lorica.dev/lorica/virtio"
)

// spare is the part of all memory below which no connection is accepted.
const spare = 16

// Open brings the network up over the card of the microVM.
func (n *Net) Open(p *launch.Params) error {
	if !kernel.Booted() {
		return errors.New("network: there is no card: the image does not run as a microVM")
	}
	devices, err := virtio.Find(virtio.Kernel{}, kernel.CommandLine())
	if err != nil {
		return err
	}
	d, err := devices.Only(virtio.Network)
	if err != nil {
		return err
	}
	c, err := virtio.NewNet(d)
	if err != nil {
		return err
	}
	if n.Short == nil {
		n.Short = func() bool {
			free, all := kernel.Memory()
			return free < all/spare
		}
	}
	return n.Attach(card{c}, p)
}

// A card is a network card as a Device.
type card struct{ *virtio.Net }

func (c card) Traits() Traits {
	a := c.Abilities()
	return Traits{MAC: c.MAC(), MTU: c.MTU(), Checksums: a.Checksum, Segments: a.TCP4}
}

func (c card) Receive(f func(Packet)) error {
	return c.Net.Receive(func(p *virtio.Packet) { f(p) })
}
