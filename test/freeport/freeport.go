// Package freeport finds ports of loopback for what tests and benchmarks start.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// lowest is the first port that is ever handed out.
const lowest = 10000

// handed are the ports of this process that were handed out, so that none is
// handed out twice before it is in use.
var handed struct {
	sync.Mutex
	ports map[int]bool
}

// Find returns a TCP port of loopback that nobody listens on at this moment. It
// lies below the range of which the kernel takes ports for connections that go
// out, so that none of these takes it before the caller listens.
func Find() (int, error) {
	below := 32768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var last int
		fmt.Sscan(string(b), &below, &last)
	}
	if below <= lowest {
		return 0, fmt.Errorf("the kernel takes ports for connections from %d upwards, which leaves none", below)
	}
	handed.Lock()
	defer handed.Unlock()
	if handed.ports == nil {
		handed.ports = map[int]bool{}
	}
	for range 1000 {
		p := lowest + rand.IntN(below-lowest)
		if handed.ports[p] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		handed.ports[p] = true
		return p, l.Close()
	}
	return 0, errors.New("no port of loopback is free")
}
