package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Features of a network device (section 5.1.3).
const (
	netCsum      = 1 << 0
	netGuestCsum = 1 << 1
	netMTU       = 1 << 3
	netMAC       = 1 << 5
	netGuestTSO4 = 1 << 7
	netGuestTSO6 = 1 << 8
	netHostTSO4  = 1 << 11
	netHostTSO6  = 1 << 12
	netMergeable = 1 << 15
)

// Its configuration (section 5.1.4).
const (
	netConfigMAC = 0
	netConfigMTU = 10
)

// The header before each frame (section 5.1.6).
const (
	netHeader      = 12
	headerFlags    = 0
	headerGSO      = 1
	headerLen      = 2
	headerGSOSize  = 4
	headerCsum     = 6
	headerCsumOff  = 8
	headerBuffers  = 10
	flagNeedsCsum  = 1
	flagDataValid  = 2
	gsoNone        = 0
	gsoTCP4        = 1
	gsoTCP6        = 4
	ethernetHeader = 14
)

const (
	// MaxFrame is the size of the longest frame: one with the longest IP packet, and a
	// VLAN tag, which only others use.
	MaxFrame = ethernetHeader + 4 + 65535

	netReceive, netTransmit = 0, 1 // queues
	netRing                 = 256
	netLeast                = 64 // holds MaxFrame in mergeable buffers
	netBuffer               = 2048
	netOutlet               = 256 << 10 / pageSize
	defaultMTU              = 1500
	leastMTU                = 1280 // what IPv6 needs
)

// A Segmentation says how the device cuts a frame that is too long for the link.
type Segmentation uint8

// Kinds of segmentation.
const (
	Whole Segmentation = iota // it is not too long
	TCP4                      // TCP over IPv4
	TCP6                      // TCP over IPv6
)

// A Frame is what is sent: an Ethernet frame in pieces, and what the device does to it.
type Frame struct {
	Parts [][]byte

	// Checksum has the device compute the Internet checksum of everything from offset
	// ChecksumStart of the frame, and write it ChecksumOffset bytes behind that. The sum
	// of the pseudo header is there already.
	Checksum                      bool
	ChecksumStart, ChecksumOffset uint16

	// A frame that is segmented also has a Checksum, a HeaderSize (Ethernet, IP and TCP
	// together), and at most SegmentSize bytes of content in each segment.
	Segmentation            Segmentation
	SegmentSize, HeaderSize uint16
}

// Abilities are what the device does to frames for its driver.
type Abilities struct {
	Checksum   bool // computes checksums of what is sent
	TCP4, TCP6 bool // segments it
	// Large says that what is received may be longer than the MTU: segments that the
	// host has put together, or never cut.
	Large bool
}

// A Net is a network device. Its methods may be called concurrently.
type Net struct {
	d       *Device
	mac     [6]byte
	mtu     int
	in      *inlet
	out     *outlet
	receive sync.Mutex
}

// NewNet starts a network device. Everything that it needs is taken from the machine
// here; its buffers are of fixed size, 768 KiB together.
func NewNet(d *Device) (*Net, error) {
	if err := d.take(Network); err != nil {
		return nil, err
	}
	n := &Net{d: d, mtu: defaultMTU}
	if err := n.open(); err != nil {
		return nil, d.end(err)
	}
	return n, nil
}

func (n *Net) open() (err error) {
	want := uint64(netCsum | netGuestCsum | netMTU | netGuestTSO4 | netGuestTSO6 | netHostTSO4 | netHostTSO6 | netMergeable)
	if err := n.d.negotiate(netMAC, want, netConsistent); err != nil {
		return err
	}
	if err := n.configure(); err != nil {
		return err
	}
	if n.in, err = n.d.newInlet(netReceive, netRing, netLeast, netBuffer); err != nil {
		return err
	}
	if n.out, err = n.d.newOutlet(netTransmit, netRing, netLeast, netOutlet); err != nil {
		return err
	}
	if err := n.d.start(); err != nil {
		return err
	}
	n.in.ring.notify()
	go n.out.announcer()
	return nil
}

