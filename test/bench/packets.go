package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A packet is one of IPv4 with TCP or UDP and nothing in it, whose source can change.
type packet []byte

const (
	udp = syscall.IPPROTO_UDP
	tcp = syscall.IPPROTO_TCP
)

// newPacket is a SYN, or an empty datagram.
func newPacket(protocol byte, to netip.AddrPort) packet {
	size := 20 + 8
	if protocol == tcp {
		size = 20 + 20
	}
	p := make(packet, size)
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(size))
	copy(p[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[22:], to.Port())
	if protocol == tcp {
		p[32], p[33] = 5<<4, 0x02
		binary.BigEndian.PutUint16(p[34:], 64240)
	} else {
		binary.BigEndian.PutUint16(p[24:], 8)
	}
	return p
}

// from sets the source, and the checksums.
func (p packet) from(addr uint32, port uint16) {
	binary.BigEndian.PutUint32(p[12:], addr)
	binary.BigEndian.PutUint16(p[20:], port)
	sum := 26
	if p[9] == tcp {
		sum = 36
		binary.BigEndian.PutUint32(p[24:], rand.Uint32()) // the sequence
	}
	p[10], p[11], p[sum], p[sum+1] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(p[10:], ^fold(add(0, p[:20])))
	binary.BigEndian.PutUint16(p[sum:], ^fold(add(uint32(p[9])+uint32(len(p)-20), p[12:])))
}

func add(sum uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// anybody is an address that anyone on the Internet could have.
func anybody() uint32 {
	for {
		a := rand.Uint32()
		switch first := a >> 24; {
		case first == 0, first == 10, first == 127, first >= 224, a>>16 == 169<<8|254:
		default:
			return a
		}
	}
}

// floodCommand has this program be the one that floods: it is started in the network
// namespace of clients.
const floodCommand = "flood"

// floodMain sends SYNs from anybody to an address and port, so many a second, until its
// standard input ends. It says how many it sent a second.
func floodMain(args []string) error {
	if len(args) != 2 {
		return errors.New("flood ADDRESS:PORT PACKETS-A-SECOND")
	}
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	over := make(chan struct{})
	go func() { os.Stdin.Read(make([]byte, 1)); close(over) }()
	p, dest := newPacket(tcp, to), &syscall.SockaddrInet4{Addr: to.Addr().As4()}
	begin, sent, tick := time.Now(), 0, time.NewTicker(time.Millisecond)
	for {
		select {
		case <-over:
			fmt.Println(float64(sent) / time.Since(begin).Seconds())
			return nil
		case <-tick.C:
		}
		for due := int(time.Since(begin).Seconds() * float64(rate)); sent < due; sent++ {
			p.from(anybody(), uint16(1024+rand.IntN(64000)))
			if err := syscall.Sendto(fd, p, 0, dest); err != nil && !errors.Is(err, syscall.ENOBUFS) {
				return err
			}
		}
	}
}

// flooding has a namespace flood an address until the function is called that it
// returns; that one tells how many packets a second were sent.
func flooding(within, to string, rate int) (end func() (float64, error), err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("ip", "netns", "exec", within, exe, floodCommand, to, strconv.Itoa(rate))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (float64, error) {
		in.Close()
		if err := cmd.Wait(); err != nil {
			return 0, fmt.Errorf("flood: %w: %s", err, errs.String())
		}
		return strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
	}, nil
}
