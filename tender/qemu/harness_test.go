package qemu

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/tender/process"
)

// The test binary is also the stage, a tender that is killed, and somebody else.
func TestMain(m *testing.M) {
	roles := map[string]func() error{process.StageCommand: process.Stage, "parent": parent, "stranger": stranger}
	if len(os.Args) == 2 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience is what a machine may take here, which is not measured.
const patience = 60 * time.Second

// A bench is what launches need.
type bench struct {
	host    *Host
	launch  *process.Launcher
	confine process.Confinement
}

// found is what the machine has; it is looked for once.
var found = sync.OnceValues(func() (*bench, error) {
	h, err := Find(os.Getenv("PATH"))
	if err != nil {
		return nil, err
	}
	l, err := process.NewLauncher()
	if err != nil {
		return nil, err
	}
	return &bench{h, l, process.Probe().Confinement}, nil
})

func newBench(t *testing.T) *bench {
	t.Helper()
	b, err := found()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A guest is the machine of a test.
type guest struct {
	*VM
	ram *RAM
	out *os.File
}

// start runs code; change may change the launch.
func (b *bench) start(t *testing.T, code []byte, change func(*Spec)) (*guest, error) {
	t.Helper()
	image, err := memory(tinyGuest(code))
	if err != nil {
		t.Fatal(err)
	}
	ram, err := NewRAM(leastRAM, hugePage)
	if err != nil {
		t.Fatal(err)
	}
	out, sink, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	defer sink.Close()
	s := Spec{Image: image, RAM: ram, Devices: []string{DeviceExit}, Output: sink, Accel: TCG, Confinement: b.confine}
	if change != nil {
		change(&s)
	}
	v, err := b.host.Launch(b.launch, s)
	image.Close()
	if err != nil {
		ram.Close()
		return nil, err
	}
	t.Cleanup(func() {
		v.Kill()
		<-v.Done()
		ram.Close()
	})
	return &guest{v, ram, out}, nil
}

func (b *bench) mustStart(t *testing.T, code []byte, change func(*Spec)) *guest {
	t.Helper()
	g, err := b.start(t, code, change)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ended waits for the end of the machine.
func (g *guest) ended(t *testing.T) {
	t.Helper()
	select {
	case <-g.Done():
	case <-time.After(patience):
		t.Fatal("the machine does not end")
	}
}

// output is what the guest wrote to its console until its end.
func (g *guest) output(t *testing.T) string {
	t.Helper()
	b, err := io.ReadAll(g.out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Code of guests: 32-bit, flat, without paging.

// idle halts for good.
func idle() []byte { return []byte{0xf4, 0xeb, 0xfd} }

// say writes text to the serial port.
func say(text string) (code []byte) {
	code = []byte{0xba, 0xf8, 3, 0, 0} // mov edx, 0x3f8
	for _, c := range []byte(text) {
		code = append(code, 0xb0, c, 0xee) // mov al, c; out dx, al
	}
	return code
}

// exitWithWord waits for the word at a physical address to be other than zero and
// ends with it.
func exitWithWord(at uint64) []byte {
	code := []byte{0xba, debugExit, 0, 0, 0, 0xa1} // mov edx, debugExit; mov eax, [at]
	code = binary.LittleEndian.AppendUint32(code, uint32(at))
	code = append(code, 0x85, 0xc0, 0x74, 0xf7) // test eax, eax; jz to the mov
	return append(code, leave...)
}
