package way

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Sweep takes away what is left of routed links whose tenders were killed and whose
// images have ended, in the network namespace of the calling thread: tables, and
// connections that the kernel knows, so that clients are answered that still send
// something. It takes root.
func Sweep() error {
	n, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer n.close()
	return n.sweep()
}

func (n *netlink) sweep() error {
	var left []string // interfaces that there were
	err := n.transact(func() (batch []message, err error) {
		left = nil
		list, err := n.tables()
		if err != nil {
			return nil, err
		}
		here, err := net.Interfaces() // after the tables, whose tenders make their interfaces first
		if err != nil {
			return nil, err
		}
		for _, name := range list {
			of := strings.TrimSuffix(name, guardSuffix)
			if ours(name) && !slices.ContainsFunc(here, func(i net.Interface) bool { return i.Name == of }) {
				batch = append(batch, (&table{name: name}).remove(0)...)
				left = append(left, of)
			}
		}
		return batch, nil
	})
	for _, name := range slices.Compact(left) {
		var d device
		var number int
		if _, err := fmt.Sscanf(name, routedName, &number); err == nil {
			d.number(number)
			n.forget(d.link.Addrs)
		}
	}
	return err
}
