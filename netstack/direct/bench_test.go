package direct

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"lorica.dev/lorica/abi/launch"
)

// An exchange is a request of 100 bytes in one segment and the response of 1 KiB, on one
// of 64 connections, sixteen of which ask at a time.
func BenchmarkExchange(b *testing.B) {
	const conns, batch = 64, 16
	d := newDeck()
	d.traits.Checksums, d.traits.Segments = true, true
	n := up(b, d, nil)
	ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		body := make([]byte, 1024)
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			go func() {
				in := make([]byte, 4096)
				for {
					if _, err := c.Read(in); err != nil {
						return
					}
					c.Write(body)
				}
			}()
		}
	}()
	var seqs, acks [conns]uint32
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	for i := range conns {
		acks[i], seqs[i] = connect(b, d, client(i)), 101
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += batch {
		for j := range batch {
			k := (i + j) % conns
			d.give(frameOf(ethernet(myAddress, type4, ipOf(client(k), mine4.Addr(), ofTCP, segment(40000, 1024, 24, seqs[k], acks[k], string(make([]byte, 100)))))))
			seqs[k] += 100
		}
		for left := batch; left > 0; {
			f := d.next(b, type4)
			if len(f) > 1000 {
				k := int(f[33])
				acks[k] = binary.BigEndian.Uint32(f[38:]) + 1024
				left--
			}
		}
	}
}
