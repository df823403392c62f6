package virtio

import "runtime"

// An inlet is a queue that the device writes to: as many buffers of one size as the
// ring holds, all of which it has but for those that are being read. It gets them back
// as they were read, so a device that floods the machine writes into the same memory
// again and again.
type inlet struct {
	ring     *ring
	mem      memory
	phys     uint64
	each     int // size of a buffer
	returned int // since the device was told
}

func (d *Device) newInlet(index, size, least, each int) (*inlet, error) {
	r, err := d.newRing(index, size, least)
	if err != nil {
		return nil, err
	}
	mem, phys, err := d.m.Pages(r.size() * each / pageSize)
	if err != nil {
		return nil, d.refuse("memory for queue %d: %v", index, err)
	}
	in := &inlet{ring: r, mem: mem, phys: phys, each: each}
	for id := range r.size() {
		in.lend(uint16(id))
	}
	in.ring.publish()
	return in, nil
}

func (in *inlet) lend(id uint16) {
	in.ring.lend(id, in.phys+uint64(int(id)*in.each), in.each, true)
}

// take returns the next buffer, if there is one, with what the device wrote to it, which
// the device may still change.
func (in *inlet) take() (id uint16, b memory, ok bool, err error) {
	if err := in.ring.d.failure(); err != nil {
		return 0, nil, false, err
	}
	id, n, ok, err := in.ring.take()
	if err != nil || !ok {
		return 0, nil, false, err
	}
	at := int(id) * in.each
	return id, in.mem[at : at+n : at+n], true, nil
}

// next is take that waits.
func (in *inlet) next() (id uint16, b memory, err error) {
	for {
		id, b, ok, err := in.take()
		if ok || err != nil {
			return id, b, err
		}
		if err := in.ring.wait(); err != nil {
			return 0, nil, err
		}
	}
}

// put returns a buffer to the device, which is told of each quarter of them. It sees the
// others when somebody waits: to ask for interrupts publishes. Once in a quarter the
// others get to run.
func (in *inlet) put(id uint16) {
	in.lend(id)
	if in.returned++; in.returned < in.ring.size()/4 {
		return
	}
	in.returned = 0
	in.ring.publish()
	in.ring.notify()
	runtime.Gosched()
}
