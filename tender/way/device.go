package way

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
)

const (
	tunDevice = "/dev/net/tun"
	sysctls   = "/proc/sys/net/"

	headerSize = 10 // of virtio_net_hdr without the number of buffers
)

// A device is a TAP interface and what it is told.
type device struct {
	file  *os.File
	name  string
	index int32
	ipv4  bool // alone
	link  launch.Link
}

// openDevice makes an interface in the network namespace of the calling thread; a name
// with %d gets the first number that is free. It is down and has no address.
func openDevice(name string, s Spec) (*device, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0) // it is of the namespace that it was opened in
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tunDevice, err)
	}
	if err := create(fd, name, s.Raw); err != nil {
		unix.Close(fd)
		return nil, err
	}
	d, err := adopt(fd, s)
	if err != nil {
		return nil, err
	}
	i, err := net.InterfaceByName(d.name)
	if err != nil {
		d.file.Close()
		return nil, err
	}
	d.index = int32(i.Index)
	return d, nil
}

// adopt makes a device of its descriptor.
func adopt(fd int, s Spec) (*device, error) {
	r, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, r)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	// The file is made of a descriptor that blocks: one that does not would be watched by
	// this process's poller, which every frame then wakes for nothing.
	unix.SetNonblock(fd, false)
	d := &device{file: os.NewFile(uintptr(fd), tunDevice), name: r.Name(), ipv4: s.IPv4,
		link: launch.Link{MTU: uint16(s.MTU), MAC: imageMAC, Offload: true, Verified: true}}
	unix.SetNonblock(fd, true)
	d.number(0)
	return d, nil
}

// create attaches the descriptor to a new interface.
func create(fd int, name string, raw bool) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return fmt.Errorf("a TAP interface: %w", err)
	}
	if !raw { // QEMU tells the kernel what it is to know
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerSize); err != nil {
		return fmt.Errorf("the header of frames: %w", err)
	}
	// What the image takes: checksums that it is to trust, and what is longer than its MTU.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		return fmt.Errorf("offload: %w", err)
	}
	return nil
}

// persist says whether the interface stays when nobody has its descriptor any more. An image's
// QEMU, which has it too, may have said otherwise, once the image had taken it over.
func (d *device) persist(stays bool) error {
	value := 0
	if stays {
		value = 1
	}
	if err := unix.IoctlSetInt(int(d.file.Fd()), unix.TUNSETPERSIST, value); err != nil {
		return fmt.Errorf("way: whether interface %s stays: %w", d.name, err)
	}
	return nil
}

// hasIPv6 reports whether the kernel has IPv6 at all.
func hasIPv6() bool {
	_, err := os.Stat(sysctls + "ipv6")
	return err == nil
}

