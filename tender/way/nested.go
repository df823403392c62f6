package way

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/tender/process"
)

// HelperCommand is the argument that makes the running program act as the helper of a
// nested link: it calls Helper.
const HelperCommand = "tender-way"

const (
	helperFD     = 3 // its end of the socket pair
	helperWithin = 20 * time.Second
)

// The tender orders a link: whether it is raw, and of IPv4 alone, and its MTU. It is answered the device, or
// with words why there is none. From then on it orders sockets, a family at a time.
const (
	orderSize = 3
	orderRaw  = 1
	orderIPv4 = 2
)

// A helper makes the sockets of a nested link: only a process that is in namespaces of
// its own from its start is root of them.
type helper struct {
	mu       sync.Mutex // one order at a time
	conn     *net.UnixConn
	pid      int
	kill     func() error
	patience time.Duration // with one order
	once     sync.Once
	gone     chan struct{} // closed here
	dead     chan struct{} // it has ended
}

// OpenNested is OpenPrivate for an ordinary user, where that one may make namespaces
// and open /dev/net/tun. The running program must act as the helper (see HelperCommand).
func OpenNested(s Spec) (Way, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	h, err := startHelper()
	if err != nil {
		return nil, fmt.Errorf("way: a nested network: %w", err)
	}
	d, err := h.open(s)
	if err != nil {
		h.close()
		return nil, fmt.Errorf("way: a nested network: %w", err)
	}
	return &dialled{device: d, sockets: h}, nil
}

func startHelper() (*helper, error) {
	ours, theirs, err := process.Pair(unix.SOCK_SEQPACKET, "helper")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", HelperCommand)
	cmd.Env = []string{"GOMAXPROCS=1", "GODEBUG=containermaxprocs=0"} // the runtime looks for its limits no more, which is no call that it is left with
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("user and network namespaces: %w", err)
	}
	h := &helper{conn: ours, pid: cmd.Process.Pid, kill: cmd.Process.Kill, patience: helperWithin, gone: make(chan struct{}), dead: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(h.dead)
	}()
	return h, nil
}

// open orders the device.
func (h *helper) open(s Spec) (*device, error) {
	order := binary.BigEndian.AppendUint16([]byte{0}, uint16(s.MTU))
	if s.Raw {
		order[0] |= orderRaw
	}
	if s.IPv4 {
		order[0] |= orderIPv4
	}
	fd, err := h.order(order)
	if err != nil {
		return nil, err
	}
	return adopt(fd, s)
}

// order sends an order and takes the descriptor that answers it.
func (h *helper) order(b []byte) (fd int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn.SetDeadline(time.Now().Add(h.patience))
	if _, err := h.conn.Write(b); err != nil {
		return -1, h.ended(err)
	}
	words, space := make([]byte, 1024), make([]byte, unix.CmsgSpace(4))
	n, in, _, _, err := h.conn.ReadMsgUnix(words, space)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return -1, h.ended(err)
	}
	if in == 0 {
		return -1, errors.New(string(words[:n]))
	}
	return rights(space[:in])
}

// ended tells a link that was closed from a helper that has ended by itself, or is to end,
// since it does not answer.
func (h *helper) ended(err error) error {
	select {
	case <-h.gone:
		return net.ErrClosed
	default:
		h.kill()
		return fmt.Errorf("the helper does not answer: %w", err)
	}
}

// rights reads the descriptor of a control message.
func rights(b []byte) (int, error) {
	list, err := unix.ParseSocketControlMessage(b)
	if err != nil || len(list) != 1 {
		return -1, fmt.Errorf("%d control messages: %w", len(list), err)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}

// socket implements sockets.
func (h *helper) socket(family uint8) (*os.File, error) {
	fd, err := h.order([]byte{family})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tcp"), nil
}

// done implements sockets.
func (h *helper) done() <-chan struct{} { return h.dead }

// close ends the helper, which hears of it.
func (h *helper) close() {
	h.once.Do(func() {
		close(h.gone)
		h.conn.Close()
	})
}

// Helper is the body of the helper. It returns when the tender has ended or has closed
// its link.
func Helper() error {
	order := make([]byte, orderSize+1)
	n, _, err := unix.Recvfrom(helperFD, order, 0)
	if err != nil || n != orderSize {
		return fmt.Errorf("way: %s is started by a tender, not by hand", HelperCommand)
	}
	if err := closeInherited(); err != nil {
		return answer(-1, err)
	}
	d, err := enterPrivate(Spec{MTU: int(binary.BigEndian.Uint16(order[1:])), Raw: order[0]&orderRaw != 0, IPv4: order[0]&orderIPv4 != 0})
	if err == nil {
		err = giveUp()
	}
	if err != nil {
		return answer(-1, err)
	}
	if err := answer(int(d.file.Fd()), nil); err != nil {
		return err
	}
	d.file.Close()
	for {
		n, _, err := unix.Recvfrom(helperFD, order, 0)
		if err != nil || n != 1 {
			return nil
		}
		fd, err := unix.Socket(int(order[0]), socketKind, unix.IPPROTO_TCP)
		err = answer(fd, err)
		unix.Close(fd)
		if err != nil {
			return nil
		}
	}
}

// closeInherited closes what the helper has of those that started the tender: only
// descriptors that were handed down an exec are open across one.
func closeInherited() error {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range list {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= helperFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// answer sends a descriptor, or says why there is none.
func answer(fd int, failed error) error {
	words, control := []byte{0}, unix.UnixRights(fd)
	if failed != nil {
		words, control = []byte(failed.Error()), nil
	}
	return unix.Sendmsg(helperFD, words, control, nil, 0)
}
