package hostile

import (
	"encoding/binary"
	"errors"
	"math/rand"
	"runtime"
	"time"
)

// The devices of a machine, taken away from their drivers.

const (
	network, port, entropy  = 1, 3, 4 // kinds
	firstDevice, lastDevice = 0xfeb0_0000, 0xfeb0_3000
	perDevice               = 0x200

	networkSends, portSends = 1, 5 // queues; the port is the second
)

// onDevices are attacks that answer before they begin.
var onDevices = map[string]func(tables){
	"registers":           registers,
	"frames":              frames,
	"frames, flood":       func(t tables) { send(t, network, networkSends, flooding) },
	"window: by a device": windowByDevice,
	"rings: network":      func(t tables) { rings(t, network) },
	"rings: port":         func(t tables) { rings(t, port) },
	"rings: entropy":      func(t tables) { rings(t, entropy) },
	"port: garbage":       func(t tables) { say(t, []byte("GET / HTTP/1.1\r\nHost: tender\r\n\r\n")) },
	"port: zeros":         func(t tables) { say(t, make([]byte, page)) },
	"port: hello again":   func(t tables) { say(t, frame(64, 36)) },
	"port: committed":     func(t tables) { say(t, frame(67, 8+1+8+32)) },
	"port: too long":      func(t tables) { say(t, frame(71, 1<<17)[:page]) },
	"port: silence":       func(t tables) { takeOver(t, port, portSends) },
}

// A device is the address of its registers.
type device uintptr

func (d device) load(reg uintptr) uint32     { return *at[uint32](uintptr(d) + reg) }
func (d device) store(reg uintptr, v uint32) { *at[uint32](uintptr(d) + reg) = v }

func devices(t tables, each func(d device)) {
	for p := uintptr(firstDevice); p < lastDevice; p += perDevice {
		each(device(t.see(p)))
	}
}

var errNoDevice = errors.New("no such device")

func findDevice(t tables, kind uint32) (found device, err error) {
	err = errNoDevice
	devices(t, func(d device) {
		if d.load(0) == 0x74726976 && d.load(8) == kind {
			found, err = d, nil
		}
	})
	return found, err
}

// A queue is one of eight buffers in a page.
type queue struct {
	device
	index  uint32
	memory *[page]byte
	sent   uint16
}

const (
	size            = 8
	available, used = 256, 512 // in the page
)

// begin resets a device and has it read one queue, where at is the address of the
// queue: of its own memory, or any other.
func (d device) begin(index, n uint32, desc, avail, used uint64) {
	d.store(0x70, 0)
	d.store(0x70, 1|2)
	d.store(0x24, 1)
	d.store(0x20, 1) // VIRTIO_F_VERSION_1
	d.store(0x24, 0)
	d.store(0x20, 0)
	d.store(0x70, 1|2|8)
	d.store(0x30, index)
	d.store(0x38, n)
	for i, a := range []uint64{desc, avail, used} {
		d.store(0x80+uintptr(i)*0x10, uint32(a))
		d.store(0x84+uintptr(i)*0x10, uint32(a>>32))
	}
	d.store(0x44, 1)
	d.store(0x70, 1|2|8|4)
}

func takeOver(t tables, kind, index uint32) (*queue, error) {
	d, err := findDevice(t, kind)
	if err != nil {
		return nil, err
	}
	a := fresh()
	p := uint64(t.physical(a))
	d.begin(index, size, p, p+available, p+used)
	return &queue{device: d, index: index, memory: at[[page]byte](a)}, nil
}

// A piece is one descriptor of a chain.
type piece struct {
	address     uint64
	length      uint32
	flags, next uint16
}

// lend offers a chain and waits a moment for the device to take it.
func (q *queue) lend(chain ...piece) {
	le := binary.LittleEndian
	for i, b := range chain {
		d := q.memory[i*16:]
		le.PutUint64(d, b.address)
		le.PutUint32(d[8:], b.length)
		le.PutUint16(d[12:], b.flags)
		le.PutUint16(d[14:], b.next)
	}
	le.PutUint16(q.memory[available+4+2*(q.sent%size):], 0)
	q.sent++
	q.publish(q.sent)
}

func (q *queue) publish(index uint16) {
	le := binary.LittleEndian
	le.PutUint16(q.memory[available+2:], index)
	q.store(0x50, q.index)
	for range 1000 {
		if le.Uint16(q.memory[used+2:]) == index {
			return
		}
		runtime.Gosched()
	}
}

const writable, more, indirect = 2, 1, 4

// send has a device take what f makes.
func send(t tables, kind, index uint32, f func(tables, *queue)) {
	if q, err := takeOver(t, kind, index); err == nil {
		f(t, q)
	}
}

// say sends bytes to the tender, over and over.
func say(t tables, b []byte) {
	send(t, port, portSends, func(t tables, q *queue) {
		a := fresh()
		n := copy(at[[page]byte](a)[:], b)
		for range 100 {
			q.lend(piece{address: uint64(t.physical(a)), length: uint32(n)})
		}
	})
}

