package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"lorica.dev/lorica/builder/pvh"
	"lorica.dev/lorica/test/bench/guests/handler"
)

// bootPatience is what no guest needs to begin.
const bootPatience = 60 * time.Second

// A guest is what a virtual machine boots. All of them serve the same application.
type guest struct {
	name           string
	kernel, initrd string
	acpi           bool   // devices are found by ACPI, and not on the command line
	append         string // words on the command line
	network        *network
}

// A machine is a guest that runs.
type machine struct {
	guest   *guest
	cmd     *exec.Cmd
	begin   time.Time
	url     string
	serving chan struct{} // closed when it says so
	ended   chan struct{}

	mu      sync.Mutex
	console bytes.Buffer
}

// boot starts g with megabytes of memory. All guests get the same
// machine, but for how it says which devices it has.
func (b *bench) boot(g *guest, megabytes int) (*machine, error) {
	n, acpi := g.network, "acpi=off,auto-kernel-cmdline=on"
	if g.acpi {
		acpi = "acpi=on"
	}
	args := []string{"-M", "microvm," + acpi, "-accel", b.accel, "-cpu", "max", "-smp", "1", "-m", fmt.Sprintf("%dM", megabytes),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-global", "virtio-mmio.force-legacy=false",
		"-kernel", g.kernel, "-append", strings.TrimSpace(g.append + " lorica_addr=" + n.prefix()),
		"-netdev", n.device(), "-device", "virtio-net-device,netdev=net,mac=" + hardwareAddress, "-device", "virtio-rng-device",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4"}
	if b.accel == "kvm" {
		args[5] = "host"
	}
	if g.initrd != "" {
		args = append(args, "-initrd", g.initrd)
	}
	m := &machine{guest: g, cmd: exec.Command(b.qemu, args...), url: "http://" + n.at(), serving: make(chan struct{}), ended: make(chan struct{})}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	m.cmd.Stdout, m.cmd.Stderr = in, in
	m.begin = time.Now()
	if err := m.cmd.Start(); err != nil {
		out.Close()
		return nil, err
	}
	go m.listen(out)
	return m, nil
}

// listen keeps what the guest and QEMU write.
func (m *machine) listen(out *os.File) {
	defer out.Close()
	said := false
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		m.mu.Lock()
		m.console.WriteString(line)
		m.mu.Unlock()
		if !said && strings.TrimSpace(line) == handler.Serving {
			said = true
			close(m.serving)
		}
		if err != nil {
			break
		}
	}
	m.cmd.Wait()
	close(m.ended)
}

// says is the end of what was written on the console.
func (m *machine) says() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	const last = 600
	s := strings.TrimSpace(m.console.String())
	return s[max(0, len(s)-last):]
}

// answered waits for the first answer, and returns how long it took since the start
// of QEMU.
func (m *machine) answered(patience time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-m.serving:
	case <-m.ended:
		return 0, fmt.Errorf("%s has ended: %s", m.guest.name, m.says())
	case <-ctx.Done():
		return 0, fmt.Errorf("%s does not serve within %s: %s", m.guest.name, patience, m.says())
	}
	for {
		_, err := get(ctx, m.url+"/")
		if err == nil {
			return time.Since(m.begin), nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%s does not answer: %w: %s", m.guest.name, err, m.says())
		}
		time.Sleep(time.Millisecond)
	}
}

// get asks once, over a connection of its own.
func get(ctx context.Context, url string) ([]byte, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	a, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return nil, errors.New(a.Status)
	}
	return io.ReadAll(a.Body)
}

// target is the machine under load: what QEMU takes is what the guest costs.
func (m *machine) target(path string, connections int) *target {
	pid := m.cmd.Process.Pid
	return &target{name: m.guest.name, url: m.url + path, connections: connections, pids: func() []int { return []int{pid} }}
}

// stop ends the machine; the guest is not asked.
func (m *machine) stop() {
	m.cmd.Process.Kill()
	<-m.ended
}

// findGuests finds ours and those that it is compared to, as far as they are there.
func (b *bench) findGuests() error {
	khz, err := frequency()
	if err != nil {
		return err
	}
	// A Linux that measures its clocks under emulation may wait for ever, and one that
	// compares them later does without the fast one.
	linux := fmt.Sprintf("console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=%d lpj=%d no_timer_check tsc=reliable", khz, khz*4)
	for _, g := range []*guest{
		{name: "lorica"},
		{name: "debian", acpi: true, append: linux},
		{name: "tiny", append: linux},
	} {
		if b.soak > 0 && g.name != "lorica" {
			continue // it alone is kept under load
		}
		g.kernel = filepath.Join(b.machines, g.name)
		err := exists(g.kernel)
		if g.append != "" {
			g.initrd = g.kernel + ".initrd"
			err = errors.Join(err, exists(g.initrd))
		}
		if err == nil {
			g.network, err = b.network()
		}
		if err != nil {
			b.cannot(g.name, err)
			continue
		}
		b.guests = append(b.guests, g)
	}
	return nil
}

// link makes an image of the program that is our guest.
func (b *bench) link() error {
	program, err := os.ReadFile(filepath.Join(b.machines, "lorica.program"))
	if err != nil {
		return err
	}
	symbols, err := os.ReadFile(filepath.Join(b.machines, "lorica.symbols"))
	if err != nil {
		return err
	}
	image, err := pvh.Link(program, symbols)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.machines, "lorica"), image, 0o755)
}

func exists(file string) error {
	_, err := os.Stat(file)
	return err
}

// frequency is that of the processor's clock in kHz.
func frequency() (int, error) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "cpu MHz"); ok {
			var mhz float64
			if _, err := fmt.Sscanf(strings.TrimLeft(v, "\t :"), "%f", &mhz); err == nil {
				return int(mhz * 1000), nil
			}
		}
	}
	return 0, errors.New("/proc/cpuinfo does not say how fast the processor is")
}
