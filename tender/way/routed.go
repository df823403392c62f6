package way

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/link"
)

const (
	routedName   = "lorica%d"
	routedPrefix = "lorica"
	guardSuffix  = "-guard"
	mostRouted   = 256 // networks of four addresses
)

// A Door is a place where clients find an image.
type Door struct {
	Listen netip.AddrPort // unspecified: any address of this machine, of both families, as Go's listeners have it
	Bind   uint16         // of the image
}

// Routed is a Way on which the kernel routes clients' packets.
//
// There are two tables, named after the interface. The doors' is owned: it goes when the
// tender does, however it ends. The guard's, which lets nothing pass to or from the
// interface but connections that came by a door and those of the image to its tender,
// stays until the tender closes it, or the next one finds its interface gone: an image
// may outlive its tender for a moment, and must not be unguarded then.
type Routed struct {
	*device
	route, tables *netlink
	flags         uint32 // of the table of doors
	remembers     bool   // the kernel has no rule that forgets
	obstacles     []obstacle

	mu     sync.Mutex
	closed bool
}

// OpenRouted makes a link in the network namespace of this process, with no doors yet.
// The name is for those who look at the machine's interfaces. It takes root.
func OpenRouted(name string, s Spec) (*Routed, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	r := &Routed{flags: tableOwned}
	if err := r.open(name, s); err != nil {
		r.Close()
		return nil, fmt.Errorf("way: a routed network: %w", err)
	}
	return r, nil
}

