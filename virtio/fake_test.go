package virtio

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// A fakeMachine has one fake device, and memory that both see.
type fakeMachine struct {
	mu      sync.Mutex
	dev     *fakeDevice
	regions []region
	left    int // pages
}

type region struct {
	phys uint64
	mem  []byte
}

const (
	fakeAddr, fakeIRQ = 0xfeb00e00, 12
	maxQueues         = 6
)

var fakeCommandLine = fmt.Sprintf("quiet virtio_mmio.device=512@%#x:%d lorica.window=0x1000,0x1000", fakeAddr, fakeIRQ)

func (m *fakeMachine) Pages(n int) ([]byte, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left -= n; m.left < 0 {
		return nil, 0, fmt.Errorf("out of memory")
	}
	phys := uint64(0x1_0000_0000) // above 4 GiB: both halves of an address count
	if k := len(m.regions); k > 0 {
		last := m.regions[k-1]
		phys = last.phys + uint64(len(last.mem)) + pageSize // with a hole
	}
	r := region{phys, make([]byte, n*pageSize)}
	m.regions = append(m.regions, r)
	return r.mem, r.phys, nil
}

func (m *fakeMachine) Registers(phys uint64) (Registers, error) {
	if phys != fakeAddr {
		return nil, fmt.Errorf("nothing is there")
	}
	return m.dev, nil
}

func (m *fakeMachine) Interrupt(gsi int, r Registers) (io.ReadCloser, error) {
	if gsi != fakeIRQ || r != Registers(m.dev) {
		return nil, fmt.Errorf("no such interrupt")
	}
	return m.dev, nil
}

// at returns memory as the device sees it: only what the machine gave for that.
func (m *fakeMachine) at(phys uint64, n int) memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.regions {
		if phys >= r.phys && phys+uint64(n) <= r.phys+uint64(len(r.mem)) {
			return memory(r.mem[phys-r.phys:][:n:n])
		}
	}
	panic(fmt.Sprintf("the device was told of %d bytes at %#x, which are not for devices", n, phys))
}

// A fakeDevice is the device side of virtio-mmio. Fields below mu are its registers.
type fakeDevice struct {
	m       *fakeMachine
	version uint32
	magic   uint32
	kind    Kind
	offered uint64
	config  []byte

	mu         sync.Mutex
	refuse     bool // FEATURES_OK
	stuck      bool // in its reset
	shaky      int  // configurations that change as they are read
	generation uint32
	status     uint32
	selected   [2]uint32 // halves of features: of the device, of the driver
	features   uint64    // of the driver
	queue      uint32
	most       uint32 // buffers of a queue
	queues     [maxQueues]fakeQueue
	doorbells  [maxQueues]int
	lied       bool                     // what the device sees may be its own lies
	rung       [maxQueues]chan struct{} // doorbells
	irq        chan struct{}            // the interrupt line
	started    chan struct{}            // by the driver
	closed     chan struct{}            // by the driver
	once       sync.Once
}

type fakeQueue struct {
	num, ready uint32
	addr       [3]uint64 // descriptors, driver, device
	avail      uint16    // index of what is popped next
	used       uint16    // index of what is pushed next
	flags      uint32
}

func newFake(kind Kind, offered uint64, config []byte) *fakeDevice {
	d := &fakeDevice{m: &fakeMachine{left: 1 << 20 / pageSize}, version: 2, magic: magic, kind: kind, offered: offered | featureVersion1, config: config, most: 1024,
		irq: make(chan struct{}, 1), started: make(chan struct{}), closed: make(chan struct{})}
	d.m.dev = d
	for i := range d.rung {
		d.rung[i] = make(chan struct{}, 1)
	}
	return d
}

// find returns the device as the driver finds it.
func (d *fakeDevice) find(t testing.TB) *Device {
	t.Helper()
	list, err := Find(d.m, fakeCommandLine)
	if err != nil {
		t.Fatal(err)
	}
	found, err := list.Only(d.kind)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (d *fakeDevice) Load(offset, size int) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if offset >= regConfig {
		b := make([]byte, 4)
		if at := offset - regConfig; at < len(d.config) {
			copy(b[:size], d.config[at:])
		}
		if d.shaky > 0 {
			d.shaky--
			d.generation++
		}
		return binary.LittleEndian.Uint32(b)
	}
	if size != 4 || offset%4 != 0 {
		panic(fmt.Sprintf("%d bytes of register %#x were read", size, offset))
	}
	q := &d.queues[d.queue%maxQueues]
	switch offset {
	case regMagic:
		return d.magic
	case regVersion:
		return d.version
	case regDeviceID:
		return uint32(d.kind)
	case regDeviceFeatures:
		return uint32(d.offered >> (32 * d.selected[0]))
	case regQueueNumMax:
		return d.most
	case regQueueReady:
		return q.ready
	case regStatus:
		return d.status
	case regConfigGeneration:
		return d.generation
	}
	panic(fmt.Sprintf("register %#x was read", offset))
}

