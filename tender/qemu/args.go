package qemu

import (
	"fmt"
	"net"
	"os"
)

// firstFile is the descriptor of the first file of a launch.
const firstFile = 3

// translated bounds what TCG keeps of translated code, in MiB.
const translated = 128

// A commandLine is what QEMU is started with. Secrets have no place here: anybody
// can read it.
type commandLine struct {
	args  []string
	files []*os.File
}

func (c *commandLine) add(args ...string) { c.args = append(c.args, args...) }

// file hands in f and returns the number of its descriptor.
func (c *commandLine) file(f *os.File) int {
	c.files = append(c.files, f)
	return firstFile + len(c.files) - 1
}

// command composes the launch of s. QEMU answers at monitor, and waits there for
// the word to begin.
func (s *Spec) command(monitor *os.File) *commandLine {
	var c commandLine
	c.add("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-S",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	c.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", c.file(monitor)), "-mon", "chardev=monitor,mode=control")

	serial := "off"
	if s.has(DeviceConsole) {
		serial = "on"
		c.add("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console")
	}
	// Without ACPI, devices are named on the guest's command line. Of what the board has
	// beside them, clocks are needed; interrupts come by the APICs.
	c.add("-machine", "microvm,acpi=off,pic=off,auto-kernel-cmdline=on,usb=off,memory-backend=ram,isa-serial="+serial)
	if s.Accel == KVM {
		// Some hosts refuse the register of that feature, of which an image makes no use,
		// and QEMU gives up.
		c.add("-accel", "kvm", "-cpu", "host,-arch-capabilities")
	} else {
		c.add("-accel", fmt.Sprintf("tcg,tb-size=%d", translated), "-cpu", "max")
	}
	c.add("-smp", "1", "-m", fmt.Sprintf("%dK", s.RAM.size>>10))
	c.add("-kernel", path(c.file(s.Image)))
	c.add("-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dK,mem-path=%s,share=on", s.RAM.size>>10, path(c.file(s.RAM.file))))
	line := s.Arguments
	if w := len(s.RAM.window); w > 0 {
		if line != "" {
			line += " "
		}
		line += fmt.Sprintf("lorica.window=%#x,%#x", s.RAM.at, w)
	}
	if line != "" {
		c.add("-append", line)
	}
	s.devices(&c)
	return &c
}

func (s *Spec) devices(c *commandLine) {
	c.add("-global", "virtio-mmio.force-legacy=false")
	if s.has(DeviceControl) {
		c.add("-chardev", fmt.Sprintf("socket,id=control,fd=%d", c.file(s.Control)),
			"-device", "virtio-serial-device,max_ports=2", "-device", "virtserialport,chardev=control,nr=1")
	}
	if s.has(DeviceNet) {
		fd := c.file(s.Net)
		if s.Network == Interface {
			c.add("-netdev", fmt.Sprintf("tap,id=net,fd=%d,vhost=off", fd))
		} else {
			c.add("-netdev", fmt.Sprintf("socket,id=net,fd=%d", fd))
		}
		mtu := ""
		if s.MTU > 0 {
			mtu = fmt.Sprintf(",host_mtu=%d", s.MTU)
		}
		mac := HardwareAddress
		if s.MAC != [6]byte{} {
			mac = net.HardwareAddr(s.MAC[:]).String()
		}
		c.add("-device", "virtio-net-device,netdev=net,mac="+mac+mtu)
	}
	if s.has(DeviceEntropy) {
		c.add("-device", "virtio-rng-device")
	}
	if s.has(DeviceExit) {
		c.add("-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=4", debugExit))
	}
}

// path is where QEMU opens what it was handed in as descriptor fd.
func path(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
