package way

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// attributes are those of a netlink message, or of one of its attributes, encoded.
type attributes []byte

func (a attributes) bytes(kind uint16, b []byte) attributes {
	a = binary.NativeEndian.AppendUint16(a, uint16(unix.NLA_HDRLEN+len(b)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, b...)
	return append(a, make([]byte, -len(b)&3)...)
}

// u32 is a number of this machine's byte order, be32 one of the network's.
func (a attributes) u32(kind uint16, v uint32) attributes {
	return a.bytes(kind, binary.NativeEndian.AppendUint32(nil, v))
}

func (a attributes) be32(kind uint16, v uint32) attributes {
	return a.bytes(kind, binary.BigEndian.AppendUint32(nil, v))
}

func (a attributes) text(kind uint16, s string) attributes {
	return a.bytes(kind, append([]byte(s), 0))
}

func (a attributes) nest(kind uint16, in attributes) attributes {
	return a.bytes(kind|unix.NLA_F_NESTED, in)
}

// read calls f for each attribute of b.
func (a attributes) read(f func(kind uint16, value []byte)) {
	for len(a) >= unix.NLA_HDRLEN {
		n := int(binary.NativeEndian.Uint16(a))
		if n < unix.NLA_HDRLEN || n > len(a) {
			return
		}
		f(binary.NativeEndian.Uint16(a[2:])&^unix.NLA_F_NESTED, a[unix.NLA_HDRLEN:n])
		a = a[min((n+3)&^3, len(a)):]
	}
}

// A message asks the kernel for something.
type message struct {
	kind  uint16
	flags uint16 // unix.NLM_F_REQUEST is understood
	body  []byte // the fixed part of its kind
	attrs attributes
	what  string // for errors
}

// A netlink is a socket to a part of the kernel. Safe for concurrent use.
type netlink struct {
	mu   sync.Mutex
	fd   int
	last uint32
}

// openNetlink opens a socket to one of unix.NETLINK_ROUTE and the like, in the network
// namespace of the calling thread.
func openNetlink(protocol int) (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1) // errors have words, where the kernel knows any
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

// do sends each message and waits for its answer, up to the first that is refused.
func (n *netlink) do(list ...message) error {
	for _, m := range list {
		m.flags |= unix.NLM_F_ACK
		if err := n.send(nil, m); err != nil {
			return err
		}
	}
	return nil
}

// list asks for all that there is of m's kind.
func (n *netlink) list(m message, f func(body []byte)) error {
	m.flags |= unix.NLM_F_DUMP
	return n.send(f, m)
}

// send sends messages in one piece and reads answers until each that asked for one has it.
func (n *netlink) send(f func(body []byte), list ...message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []byte
	a := answers{what: map[uint32]string{}, due: map[uint32]bool{}, body: f}
	for _, m := range list {
		n.last++
		a.what[n.last] = m.what
		if m.flags&(unix.NLM_F_ACK|unix.NLM_F_DUMP) != 0 {
			a.due[n.last] = true
		}
		out = binary.NativeEndian.AppendUint32(out, uint32(unix.NLMSG_HDRLEN+len(m.body)+len(m.attrs)))
		out = binary.NativeEndian.AppendUint16(out, m.kind)
		out = binary.NativeEndian.AppendUint16(out, m.flags|unix.NLM_F_REQUEST)
		out = binary.NativeEndian.AppendUint32(out, n.last)
		out = binary.NativeEndian.AppendUint32(out, 0)
		out = append(append(out, m.body...), m.attrs...)
	}
	if err := unix.Sendto(n.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	in := make([]byte, 1<<16)
	for len(a.due) > 0 {
		size, _, err := unix.Recvfrom(n.fd, in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if err := a.read(in[:size]); err != nil {
			return err
		}
	}
	return nil
}

// answers is what the kernel is to answer, by the number of the message.
type answers struct {
	what map[uint32]string
	due  map[uint32]bool
	body func([]byte) // is told what there is of a kind
}

// read reads one datagram of the kernel: what it answers is due no more.
func (a *answers) read(in []byte) error {
	for len(in) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(in))
		if size < unix.NLMSG_HDRLEN || size > len(in) {
			return errors.New("the kernel's answer is cut short")
		}
		kind, flags, seq := binary.NativeEndian.Uint16(in[4:]), binary.NativeEndian.Uint16(in[6:]), binary.NativeEndian.Uint32(in[8:])
		body := in[unix.NLMSG_HDRLEN:size]
		what, asked := a.what[seq]
		switch {
		case !asked: // of a transaction that has failed before
		case kind == unix.NLMSG_ERROR && len(body) >= 4+unix.NLMSG_HDRLEN:
			if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body))); errno != 0 {
				return refusal(what, errno, flags, body)
			}
			delete(a.due, seq)
		case kind == unix.NLMSG_DONE:
			delete(a.due, seq)
		case a.body != nil:
			a.body(body)
		}
		in = in[min((size+3)&^3, len(in)):]
	}
	return nil
}

// refusal is an error with the kernel's own words, where it has sent any.
func refusal(what string, errno unix.Errno, flags uint16, body []byte) error {
	words := ""
	if flags&unix.NLM_F_ACK_TLVS != 0 {
		rest := body[4+unix.NLMSG_HDRLEN:]
		if flags&unix.NLM_F_CAPPED == 0 { // the message that failed is repeated whole
			whole := int(binary.NativeEndian.Uint32(body[4:])) - unix.NLMSG_HDRLEN
			rest = rest[min(max((whole+3)&^3, 0), len(rest)):]
		}
		attributes(rest).read(func(kind uint16, value []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG {
				words = " (" + unix.ByteSliceToString(value) + ")"
			}
		})
	}
	return fmt.Errorf("%s: %w%s", what, errno, words)
}
