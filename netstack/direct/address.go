package direct

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// announce tells the tender which hardware address is ours: whoever had the addresses
// before had another.
func (n *Net) announce() error {
	for _, a := range *n.card.own.Load() {
		if err := n.tell(a.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func (n *Net) tell(a netip.Addr) error {
	to, protocol, b := header.EthernetBroadcastAddress, arp.ProtocolNumber, []byte(nil)
	if a.Is6() {
		protocol = header.IPv6ProtocolNumber
		to, b = n.card.six.Announcement(a)
	} else {
		b = n.gratuitous(a)
	}
	if err := n.stack.WritePacketToRemote(nic, to, protocol, buffer.MakeWithData(b)); err != nil {
		return fmt.Errorf("network: announcing %v: %s", a, err)
	}
	return nil
}

// gratuitous returns a packet of ARP that says where a is.
func (n *Net) gratuitous(a netip.Addr) []byte {
	b := make([]byte, header.ARPSize)
	p := header.ARP(b)
	p.SetIPv4OverEthernet()
	p.SetOp(header.ARPRequest)
	copy(p.HardwareAddressSender(), n.card.traits.MAC[:])
	copy(p.ProtocolAddressSender(), a.AsSlice())
	copy(p.ProtocolAddressTarget(), a.AsSlice())
	return b
}

// addr is a as the stack writes it.
func addr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func at(a netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: addr(a), Port: port}
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is6() {
		return header.IPv6ProtocolNumber
	}
	return ipv4.ProtocolNumber
}
