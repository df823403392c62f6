package way

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A socket is a connection as who has it sees it.
type socket struct{ here, there netip.AddrPort }

// established returns the connections of TCP that sockets have in the network namespace of
// the calling thread (include/uapi/linux/inet_diag.h).
func established() (map[socket]bool, error) {
	n, err := openNetlink(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer n.close()
	const over = 1<<unix.BPF_TCP_TIME_WAIT | 1<<unix.BPF_TCP_CLOSE | 1<<unix.BPF_TCP_LISTEN
	has := map[socket]bool{}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		ask := make([]byte, 56)
		ask[0], ask[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(ask[4:], ^uint32(over))
		if err := n.list(message{kind: unix.SOCK_DIAG_BY_FAMILY, body: ask, what: "the connections of sockets"}, func(b []byte) {
			if len(b) < 40 {
				return
			}
			end := func(port, addr []byte) netip.AddrPort {
				if family == unix.AF_INET {
					addr = addr[:4]
				}
				a, _ := netip.AddrFromSlice(addr)
				return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
			}
			has[socket{end(b[4:], b[8:24]), end(b[6:], b[24:40])}] = true
		}); err != nil {
			return nil, err
		}
	}
	return has, nil
}
