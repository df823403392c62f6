package direct

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Bounds on the two buffers of a connection, in bytes. Half of a receive buffer is
// for what the segments in it cost beside their bytes.
const (
	leastBuffer = 32 << 10
	maxBuffer   = 500 << 10
)

// memory shares what buffers may hold among the connections there are: the first get
// much, and when there are many, new ones get little.
type memory struct {
	all int64 // for the buffers of all connections

	mu   sync.Mutex
	open map[tcpip.Endpoint]*conn
}

// limit makes it an eighth of what the image may use.
func (m *memory) limit(image uint64) {
	m.all, m.open = 64<<20, make(map[tcpip.Endpoint]*conn)
	if image > 0 {
		m.all = min(m.all, int64(image/8))
	}
}

// take gives a connection its buffers; the caller owes a give.
func (m *memory) take(c *conn) {
	ep := c.ep
	m.mu.Lock()
	m.open[ep] = c
	n := len(m.open)
	m.mu.Unlock()
	size := min(max(m.all/(4*int64(n)), leastBuffer), maxBuffer)
	ep.SocketOptions().SetReceiveBufferSize(size, true)
	ep.SocketOptions().SetSendBufferSize(size, true)
}

func (m *memory) give(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, c.ep)
}

// wake has all connections look again.
func (m *memory) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.open {
		c.in.nudge()
		c.out.nudge()
	}
}

// left reports whether ep was closed here and the other end has not confirmed that it
// has everything.
func (m *memory) left(ep *tcp.Endpoint) bool {
	switch ep.EndpointState() {
	case tcp.StateListen, tcp.StateFinWait2, tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, open := m.open[ep]
	return !open
}
