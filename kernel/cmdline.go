package kernel

// Words of the command line that the kernel reads itself.
const (
	wordWindow = "lorica.window="
	wordDevice = "virtio_mmio.device="

	maxWindow = 1 << 30
)

// A word is a piece of the command line, by address and length.
type word struct{ at, n uint64 }

// nextWord returns the first word at or behind offset i of a line, and where to go on.
// The word is empty at the end.
//
//go:nosplit
func nextWord(line, n, i uint64) (w word, next uint64) {
	for i < n && ld8(line+i) == ' ' {
		i++
	}
	w.at = line + i
	for i < n && ld8(line+i) != ' ' {
		i++
	}
	w.n = line + i - w.at
	return w, i
}

// cut removes prefix from w.
//
//go:nosplit
func (w *word) cut(prefix string) bool {
	if w.n < uint64(len(prefix)) {
		return false
	}
	for i := 0; i < len(prefix); i++ {
		if ld8(w.at+uint64(i)) != prefix[i] {
			return false
		}
	}
	w.at += uint64(len(prefix))
	w.n -= uint64(len(prefix))
	return true
}

// number removes a number from the front of w: decimal, or hexadecimal behind 0x.
//
//go:nosplit
func (w *word) number() (v uint64, ok bool) {
	base := uint64(10)
	if w.cut("0x") {
		base = 16
	}
	for w.n > 0 {
		d := uint64(ld8(w.at))
		switch {
		case d >= '0' && d <= '9':
			d -= '0'
		case d >= 'a' && d <= 'f':
			d -= 'a' - 10
		case d >= 'A' && d <= 'F':
			d -= 'A' - 10
		default:
			return v, ok
		}
		if d >= base {
			return v, ok
		}
		if v > (^uint64(0)-d)/base {
			return 0, false
		}
		v, ok = v*base+d, true
		w.at++
		w.n--
	}
	return v, ok
}

// parseWindow finds lorica.window=ADDRESS,SIZE. A second one makes it not ok.
//
//go:nosplit
func parseWindow(line, n uint64) (a, size uint64, found, ok bool) {
	var w word
	for i := uint64(0); ; {
		w, i = nextWord(line, n, i)
		if w.n == 0 {
			return a, size, found, ok
		}
		if !w.cut(wordWindow) {
			continue
		}
		if found {
			return 0, 0, true, false
		}
		found = true
		var okA, okN bool
		a, okA = w.number()
		comma := w.cut(",")
		size, okN = w.number()
		ok = okA && comma && okN && w.n == 0
	}
}

// parseDevice returns the address of the registers in the word w if it names a
// virtio-mmio device, as in virtio_mmio.device=512@0xfeb00e00:12.
//
//go:nosplit
func parseDevice(w word) (regs uint64, ok bool) {
	if !w.cut(wordDevice) {
		return 0, false
	}
	_, okN := w.number()
	if w.n > 0 && (ld8(w.at) == 'K' || ld8(w.at) == 'k') {
		w.at++
		w.n--
	}
	amp := w.cut("@")
	regs, okA := w.number()
	return regs, okN && amp && okA
}
