package virtio

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// A script is what a hostile device does, a byte or a few at a time. It reads as zeros
// behind its end.
type script []byte

func (s *script) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

func (s *script) wide() int { return s.next() | s.next()<<8 }

// lie writes to the part of a queue that the device writes to as the script wants, and
// says no more than that.
func (d *fakeDevice) lie(i int, s *script) {
	d.lied = true
	q, _, used := d.ring(i)
	switch s.next() % 5 {
	case 0: // any buffer, with any length
		id, n := s.wide(), s.wide()
		d.push(i, usedElem{uint32(id), uint32(n)})
	case 1: // a buffer that there may be
		id, n := s.next(), s.wide()
		d.push(i, usedElem{uint32(id), uint32(n)})
	case 2: // any index
		q.used = uint16(s.wide())
		d.push(i)
	case 3: // large numbers
		d.push(i, usedElem{uint32(s.next()) << 24, 0}, usedElem{0, uint32(s.next()) << 24})
	case 4: // not its turn: words of the ring that may still be read
		at := ringHead + s.wide()%(len(used)-ringHead)&^3
		used.store(at, uint32(s.wide()))
	}
}

// Whatever a network device does: no panic, no frame of bytes that it did not say it
// wrote, and as long as it tells the truth every frame arrives.
func FuzzNet(f *testing.F) {
	// A step is an operation and what it needs: 0 a frame from the device, 1 one to it,
	// 2 it takes one, 3 a lie about received frames, 4 one about sent ones, 5 other
	// memory that it can write, 6 many small frames.
	f.Add(uint64(allNet), []byte(goodConfig), []byte{0, 60, 0, 6, 1, 200, 0, 2, 0, 0, 64})
	f.Add(uint64(allNet|netMTU), netConfig("\x02\x00\x00\x00\x00\x01", 9000), []byte{0, 255, 255, 3, 2, 255, 255, 0, 1, 1})
	f.Add(uint64(netMAC), []byte(goodConfig), []byte{0, 10, 0, 3, 1, 3, 40, 0, 3, 1, 3, 40, 0})
	f.Add(uint64(allNet), []byte(goodConfig), []byte{1, 60, 0, 4, 1, 0, 0, 0, 4, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, features uint64, config []byte, b []byte) {
		d := newFake(Network, features, config)
		n, err := NewNet(d.find(t))
		var refused *DeviceError
		switch {
		case errors.As(err, &refused):
			return
		case err != nil:
			t.Fatal(err)
		}
		defer n.Close()
		if n.MTU() < leastMTU || n.MAC()[0]&1 != 0 {
			t.Errorf("accepted an MTU of %d and the address %x", n.MTU(), n.MAC())
		}

		s := script(b)
		var expected, sent [][]byte // to the driver, and from it
		p := Packet{}
		for steps := 0; len(s) > 0 && steps < 200; steps++ {
			switch s.next() % 7 {
			case 0:
				if frame := pattern(uint64(steps), s.wide()*n.in.ring.size()*netBuffer>>16); d.deliverNow(n.d.has(netMergeable), frame) {
					expected = append(expected, frame)
				}
			case 1:
				frame := pattern(uint64(steps), ethernetHeader+s.wide())
				if n.out.reap() != nil {
					break // what the device lied about is found below
				}
				if _, room := n.out.room(uint64(netHeader + len(frame))); !room {
					break
				}
				if err := n.Send(&Frame{Parts: [][]byte{frame}}); err != nil {
					t.Fatal(err)
				}
				sent = append(sent, frame)
			case 2:
				if d.lied {
					break
				}
				if b, ok := d.pop(netTransmit); ok {
					if !bytes.Equal(b.mem[netHeader:], sent[0]) {
						t.Fatal("the device does not get what was sent")
					}
					sent = sent[1:]
					d.push(netTransmit, usedElem{uint32(b.id), 0})
				}
			case 3:
				d.lie(netReceive, &s)
			case 4:
				d.lie(netTransmit, &s)
			case 5: // descriptors, which the driver must not read, and frames
				d.lied = true
				r := memory(d.m.regions[s.next()%len(d.m.regions)].mem)
				r.store(s.wide()*4%len(r), uint32(s.wide())<<8)
			case 6:
				for range s.next() {
					frame := pattern(uint64(steps), 20)
					if d.deliverNow(n.d.has(netMergeable), frame) {
						expected = append(expected, frame)
					}
				}
			}
			for n.in.ring.news() {
				ids, err := n.gather(&p, nil)
				if err != nil {
					if !d.lied {
						t.Fatalf("the device told the truth, and: %v", err)
					}
					if !errors.As(err, &refused) || n.Send(&Frame{Parts: [][]byte{make([]byte, 60)}}) != err || n.Receive(nil) != err {
						t.Fatalf("it is used again after: %v", err)
					}
					return
				}
				frame := make([]byte, p.Len())
				if got := p.CopyTo(frame); got != p.Len() || got > len(ids)*netBuffer-netHeader || len(ids) > n.in.ring.size() {
					t.Fatalf("%d of %d bytes, in %d buffers", got, p.Len(), len(ids))
				}
				if n.in.ring.held+len(ids) != n.in.ring.size() {
					t.Fatalf("%d buffers are lent and %d taken, of %d", n.in.ring.held, len(ids), n.in.ring.size())
				}
				if !d.lied {
					if len(expected) == 0 || !bytes.Equal(frame, expected[0]) {
						t.Fatalf("got a frame of %d bytes that was not sent", len(frame))
					}
					expected = expected[1:]
				}
				for _, id := range ids {
					n.in.put(id)
				}
			}
			n.in.ring.publish()
			if !d.lied && len(expected) > 0 {
				t.Fatalf("%d frames did not arrive", len(expected))
			}
			if n.out.reap() != nil {
				return
			}
		}
	})
}

