package virtio

// A ring is a split virtqueue (section 2.7) whose buffers are of one descriptor each.
// Its table of descriptors is written and never read: which buffers the device has, and
// how much it may write to them, is kept in lent. One goroutine at a time uses a ring,
// but for usedIndex, signal and notify.
type ring struct {
	d     *Device
	index int

	desc, avail, used memory
	lent              []loan
	held              int           // how many are lent
	next              uint16        // index of what is lent next, published or not
	last              uint16        // index of what is taken next
	flags             uint32        // of the driver
	wake              chan struct{} // after an interrupt
}

// A loan is a buffer that the device may have.
type loan struct {
	out      bool
	writable uint32
}

const (
	descWrite   = 2 // VIRTQ_DESC_F_WRITE
	noInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	noNotify    = 1 // VIRTQ_USED_F_NO_NOTIFY

	descSize = 16
	usedSize = 8
	ringHead = 4 // flags and index are one word, in this order

)

// newRing sets up queue index, of at most size buffers and at least least. Both are
// powers of two.
func (d *Device) newRing(index, size, least int) (*ring, error) {
	d.regs.Store(regQueueSel, uint32(index))
	if d.regs.Load(regQueueReady, 4) != 0 {
		return nil, d.refuse("queue %d is in use after a reset", index)
	}
	most := d.regs.Load(regQueueNumMax, 4)
	for uint32(size) > most && size > 0 {
		size /= 2
	}
	if size < least {
		return nil, d.refuse("queue %d holds %d buffers; this driver needs %d", index, most, least)
	}
	availAt := descSize * size
	usedAt := availAt + (ringHead+2*size+3)&^3
	mem, phys, err := d.m.Pages((usedAt + ringHead + usedSize*size + pageSize - 1) / pageSize)
	if err != nil {
		return nil, d.refuse("memory for queue %d: %v", index, err)
	}
	r := &ring{d: d, index: index,
		desc: mem[:availAt], avail: mem[availAt:usedAt], used: mem[usedAt : usedAt+ringHead+usedSize*size],
		lent: make([]loan, size), flags: noInterrupt, wake: make(chan struct{}, 1)}
	r.publish()
	d.regs.Store(regQueueNum, uint32(size))
	for _, part := range []struct {
		register int
		at       uint64
	}{{regQueueDescLow, phys}, {regQueueDriverLow, phys + uint64(availAt)}, {regQueueDeviceLow, phys + uint64(usedAt)}} {
		d.regs.Store(part.register, uint32(part.at))
		d.regs.Store(part.register+4, uint32(part.at>>32))
	}
	d.regs.Store(regQueueReady, 1)
	d.queues = append(d.queues, r)
	return r, nil
}

func (r *ring) size() int { return len(r.lent) }

// lend offers the device n bytes, which it reads, or writes if writable. It sees them
// after publish. No buffer with this id may be lent already.
func (r *ring) lend(id uint16, phys uint64, n int, writable bool) {
	at := int(id) * descSize
	r.desc.put64(at, phys)
	r.desc.put32(at+8, uint32(n))
	r.lent[id] = loan{out: true}
	flags := uint16(0)
	if writable {
		flags = descWrite
		r.lent[id].writable = uint32(n)
	}
	r.desc.put16(at+12, flags)
	r.avail.put16(ringHead+2*(int(r.next)%r.size()), id)
	r.next++
	r.held++
}

// publish shows the device what was lent.
func (r *ring) publish() { r.avail.store(0, r.flags|uint32(r.next)<<16) }

// listen asks for interrupts, or for none (section 2.7.7).
func (r *ring) listen(on bool) {
	r.flags = noInterrupt
	if on {
		r.flags = 0
	}
	r.publish()
}

func (r *ring) usedIndex() uint16 { return uint16(r.used.load(0) >> 16) }

// news reports whether take has something to say.
func (r *ring) news() bool { return r.usedIndex() != r.last }

// take takes back the next buffer that the device has used, and how much it wrote to
// it. It believes none of that: an index, an id or a length that cannot be true ends
// the device.
func (r *ring) take() (id uint16, n int, ok bool, err error) {
	index := r.usedIndex()
	ready := int(index - r.last)
	if ready == 0 {
		return 0, 0, false, nil
	}
	if ready > r.held {
		return 0, 0, false, r.fail("its index goes from %d to %d while it has %d buffers", r.last, index, r.held)
	}
	at := ringHead + usedSize*(int(r.last)%r.size())
	wide, length := r.used.load(at), r.used.load(at+4)
	if wide >= uint32(r.size()) {
		return 0, 0, false, r.fail("it returns buffer %d of %d", wide, r.size())
	}
	l := &r.lent[wide]
	if !l.out {
		return 0, 0, false, r.fail("it returns buffer %d, which it does not have", wide)
	}
	if length > l.writable {
		return 0, 0, false, r.fail("it says that it wrote %d bytes to buffer %d, which has room for %d", length, wide, l.writable)
	}
	l.out = false
	r.held--
	r.last++
	return uint16(wide), int(length), true, nil
}

func (r *ring) fail(format string, args ...any) error {
	return r.d.fail("queue %d: "+format, append([]any{r.index}, args...)...)
}

// wait blocks until the device has interrupted, if there is nothing to take. Somebody
// may have been interrupted for what was taken since: callers look again.
func (r *ring) wait() error {
	r.listen(true)
	if !r.news() {
		select {
		case <-r.wake:
		case <-r.d.dead:
		}
	}
	r.listen(false)
	return r.d.failure()
}

// signal wakes who waits.
func (r *ring) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// notify rings the doorbell, unless the device looks by itself (section 2.7.10).
func (r *ring) notify() {
	if r.used.load(0)&noNotify == 0 {
		r.d.regs.Store(regQueueNotify, uint32(r.index))
	}
}
