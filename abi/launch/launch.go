// Package launch is what a tender tells an image before anything else: who it
// is, whom it trusts, what it was handed, and the filter it seals itself with.
// It travels in the first frame of the control channel, never in argv, in the
// environment or on a disk.
package launch

import (
	"errors"
	"fmt"
	"net/netip"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/wire"
)

// Descriptors that images of the process target start with. One that may ask for
// connections over a socket has the dial socket (package egress) at DialFD; its
// listeners follow from FirstListener, in the order of Params.Listeners. One with a
// network of its own has its device at NetFD, and neither of these.
const (
	ControlFD = 3
	ProgramFD = 4
	DialFD    = 5
	NetFD     = 5
)

// The program lives in a window of the address space that is its own: aligned to
// 4 GiB, so that a system call filter, which compares 32 bits at a time, can
// name it. The 4 GiB below it is a guard: no call may start there either, and no
// call may be 4 GiB long, so none can reach the window from outside.
const (
	WindowBase  = 0x6000_0000_0000
	WindowHigh  = WindowBase >> 32
	windowSize  = 1 << 32
	GuardHigh   = WindowHigh - 1
	MaxSlots    = 4
	MaxListener = 16
)

// A Listener is a port that the image serves.
type Listener struct {
	Name string
	Port uint16 // as the policy names it
	Bind uint16 // of the image's own stack; 0: the socket was handed in
}

// A Link is the network that an image has of its own, whose other end is its tender's;
// package abi/link has what is spoken on it. One that is shared leads to a network of
// others, where there is no tender. The zero Link is that of an image with sockets.
type Link struct {
	Addrs []netip.Prefix // of the image, at most one of each family
	Hosts []netip.Addr   // of the tender, one for each of Addrs: the gateway, and where DialPort is
	DHCP  bool           // ask for an IPv4 address, and serve once there is one
	SLAAC bool           // make an IPv6 address of what routers say
	// Shared is that anybody is on the link: Hosts are routers, the zero Addr where there is
	// none, and nobody there has an address of loopback.
	Shared bool
	// What follows is of an image that is handed a descriptor. Each read and write is
	// one Ethernet frame behind a virtio_net_hdr of 10 bytes, in the host's byte order.
	MTU      uint16
	MAC      [6]byte
	Offload  bool // the other end takes what is longer than the MTU, and completes checksums
	Verified bool // what arrives needs no checksum: it never left this machine's memory
}

// Present reports whether there is a link.
func (l *Link) Present() bool { return len(l.Addrs) > 0 || l.DHCP || l.SLAAC }

// An Instruction of a classic BPF program, as seccomp takes it.
type Instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// Params are the launch parameters.
type Params struct {
	Version     uint32
	Instance    string
	Tenant      string
	Workload    string
	Tier        string   // confinement that the tender reached
	Trust       [32]byte // Ed25519 public key that programs are signed with
	MinRevision uint64   // high-water mark: an older program is refused
	MaxProcs    uint32
	MemoryLimit uint64 // bytes; the Go soft limit
	Slots       uint8  // at WindowBase, SlotSize bytes each
	SlotSize    uint32
	First       control.Prepare // the program to start with
	Dials       bool            // the image may ask for connections
	Listeners   []Listener
	Link        Link
	Now         int64         // of a microVM: ns since 1970, as in control.Clock
	Seal        []Instruction // of a process: installed for all threads before Ready
}

// FirstListener is the descriptor of the first listener.
func (p *Params) FirstListener() int {
	if p.Dials {
		return DialFD + 1
	}
	return DialFD
}

