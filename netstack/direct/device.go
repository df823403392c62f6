package direct

// A Device moves Ethernet frames.
type Device interface {
	Traits() Traits
	// Send takes a frame, and waits while there is no room for it. Frames are sent by
	// several goroutines.
	Send(*Frame) error
	// Receive calls f with each frame that arrives, until the device breaks. f does not
	// keep it.
	Receive(f func(Packet)) error
}

// Traits are what a device is.
type Traits struct {
	MAC       [6]byte
	MTU       int  // bytes of a packet, without the Ethernet header
	Checksums bool // the device completes the checksums of TCP
	Segments  bool // the device cuts what is longer than the MTU, of both families
}

// A Packet is a frame that has arrived. It lies in memory of the device, which can
// still change it.
type Packet interface {
	Len() int
	CopyTo([]byte) int
	// ChecksumVerified reports whether the device answers for the checksums in it.
	ChecksumVerified() bool
}

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