var (
	mine   = []byte{2, 0x4c, 0, 0, 0, 2}
	theirs = []byte{2, 0x4c, 0, 0, 0, 1}
	all    = []byte{255, 255, 255, 255, 255, 255}
)

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// forged are frames of others, of no kind, and of no sense.
func forged() (list [][]byte) {
	ip := func(from, to []byte, protocol byte, payload int) []byte {
		b := []byte{0x45, 0, byte((20 + payload) >> 8), byte(20 + payload), 0, 0, 0, 0, 64, protocol, 0, 0}
		b = join(b, from, to)
		sum := uint32(0)
		for i := 0; i < 20; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		sum = sum&0xffff + sum>>16
		b[10], b[11] = byte(^sum>>8), byte(^sum)
		return append(b, make([]byte, payload)...)
	}
	guest, host, other := []byte{10, 76, 0, 2}, []byte{10, 76, 0, 1}, []byte{127, 0, 0, 1}
	v4, arp, v6, vlan := []byte{8, 0}, []byte{8, 6}, []byte{0x86, 0xdd}, []byte{0x81, 0, 0, 1}
	for _, to := range [][]byte{theirs, all, mine, {1, 0, 0x5e, 0, 0, 1}} {
		for _, from := range [][]byte{mine, theirs, all, {0, 1, 2, 3, 4, 5}} {
			list = append(list,
				join(to, from, v4, ip(other, host, 6, 20)), // of the tender's own machine
				join(to, from, v4, ip(host, guest, 17, 8)),
				join(to, from, v4, ip(guest, []byte{8, 8, 8, 8}, 17, 8)),
				join(to, from, v4, ip(guest, []byte{255, 255, 255, 255}, 1, 64)),
				join(to, from, v4, ip(guest, host, 6, 20)[:30]),
				join(to, from, arp, []byte{0, 1, 8, 0, 6, 4, 0, 2}, from, host, theirs, host), // the host is here
				join(to, from, arp, []byte{0, 1, 8, 0, 6, 4, 0, 1}, from, other, all, other),
				join(to, from, v6, []byte{0x60, 0, 0, 0, 0, 16, 58, 255}, make([]byte, 32), []byte{134, 0, 0, 0, 64, 8, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}),
				join(to, from, vlan, v4, ip(guest, host, 6, 20)),
				join(to, from, []byte{0xff, 0xff}, make([]byte, 1500)))
		}
	}
	return append(list, nil, make([]byte, 1), make([]byte, 13))
}

// networkHeader is before each frame, and asks for nothing.
const networkHeader = 12

// frames sends each of them, then one that is as long as there can be.
func frames(t tables) {
	send(t, network, networkSends, func(t tables, q *queue) {
		a := fresh()
		for _, f := range forged() {
			n := copy(at[[page]byte](a)[networkHeader:], f)
			q.lend(piece{address: uint64(t.physical(a)), length: uint32(networkHeader + n)})
		}
		copy(at[[page]byte](a)[networkHeader:], join(theirs, mine, []byte{8, 0}))
		chain := []piece{{address: uint64(t.physical(a)), length: networkHeader + 14, flags: more, next: 1}}
		for i := uint16(1); i < size; i++ { // over and over the memory below it
			chain = append(chain, piece{address: page, length: 16 << 10, flags: more, next: i + 1})
		}
		chain[size-1].flags = 0
		q.lend(chain...)
	})
}

// flooding sends frames as fast as they are taken, for two seconds.
func flooding(t tables, q *queue) {
	a := fresh()
	list := forged()
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		for _, f := range list {
			n := copy(at[[page]byte](a)[networkHeader:], f)
			q.lend(piece{address: uint64(t.physical(a)), length: uint32(networkHeader + n)})
		}
	}
}

// windowByDevice has the source of entropy write where the program in force is.
func windowByDevice(t tables) {
	send(t, entropy, 0, func(t tables, q *queue) {
		q.lend(piece{address: uint64(t.physical(window)), length: 64, flags: writable})
	})
}

// rings gives a device queues that no driver would.
func rings(t tables, kind uint32) {
	d, err := findDevice(t, kind)
	if err != nil {
		return
	}
	a := fresh()
	p := uint64(t.physical(a))
	places := []uint64{p, 0, 0xfeb0_0000, uint64(firstDevice), localAPIC, 1 << 40, ^uint64(0) - 15}
	lengths := []uint32{0, 1, page, 1 << 31, ^uint32(0)}
	for index := range uint32(6) {
		for _, n := range []uint32{0, 1, size, 3, 1024, 1 << 15, ^uint32(0)} {
			for _, at := range places {
				d.begin(index, n, at, at+available, at+used)
				d.store(0x50, index)
			}
		}
		for _, place := range places {
			for _, length := range lengths {
				for _, chain := range [][]piece{
					{{place, length, 0, 0}},
					{{place, length, writable, 0}},
					{{place, length, more, 0}},                                      // itself again
					{{place, length, more, 1}, {place, length, more | writable, 0}}, // a circle
					{{place, length, more, 9}},                                      // no such piece
					{{place, length, indirect, 0}},
					{{place, length, writable | more, 1}, {place, length, 0, 0}}, // the wrong order
				} {
					q := &queue{device: d, index: index, memory: (*[page]byte)(at[[page]byte](a))}
					clear(q.memory[:])
					d.begin(index, size, p, p+available, p+used)
					q.lend(chain...)
				}
			}
		}
		q := &queue{device: d, index: index, memory: (*[page]byte)(at[[page]byte](a))}
		d.begin(index, size, p, p+available, p+used)
		q.publish(0xffff) // more than there are
		d.store(0x50, 0xffff)
	}
}

// registers writes what comes to hand to every register of every device.
func registers(t tables) {
	dice := rand.New(rand.NewSource(1))
	var list []device
	devices(t, func(d device) { list = append(list, d) })
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		for _, d := range list {
			for range 64 {
				d.store(uintptr(dice.Intn(perDevice/4)*4), dice.Uint32()>>dice.Intn(32))
				d.load(uintptr(dice.Intn(perDevice/4) * 4))
			}
		}
		runtime.Gosched()
	}
}