// deliverNow writes a frame to the buffers that the device has, if that many are there.
func (d *fakeDevice) deliverNow(mergeable bool, frame []byte) bool {
	need := (netHeader + len(frame) + netBuffer - 1) / netBuffer
	q, avail, _ := d.ring(netReceive)
	if d.lied {
		return false
	}
	if there := int(uint16(avail.load(0)>>16) - q.avail); need > there || need > 1 && !mergeable {
		return false
	}
	rest := append(make([]byte, netHeader), frame...)
	rest[headerBuffers], rest[headerBuffers+1] = byte(need), byte(need>>8)
	var used []usedElem
	for len(rest) > 0 {
		b, ok := d.pop(netReceive)
		if !ok {
			return false
		}
		n := copy(b.mem, rest)
		rest = rest[n:]
		used = append(used, usedElem{uint32(b.id), uint32(n)})
	}
	d.push(netReceive, used...)
	return true
}

// Whatever a console does: no panic, and no byte that it did not say it wrote.
func FuzzConsole(f *testing.F) {
	// A step is a queue and an operation: 0 a buffer with bytes, 1 a lie, 2 a message.
	f.Add([]byte{2, 0, 1, 0, 8, 0, 1, 0, 0, 0, 1, 0, 1, 0, 2, 0, 8, 0, 1, 0, 0, 0, 6, 0, 1, 0, 4, 0, 100, 0})
	f.Add([]byte{2, 0, 8, 0, 1, 0, 0, 0, 6, 0, 1, 0, 2, 0, 8, 0, 1, 0, 0, 0, 6, 0, 0, 0})
	f.Add([]byte{2, 0, 8, 0, 1, 0, 0, 0, 6, 0, 1, 0, 4, 1, 0, 3, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newFake(Port, ^uint64(0), twoPorts)
		said := make(chan int, 1) // bytes that were said to be written
		found := d.find(t)
		go func() {
			<-d.started
			s, total := script(b), 0
			for steps := 0; len(s) > 0 && steps < 200; steps++ {
				queue := consoleControlIn + s.next()%4
				if s.next()%2 == 1 {
					d.lie(queue, &s)
					total = 1 << 30 // it may have said anything
					continue
				}
				n := s.wide()
				buf, ok := d.pop(queue)
				if !ok {
					continue
				}
				if !buf.writable {
					d.push(queue, usedElem{uint32(buf.id), 0})
					continue
				}
				n %= len(buf.mem) + 1
				for i := range min(n, controlSize) {
					if v := byte(s.next()); !d.lied { // else the driver may be reading it
						buf.mem[i] = v
					}
				}
				if queue == consoleReceive {
					total += n
				}
				d.push(queue, usedElem{uint32(buf.id), uint32(n)})
			}
			said <- total
			d.Close()
		}()
		c, err := NewConsole(found)
		var broken *DeviceError
		if err != nil {
			if !errors.As(err, &broken) && err != io.EOF {
				t.Fatal(err)
			}
			<-said
			return
		}
		defer c.Close()
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			for err := error(nil); err == nil; {
				_, err = c.Write(make([]byte, 100_000))
			}
		}()
		read := 0
		for err == nil {
			var n int
			n, err = c.Read(make([]byte, 1000))
			read += n
		}
		if !errors.As(err, &broken) && err != io.EOF {
			t.Error(err)
		}
		<-wrote
		if total := <-said; read > total {
			t.Errorf("read %d bytes, and the device said that it wrote %d", read, total)
		}
	})
}
