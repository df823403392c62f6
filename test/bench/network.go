package main

import (
	"fmt"
	"os/exec"
	"strings"

	"lorica.dev/lorica/test/bench/guests/handler"
	"lorica.dev/lorica/test/freeport"
)

// hardwareAddress is that of every guest: each has a network of its own.
const hardwareAddress = "02:4c:00:00:00:02"

// A network is that between this process and one guest.
type network struct {
	n    int
	port int // of this machine, where QEMU itself forwards; 0: there is an interface
}

// network returns a network that no guest has. Where this process may make
// interfaces, which it can in a network namespace of its own, QEMU gets one.
func (b *bench) network() (*network, error) {
	b.networks++
	n := &network{n: b.networks}
	if b.userNetwork {
		var err error
		n.port, err = freeport.Find()
		return n, err
	}
	return n, ip(
		"link set dev lo up",
		"tuntap add dev "+n.name()+" mode tap vnet_hdr",
		"addr add "+n.host()+"/24 dev "+n.name(),
		"link set dev "+n.name()+" up",
		"neigh replace "+n.addr()+" lladdr "+hardwareAddress+" dev "+n.name(),
	)
}

// ip runs lines of ip(8), up to the first that fails.
func ip(lines ...string) error {
	for _, line := range lines {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}

func (n *network) name() string   { return fmt.Sprintf("guest%d", n.n) }
func (n *network) host() string   { return fmt.Sprintf("10.77.%d.1", n.n) }
func (n *network) addr() string   { return fmt.Sprintf("10.77.%d.2", n.n) }
func (n *network) prefix() string { return n.addr() + "/24" }

// at is where the guest is reached.
func (n *network) at() string {
	if n.port != 0 {
		return fmt.Sprintf("127.0.0.1:%d", n.port)
	}
	return fmt.Sprintf("%s:%d", n.addr(), handler.Port)
}

// device is QEMU's end.
func (n *network) device() string {
	if n.port != 0 {
		return fmt.Sprintf("user,id=net,net=10.77.%d.0/24,host=%s,restrict=on,hostfwd=tcp:127.0.0.1:%d-%s:%d", n.n, n.host(), n.port, n.addr(), handler.Port)
	}
	return "tap,id=net,ifname=" + n.name() + ",script=no,downscript=no,vhost=off,vnet_hdr=on"
}
