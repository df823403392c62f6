package way

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// What the kernel calls an expression of a rule, encoded.
type expression attributes

// A rule is expressions, each of which must hold for the next to be asked.
type rule []expression

// A chain is rules at a place that packets pass.
type chain struct {
	name, kind string // "nat" or "filter"
	hook       uint32
	priority   int32
	rules      []rule
}

// A table is chains of IPv4 and IPv6. One that is owned goes with the socket that made it.
// Rules of one that forgets may say forget.
type table struct {
	name    string
	flags   uint32
	forgets bool
	chains  []chain
}

const (
	tableOwned = 2 // NFT_TABLE_F_OWNER, Linux 5.12

	// IPS_DST_NAT, and the bits of nf_conntrack's states.
	statusDNAT      = 1 << 5
	stateKnown      = 1<<1 | 1<<2 // established, related
	register1       = unix.NFT_REG_1
	register2       = unix.NFT_REG_2
	priorityNAT     = -110 // of the first of our tables: before what others do at -100
	priorityLeast   = -199 // the kernel's bound for this kind of chain
	prioritySNAT    = 90
	priorityFilter  = 0
	interfaceLength = unix.IFNAMSIZ
)

func express(name string, data attributes) expression {
	return expression(attributes{}.text(unix.NFTA_EXPR_NAME, name).nest(unix.NFTA_EXPR_DATA, data))
}

func data(b []byte) attributes { return attributes{}.bytes(unix.NFTA_DATA_VALUE, b) }

// is compares what was loaded.
func is(op uint32, b ...byte) expression {
	return express("cmp", attributes{}.be32(unix.NFTA_CMP_SREG, register1).be32(unix.NFTA_CMP_OP, op).nest(unix.NFTA_CMP_DATA, data(b)))
}

func meta(key, op uint32, b ...byte) rule {
	return rule{express("meta", attributes{}.be32(unix.NFTA_META_DREG, register1).be32(unix.NFTA_META_KEY, key)), is(op, b...)}
}

// from, fromElsewhere and to hold for packets by an interface.
func from(name string) rule { return meta(unix.NFT_META_IIFNAME, unix.NFT_CMP_EQ, padded(name)...) }
func fromElsewhere(name string) rule {
	return meta(unix.NFT_META_IIFNAME, unix.NFT_CMP_NEQ, padded(name)...)
}
func to(name string) rule { return meta(unix.NFT_META_OIFNAME, unix.NFT_CMP_EQ, padded(name)...) }

// proto is the number of an address's family here.
func proto(a netip.Addr) byte {
	if a.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// version holds for packets of a's family, protocol for what is in them.
func version(a netip.Addr) rule { return meta(unix.NFT_META_NFPROTO, unix.NFT_CMP_EQ, proto(a)) }
func protocol(p byte) rule      { return meta(unix.NFT_META_L4PROTO, unix.NFT_CMP_EQ, p) }

// destination holds for packets to an address, source for those from one.
func destination(a netip.Addr) rule {
	offset := uint32(16)
	if a.Is6() {
		offset = 24
	}
	return all(version(a), field(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, a.AsSlice()...))
}

func source(a netip.Addr) rule {
	offset := uint32(12)
	if a.Is6() {
		offset = 8
	}
	return all(version(a), field(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, a.AsSlice()...))
}

// destinationPort holds for TCP to a port, sourcePort for that from one.
func destinationPort(p uint16) rule {
	return all(protocol(unix.IPPROTO_TCP), field(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, port(p)...))
}

func sourcePort(p uint16) rule {
	return all(protocol(unix.IPPROTO_TCP), field(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, port(p)...))
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

func padded(name string) []byte {
	return append([]byte(name), make([]byte, interfaceLength-len(name))...)
}

// field compares bytes of the packet's header of the network (1) or of transport (2).
func field(base, offset uint32, b ...byte) rule {
	return rule{payload(base, offset, len(b)), is(unix.NFT_CMP_EQ, b...)}
}

// payload looks at bytes of a packet.
func payload(base, offset uint32, size int) expression {
	return express("payload", attributes{}.be32(unix.NFTA_PAYLOAD_DREG, register1).be32(unix.NFTA_PAYLOAD_BASE, base).
		be32(unix.NFTA_PAYLOAD_OFFSET, offset).be32(unix.NFTA_PAYLOAD_LEN, uint32(size)))
}

// tracked holds where any bit of mask is set of what is known of the packet's connection.
func tracked(key, mask uint32) rule {
	m := binary.NativeEndian.AppendUint32(nil, mask)
	return rule{express("ct", attributes{}.be32(unix.NFTA_CT_DREG, register1).be32(unix.NFTA_CT_KEY, key)), masked(m...), is(unix.NFT_CMP_NEQ, 0, 0, 0, 0)}
}

// masked leaves of what was looked at the bits of m.
func masked(m ...byte) expression {
	return express("bitwise", attributes{}.be32(unix.NFTA_BITWISE_SREG, register1).be32(unix.NFTA_BITWISE_DREG, register1).
		be32(unix.NFTA_BITWISE_LEN, uint32(len(m))).nest(unix.NFTA_BITWISE_MASK, data(m)).nest(unix.NFTA_BITWISE_XOR, data(make([]byte, len(m)))))
}

// begins holds for the first segment of a connection, SYN without ACK; goesOn for others.
func begins() rule { return syn(unix.NFT_CMP_EQ) }
func goesOn() rule { return syn(unix.NFT_CMP_NEQ) }

func syn(op uint32) rule {
	const syn, all = 0x02, 0x17 // with ACK, RST and FIN
	return rule{payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1), masked(all), is(op, syn)}
}

// local holds for packets to an address of this machine.
func local() rule {
	return rule{express("fib", attributes{}.be32(unix.NFTA_FIB_DREG, register1).be32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE).
		be32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)), is(unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)...)}
}

