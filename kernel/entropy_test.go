package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"runtime"
	"testing"
	"unsafe"
)

func words(b []byte) (w []uint32) {
	for ; len(b) > 0; b = b[4:] {
		w = append(w, binary.LittleEndian.Uint32(b))
	}
	return w
}

// TestChaChaBlock is RFC 8439, 2.3.2.
func TestChaChaBlock(t *testing.T) {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	nonce, _ := hex.DecodeString("000000090000004a00000000")
	want, _ := hex.DecodeString("10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4ed2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e")
	n := words(nonce)
	var out [blockWords]uint32
	chachaBlock(&out, (*[keyWords]uint32)(words(key)), 1, n[0], n[1], n[2])
	if got := unsafe.Slice((*byte)(unsafe.Pointer(&out)), len(want)); !bytes.Equal(got, want) {
		t.Errorf("got %x", got)
	}
}

func seeded(seed byte) *generator {
	g := new(generator)
	b := bytes.Repeat([]byte{seed}, seedBytes)
	g.mix(addrOf(b))
	return g
}

func take(g *generator, n int) []byte {
	b := make([]byte, n+8)
	for i := range b {
		b[i] = 0xee
	}
	g.fill(addrOf(b), uint64(n))
	for _, c := range b[n:] {
		if c != 0xee {
			panic("fill wrote past the end")
		}
	}
	return b[:n]
}

// TestOutputIsChaCha computes what the generator gives from the block function.
func TestOutputIsChaCha(t *testing.T) {
	var key [keyWords]uint32
	for i := range key {
		key[i] = 0x0707_0707
	}
	var want []byte
	for i := range 4 { // the first block is the mix
		var block [blockWords]uint32
		chachaBlock(&block, &key, 0, 0, 0, 0)
		copy(key[:], block[:keyWords])
		if i > 0 {
			for _, w := range block[keyWords:] {
				want = binary.LittleEndian.AppendUint32(want, w)
			}
		}
	}
	if got := take(seeded(7), 75); !bytes.Equal(got, want[:75]) {
		t.Errorf("got %x, want %x", got, want[:75])
	}
}

func TestNothingOfTheOutputIsKept(t *testing.T) {
	g := seeded(1)
	before := g.key
	out := take(g, 1000)
	state := unsafe.Slice((*byte)(unsafe.Pointer(g)), unsafe.Sizeof(*g))
	for i := 0; i+8 <= len(out); i++ {
		if bytes.Contains(state, out[i:i+8]) {
			t.Fatalf("output %d lies in the state", i)
		}
	}
	if g.key == before {
		t.Error("the key stays")
	}
	for i := 0; i < len(before); i += 2 {
		if g.key[i] == before[i] && g.key[i+1] == before[i+1] {
			t.Error("half of the key stays")
		}
	}
}

// TestNoSeedIsKept: not where the device wrote it, from where all could be computed.
func TestNoSeedIsKept(t *testing.T) {
	page := newRNG(t)
	random = generator{}
	copy(page[rngBuffer:], bytes.Repeat([]byte{0x5a}, seedBytes))
	reseed()
	if random.key == [keyWords]uint32{} || random.key == seeded(0).key {
		t.Error("the answer was not mixed in")
	}
	if !bytes.Equal(page, make([]byte, pageSize)) {
		t.Error("the answer is kept")
	}
}

// newRNG is a device in memory, which answers when a test does.
func newRNG(t *testing.T) (memory []byte) {
	pages := make([]byte, 2*pageSize)
	rng.regs, rng.memory, random = addrOf(pages), addrOf(pages)+pageSize, *seeded(3)
	t.Cleanup(func() {
		rng.regs, rng.memory, rng.index, rng.asked, rng.broken = 0, 0, 0, false, false
		random, requests, lastSeeded = generator{}, 0, 0
		runtime.KeepAlive(pages)
	})
	return pages[pageSize:]
}

