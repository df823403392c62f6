package main

import (
	"encoding/binary"
	"syscall"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
)

// descriptorsInFrames sends what it holds along with frames, while it still can.
func descriptorsInFrames(*image) {
	for range 100 {
		check(syscall.Sendmsg(launch.NetFD, make([]byte, 64), syscall.UnixRights(launch.ControlFD, launch.ProgramFD, 0, 1, 2), nil, 0))
	}
}

// floodFrames sends what a tender has to look at, from every address and port, as fast
// as it is taken: beginnings of connections, refusals of others, questions for neighbors,
// and noise.
func floodFrames(i *image) {
	go i.obey()
	l := &i.params.Link
	own, host := l.Addrs[0].Addr().AsSlice(), l.Hosts[0].AsSlice()
	ip := func(n uint32, protocol byte, to, payload []byte) []byte {
		b := make([]byte, 20, 20+len(payload))
		b[0], b[8], b[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		copy(b[12:], own)
		copy(b[16:], to)
		sum := uint32(0)
		for at := 0; at < 20; at += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[at:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
		return append(b, payload...)
	}
	for n := uint32(0); ; n++ {
		tcp := make([]byte, 20)
		binary.BigEndian.PutUint16(tcp, uint16(n))
		binary.BigEndian.PutUint16(tcp[2:], link.DialPort)
		binary.BigEndian.PutUint32(tcp[4:], n)
		tcp[12], tcp[13], tcp[14] = 5<<4, 2, 255
		anybody := binary.BigEndian.AppendUint32(nil, n*2654435761)
		kind := []byte{8, 0}
		var p []byte
		switch n % 5 {
		case 0:
			p = ip(n, 6, host, tcp)
		case 1:
			p = ip(n, 6, anybody, tcp)
		case 2:
			p = ip(n, 1, host, append([]byte{3, 13, 0, 0, 0, 0, 0, 0}, ip(n, 6, own, tcp)...))
		case 3:
			kind = []byte{8, 6}
			p = append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, l.MAC[:]...)
			p = append(append(append(p, own...), 0, 0, 0, 0, 0, 0), host...)
		case 4:
			p = make([]byte, 1+n%60_000)
		}
		f := append(append(make([]byte, 10), "\x02LORIC"...), l.MAC[:]...)
		syscall.Write(launch.NetFD, append(append(f, kind...), p...))
	}
}