// setSysctl writes what is not so already. Settings are of the namespace of the calling
// thread, and / in their names stands for itself.
func setSysctl(name, value string) error {
	was, err := os.ReadFile(sysctls + name)
	if err == nil && string(was) == value+"\n" {
		return nil
	}
	if err == nil {
		err = os.WriteFile(sysctls+name, []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("setting %s to %s: %w", name, value, err)
	}
	return nil
}

// noIPv6 keeps IPv6 off an interface.
const noIPv6 = "ipv6/conf/%s/disable_ipv6"

// quiet is what the interface is told beside its addresses: to announce nothing and to
// believe nothing that it hears, and to carry addresses of this machine's loopback.
var quiet = []struct{ name, value string }{
	{"ipv4/conf/%s/route_localnet", "1"},
	{"ipv4/conf/%s/accept_redirects", "0"},
	{"ipv4/conf/%s/send_redirects", "0"},
	{"ipv4/conf/%s/accept_source_route", "0"},
	{noIPv6, "0"},
	{"ipv6/conf/%s/addr_gen_mode", "1"},
	{"ipv6/conf/%s/accept_dad", "0"},
	{"ipv6/conf/%s/accept_ra", "0"},
	{"ipv6/conf/%s/accept_redirects", "0"},
}

// number gives the ends of the link the n-th of the addresses that links have.
func (d *device) number(n int) {
	at := func(base string, i int) netip.Addr {
		a := netip.MustParseAddr(base).AsSlice()
		low := a[len(a)-2:]
		binary.BigEndian.PutUint16(low, binary.BigEndian.Uint16(low)+uint16(4*n+i))
		addr, _ := netip.AddrFromSlice(a)
		return addr
	}
	d.link.Addrs = []netip.Prefix{netip.PrefixFrom(at("169.254.76.0", 2), 30)}
	d.link.Hosts = []netip.Addr{at("169.254.76.0", 1)}
	if hasIPv6() && !d.ipv4 {
		d.link.Addrs = append(d.link.Addrs, netip.PrefixFrom(at("fd6c:6f72:6963:62::", 2), 126))
		d.link.Hosts = append(d.link.Hosts, at("fd6c:6f72:6963:62::", 1))
	}
}

// configure gives the interface its addresses and says where the image is, without
// bringing it up.
func (d *device) configure(route *netlink) error {
	for _, s := range quiet {
		value := s.value
		if d.ipv4 && s.name == noIPv6 {
			value = "1"
		}
		err := setSysctl(fmt.Sprintf(s.name, d.name), value)
		if errors.Is(err, fs.ErrNotExist) && (s.name[:4] == "ipv6") {
			continue
		}
		if err != nil {
			return err
		}
	}
	list := []message{{kind: unix.RTM_NEWLINK, body: ifinfo(d.index, 0), attrs: attributes{}.u32(unix.IFLA_MTU, uint32(d.link.MTU)),
		what: fmt.Sprintf("an MTU of %d", d.link.MTU)}}
	for i, host := range d.link.Hosts {
		p := netip.PrefixFrom(host, d.link.Addrs[i].Bits())
		list = append(list, newAddress(d.index, p), newNeighbour(d.index, d.link.Addrs[i].Addr(), d.link.MAC))
	}
	return route.do(list...)
}

// address returns the image's address and the tender's for a client's family.
func (d *device) address(client netip.Addr) (image, host netip.Addr, err error) {
	for i, a := range d.link.Addrs {
		if a.Addr().Is4() == (client.Is4() || !client.IsValid()) {
			return a.Addr(), d.link.Hosts[i], nil
		}
	}
	return netip.Addr{}, netip.Addr{}, fmt.Errorf("the link has no address of the family of %v: %w", client, errors.ErrUnsupported)
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ifinfo is a struct ifinfomsg that sets flags and leaves the others.
func ifinfo(index int32, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], flags)
	return b
}

func setUp(index int32) message {
	return message{kind: unix.RTM_NEWLINK, body: ifinfo(index, unix.IFF_UP), what: "bringing the interface up"}
}

// newAddress adds an address that is in use at once: nobody else could have it.
func newAddress(index int32, p netip.Prefix) message {
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0], body[1], body[2] = family(p.Addr()), uint8(p.Bits()), unix.IFA_F_NODAD
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	ip := p.Addr().AsSlice()
	return message{kind: unix.RTM_NEWADDR, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: body,
		attrs: attributes{}.bytes(unix.IFA_LOCAL, ip).bytes(unix.IFA_ADDRESS, ip), what: fmt.Sprintf("the address %v", p)}
}

// newNeighbour says what hardware address a has, for good.
func newNeighbour(index int32, a netip.Addr, mac [6]byte) message {
	body := make([]byte, unix.SizeofNdMsg)
	body[0] = family(a)
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	binary.NativeEndian.PutUint16(body[8:], unix.NUD_PERMANENT)
	return message{kind: unix.RTM_NEWNEIGH, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, body: body,
		attrs: attributes{}.bytes(unix.NDA_DST, a.AsSlice()).bytes(unix.NDA_LLADDR, mac[:]), what: fmt.Sprintf("the neighbour %v", a)}
}

// newRoute adds a route to a destination, 0/0 where it is not valid, for the table's own
// addresses of a kind (unix.RTN_LOCAL) or for others.
func newRoute(fam uint8, table, kind uint8, to netip.Prefix, more attributes, what string) message {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[4], body[5], body[7] = fam, table, unix.RTPROT_STATIC, kind
	if fam == unix.AF_INET && kind == unix.RTN_LOCAL {
		body[6] = unix.RT_SCOPE_HOST
	}
	if to.IsValid() {
		body[1] = uint8(to.Bits())
		more = more.bytes(unix.RTA_DST, to.Addr().AsSlice())
	}
	return message{kind: unix.RTM_NEWROUTE, flags: unix.NLM_F_CREATE, body: body, attrs: more, what: what}
}

// everywhere makes every address of a family, but those with routes of their own, one
// of this machine: what an image sends to its clients arrives here. It is of the main
// table, since addresses of the local one come before all routes.
func everywhere(fam uint8, lo int32) message {
	return newRoute(fam, unix.RT_TABLE_MAIN, unix.RTN_LOCAL, netip.Prefix{}, attributes{}.u32(unix.RTA_OIF, uint32(lo)), "the route of clients' addresses")
}