// Frame encodes p.
func (p *Params) Frame() control.Frame {
	var w wire.Writer
	w.U32(p.Version)
	w.String(p.Instance)
	w.String(p.Tenant)
	w.String(p.Workload)
	w.String(p.Tier)
	w.Fixed(p.Trust[:])
	w.U64(p.MinRevision)
	w.U32(p.MaxProcs)
	w.U64(p.MemoryLimit)
	w.U8(p.Slots)
	w.U32(p.SlotSize)
	w.Blob(p.First.Frame().Payload)
	w.Bool(p.Dials)
	w.U32(uint32(len(p.Listeners)))
	for _, l := range p.Listeners {
		w.String(l.Name)
		w.U16(l.Port)
		w.U16(l.Bind)
	}
	w.I64(p.Now)
	w.Bool(p.Link.Present())
	if p.Link.Present() {
		p.Link.write(&w)
	}
	w.U32(uint32(len(p.Seal)))
	for _, i := range p.Seal {
		w.U16(i.Code)
		w.U8(i.JT)
		w.U8(i.JF)
		w.U32(i.K)
	}
	return control.Frame{Kind: control.KindLaunch, Payload: w.Bytes()}
}

// Decode reads launch parameters. For a process a filter is mandatory: an image
// that cannot seal itself must not serve.
func Decode(f control.Frame) (*Params, error) {
	if f.Kind != control.KindLaunch {
		return nil, fmt.Errorf("launch: first frame is of kind %d", f.Kind)
	}
	r := wire.NewReader(f.Payload)
	p := &Params{Version: r.U32(), Instance: r.String(), Tenant: r.String(), Workload: r.String(), Tier: r.String()}
	copy(p.Trust[:], r.Fixed(len(p.Trust)))
	p.MinRevision, p.MaxProcs, p.MemoryLimit, p.Slots, p.SlotSize = r.U64(), r.U32(), r.U64(), r.U8(), r.U32()
	first, err := control.Frame{Kind: control.KindPrepare, Payload: r.Blob()}.Decode()
	if err != nil {
		r.Fail(err)
	} else {
		p.First = first.(control.Prepare)
	}
	p.Dials = r.Bool()
	for range r.Count(8) {
		p.Listeners = append(p.Listeners, Listener{Name: r.String(), Port: r.U16(), Bind: r.U16()})
	}
	p.Now = r.I64()
	if r.Bool() {
		p.Link = readLink(r)
	}
	for range r.Count(8) {
		p.Seal = append(p.Seal, Instruction{r.U16(), r.U8(), r.U8(), r.U32()})
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	return p, p.validate()
}

func (p *Params) validate() error {
	switch {
	case len(p.Seal) == 0 && !p.Link.Present():
		return errors.New("launch: no filter to seal with")
	case p.Slots < 2 || p.Slots > MaxSlots || p.SlotSize == 0 || p.SlotSize%4096 != 0:
		return fmt.Errorf("launch: %d slots of %d bytes", p.Slots, p.SlotSize)
	case uint64(p.Slots)*uint64(p.SlotSize) > windowSize:
		return fmt.Errorf("launch: %d slots of %d bytes exceed the window that the filter guards", p.Slots, p.SlotSize)
	case p.First.Slot >= p.Slots || p.First.Length > p.SlotSize:
		return fmt.Errorf("launch: the first program is outside its slot")
	case len(p.Listeners) == 0 || len(p.Listeners) > MaxListener:
		return fmt.Errorf("launch: %d listeners", len(p.Listeners))
	}
	return p.validateListeners()
}

// validateListeners holds that an image with a network of its own binds each listener
// to a port of its own, and that another binds none.
func (p *Params) validateListeners() error {
	seen := map[uint16]bool{}
	for _, l := range p.Listeners {
		switch {
		case (l.Bind != 0) != p.Link.Present():
			return fmt.Errorf("launch: listener %q is to bind port %d; there is a link: %t", l.Name, l.Bind, p.Link.Present())
		case l.Bind != 0 && seen[l.Bind]:
			return fmt.Errorf("launch: listener %q binds port %d, as another does", l.Name, l.Bind)
		}
		seen[l.Bind] = true
	}
	return nil
}
