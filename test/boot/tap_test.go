package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/test/wire"
)

// vnetHeader is what the host's kernel and QEMU say of a frame: as virtio does, but
// without the number of buffers.
const vnetHeader = 10

// A tap is a network interface of a namespace of its own, whose other end is a guest.
// Here it is read and written as the host's TCP would: with checksums to compute and
// segments to cut.
type tap struct{ fd int }

// newTap returns a tap and the file that QEMU has to get. The thread that calls it is
// in the new namespace from then on.
func newTap() (*tap, *os.File, error) {
	const name = "lorica0"
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, nil, fmt.Errorf("a network namespace: %w", err)
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request); err != nil {
		return nil, nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(binary.BigEndian.Uint16([]byte{unix.ETH_P_ALL, 0})))
	if err != nil {
		return nil, nil, err
	}
	if err := wire.Up(name); err != nil {
		return nil, nil, fmt.Errorf("SIOCSIFFLAGS: %w", err)
	}
	card, err := net.InterfaceByName(name)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL << 8, Ifindex: card.Index}); err != nil {
		return nil, nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return nil, nil, fmt.Errorf("PACKET_VNET_HDR: %w", err)
	}
	limit := unix.NsecToTimeval(int64(patience / time.Nanosecond))
	return &tap{fd}, f, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
}

// exchange sends a frame with its header to the guest, and returns what comes back.
func (p *tap) exchange(sent []byte) ([]byte, error) {
	if _, err := unix.Write(p.fd, sent); err != nil {
		return nil, err
	}
	b := make([]byte, 1<<17)
	for {
		n, err := unix.Read(p.fd, b)
		if err != nil {
			return nil, err
		}
		// The socket sees what it sends, and what the host sends of its own accord.
		if n > vnetHeader+12 && bytes.Equal(b[vnetHeader+6:vnetHeader+12], guestMAC) && bytes.Equal(b[vnetHeader:vnetHeader+6], sent[vnetHeader+6:vnetHeader+12]) {
			return b[:n], nil
		}
	}
}

// segment is a frame of TCP, with the header of what the host's kernel leaves to others:
// its checksum, and where size is not 0 cutting it into segments of that size.
func segment(v6 bool, content, size int) []byte {
	b := make([]byte, vnetHeader, vnetHeader+14+60+content)
	b[0] = 1 // needs a checksum
	b = append(b, guestMAC...)
	b = append(b, 2, 0, 0, 0, 0, 1)
	start, kind := 14+20, byte(1)
	if v6 {
		start, kind = 14+40, 4
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+content))
		b = append(b, 6, 64)
		for i := range byte(32) {
			b = append(b, 0xfd+i/16*i)
		}
	} else {
		b = append(b, 0x08, 0x00, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+20+content))
		b = append(b, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2)
	}
	b = append(b, 4, 0, 4, 1, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, 0x10, 0xff, 0xff, 0, 0, 0, 0)
	binary.LittleEndian.PutUint16(b[6:], uint16(start))
	binary.LittleEndian.PutUint16(b[8:], 16)
	if size > 0 {
		b[1] = kind
		binary.LittleEndian.PutUint16(b[2:], uint16(start+20))
		binary.LittleEndian.PutUint16(b[4:], uint16(size))
	}
	return append(b, noisy(content, content)...)
}

// A frame of 64 KB, just below what the host's kernel cuts itself, passes the link whole in both directions, and small ones without
// their checksums.
func TestWhatTheHostComputes(t *testing.T) {
	if os.Geteuid() != 0 {
		notrun.Say(t, "checksums and segments left to the network card", "needs root, to make a TAP device")
		return
	}
	runtime.LockOSThread() // and never unlock: the thread ends with its namespace
	p, f, err := newTap()
	if err != nil {
		notrun.Say(t, "checksums and segments left to the network card", err.Error())
		return
	}
	defer unix.Close(p.fd)
	m := start(t, "tap,fd=3,vhost=off", "", f)
	f.Close()
	if want := "{Checksum:true TCP4:true TCP6:true Large:true}"; !strings.Contains(m.said, want) {
		t.Errorf("want %s", want)
	}
	for _, c := range []struct {
		name          string
		v6            bool
		content, size int
	}{
		{"a checksum", false, 100, 0},
		{"segments of IPv4", false, 65000, 1460},
		{"segments of IPv6", true, 65000, 1440},
		{"two segments", false, 1461, 1460},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := segment(c.v6, c.content, c.size)
			for range 20 {
				got, err := p.exchange(sent)
				if err != nil {
					t.Fatal(err)
				}
				if !isBack(got[vnetHeader:], sent[vnetHeader:]) {
					t.Fatalf("%d bytes come back as %d others", len(sent), len(got))
				}
				// How long the headers are is what the host's kernel made of it.
				if c.size > 0 && (!bytes.Equal(got[:2], sent[:2]) || !bytes.Equal(got[4:vnetHeader], sent[4:vnetHeader])) {
					t.Fatalf("its header is %x, not %x", got[:vnetHeader], sent[:vnetHeader])
				}
			}
		})
	}
}
