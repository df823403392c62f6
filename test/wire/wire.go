// Package wire is the end of an image's link that is its tender's: what is sent there
// arrives as it is, past everything of the kernel, and what the image sends is heard.
// The link is a TAP device of this network namespace.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	headerSize = 14
	arpSize    = 28
	arpReply   = 2
	patience   = 5 * time.Second
	buffer     = 64 << 20 // of what is not heard yet
)

// A Wire is a link. One goroutine sends, and one hears.
type Wire struct {
	Dev          string
	Host4        netip.Addr // the tender's addresses, and the image's
	Host6        netip.Addr
	Image4       netip.Addr
	Image6       netip.Addr
	Host, Image  net.HardwareAddr
	fd           int
	to           syscall.SockaddrLinklayer
	frame, heard []byte
}

// Devices returns the names of the TAP devices here.
func Devices() ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, i := range all {
		if i.Flags&(net.FlagLoopback|net.FlagPointToPoint) == 0 && linkOf(i).IsValid() {
			list = append(list, i.Name)
		}
	}
	return list, nil
}

// linkOf returns the address that tells the link of an image from others.
func linkOf(i net.Interface) netip.Addr {
	links := netip.MustParsePrefix("169.254.76.0/22")
	addrs, err := i.Addrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && links.Contains(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Open opens a link.
func Open(dev string) (*Wire, error) {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, fmt.Errorf("the link of an image: %w", err)
	}
	w := &Wire{Dev: dev, Host: i.HardwareAddr, Host4: linkOf(*i), heard: make([]byte, 1<<17)}
	if !w.Host4.IsValid() {
		return nil, fmt.Errorf("%s is not the link of an image", dev)
	}
	w.Image4 = w.Host4.Next() // there are two addresses on it
	addrs, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast() {
			w.Host6, w.Image6 = p.Addr(), p.Addr().Next()
		}
	}
	const everything = syscall.ETH_P_ALL << 8 // in the order of the network
	if w.fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, everything); err != nil {
		return nil, err
	}
	w.to = syscall.SockaddrLinklayer{Protocol: everything, Ifindex: i.Index, Halen: 6}
	second := syscall.NsecToTimeval(int64(time.Second))
	err = errors.Join(syscall.Bind(w.fd, &w.to), syscall.SetsockoptTimeval(w.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &second),
		syscall.SetsockoptInt(w.fd, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, buffer))
	if err == nil {
		err = w.meet()
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Close closes the link.
func (w *Wire) Close() error { return syscall.Close(w.fd) }

// meet asks for the image's hardware address.
func (w *Wire) meet() error {
	for late := time.Now().Add(patience); time.Now().Before(late); {
		if err := w.Ask(); err != nil {
			return err
		}
		f, _, err := w.Hear()
		if err != nil {
			return err
		}
		if IsAnswer(f) {
			w.Image = net.HardwareAddr(append([]byte(nil), f[6:12]...))
			return nil
		}
	}
	return fmt.Errorf("%s does not answer on %s", w.Image4, w.Dev)
}

// Ask asks the image who it is, by ARP: its answer comes when it has read everything that
// was sent before.
func (w *Wire) Ask() error {
	everybody := []byte{255, 255, 255, 255, 255, 255}
	f := append(append(everybody, w.Host...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(append(f, w.Host...), w.Host4.AsSlice()...), make([]byte, 6)...)
	return w.Frame(append(f, w.Image4.AsSlice()...))
}

// IsAnswer reports whether a frame answers Ask.
func IsAnswer(f []byte) bool {
	return len(f) >= headerSize+arpSize && f[12] == 8 && f[13] == 6 && binary.BigEndian.Uint16(f[headerSize+6:]) == arpReply
}

// Send sends a packet of IP.
func (w *Wire) Send(p []byte) error {
	kind := []byte{8, 0}
	if len(p) > 0 && p[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	w.frame = append(append(append(append(w.frame[:0], w.Image...), w.Host...), kind...), p...)
	return w.Frame(w.frame)
}

// Frame sends a whole frame. It waits while there is no room.
func (w *Wire) Frame(f []byte) error {
	for {
		err := syscall.Sendto(w.fd, f, 0, &w.to)
		if !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// Hear returns a frame, until the next call; nil if there was none for a second. One that
// is not from the image was sent to it, by the kernel.
func (w *Wire) Hear() (frame []byte, sent bool, err error) {
	for {
		n, from, err := syscall.Recvfrom(w.fd, w.heard, 0)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return nil, false, nil
		case err != nil:
			return nil, false, err
		}
		l, ok := from.(*syscall.SockaddrLinklayer)
		return w.heard[:n], ok && l.Pkttype == syscall.PACKET_OUTGOING, nil
	}
}

// Taken is how many frames the image has read.
func (w *Wire) Taken() (uint64, error) {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, numbers, ok := strings.Cut(line, ":")
		if f := strings.Fields(numbers); ok && strings.TrimSpace(name) == w.Dev && len(f) > 9 {
			return strconv.ParseUint(f[9], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s is not there any more", w.Dev)
}
