package tap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/netstack/direct"
)

func testLink() *launch.Link {
	return &launch.Link{Addrs: []netip.Prefix{netip.MustParsePrefix("169.254.76.2/30")}, Hosts: []netip.Addr{netip.MustParseAddr("169.254.76.1")},
		MTU: 1500, MAC: [6]byte{2, 1, 2, 3, 4, 5}, Offload: true}
}

// pair returns a device and the tender's end of its socket.
func pair(t *testing.T, l *launch.Link) (*device, int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := adopt(fds[0], l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.file.Close()
		syscall.Close(fds[1])
	})
	return d, fds[1]
}

// words is a frame behind a header.
func words(flags, gso byte, numbers [4]uint16, frame string) []byte {
	b := []byte{flags, gso}
	for _, n := range numbers {
		b = binary.NativeEndian.AppendUint16(b, n)
	}
	return append(b, frame...)
}

func TestFramesAreWrittenBehindTheirHeaders(t *testing.T) {
	d, other := pair(t, testLink())
	if got, want := d.Traits(), (direct.Traits{MAC: [6]byte{2, 1, 2, 3, 4, 5}, MTU: 1500, Checksums: true, Segments: true}); got != want {
		t.Errorf("it is %+v, and not %+v", got, want)
	}
	frame := strings.Repeat("x", 60)
	for _, c := range []struct {
		frame direct.Frame
		want  []byte
	}{
		{direct.Frame{}, words(0, 0, [4]uint16{}, frame)},
		{direct.Frame{Checksum: true, ChecksumStart: 34, ChecksumOffset: 16}, words(1, 0, [4]uint16{0, 0, 34, 16}, frame)},
		{direct.Frame{Checksum: true, ChecksumStart: 34, ChecksumOffset: 16, Segmentation: direct.TCP4, SegmentSize: 1448, HeaderSize: 66}, words(1, 1, [4]uint16{66, 1448, 34, 16}, frame)},
		{direct.Frame{Checksum: true, ChecksumStart: 54, ChecksumOffset: 16, Segmentation: direct.TCP6, SegmentSize: 1428, HeaderSize: 86}, words(1, 4, [4]uint16{86, 1428, 54, 16}, frame)},
	} {
		c.frame.Parts = [][]byte{[]byte(frame[:14]), nil, []byte(frame[14:])}
		if err := d.Send(&c.frame); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 200)
		n, err := syscall.Read(other, b)
		if err != nil || !bytes.Equal(b[:n], c.want) {
			t.Errorf("%+v was written as %x, %v", c.frame, b[:n], err)
		}
	}
	if err := d.Send(&direct.Frame{Parts: [][]byte{make([]byte, maxFrame+1)}}); err == nil {
		t.Error("a frame that is longer than any was sent")
	}
}