func load(register uint32, b []byte) expression {
	return express("immediate", attributes{}.be32(unix.NFTA_IMMEDIATE_DREG, register).nest(unix.NFTA_IMMEDIATE_DATA, data(b)))
}

// deliver changes where a packet goes, for its whole connection; replaceSource6 where it
// comes from.
func deliver(to netip.Addr, p uint16) rule {
	return rule{load(register1, to.AsSlice()), load(register2, port(p)), express("nat", attributes{}.be32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT).
		be32(unix.NFTA_NAT_FAMILY, uint32(proto(to))).be32(unix.NFTA_NAT_REG_ADDR_MIN, register1).be32(unix.NFTA_NAT_REG_PROTO_MIN, register2))}
}

func replaceSource6(a netip.Addr) rule {
	return rule{load(register1, a.AsSlice()), express("nat", attributes{}.be32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_SNAT).
		be32(unix.NFTA_NAT_FAMILY, uint32(proto(a))).be32(unix.NFTA_NAT_REG_ADDR_MIN, register1))}
}

// forgotten names what holds how long a table that forgets has connections remembered.
const forgotten = "forgotten"

// forget has the kernel not remember the TCP connection of a packet, if this is the first
// that it sees of it.
func forget() rule {
	return rule{express("objref", attributes{}.be32(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_CT_TIMEOUT).text(unix.NFTA_OBJREF_IMM_NAME, forgotten))}
}

// noTime is what forget refers to: a state of TCP of any kind is remembered for 0 seconds.
func (t *table) noTime() message {
	const l4proto, policy = 2, 3   // NFTA_CT_TIMEOUT_
	const synSent, unacked = 1, 11 // the first and the last of CTA_TIMEOUT_TCP_
	var seconds attributes
	for state := uint16(synSent); state <= unacked; state++ {
		seconds = seconds.be32(state, 0)
	}
	return nft(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "what forgets connections of "+t.name, attributes{}.text(unix.NFTA_OBJ_TABLE, t.name).text(unix.NFTA_OBJ_NAME, forgotten).
		be32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_CT_TIMEOUT).nest(unix.NFTA_OBJ_DATA, attributes{}.bytes(l4proto, []byte{unix.IPPROTO_TCP}).nest(policy, seconds)))
}

func verdict(code uint32) rule {
	v := attributes{}.nest(unix.NFTA_DATA_VERDICT, attributes{}.be32(unix.NFTA_VERDICT_CODE, code))
	return rule{express("immediate", attributes{}.be32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT).nest(unix.NFTA_IMMEDIATE_DATA, v))}
}

func accept() rule { return verdict(1) } // NF_ACCEPT
func drop() rule   { return verdict(0) } // NF_DROP

// all joins conditions and what follows of them.
func all(parts ...rule) (r rule) {
	for _, p := range parts {
		r = append(r, p...)
	}
	return r
}

// nft is a message to nf_tables about both families.
func nft(kind, flags uint16, what string, a attributes) message {
	return message{kind: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, flags: flags, body: []byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs: a, what: what}
}

