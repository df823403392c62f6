package kernel

import "testing"

func line(s string) (at, n uint64) {
	b := append([]byte(s), "0x1,lorica.window="...) // what lies behind the end must not matter
	return addrOf(b), uint64(len(s))
}

func TestWindowOnTheCommandLine(t *testing.T) {
	for _, c := range []struct {
		line      string
		a, n      uint64
		found, ok bool
	}{
		{"", 0, 0, false, false},
		{"quiet panic=-1", 0, 0, false, false},
		{"lorica.window=0x4000000,0x200000", 0x400_0000, 0x20_0000, true, true},
		{"  a lorica.window=0X1,2 b", 0, 0, true, false},
		{"lorica.window=4096,8192 x", 4096, 8192, true, true},
		{"x=lorica.window=1,2", 0, 0, false, false},
		{"lorica.window=", 0, 0, true, false},
		{"lorica.window=1", 1, 0, true, false},
		{"lorica.window=1,", 1, 0, true, false},
		{"lorica.window=,1", 0, 1, true, false},
		{"lorica.window=1,2,3", 1, 2, true, false},
		{"lorica.window=1,2x", 1, 2, true, false},
		{"lorica.window=0x,2", 0, 2, true, false},
		{"lorica.window=0xffffffffffffffff,18446744073709551615", ^uint64(0), ^uint64(0), true, true},
		{"lorica.window=0x10000000000000000,1", 0, 0, true, false},
		{"lorica.window=18446744073709551616,1", 0, 0, true, false},
		{"lorica.window=1,2 lorica.window=1,2", 0, 0, true, false},
	} {
		a, n, found, ok := parseWindow(line(c.line))
		if found != c.found || ok != c.ok || ok && (a != c.a || n != c.n) {
			t.Errorf("%q: got %#x, %#x, %v, %v", c.line, a, n, found, ok)
		}
	}
}

func TestDevicesOnTheCommandLine(t *testing.T) {
	for s, want := range map[string]uint64{
		"virtio_mmio.device=512@0xfeb00e00:12": 0xfeb0_0e00,
		"virtio_mmio.device=4K@0xd0000000:5":   0xd000_0000,
		"virtio_mmio.device=512@0xfeb00e00":    0xfeb0_0e00,
		"virtio_mmio.device=@0xfeb00e00:12":    0,
		"virtio_mmio.device=512":               0,
		"virtio_mmio.device=512@":              0,
		"virtio_mmio.devices=512@0xfeb00e00:1": 0,
		"device=512@0xfeb00e00:12":             0,
	} {
		at, n := line(s)
		w, _ := nextWord(at, n, 0)
		regs, ok := parseDevice(w)
		if ok != (want != 0) || ok && regs != want {
			t.Errorf("%q: got %#x, %v", s, regs, ok)
		}
	}
}

// FuzzCommandLine: every word is inside of the line and without a blank, and the
// words are all of it.
func FuzzCommandLine(f *testing.F) {
	f.Add([]byte("a  lorica.window=0x1,2 virtio_mmio.device=512@0xfeb00e00:12 "))
	f.Fuzz(func(t *testing.T, b []byte) {
		start, n := line(string(b))
		var words, letters uint64
		for i := uint64(0); ; {
			var w word
			w, i = nextWord(start, n, i)
			if w.n == 0 {
				break
			}
			if w.at < start || w.at+w.n > start+n {
				t.Fatalf("word %d is outside", words)
			}
			for j := uint64(0); j < w.n; j++ {
				if ld8(w.at+j) == ' ' {
					t.Fatalf("word %d has a blank", words)
				}
			}
			words, letters = words+1, letters+w.n
			parseDevice(w)
		}
		for _, c := range b {
			if c != ' ' {
				letters--
			}
		}
		if letters != 0 {
			t.Errorf("%d letters more than there are", int64(letters))
		}
		if a, size, found, ok := parseWindow(start, n); ok && !found {
			t.Errorf("a window %#x, %#x that was not found", a, size)
		}
	})
}