func (d *fakeDevice) Store(offset int, v uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := &d.queues[d.queue%maxQueues]
	switch offset {
	case regDeviceFeaturesSel:
		d.selected[0] = v
	case regDriverFeaturesSel:
		d.selected[1] = v
	case regDriverFeatures:
		shift := 32 * d.selected[1]
		d.features = d.features&^(0xffffffff<<shift) | uint64(v)<<shift
	case regQueueSel:
		d.queue = v
	case regQueueNum:
		q.num = v
	case regQueueReady:
		q.ready = v
	case regStatus:
		switch {
		case v == 0 && d.stuck:
			return
		case v == 0:
			d.features = 0
		case d.refuse:
			v &^= statusFeaturesOK
		}
		if d.status = v; v&statusDriverOK != 0 {
			close(d.started)
		}
	case regQueueNotify:
		if d.status&statusDriverOK == 0 && d.status != statusFailed && d.status != 0 {
			panic("a doorbell before DRIVER_OK")
		}
		d.doorbells[v]++
		select {
		case d.rung[v] <- struct{}{}:
		default:
		}
	case regQueueDescLow, regQueueDriverLow, regQueueDeviceLow:
		a := &q.addr[(offset-regQueueDescLow)/0x10]
		*a = *a&^0xffffffff | uint64(v)
	case regQueueDescHigh, regQueueDriverHigh, regQueueDeviceHigh:
		a := &q.addr[(offset-regQueueDescHigh)/0x10]
		*a = *a&0xffffffff | uint64(v)<<32
	default:
		panic(fmt.Sprintf("register %#x was written", offset))
	}
}

// Read is the kernel's interrupt descriptor.
func (d *fakeDevice) Read(b []byte) (int, error) {
	select {
	case <-d.irq:
		return 8, nil
	case <-d.closed:
		return 0, io.EOF
	}
}

func (d *fakeDevice) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *fakeDevice) interrupt() {
	select {
	case d.irq <- struct{}{}:
	default:
	}
}

// A buffer is what the driver has lent.
type buffer struct {
	id       uint16
	mem      memory
	writable bool
}

// ring returns the two shared parts of a queue that have an index.
func (d *fakeDevice) ring(i int) (q *fakeQueue, avail, used memory) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q = &d.queues[i]
	return q, d.m.at(q.addr[1], ringHead+2*int(q.num)), d.m.at(q.addr[2], ringHead+usedSize*int(q.num))
}

// pop returns the next buffer, if there is one.
func (d *fakeDevice) pop(i int) (buffer, bool) {
	q, avail, _ := d.ring(i)
	index := uint16(avail.load(0) >> 16)
	if index == q.avail {
		return buffer{}, false
	}
	if index-q.avail > uint16(q.num) {
		if d.lied {
			return buffer{}, false
		}
		panic("the driver lends more than there is")
	}
	id := binary.LittleEndian.Uint16(avail[ringHead+2*(int(q.avail)%int(q.num)):])
	q.avail++
	desc := d.m.at(q.addr[0]+uint64(id)*descSize, descSize)
	n, flags := binary.LittleEndian.Uint32(desc[8:]), binary.LittleEndian.Uint16(desc[12:])
	if flags&^descWrite != 0 {
		panic(fmt.Sprintf("a descriptor with the flags %#x", flags))
	}
	return buffer{id, d.m.at(binary.LittleEndian.Uint64(desc), int(n)), flags == descWrite}, true
}

// wait is pop that waits for the driver's doorbell.
func (d *fakeDevice) wait(i int) (buffer, bool) {
	select {
	case <-d.started:
	case <-d.closed:
		return buffer{}, false
	}
	for {
		if b, ok := d.pop(i); ok {
			return b, true
		}
		select {
		case <-d.rung[i]:
		case <-d.closed:
			return buffer{}, false
		}
	}
}

// A usedElem is what the device says of a buffer that it has used.
type usedElem struct {
	id, n uint32
}

// push says that buffers were used, all at once, and interrupts if the driver wants it.
func (d *fakeDevice) push(i int, list ...usedElem) {
	q, avail, used := d.ring(i)
	for _, e := range list {
		at := ringHead + usedSize*(int(q.used)%int(q.num))
		used.store(at, e.id)
		used.store(at+4, e.n)
		q.used++
	}
	used.store(0, q.flags|uint32(q.used)<<16)
	if avail.load(0)&noInterrupt == 0 {
		d.interrupt()
	}
}

// The device that tests are patient with is hung after this long.
const patience = 20 * time.Second

func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing happens", what)
		panic("unreachable")
	}
}
