package tender

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/program"
)

const slots = 3

// errNoMemory reports a machine that has ended, and its memory with it.
var errNoMemory = errors.New("tender: the machine has ended")

// errBusy reports that open requests still hold all earlier programs.
var errBusy = errors.New("tender: requests are still judged by the programs before; try again")

type slotState uint8

const (
	slotFree slotState = iota
	slotOffered
	slotInForce
	slotRetiring
)

// memory is what programs lie in: one anonymous file that the tender alone can
// write, through the mapping it made before it sealed the file. Pages are taken
// as they are written. Safe for concurrent use.
type memory struct {
	file *os.File
	data []byte

	mu    sync.Mutex
	state [slots]slotState
	used  [slots]int
	sums  [slots]program.Digest // of what was written there
}

// windowSize is what the programs of an image lie in, in bytes.
const windowSize = slots * program.MaxSize

// memoryIn returns one whose programs lie in b, which is part of a machine's memory.
func memoryIn(b []byte) *memory { return &memory{data: b} }

func newMemory() (*memory, error) {
	const size = windowSize
	fd, err := unix.MemfdCreate("lorica-program", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("lorica-program", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("tender: memory for programs: %w", err)
	}
	m := &memory{file: os.NewFile(uintptr(fd), "program")}
	if err := unix.Ftruncate(fd, size); err != nil {
		m.file.Close()
		return nil, fmt.Errorf("tender: memory for programs: %w", err)
	}
	if m.data, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		m.file.Close()
		return nil, fmt.Errorf("tender: mapping memory for programs: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		m.close()
		return nil, fmt.Errorf("tender: sealing memory for programs (Linux 5.1 or later): %w", err)
	}
	return m, nil
}

func (m *memory) close() {
	unix.Munmap(m.data)
	m.file.Close()
}

// offer copies a signed program into a free slot.
func (m *memory) offer(signed []byte) (uint8, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		return 0, errNoMemory
	}
	for i, s := range m.state {
		if s != slotFree {
			continue
		}
		slot := m.data[i*program.MaxSize : (i+1)*program.MaxSize]
		n := copy(slot, signed)
		clear(slot[n:max(n, m.used[i])])
		m.state[i], m.used[i], m.sums[i] = slotOffered, n, program.Sum(signed)
		return uint8(i), nil
	}
	return 0, errBusy
}

// sum is that of the program which was last written into a slot.
func (m *memory) sum(slot uint8) program.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sums[slot]
}

// intact reports a program that is not any more what was written. Whoever controls a
// machine's page tables can write in its memory, where the programs are.
func (m *memory) intact() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, s := range m.state {
		if m.data == nil || s == slotFree {
			continue
		}
		if at := i * program.MaxSize; program.Sum(m.data[at:at+m.used[i]]) != m.sums[i] {
			return fmt.Errorf("the program in slot %d of its memory was altered", i)
		}
	}
	return nil
}

// forget ends the use of memory that is about to go.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = nil
}

// withdraw frees a slot whose program was not taken.
func (m *memory) withdraw(slot uint8) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state[slot] = slotFree
}

// enforce marks slot as the one in force; the one before retires.
func (m *memory) enforce(slot uint8) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, s := range m.state {
		if s == slotInForce {
			m.state[i] = slotRetiring
		}
	}
	m.state[slot] = slotInForce
}

// release frees a retiring slot; an image that releases any other is lying.
func (m *memory) release(slot uint8) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if int(slot) >= slots || m.state[slot] != slotRetiring {
		return fmt.Errorf("it released program slot %d, which is not retiring", slot)
	}
	m.state[slot] = slotFree
	return nil
}

// reset frees every slot: no image is alive.
func (m *memory) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = [slots]slotState{}
}
