package way

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
)

// An Interface is a Way that is none: the image has a TAP device that an administrator
// made, and is on that network itself. Nothing of the machine is set for it. The kernel
// gives the device to one process at a time.
type Interface struct{ *device }

// OpenInterface opens a device that there is. It takes no root where the device is this
// user's. The link that it returns has no addresses yet.
func OpenInterface(name string, raw bool) (*Interface, error) {
	fail := func(err error) (*Interface, error) { return nil, fmt.Errorf("way: interface %s: %w", name, err) }
	i, err := net.InterfaceByName(name)
	if err != nil { // who asks the kernel for one that is not there makes it
		return fail(fmt.Errorf("it is not there: sudo ip tuntap add dev %s mode tap user %d, and sudo ip link set %s up", name, os.Geteuid(), name))
	}
	if i.Flags&net.FlagUp == 0 {
		return fail(fmt.Errorf("it is down: sudo ip link set %s up", name))
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", tunDevice, err))
	}
	if err := create(fd, name, raw); err != nil {
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EBUSY):
			err = errors.New("another process has it: one has it at a time")
		case errors.Is(err, unix.EINVAL):
			err = errors.New("it is no TAP device, or one of many queues: sudo ip tuntap add dev NAME mode tap makes one")
		case errors.Is(err, unix.EPERM):
			err = fmt.Errorf("it is not this user's: sudo ip tuntap add dev NAME mode tap user %d makes one that is", os.Geteuid())
		}
		return fail(err)
	}
	d, err := adopt(fd, Spec{MTU: min(i.MTU, MaxMTU)})
	if err != nil {
		return fail(err)
	}
	if err := (Spec{MTU: i.MTU}).check(); err != nil {
		d.file.Close()
		return nil, err
	}
	d.index = int32(i.Index)
	d.link = launch.Link{MTU: d.link.MTU, MAC: addressBeside(i.HardwareAddr), Offload: true, Shared: true}
	return &Interface{d}, nil
}

// addressBeside returns the hardware address of an image by that of the machine's end,
// which no other on the network has: it is the same for every image that comes there, and
// a server of DHCP knows it again.
func addressBeside(mac net.HardwareAddr) (own [6]byte) {
	sum := sha256.Sum256(append([]byte("lorica image beside "), mac...))
	copy(own[:], sum[:])
	own[0] = own[0]&^1 | 2 // of one device, and of nobody's list
	return own
}

// Address gives the image addresses; by routers, if they are in their networks.
func (i *Interface) Address(static []netip.Prefix, routers []netip.Addr, dhcp, slaac bool) {
	i.link.DHCP, i.link.SLAAC = dhcp, slaac
	i.link.Addrs, i.link.Hosts = static, make([]netip.Addr, len(static))
	for n, p := range static {
		for _, r := range routers {
			if p.Contains(r) {
				i.link.Hosts[n] = r
			}
		}
	}
}

// Link implements Way.
func (i *Interface) Link() launch.Link { return i.link }

// File implements Way.
func (i *Interface) File() *os.File { return i.file }

// Dial implements Way: clients come by themselves.
func (i *Interface) Dial(context.Context, netip.AddrPort, uint16) (net.Conn, error) {
	return nil, fmt.Errorf("way: interface %s: clients are not connected: %w", i.name, errors.ErrUnsupported)
}

// Listen implements Way: the tender is not on that network.
func (i *Interface) Listen() (net.Listener, error) {
	return nil, fmt.Errorf("way: interface %s: an image there makes no connections: %w", i.name, errors.ErrUnsupported)
}

// Close implements Way. The device is the administrator's, and stays.
func (i *Interface) Close() error {
	return errors.Join(i.persist(true), i.file.Close())
}
