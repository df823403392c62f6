package virtio

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// consoleMultiport says that the device has ports with flow control, and queues to say
// so (section 5.3.3). Without it, QEMU drops what the guest writes faster than it is read.
const consoleMultiport = 1 << 1

const (
	// The queues of port 0 are never used: it is what has no flow control.
	consoleControlIn, consoleControlOut = 2, 3 // section 5.3.2
	consoleReceive, consoleTransmit     = 4, 5 // of port 1

	consoleConfigPorts = 4
	consolePort        = 1
	consoleRing        = 16
	consoleLeast       = 2
	consoleBuffer      = 4096
	consoleOutlet      = 128 << 10 / pageSize
	consoleChunk       = 32 << 10
	controlBuffer      = 256
)

// Messages about ports (section 5.3.6.2).
const (
	portDeviceReady = 0
	portAdd         = 1
	portRemove      = 2
	portReady       = 3
	portOpen        = 6

	controlSize = 8
)

// connectTime bounds how long the host may take to be there.
const connectTime = 30 * time.Second

// A Console is a stream of bytes to the host and back: port 1 of a virtio console
// device. Its methods may be called concurrently.
type Console struct {
	d    *Device
	in   *inlet
	out  *outlet
	read sync.Mutex
	id   uint16 // of the buffer that rest is of
	rest memory // received, and not read yet

	controlIn  *inlet
	controlOut *outlet
	connected  chan struct{} // closed when the host has opened the port
	hungUp     atomic.Bool   // the host has closed it
}

// NewConsole starts a console and waits until the host has opened its side. Everything
// that it needs is taken from the machine here.
func NewConsole(d *Device) (*Console, error) {
	if err := d.take(Port); err != nil {
		return nil, err
	}
	c := &Console{d: d, connected: make(chan struct{})}
	if err := c.open(); err != nil {
		return nil, d.end(err)
	}
	return c, nil
}

func (c *Console) open() (err error) {
	if err := c.d.negotiate(0, consoleMultiport, nil); err != nil {
		return err
	}
	ports := uint32(0)
	if c.d.has(consoleMultiport) {
		if err := c.d.config(func(load func(offset, size int) uint32) { ports = load(consoleConfigPorts, 4) }); err != nil {
			return err
		}
	}
	if ports <= consolePort {
		return c.d.refuse("it has no port with flow control; QEMU wants -device virtio-serial-device,max_ports=2 -device virtserialport,nr=%d", consolePort)
	}
	if c.controlIn, err = c.d.newInlet(consoleControlIn, consoleRing, consoleRing, controlBuffer); err != nil {
		return err
	}
	if c.controlOut, err = c.d.newOutlet(consoleControlOut, consoleRing, consoleLeast, 1); err != nil {
		return err
	}
	if c.in, err = c.d.newInlet(consoleReceive, consoleRing, consoleLeast, consoleBuffer); err != nil {
		return err
	}
	if c.out, err = c.d.newOutlet(consoleTransmit, consoleRing, consoleLeast, consoleOutlet); err != nil {
		return err
	}
	if err := c.d.start(); err != nil {
		return err
	}
	go c.control()
	select {
	case <-c.connected:
		return nil
	case <-c.d.dead:
		return c.d.failure()
	case <-time.After(connectTime):
		return c.d.refuse("nobody has opened its port %d on the host in %v; QEMU wants -device virtserialport,nr=%d", consolePort, connectTime, consolePort)
	}
}

// control talks with the device about its port for as long as it has one.
func (c *Console) control() {
	c.controlIn.ring.notify()
	c.in.ring.notify()
	if c.tell(0, portDeviceReady) != nil {
		return
	}
	for {
		id, b, err := c.controlIn.next()
		if err != nil {
			return
		}
		var message [controlSize]byte
		n := copy(message[:], b)
		c.controlIn.put(id)
		if n < controlSize {
			c.controlIn.ring.fail("a message of %d bytes about a port", n)
			return
		}
		if c.hear(binary.LittleEndian.Uint32(message[:]), binary.LittleEndian.Uint16(message[4:]), binary.LittleEndian.Uint16(message[6:])) != nil {
			return
		}
	}
}

// hear acts on a message from the device. Names, sizes and what is a console are for
// others.
func (c *Console) hear(port uint32, event, value uint16) error {
	switch event {
	case portAdd, portRemove, portOpen:
		if port != consolePort {
			return c.controlIn.ring.fail("a message about port %d; there is only port %d", port, consolePort)
		}
	}
	switch {
	case event == portAdd:
		if err := c.tell(consolePort, portReady); err != nil {
			return err
		}
		return c.tell(consolePort, portOpen)
	case event == portOpen && value == 1:
		select {
		case <-c.connected:
		default:
			close(c.connected)
		}
	case event == portRemove, event == portOpen:
		// What it sent before is still to be read.
		c.hungUp.Store(true)
		c.in.ring.signal()
	}
	return nil
}

// tell sends the device a message with the value 1.
func (c *Console) tell(port uint32, event uint16) error {
	c.controlOut.mu.Lock()
	defer c.controlOut.mu.Unlock()
	err := c.controlOut.send(controlSize, func(b []byte) {
		binary.LittleEndian.PutUint32(b, port)
		binary.LittleEndian.PutUint16(b[4:], event)
		binary.LittleEndian.PutUint16(b[6:], 1)
	})
	if err == nil {
		c.controlOut.announce()
	}
	return err
}

// Read reads what the host has sent, and waits for it. It returns io.EOF when the host
// has closed its side.
func (c *Console) Read(p []byte) (int, error) {
	c.read.Lock()
	defer c.read.Unlock()
	if len(p) == 0 {
		return 0, c.d.failure()
	}
	for len(c.rest) == 0 {
		if err := c.fetch(c.hungUp.Load()); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.in.put(c.id)
	}
	return n, nil
}

// fetch takes what the host has sent next, or waits for it. There will be nothing more
// where the host was gone before it looks: it may send its last word and go meanwhile.
func (c *Console) fetch(gone bool) error {
	id, b, ok, err := c.in.take()
	switch {
	case err != nil:
		return err
	case ok && len(b) == 0:
		c.in.put(id)
	case ok:
		c.id, c.rest = id, b
	case gone:
		return c.d.end(io.EOF)
	default:
		return c.in.ring.wait()
	}
	return nil
}

// Write returns when the device has taken all of p, so that nothing is lost where the
// machine ends after it. What others write comes before or after all of p.
func (c *Console) Write(p []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	n := 0
	for n < len(p) {
		chunk := p[n:min(n+consoleChunk, len(p))]
		if err := c.out.send(len(chunk), func(b []byte) { copy(b, chunk) }); err != nil {
			return n, err
		}
		c.out.announce()
		n += len(chunk)
	}
	if err := c.out.drain(); err != nil {
		return 0, err
	}
	return n, nil
}

// Close stops the device. Whoever reads or writes returns os.ErrClosed.
func (c *Console) Close() error { return c.d.close() }
