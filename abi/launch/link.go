package launch

import (
	"fmt"
	"net/netip"

	"lorica.dev/lorica/abi/wire"
)

func (l *Link) write(w *wire.Writer) {
	w.U8(uint8(len(l.Addrs)))
	for i, a := range l.Addrs {
		w.Blob(a.Addr().AsSlice())
		w.U8(uint8(a.Bits()))
		w.Blob(l.Hosts[i].AsSlice())
	}
	for _, b := range []bool{l.DHCP, l.SLAAC, l.Offload, l.Verified, l.Shared} {
		w.Bool(b)
	}
	w.U16(l.MTU)
	w.Fixed(l.MAC[:])
}

// readLink reads a link, whose addresses must be distinct ones of the same network.
func readLink(r *wire.Reader) (l Link) {
	for range min(r.U8(), 3) {
		addr, one := netip.AddrFromSlice(r.Blob())
		bits := int(r.U8())
		to := r.Blob()
		host, other := netip.AddrFromSlice(to)
		p := netip.PrefixFrom(addr, bits)
		if r.Err() == nil && (!one || !p.IsValid() || addr.Is4In6() || len(to) > 0 && (!other || !p.Contains(host) || addr == host)) {
			r.Fail(fmt.Errorf("a link of %v with %v", p, host))
		}
		l.Addrs, l.Hosts = append(l.Addrs, p), append(l.Hosts, host)
	}
	l.DHCP, l.SLAAC, l.Offload, l.Verified, l.Shared = r.Bool(), r.Bool(), r.Bool(), r.Bool(), r.Bool()
	l.MTU = r.U16()
	copy(l.MAC[:], r.Fixed(len(l.MAC)))
	if r.Err() == nil && (len(l.Addrs) > 2 || len(l.Addrs) == 2 && l.Addrs[0].Addr().Is4() == l.Addrs[1].Addr().Is4()) {
		r.Fail(fmt.Errorf("a link of %v: there is one address of each family", l.Addrs))
	}
	for _, host := range l.Hosts {
		if r.Err() == nil && !l.Shared && !host.IsValid() {
			r.Fail(fmt.Errorf("a link of %v without a tender", l.Addrs))
		}
	}
	if r.Err() == nil && !l.Present() {
		r.Fail(fmt.Errorf("a link without an address"))
	}
	return l
}