// TestReseeding: the device is asked again after so many requests, or so long, and what it
// answers counts. No clock runs here: it is 0.
func TestReseeding(t *testing.T) {
	memory := newRNG(t)
	var b [8]byte
	get := func() { sysGetrandom(addrOf(b[:]), 8) }
	for n := range reseedRequests {
		if get(); rng.asked {
			t.Fatalf("asked after %d requests", n+1)
		}
	}
	get()
	available := binary.LittleEndian.Uint32(memory[rngAvailable:])
	if !rng.asked || available != noInterrupt|1<<16 {
		t.Fatalf("not asked: %#x is available", available)
	}
	get()
	if available != binary.LittleEndian.Uint32(memory[rngAvailable:]) {
		t.Error("asked twice")
	}
	copy(memory[rngBuffer:], bytes.Repeat([]byte{0x5a}, seedBytes))
	binary.LittleEndian.PutUint32(memory[rngUsed:], 1<<16)
	binary.LittleEndian.PutUint32(memory[rngUsed+8:], seedBytes)
	alike := random // but for the answer
	alike.fill(addrOf(b[:]), 8)
	if get(); rng.asked || requests != 0 || random.key == alike.key {
		t.Errorf("the answer does not count: asked %v, %d requests", rng.asked, requests)
	}
	lastSeeded = 0
	lastSeeded -= reseedAfter // so long ago
	if get(); rng.asked {
		t.Error("asked too early")
	}
	lastSeeded--
	if get(); !rng.asked {
		t.Error("not asked in time")
	}
	big := make([]byte, 1<<20+1)
	if n := sysGetrandom(addrOf(big), uint64(len(big))); n != 1<<20 || big[n-1]|big[n-2]|big[n-3] == 0 || big[n] != 0 {
		t.Errorf("%d bytes at once, while interrupts are off", n)
	}
	rng.asked, rng.broken = false, true
	if askRNG(); rng.asked {
		t.Error("asked although it lies")
	}
}

func TestEverySeedCounts(t *testing.T) {
	a, b := seeded(1), seeded(2)
	same := bytes.Repeat([]byte{9}, seedBytes)
	a.mix(addrOf(same))
	b.mix(addrOf(same))
	x, y := take(a, 32), take(b, 32)
	if bytes.Equal(x, y) {
		t.Error("a known seed replaces an unknown one")
	}
	if bytes.Equal(take(seeded(1), 32), x) {
		t.Error("the second seed does not count")
	}
}

// TestTheDeviceIsNotTrusted has a device write what it likes into its ring.
func TestTheDeviceIsNotTrusted(t *testing.T) {
	for _, c := range []struct {
		name           string
		index, id, len uint32
		answered, over bool
	}{
		{"nothing yet", 0, 0, 0, false, false},
		{"an answer", 1, 0, seedBytes, true, false},
		{"a short answer", 1, 0, 1, true, false},
		{"nothing in it", 1, 0, 0, false, true},
		{"longer than the buffer", 1, 0, seedBytes + 1, false, true},
		{"much longer", 1, 0, 1<<32 - 1, false, true},
		{"another descriptor", 1, 1, seedBytes, false, true},
		{"two at once", 2, 0, seedBytes, false, true},
		{"backwards", 0xffff, 0, seedBytes, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			page := make([]byte, pageSize)
			defer func() { rng.memory, rng.index, rng.asked, rng.broken = 0, 0, false, false }()
			rng.memory, rng.index, rng.asked, rng.broken = addrOf(page), 1, true, false
			binary.LittleEndian.PutUint32(page[rngUsed:], c.index<<16)
			binary.LittleEndian.PutUint32(page[rngUsed+4:], c.id)
			binary.LittleEndian.PutUint32(page[rngUsed+8:], c.len)
			if got := judgeRNG(); got != c.answered || rng.broken != c.over {
				t.Errorf("answered %v, broken %v", got, rng.broken)
			}
		})
	}
}
