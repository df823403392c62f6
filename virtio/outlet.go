package virtio

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// An outlet is a queue that the device reads from. What is sent is copied to a region
// of its own, in a circle, whole and behind one descriptor. A sender waits while there
// is no room; others wait behind it, so order is kept and nothing is dropped.
type outlet struct {
	mu   sync.Mutex
	ring *ring
	mem  memory
	phys uint64

	// Positions count all bytes ever; where they are in mem is their remainder. Buffer
	// number n has id n modulo the size of the ring.
	head, tail  uint64
	sent, freed uint64
	parcels     []parcel

	unrung atomic.Int32  // what the device was not told of yet, in parts of the ring
	bell   chan struct{} // asks announcer to tell it
}

// A parcel is what is in one buffer.
type parcel struct {
	end  uint64 // position behind it
	used bool   // by the device
}

// align is what parcels begin at: no two share a line of the cache.
const align = 64

func (d *Device) newOutlet(index, size, least, pages int) (*outlet, error) {
	r, err := d.newRing(index, size, least)
	if err != nil {
		return nil, err
	}
	mem, phys, err := d.m.Pages(pages)
	if err != nil {
		return nil, d.refuse("memory for queue %d: %v", index, err)
	}
	return &outlet{ring: r, mem: mem, phys: phys, parcels: make([]parcel, r.size()), bell: make(chan struct{}, 1)}, nil
}

// send sends what fill writes into the n bytes that it is given, which are at most
// half of the region. It is called with mu locked.
func (o *outlet) send(n int, fill func(b []byte)) error {
	var at uint64
	for {
		if err := o.reap(); err != nil {
			return err
		}
		var ok bool
		if at, ok = o.room(uint64(n)); ok {
			break
		}
		if err := o.ring.wait(); err != nil {
			return err
		}
	}
	offset := at % uint64(len(o.mem))
	fill(o.mem[offset : offset+uint64(n) : offset+uint64(n)])
	id := o.sent % uint64(len(o.parcels))
	o.head = (at + uint64(n) + align - 1) &^ (align - 1)
	o.parcels[id] = parcel{end: o.head}
	o.sent++
	o.ring.lend(uint16(id), o.phys+offset, n, false)
	o.ring.publish()
	o.unrung.Add(1 + int32(n*len(o.parcels)/len(o.mem)))
	return nil
}

// room returns the position of n free bytes in one piece.
func (o *outlet) room(n uint64) (at uint64, ok bool) {
	if o.sent-o.freed == uint64(len(o.parcels)) {
		return 0, false
	}
	size := uint64(len(o.mem))
	at = o.head
	if at%size+n > size {
		at += size - at%size
	}
	return at, at+n-o.tail <= size
}

// reap frees what the device has used, which it may do in any order.
func (o *outlet) reap() error {
	for {
		id, _, ok, err := o.ring.take()
		if err != nil {
			return err
		}
		if !ok {
			return o.ring.d.failure()
		}
		o.parcels[id].used = true
		for o.freed < o.sent {
			oldest := &o.parcels[o.freed%uint64(len(o.parcels))]
			if !oldest.used {
				break
			}
			o.tail = oldest.end
			o.freed++
		}
	}
}

// drain blocks until the device has used everything.
func (o *outlet) drain() error {
	for {
		if err := o.reap(); err != nil || o.sent == o.freed {
			return err
		}
		if err := o.ring.wait(); err != nil {
			return err
		}
	}
}

// announce tells the device what was sent. That takes longer than sending a packet:
// where more may come, announceSoon is better.
func (o *outlet) announce() {
	o.unrung.Store(0)
	o.ring.notify()
}

// announceSoon has the device told when everybody who can run now has run, and may have
// sent more; at once where half of the room is taken by what it does not know of.
func (o *outlet) announceSoon() {
	if int(o.unrung.Load()) >= len(o.parcels)/2 {
		o.announce()
		return
	}
	select {
	case o.bell <- struct{}{}:
	default:
	}
}

// announcer runs as long as the device.
func (o *outlet) announcer() {
	for {
		select {
		case <-o.ring.d.dead:
			return
		case <-o.bell:
		}
		runtime.Gosched()
		if o.unrung.Load() > 0 {
			o.announce()
		}
	}
}