func (r *Routed) open(name string, spec Spec) (err error) {
	if r.route, err = openNetlink(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if r.tables, err = openNetlink(unix.NETLINK_NETFILTER); err != nil {
		return err
	}
	if r.device, err = r.free(spec); err != nil {
		return err
	}
	r.link.Verified = false // clients are elsewhere, and so are those who made checksums
	alias := message{kind: unix.RTM_NEWLINK, body: ifinfo(r.index, 0), attrs: attributes{}.bytes(unix.IFLA_IFALIAS, []byte(name)), what: "the name of the interface"}
	if err := r.route.do(alias); err != nil {
		return err
	}
	for _, s := range [][2]string{{"forwarding", "1"}, {"rp_filter", "1"}} {
		if err := setSysctl("ipv4/conf/"+r.name+"/"+s[0], s[1]); err != nil {
			return err
		}
	}
	if err := r.configure(r.route); err != nil {
		return err
	}
	if err := r.guard(); err != nil {
		return err
	}
	if r.obstacles, err = obstacles(r.tables); err != nil {
		return err
	}
	if spec.IPv4 {
		r.obstacles = slices.DeleteFunc(r.obstacles, func(o obstacle) bool { return !o.v4 })
	}
	list := []message{setUp(r.index)}
	if len(r.link.Addrs) > 1 {
		// What answers to ::1 comes in here, and ::1 is looked for on the interface that a
		// packet came by. A packet that says ::1 itself the kernel drops before that.
		to := netip.PrefixFrom(netip.IPv6Loopback(), 128)
		list = append(list, newRoute(unix.AF_INET6, unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, to,
			attributes{}.u32(unix.RTA_OIF, uint32(r.index)).u32(unix.RTA_PRIORITY, 1024), "the route of loopback"))
	}
	return r.route.do(list...)
}

// free makes an interface whose number gives addresses that nobody here has. Numbers
// are the kernel's to give, so no two tenders get the same.
func (r *Routed) free(s Spec) (*device, error) {
	own, peers, err := r.route.addresses()
	if err != nil {
		return nil, err
	}
	var taken []netip.Prefix // networks of four: a wider one may be around a link's, which comes first
	for _, a := range slices.Concat(own, peers) {
		taken = append(taken, netip.PrefixFrom(a, a.BitLen()-2).Masked())
	}
	var passed []*device
	defer func() {
		for _, d := range passed {
			d.file.Close()
		}
	}()
	for {
		d, err := openDevice(routedName, s)
		if err != nil {
			return nil, err
		}
		var n int
		if _, err := fmt.Sscanf(d.name, routedName, &n); err != nil || n >= mostRouted {
			d.file.Close()
			return nil, fmt.Errorf("no address is left for %s", d.name)
		}
		d.number(n)
		if !slices.ContainsFunc(d.link.Addrs, func(p netip.Prefix) bool { return slices.ContainsFunc(taken, p.Overlaps) }) {
			return d, nil
		}
		passed = append(passed, d)
	}
}

// addresses lists what this machine has, and what others have at the ends of its links.
func (n *netlink) addresses() (own, peers []netip.Addr, err error) {
	body := make([]byte, unix.SizeofIfAddrmsg)
	err = n.list(message{kind: unix.RTM_GETADDR, body: body, what: "the addresses of interfaces"}, func(b []byte) {
		var here, there netip.Addr // the same, or there alone, where there is no peer
		attributes(b[len(body):]).read(func(kind uint16, v []byte) {
			switch kind {
			case unix.IFA_LOCAL:
				here, _ = netip.AddrFromSlice(v)
			case unix.IFA_ADDRESS:
				there, _ = netip.AddrFromSlice(v)
			}
		})
		if !here.IsValid() {
			here = there
		}
		if here.IsValid() {
			own = append(own, here)
		}
		if there.IsValid() && there != here {
			peers = append(peers, there)
		}
	})
	return own, peers, err
}

// A passage is the rules of doors.
type passage struct {
	in       []rule // translate the destination of what begins, and nothing else
	to, from []rule // forget what the machine has itself
}

// add adds d. Connections that the machine has itself go on, and are not remembered: one
// whose end is all that the kernel sees it would take for open, and the client's next one
// from the same port for a part of that, which it does not translate.
func (p *passage) add(r *Routed, d Door) error {
	listen := netip.AddrPortFrom(d.Listen.Addr().Unmap(), d.Listen.Port())
	if !listen.IsValid() || listen.Port() == 0 || d.Bind == 0 {
		return fmt.Errorf("a door from %v to port %d", d.Listen, d.Bind)
	}
	at := func(here, from rule, image netip.Addr) {
		here, from = all(here, destinationPort(listen.Port())), all(from, sourcePort(listen.Port()))
		p.in = append(p.in, all(here, begins(), deliver(image, d.Bind)))
		p.to = append(p.to, all(here, goesOn(), forget()))
		p.from = append(p.from, all(from, goesOn(), forget()))
	}
	if !listen.Addr().IsUnspecified() {
		image, _, err := r.address(listen.Addr())
		if err != nil {
			return err
		}
		at(destination(listen.Addr()), source(listen.Addr()), image)
		return nil
	}
	for _, a := range r.link.Addrs {
		at(all(version(a.Addr()), local()), version(a.Addr()), a.Addr())
	}
	return nil
}

// Admit makes doors the only ones of this image. From its return on new connections to
// them come here, before all that an older tender has; those that are open go on.
func (r *Routed) Admit(doors []Door) error {
	var p passage
	for _, d := range doors {
		if err := p.add(r, d); err != nil {
			return fmt.Errorf("way: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	if err := r.admit(&p); err != nil {
		return fmt.Errorf("way: the doors of an image: %w", err)
	}
	if own, _, err := r.route.addresses(); err == nil { // else it keeps them until they are old
		r.tables.forgetOwn(doors, own)
	}
	return nil
}

func (r *Routed) admit(p *passage) error {
	err := r.tables.transact(func() ([]message, error) {
		list, err := r.tables.chains()
		if err != nil {
			return nil, err
		}
		t := table{name: r.name, flags: r.flags, forgets: !r.remembers, chains: []chain{
			{name: "clients", kind: "nat", hook: unix.NF_INET_PRE_ROUTING, rules: p.in},
			{name: "neighbours", kind: "nat", hook: unix.NF_INET_LOCAL_OUT, rules: p.in},
			{name: "loopback", kind: "nat", hook: unix.NF_INET_POST_ROUTING, priority: prioritySNAT, rules: []rule{all(to(r.name), source(netip.IPv6Loopback()), replaceSource6(link.Loopback6))}},
		}}
		for i := range 2 {
			t.chains[i].priority = r.first(list, t.chains[i].hook)
		}
		if t.forgets { // when destinations are translated
			t.chains = append(t.chains, chain{name: "to-machine", kind: "filter", hook: unix.NF_INET_PRE_ROUTING, priority: priorityFilter, rules: p.to},
				chain{name: "of-machine", kind: "filter", hook: unix.NF_INET_LOCAL_OUT, priority: priorityFilter, rules: slices.Concat(p.to, p.from)})
		}
		return t.replace(), nil
	})
	if r.flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) { // before Linux 5.12
		r.flags = 0
		return r.admit(p)
	}
	if !r.remembers && errors.Is(err, unix.ENOENT) { // without CONFIG_NF_CONNTRACK_TIMEOUT
		r.remembers = true
		return r.admit(p)
	}
	return err
}

// first returns the priority before those that others of ours have at a hook. Chains of
// one priority are passed from the newest to the oldest, which counts where numbers end.
func (r *Routed) first(list []placed, hook uint32) int32 {
	p := int32(priorityNAT)
	for _, c := range list {
		if c.hook == hook && c.table != r.name && ours(c.table) {
			p = min(p, c.priority-1)
		}
	}
	return max(p, priorityLeast)
}

// ours reports whether a table is that of a link's doors or guard.
func ours(table string) bool {
	var n int
	got, _ := fmt.Sscanf(strings.TrimSuffix(table, guardSuffix), routedName, &n)
	return got == 1
}

// guard puts the table in force that holds the image to what it is for, and sweeps away
// those whose interface is gone.
func (r *Routed) guard() error {
	known := tracked(unix.NFT_CT_STATE, stateKnown)
	in := func(rules ...rule) []rule { // what the image sends
		return slices.Concat([]rule{all(from(r.name), known, accept())}, rules, []rule{all(from(r.name), drop())})
	}
	out := func(rules ...rule) []rule { // what it gets
		clients := []rule{all(to(r.name), known, accept()), all(to(r.name), tracked(unix.NFT_CT_STATUS, statusDNAT), accept())}
		return slices.Concat(clients, rules, []rule{all(to(r.name), drop())})
	}
	dials := all(from(r.name), destination(r.link.Hosts[0]), destinationPort(link.DialPort), accept())
	// Only IPv6 asks for neighbours in packets that chains see.
	var asks, answers []rule
	for _, kind := range []byte{135, 136} { // solicitation, advertisement
		neighbour := all(version(netip.IPv6Unspecified()), protocol(unix.IPPROTO_ICMPV6), field(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, kind), accept())
		asks, answers = append(asks, all(from(r.name), neighbour)), append(answers, all(to(r.name), neighbour))
	}
	// The tender's addresses here are for its image alone: what comes there is taken for the image's.
	var others []rule
	for _, host := range r.link.Hosts {
		others = append(others, all(fromElsewhere(r.name), destination(host), drop()))
	}
	// What stands for ::1 comes from this machine, or it is a lie.
	loopback := []rule{all(to(r.name), source(link.Loopback6), drop())}
	t := table{name: r.name + guardSuffix, chains: []chain{
		{name: "forward", kind: "filter", hook: unix.NF_INET_FORWARD, rules: slices.Concat(loopback, in(), out())},
		{name: "input", kind: "filter", hook: unix.NF_INET_LOCAL_IN, rules: slices.Concat(others, in(append(asks, dials)...))},
		{name: "output", kind: "filter", hook: unix.NF_INET_LOCAL_OUT, rules: slices.Concat(loopback, out(answers...))},
	}}
	if err := r.tables.sweep(); err != nil {
		return err
	}
	return r.tables.transact(func() ([]message, error) {
		list, err := r.tables.tables()
		var batch []message
		for _, name := range list {
			if strings.TrimSuffix(name, guardSuffix) == r.name {
				batch = append(batch, (&table{name: name}).remove(0)...)
			}
		}
		return append(batch, t.replace()...), err
	})
}

// Notes says which clients of what listens at these addresses are out of reach by how
// this machine is set, which is nobody's to change here.
func (r *Routed) Notes(listen ...netip.Addr) (list []string) {
	for _, o := range r.obstacles {
		if slices.ContainsFunc(listen, o.bars) {
			list = append(list, o.what)
		}
	}
	return list
}

// Dial implements Way: there is nobody to connect for.
func (r *Routed) Dial(context.Context, netip.AddrPort, uint16) (net.Conn, error) {
	return nil, fmt.Errorf("way: a routed network: clients are routed, not connected: %w", errors.ErrUnsupported)
}

// Listen implements Way.
func (r *Routed) Listen() (net.Listener, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, net.ErrClosed
	}
	f, err := newSocket(unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("way: %w", err)
	}
	defer f.Close()
	return r.listen(f)
}

// Close implements Way. Clients of the doors are refused from now on, or go where an
// older tender says.
func (r *Routed) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var err error
	if r.device != nil {
		stays := r.persist(false) // its guard goes now
		err = r.tables.transact(func() (list []message, err error) {
			names, err := r.tables.tables()
			for _, name := range []string{r.name, r.name + guardSuffix} {
				if slices.Contains(names, name) {
					list = append(list, (&table{name: name}).remove(0)...)
				}
			}
			return list, err
		})
		r.tables.forget(r.link.Addrs)
		err = errors.Join(stays, err, r.file.Close())
	}
	for _, n := range []*netlink{r.route, r.tables} {
		if n != nil {
			n.close()
		}
	}
	return err
}