// netConsistent drops features that lack what they build on (section 5.1.3.1), and
// those that take buffers of 64 KiB where they cannot be merged of small ones.
func netConsistent(f uint64) uint64 {
	if f&netCsum == 0 {
		f &^= netHostTSO4 | netHostTSO6
	}
	if f&netGuestCsum == 0 || f&netMergeable == 0 {
		f &^= netGuestTSO4 | netGuestTSO6
	}
	if f&netMergeable == 0 {
		f &^= netMTU
	}
	return f
}

func (n *Net) configure() error {
	mtu := uint32(defaultMTU)
	err := n.d.config(func(load func(offset, size int) uint32) {
		for i := range n.mac {
			n.mac[i] = byte(load(netConfigMAC+i, 1))
		}
		if n.d.has(netMTU) {
			mtu = load(netConfigMTU, 2)
		}
	})
	switch {
	case err != nil:
		return err
	case n.mac[0]&1 != 0 || n.mac == [6]byte{}:
		return n.d.refuse("%x is no address of one device", n.mac)
	case mtu < leastMTU:
		return n.d.refuse("an MTU of %d; at least %d is needed", mtu, leastMTU)
	}
	n.mtu = int(mtu)
	return nil
}

// MAC returns the address of the device.
func (n *Net) MAC() [6]byte { return n.mac }

// MTU returns the size of the longest packet on the link, without Ethernet's header.
func (n *Net) MTU() int { return n.mtu }

// Abilities returns what the device does for its driver.
func (n *Net) Abilities() Abilities {
	return Abilities{
		Checksum: n.d.has(netCsum),
		TCP4:     n.d.has(netHostTSO4),
		TCP6:     n.d.has(netHostTSO6),
		Large:    n.d.has(netGuestTSO4) || n.d.has(netGuestTSO6),
	}
}

// Send copies a frame for the device to send. It blocks while there is no room, until
// the device has sent what is before it: that, and nothing else, is how fast one may
// send. An error is for good, unless it says that the frame is not one.
func (n *Net) Send(f *Frame) error {
	size := 0
	for _, p := range f.Parts {
		size += len(p)
	}
	header, err := n.header(f, size)
	if err != nil {
		return err
	}
	n.out.mu.Lock()
	defer n.out.mu.Unlock()
	err = n.out.send(netHeader+size, func(b []byte) {
		b = b[copy(b, header[:]):]
		for _, p := range f.Parts {
			b = b[copy(b, p):]
		}
	})
	if err == nil {
		n.out.announceSoon()
	}
	return err
}

// header is what the device is told of a frame.
func (n *Net) header(f *Frame, size int) (h [netHeader]byte, err error) {
	if size < ethernetHeader || size > MaxFrame {
		return h, fmt.Errorf("virtio: a frame of %d bytes; %d to %d can be sent", size, ethernetHeader, MaxFrame)
	}
	if f.Checksum {
		if !n.d.has(netCsum) {
			return h, errors.New("virtio: the device computes no checksums")
		}
		if int(f.ChecksumStart)+int(f.ChecksumOffset)+2 > size {
			return h, errors.New("virtio: a checksum behind the end of its frame")
		}
		h[headerFlags] = flagNeedsCsum
		binary.LittleEndian.PutUint16(h[headerCsum:], f.ChecksumStart)
		binary.LittleEndian.PutUint16(h[headerCsumOff:], f.ChecksumOffset)
	}
	switch {
	case f.Segmentation == Whole:
		return h, nil
	case f.Segmentation == TCP4 && n.d.has(netHostTSO4):
		h[headerGSO] = gsoTCP4
	case f.Segmentation == TCP6 && n.d.has(netHostTSO6):
		h[headerGSO] = gsoTCP6
	default:
		return h, errors.New("virtio: the device does not segment such frames")
	}
	if !f.Checksum || f.SegmentSize == 0 || int(f.HeaderSize) >= size {
		return h, errors.New("virtio: a frame to segment needs a checksum, a segment size, and content behind its headers")
	}
	binary.LittleEndian.PutUint16(h[headerLen:], f.HeaderSize)
	binary.LittleEndian.PutUint16(h[headerGSOSize:], f.SegmentSize)
	return h, nil
}

// Close stops the device. What was sent may be lost.
func (n *Net) Close() error { return n.d.close() }
