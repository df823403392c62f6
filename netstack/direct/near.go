package direct

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A near is ARP that looks for no loopback address: clients that are on the tender's
// machine come from there, the stack knows no router to loopback, and what answers them
// goes where their packets came from.
type near struct {
	stack.NetworkProtocol
	link *endpoint
}

// arp returns the protocol for a stack.
func (e *endpoint) arp(s *stack.Stack) stack.NetworkProtocol {
	return near{arp.NewProtocol(s), e}
}

// NewEndpoint implements stack.NetworkProtocol.
func (n near) NewEndpoint(nic stack.NetworkInterface, d stack.TransportDispatcher) stack.NetworkEndpoint {
	ep := n.NetworkProtocol.NewEndpoint(nic, d)
	return nearEndpoint{ep, ep.(stack.LinkAddressResolver), n.link}
}

type nearEndpoint struct {
	stack.NetworkEndpoint
	stack.LinkAddressResolver
	link *endpoint
}

// ResolveStaticAddress implements stack.LinkAddressResolver.
func (n nearEndpoint) ResolveStaticAddress(a tcpip.Address) (tcpip.LinkAddress, bool) {
	if mac := n.link.near.Load(); mac != 0 && header.IsV4LoopbackAddress(a) {
		return tcpip.LinkAddress(binary.BigEndian.AppendUint64(nil, mac)[2:]), true
	}
	return n.LinkAddressResolver.ResolveStaticAddress(a)
}