// Who sends waits for room, and nothing is lost.
func TestSendersWaitForRoom(t *testing.T) {
	d, other := pair(t, testLink())
	const frames, senders = 500, 4
	for s := range senders {
		go func() {
			for i := range frames {
				b := binary.BigEndian.AppendUint32(make([]byte, 2000), uint32(s*frames+i))
				if err := d.Send(&direct.Frame{Parts: [][]byte{b}}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	time.Sleep(20 * time.Millisecond) // the socket is full
	seen := map[uint32]bool{}
	b := make([]byte, 4000)
	for range frames * senders {
		n, err := syscall.Read(other, b)
		if err != nil || n != headerSize+2004 {
			t.Fatalf("read %d, %v", n, err)
		}
		seen[binary.BigEndian.Uint32(b[n-4:])] = true
	}
	if len(seen) != frames*senders {
		t.Errorf("%d frames arrived", len(seen))
	}
}

// What arrives is handed on, whatever comes between, until the other end is closed.
func TestFramesAreRead(t *testing.T) {
	d, other := pair(t, testLink())
	var got []string
	ended := make(chan error)
	go func() {
		ended <- d.Receive(func(p direct.Packet) {
			b := make([]byte, p.Len())
			p.CopyTo(b)
			got = append(got, fmt.Sprint(len(b), string(b[:3]), p.ChecksumVerified()))
		})
	}()
	var want []string
	write := func(b []byte, expect string) {
		if _, err := syscall.Write(other, b); err != nil {
			t.Fatal(err)
		}
		if expect != "" {
			want = append(want, expect)
		}
	}
	frame := strings.Repeat("abc", 20)
	for i := range 3 * burst {
		switch i % 4 {
		case 0:
			write(words(0, 0, [4]uint16{}, frame), "60abcfalse")
		case 1:
			write(words(2, 0, [4]uint16{}, frame[:14]), "14abctrue")
		case 2:
			write([]byte("short"), "")
		case 3:
			write(words(0, 0, [4]uint16{}, frame[:13]), "")
		}
	}
	write(words(0, 0, [4]uint16{}, strings.Repeat("x", maxFrame)), fmt.Sprint(maxFrame, "xxxfalse"))
	write(words(0, 0, [4]uint16{}, strings.Repeat("x", maxFrame+100)), "")
	syscall.Shutdown(other, syscall.SHUT_RDWR)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "closed its end") {
		t.Errorf("it ends with %v", err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestHeaders(t *testing.T) {
	frame := strings.Repeat("x", 100)
	for name, c := range map[string]struct {
		b        []byte
		verified bool // the link is
		want     string
	}{
		"nothing said":                   {words(0, 0, [4]uint16{}, frame), false, "false"},
		"nothing said, of this machine":  {words(0, 0, [4]uint16{}, frame), true, "true"},
		"verified":                       {words(2, 0, [4]uint16{}, frame), false, "true"},
		"to be completed":                {words(1, 0, [4]uint16{0, 0, 34, 16}, frame), false, "true"},
		"to be completed at the end":     {words(1, 0, [4]uint16{0, 0, 82, 16}, frame), false, "true"},
		"long":                           {words(1, 1, [4]uint16{54, 1448, 34, 16}, frame), false, "true"},
		"long, IPv6":                     {words(1, 4, [4]uint16{74, 1448, 54, 16}, frame), false, "true"},
		"long, with ECN":                 {words(1, 0x81, [4]uint16{54, 1448, 34, 16}, frame), false, "true"},
		"to be completed behind the end": {words(1, 0, [4]uint16{0, 0, 83, 16}, frame), true, "no"},
		"to be completed far behind":     {words(1, 0, [4]uint16{0, 0, 65535, 65535}, frame), true, "no"},
		"to be completed in Ethernet":    {words(1, 0, [4]uint16{0, 0, 13, 16}, frame), true, "no"},
		"long without checksum":          {words(0, 1, [4]uint16{54, 1448, 34, 16}, frame), true, "no"},
		"long without a size":            {words(1, 1, [4]uint16{54, 0, 34, 16}, frame), true, "no"},
		"headers behind the end":         {words(1, 1, [4]uint16{101, 1448, 34, 16}, frame), true, "no"},
		"UDP to cut":                     {words(1, 3, [4]uint16{42, 1448, 34, 6}, frame), true, "no"},
		"something to cut":               {words(1, 5, [4]uint16{42, 1448, 34, 6}, frame), true, "no"},
		"ECN of nothing":                 {words(1, 0x82, [4]uint16{42, 1448, 34, 6}, frame), true, "no"},
		"no header":                      {make([]byte, 9), true, "no"},
	} {
		got := "no"
		if p, ok := parse(c.b, c.verified); ok {
			got = fmt.Sprint(p.verified)
		}
		if got != c.want {
			t.Errorf("%s: %s, and not %s", name, got, c.want)
		}
	}
}

func TestDescriptorsThatAreNoDevice(t *testing.T) {
	l := testLink()
	l.MAC = [6]byte{}
	if _, err := adopt(0, l); err == nil || !strings.Contains(err.Error(), "no hardware address") {
		t.Error(err)
	}
	l.MAC = [6]byte{1, 2}
	if _, err := adopt(0, l); err == nil || !strings.Contains(err.Error(), "no hardware address") {
		t.Error(err)
	}
	if _, err := adopt(1<<20, testLink()); err == nil || !strings.Contains(err.Error(), "bad file descriptor") {
		t.Error(err)
	}
	fd, err := syscall.Open(t.TempDir(), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := adopt(fd, testLink()); err == nil || !strings.Contains(err.Error(), "nobody can wait for it") {
		t.Error(err)
	}
}

// A whole network on a descriptor: it says who it is at once, and answers.
func TestANetworkOnADescriptor(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := direct.New(func(p *launch.Params) (direct.Device, error) { return adopt(fds[0], &p.Link) })
	if err := n.Open(&launch.Params{Link: *testLink()}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 200)
	for _, ask := range []string{"", "\xff\xff\xff\xff\xff\xff\x02LORIC\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x02LORIC\xa9\xfe\x4c\x01\x00\x00\x00\x00\x00\x00\xa9\xfe\x4c\x02"} {
		if ask != "" {
			if _, err := syscall.Write(fds[1], words(0, 0, [4]uint16{}, ask)); err != nil {
				t.Fatal(err)
			}
		}
		size, err := syscall.Read(fds[1], b)
		if err != nil || size != headerSize+42 || string(b[headerSize+22:headerSize+32]) != "\x02\x01\x02\x03\x04\x05\xa9\xfe\x4c\x02" {
			t.Errorf("%q is answered with %x, %v", ask, b[:size], err)
		}
	}
	ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 80})
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(fds[1])
	if _, err := ln.Accept(); err == nil || !strings.Contains(err.Error(), "the tender has closed its end") {
		t.Errorf("without its tender it says %v", err)
	}
}

// Whatever arrives, what is handed on is a frame, whole, and nothing that was not there.
func FuzzParse(f *testing.F) {
	frame := strings.Repeat("x", 60)
	f.Add(words(0, 0, [4]uint16{}, frame), false)
	f.Add(words(1, 1, [4]uint16{54, 1448, 34, 16}, frame), true)
	f.Add(words(1, 0, [4]uint16{0, 0, 65535, 65535}, frame), true)
	f.Add([]byte{1, 2, 3}, false)
	f.Fuzz(func(t *testing.T, b []byte, verified bool) {
		p, ok := parse(b, verified)
		if !ok {
			return
		}
		out := make([]byte, p.Len()+1)
		n := p.CopyTo(out)
		if n != len(b)-headerSize || n < ethernetSize || n > maxFrame || !bytes.Equal(out[:n], b[headerSize:]) {
			t.Errorf("%d bytes became %d", len(b), n)
		}
		start, end := int(binary.NativeEndian.Uint16(b[6:])), int(binary.NativeEndian.Uint16(b[6:]))+int(binary.NativeEndian.Uint16(b[8:]))+2
		if b[0]&1 != 0 && (start < ethernetSize || end > n) || p.verified && !verified && b[0]&3 == 0 {
			t.Errorf("a header of %x was taken for %d bytes", b[:headerSize], n)
		}
	})
}