// replace makes t what there is of its name.
func (t *table) replace() []message {
	list := t.remove(unix.NLM_F_CREATE)
	list = append(list, nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "the table "+t.name,
		attributes{}.text(unix.NFTA_TABLE_NAME, t.name).be32(unix.NFTA_TABLE_FLAGS, t.flags)))
	if t.forgets {
		list = append(list, t.noTime())
	}
	for _, c := range t.chains {
		hook := attributes{}.be32(unix.NFTA_HOOK_HOOKNUM, c.hook).be32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		list = append(list, nft(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "the chain "+c.name, attributes{}.text(unix.NFTA_CHAIN_TABLE, t.name).
			text(unix.NFTA_CHAIN_NAME, c.name).nest(unix.NFTA_CHAIN_HOOK, hook).be32(unix.NFTA_CHAIN_POLICY, 1).text(unix.NFTA_CHAIN_TYPE, c.kind)))
		for i, r := range c.rules {
			var es attributes
			for _, e := range r {
				es = es.nest(unix.NFTA_LIST_ELEM, attributes(e))
			}
			list = append(list, nft(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, fmt.Sprintf("rule %d of the chain %s", i, c.name),
				attributes{}.text(unix.NFTA_RULE_TABLE, t.name).text(unix.NFTA_RULE_CHAIN, c.name).nest(unix.NFTA_RULE_EXPRESSIONS, es)))
		}
	}
	return list
}

// remove removes a table that is there; with unix.NLM_F_CREATE one that may be.
func (t *table) remove(create uint16) (list []message) {
	name := attributes{}.text(unix.NFTA_TABLE_NAME, t.name)
	if create != 0 {
		list = append(list, nft(unix.NFT_MSG_NEWTABLE, create, "the table "+t.name, name.be32(unix.NFTA_TABLE_FLAGS, t.flags)))
	}
	return append(list, nft(unix.NFT_MSG_DELTABLE, 0, "removing the table "+t.name, name))
}

// tries bounds how often a transaction is made anew because of others.
const tries = 100

// transact makes what change says of the tables of now, all of it at once or nothing:
// where somebody else changes any table in between, it is asked again.
func (n *netlink) transact(change func() ([]message, error)) error {
	for range tries {
		var now []byte
		get := nft(unix.NFT_MSG_GETGEN, unix.NLM_F_ACK, "the generation of tables", nil)
		if err := n.send(func(b []byte) {
			attributes(b[4:]).read(func(kind uint16, v []byte) {
				if kind == unix.NFTA_GEN_ID {
					now = append([]byte{}, v...)
				}
			})
		}, get); err != nil {
			return err
		}
		list, err := change()
		if err != nil || len(list) == 0 {
			return err
		}
		ends := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
		begin := message{kind: unix.NFNL_MSG_BATCH_BEGIN, body: ends, attrs: attributes{}.bytes(unix.NFNL_BATCH_GENID, now), what: "a transaction"}
		end := message{kind: unix.NFNL_MSG_BATCH_END, body: ends, what: "a transaction"}
		list[len(list)-1].flags |= unix.NLM_F_ACK // the last of it is answered when all of it is done
		err = n.send(nil, append(append([]message{begin}, list...), end)...)
		if !errors.Is(err, unix.ERESTART) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return errors.New("the machine's tables change all the time")
}

// A placed is a chain that somebody has.
type placed struct {
	table, name string
	hook        uint32
	priority    int32
	drops       bool // what none of its rules decides
}

// chains lists the chains that packets of IPv4, IPv6 or both pass.
func (n *netlink) chains() (list []placed, err error) {
	ask := nft(unix.NFT_MSG_GETCHAIN, 0, "the chains of tables", nil)
	ask.body[0] = unix.NFPROTO_UNSPEC
	err = n.list(ask, func(b []byte) {
		c, hooked := placed{}, false
		attributes(b[4:]).read(func(kind uint16, v []byte) {
			switch kind {
			case unix.NFTA_CHAIN_TABLE:
				c.table = unix.ByteSliceToString(v)
			case unix.NFTA_CHAIN_NAME:
				c.name = unix.ByteSliceToString(v)
			case unix.NFTA_CHAIN_POLICY:
				c.drops = binary.BigEndian.Uint32(v) == 0
			case unix.NFTA_CHAIN_HOOK:
				hooked = true
				attributes(v).read(func(kind uint16, v []byte) {
					switch kind {
					case unix.NFTA_HOOK_HOOKNUM:
						c.hook = binary.BigEndian.Uint32(v)
					case unix.NFTA_HOOK_PRIORITY:
						c.priority = int32(binary.BigEndian.Uint32(v))
					}
				})
			}
		})
		if f := b[0]; hooked && (f == unix.NFPROTO_INET || f == unix.NFPROTO_IPV4 || f == unix.NFPROTO_IPV6) {
			list = append(list, c)
		}
	})
	return list, err
}

// tables lists the tables of both families.
func (n *netlink) tables() (list []string, err error) {
	err = n.list(nft(unix.NFT_MSG_GETTABLE, 0, "the tables", nil), func(b []byte) {
		attributes(b[4:]).read(func(kind uint16, v []byte) {
			if kind == unix.NFTA_TABLE_NAME {
				list = append(list, unix.ByteSliceToString(v))
			}
		})
	})
	return list, err
}
