package virtio

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTheCommandLineNamesDevices(t *testing.T) {
	const addr = "0xfeb00000"
	for _, c := range []struct{ name, line, want string }{
		{"nothing", "", "[]"},
		{"others' words", "quiet lorica.window=0x1000,0x2000 virtio_mmio.devices=1 xvirtio_mmio.device=512@0:1", "[]"},
		{"what QEMU says", "virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=512@0xfeb00c00:11", "[{4272950784 512 12} {4272950272 512 11}]"},
		{"what Firecracker says", "a virtio_mmio.device=4K@0xd0001000:5 b", "[{3489665024 4096 5}]"},
		{"decimals", "virtio_mmio.device=0x200@4096:0x7", "[{4096 512 7}]"},
		{"no size", "virtio_mmio.device=@" + addr + ":1", "size"},
		{"no address", "virtio_mmio.device=512@:1", "address"},
		{"no interrupt", "virtio_mmio.device=512@" + addr, "want SIZE"},
		{"an empty interrupt", "virtio_mmio.device=512@" + addr + ":", "interrupt"},
		{"interrupt 0", "virtio_mmio.device=512@" + addr + ":0", "has an interrupt"},
		{"a large interrupt", "virtio_mmio.device=512@" + addr + ":65536", "interrupt"},
		{"more than that", "virtio_mmio.device=512@" + addr + ":1:0", "interrupt"},
		{"negative", "virtio_mmio.device=512@-4096:1", "address"},
		{"too small", "virtio_mmio.device=511@" + addr + ":1", "at least 512"},
		{"not aligned", "virtio_mmio.device=512@0xfeb00002:1", "aligned"},
		{"two pages", "virtio_mmio.device=512@0xfeb00e04:1", "one page"},
		{"beyond the end", "virtio_mmio.device=8K@0xfffffffffffff000:1", "beyond"},
		{"a place twice", "virtio_mmio.device=512@" + addr + ":1 virtio_mmio.device=512@" + addr + ":2", "overlap"},
		{"an interrupt twice", "virtio_mmio.device=512@" + addr + ":1 virtio_mmio.device=512@0xfeb00200:1", "overlap"},
		{"one within another", "virtio_mmio.device=4K@" + addr + ":1 virtio_mmio.device=512@0xfeb00e00:2", "overlap"},
		{"too many", manySlots(maxSlots + 1), "more than 32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseCommandLine(c.line)
			if said := fmt.Sprint(got); err == nil && said != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	if got, err := parseCommandLine(manySlots(maxSlots)); err != nil || len(got) != maxSlots {
		t.Errorf("%d of %d devices, %v", len(got), maxSlots, err)
	}
}

func manySlots(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "virtio_mmio.device=512@%#x:%d ", 0xfeb00000+i*512, i+1)
	}
	return b.String()
}

func FuzzCommandLine(f *testing.F) {
	f.Add(fakeCommandLine)
	f.Add("virtio_mmio.device=4K@0xd0001000:5")
	f.Fuzz(func(t *testing.T, line string) {
		slots, err := parseCommandLine(line)
		if err != nil {
			if slots != nil {
				t.Errorf("%v and %v", slots, err)
			}
			return
		}
		var again strings.Builder
		for i, s := range slots {
			if s.addr%pageSize+registersSize > pageSize || s.size < registersSize || s.addr+s.size < s.addr || s.irq < 1 {
				t.Errorf("accepted %+v", s)
			}
			for _, o := range slots[:i] {
				if s.addr < o.addr+o.size && o.addr < s.addr+s.size || s.irq == o.irq {
					t.Errorf("%+v and %+v overlap", o, s)
				}
			}
			fmt.Fprintf(&again, " virtio_mmio.device=%d@%#x:%d", s.size, s.addr, s.irq)
		}
		if got, err := parseCommandLine(again.String()); err != nil || fmt.Sprint(got) != fmt.Sprint(slots) {
			t.Errorf("%v is %v, %v", slots, got, err)
		}
	})
}

func TestWhatIsNoDeviceForThisImageIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, line string
		change     func(d *fakeDevice)
		want       string
	}{
		{"a legacy device", fakeCommandLine, func(d *fakeDevice) { d.version = 1 }, "device at 0xfeb00e00: a legacy virtio device"},
		{"a device of tomorrow", fakeCommandLine, func(d *fakeDevice) { d.version = 3 }, "version 3"},
		{"a disk", fakeCommandLine, func(d *fakeDevice) { d.kind = 2 }, "virtio device 2: this image has no driver"},
		{"no device", fakeCommandLine, func(d *fakeDevice) { d.magic = 0xffffffff }, "reads 0xffffffff"},
		{"no registers", "virtio_mmio.device=512@0x1000:1", func(d *fakeDevice) {}, "registers at 0x1000: nothing is there"},
		{"no sense", "virtio_mmio.device=", func(d *fakeDevice) {}, "command line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newFake(Network, allNet, goodConfig)
			c.change(d)
			if got, err := Find(d.m, c.line); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestOneDeviceOfAKind(t *testing.T) {
	d := newFake(0, 0, nil)
	if list, err := Find(d.m, fakeCommandLine); err != nil || len(list) != 0 {
		t.Errorf("an empty slot is %v, %v", list, err)
	}
	list := Devices{{kind: Entropy, name: "a"}, {kind: Network, name: "b"}, {kind: Port, name: "c"}, {kind: Port, name: "d"}}
	if got, err := list.Only(Network); err != nil || got != list[1] {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := list.Only(Port); err == nil || !strings.Contains(err.Error(), "c and d") {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := list[:1].Only(Port); err == nil || !strings.Contains(err.Error(), "no virtio-console") {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestDevicesThatDoNotBeginAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(d *fakeDevice)
		want   string
	}{
		{"a good one", func(d *fakeDevice) {}, ""},
		{"all features there are", func(d *fakeDevice) { d.offered = ^uint64(0); d.config = netConfig("\x02\x00\x00\x00\x00\x01", 1500) }, ""},
		{"before version 1", func(d *fakeDevice) { d.offered &^= featureVersion1 }, "lacks features 0x100000000"},
		{"no address", func(d *fakeDevice) { d.offered &^= netMAC }, "lacks features 0x20"},
		{"refused features", func(d *fakeDevice) { d.refuse = true }, "refuses to work"},
		{"an endless reset", func(d *fakeDevice) { d.stuck, d.status = true, 4 }, "reset"},
		{"an address of many", func(d *fakeDevice) { d.config = netConfig("\x53\x54\x00\x12\x34\x56", 0) }, "no address of one"},
		{"an address of nobody", func(d *fakeDevice) { d.config = netConfig("\x00\x00\x00\x00\x00\x00", 0) }, "no address of one"},
		{"a small MTU", func(d *fakeDevice) { d.offered |= netMTU; d.config = netConfig("\x02\x00\x00\x00\x00\x01", 1279) }, "MTU of 1279"},
		{"a restless configuration", func(d *fakeDevice) { d.shaky = 1 << 30 }, "does not stop changing"},
		{"a configuration that changes once", func(d *fakeDevice) { d.shaky = 3 }, ""},
		{"no queue", func(d *fakeDevice) { d.most = 0 }, "queue 0 holds 0 buffers"},
		{"a small queue", func(d *fakeDevice) { d.most = 63 }, "queue 0 holds 63 buffers"},
		{"a queue of just enough", func(d *fakeDevice) { d.most = 64 }, ""},
		{"an odd queue", func(d *fakeDevice) { d.most = 200 }, ""},
		{"a queue in use", func(d *fakeDevice) { d.queues[1].ready = 1 }, "queue 1 is in use"},
		{"no memory at all", func(d *fakeDevice) { d.m.left = 0 }, "out of memory"},
		{"no memory for buffers", func(d *fakeDevice) { d.m.left = 100 }, "out of memory"},
		{"a console", func(d *fakeDevice) { d.kind = Port }, "is no virtio-net"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newFake(Network, allNet, goodConfig)
			c.change(d)
			found := d.find(t)
			n, err := NewNet(found)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer n.Close()
				if want := uint32(statusAcknowledge | statusDriver | statusFeaturesOK | statusDriverOK); d.status != want {
					t.Errorf("its status is %d, not %d", d.status, want)
				}
				return
			}
			var refused *DeviceError
			if err == nil || !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v", err)
			}
			if d.kind == Network && d.status != statusFailed {
				t.Errorf("its status is %d", d.status)
			}
		})
	}
}

func TestADeviceHasOneDriver(t *testing.T) {
	d := newFake(Network, allNet, goodConfig)
	found := d.find(t)
	n, err := NewNet(found)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if _, err := NewNet(found); err == nil || !strings.Contains(err.Error(), "driver already") {
		t.Errorf("got %v", err)
	}
	if err := n.Send(&Frame{Parts: [][]byte{make([]byte, 60)}}); err != nil {
		t.Errorf("the first driver: %v", err)
	}
}

func TestWhatIsNegotiated(t *testing.T) {
	const base = featureVersion1 | netMAC
	for _, c := range []struct {
		name           string
		offered, taken uint64
		abilities      Abilities
		mtu            int
	}{
		{"little", base, base, Abilities{}, 1500},
		{"what a switch of QEMU offers", base | netMergeable | 1<<16 | 1<<17 | 1<<28 | 1<<29, base | netMergeable, Abilities{}, 1500},
		{"everything", ^uint64(0), base | allNet | netMTU, Abilities{true, true, true, true}, 9000},
		{"segments without checksums", base | netMergeable | netHostTSO4 | netHostTSO6 | netGuestTSO4 | netGuestTSO6, base | netMergeable, Abilities{}, 1500},
		{"segments of IPv4", base | netCsum | netHostTSO4, base | netCsum | netHostTSO4, Abilities{Checksum: true, TCP4: true}, 1500},
		{"segments of IPv6 to it", base | netGuestCsum | netGuestTSO6 | netMergeable, base | netGuestCsum | netGuestTSO6 | netMergeable, Abilities{Large: true}, 1500},
		{"large frames and no place for them", base | netGuestCsum | netGuestTSO4 | netMTU, base | netGuestCsum, Abilities{}, 1500},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newFake(Network, c.offered, netConfig("\x52\x54\x00\x12\x34\x56", 9000))
			n, err := NewNet(d.find(t))
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			if d.features != c.taken {
				t.Errorf("it took %#x, not %#x", d.features, c.taken)
			}
			if got := n.Abilities(); got != c.abilities {
				t.Errorf("it is able to %+v", got)
			}
			if n.MTU() != c.mtu || n.MAC() != [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56} {
				t.Errorf("MTU %d, address %x", n.MTU(), n.MAC())
			}
		})
	}
}

func TestADeviceThatGivesUp(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	_, end := receive(n)
	f.mu.Lock()
	f.status |= statusNeedsReset
	f.mu.Unlock()
	f.interrupt()
	if err := within(t, "giving up", end); !strings.Contains(err.Error(), "given up") {
		t.Errorf("got %v", err)
	}
}

// One interrupt may say that a device has used a buffer, and that it has given up.
func TestADeviceThatGivesUpWithNews(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	f.push(netReceive, usedElem{0, 60}) // nobody waits: this does not interrupt
	f.mu.Lock()
	f.status |= statusNeedsReset
	f.mu.Unlock()
	f.interrupt()
	within(t, "giving up", n.d.dead)
	if err := n.d.failure(); !strings.Contains(err.Error(), "given up") {
		t.Errorf("got %v", err)
	}
}

func TestAnInterruptThatEnds(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	_, end := receive(n)
	f.Close()
	if err := within(t, "ending", end); !strings.Contains(err.Error(), "its interrupt: EOF") {
		t.Errorf("got %v", err)
	}
}
