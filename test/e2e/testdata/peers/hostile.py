"""Sends what no kernel would send to an image, on the link that it has, and says what
comes back. Reads the name of one attempt a line, and answers each with one line.
The arguments are the device, the addresses of the image (IPv4, IPv6, Ethernet), and
three ports: one that the sender may use, one that it may not, one that nobody serves."""
import random, sys, time
from scapy.utils import checksum
from scapy.all import (ARP, ICMP, IP, IPOption, IPv6, TCP, UDP, AH, ESP, Dot1Q, Ether, GRE, Raw, conf, fragment, get_if_hwaddr,
    ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6MLReport, ICMPv6NDOptDstLLAddr, ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr,
    ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting, PadN, SCTP, SCTPChunkInit)

dev, image4, image6, mac = sys.argv[1:5]
web, admin, spare = map(int, sys.argv[5:8])
friend4, friend6, mapped = "10.99.0.9", "fd99::9", "::ffff:10.99.0.9"
conf.verb = 0
wire = conf.L2socket(iface=dev)
here = get_if_hwaddr(dev)
port = random.randrange(20000, 40000)

def frame(packet, **more):
    return Ether(src=here, dst=more.pop("dst", mac), **more) / packet

def send(*frames):
    for f in frames:
        wire.send(f)

def arrivals(seconds):
    """Frames of the image, for so long."""
    end = time.time() + seconds
    while True:
        left = end - time.time()
        if left <= 0 or not wire.select([wire], left):
            return
        p = wire.recv()
        if p is not None and p.src == mac:
            yield p

def word(p, mine):
    """What a frame says to port mine, or to the identifier mine of an echo."""
    if TCP in p and not p.haslayer("TCPerror"):
        flags = str(p[TCP].flags)
        if p[TCP].dport == mine:
            return {"SA": "SYN-ACK", "SAE": "SYN-ACK", "R": "RST", "RA": "RST"}.get(flags, flags)
    elif ICMP in p and p[ICMP].type == 0 and p[ICMP].id == mine:
        return "echo reply"
    elif ICMPv6EchoReply in p and p[ICMPv6EchoReply].id == mine:
        return "echo reply"
    elif ICMP in p and p[ICMP].type == 3 and mine.to_bytes(2, "big") in bytes(p[ICMP])[28:32]:
        return {13: "prohibited", 3: "port unreachable", 2: "protocol unreachable"}.get(p[ICMP].code, "unreachable %d" % p[ICMP].code)
    elif ICMPv6DestUnreach in p and mine.to_bytes(2, "big") in bytes(p[ICMPv6DestUnreach])[48:52]:
        return {1: "prohibited", 4: "port unreachable"}.get(p[ICMPv6DestUnreach].code, "unreachable %d" % p[ICMPv6DestUnreach].code)
    elif ICMP in p and p[ICMP].type not in (0, 3) or p.haslayer("ICMPv6ParamProblem") or p.haslayer("ICMPv6TimeExceeded"):
        return "ICMP " + p.summary()
    return None

def ask(*packets, wait=0.4):
    """Sends packets, and returns what is answered to the last port or identifier."""
    send(*(p if isinstance(p, Ether) else frame(p) for p in packets))
    heard = []
    for p in arrivals(wait):
        w = word(p, port)
        if w and w not in heard:
            heard.append(w)
        if w == "SYN-ACK": # and nothing stays half open
            back = p[TCP]
            ip = IPv6(src=p[IPv6].dst, dst=p[IPv6].src) if IPv6 in p else IP(src=p[IP].dst, dst=p[IP].src)
            send(frame(ip / TCP(sport=back.dport, dport=back.sport, flags="R", seq=back.ack)))
            break
    return ", ".join(heard) or "nothing"

def v4(**more):
    return IP(src=more.pop("src", friend4), dst=more.pop("dst", image4), **more)

def v6(**more):
    return IPv6(src=more.pop("src", friend6), dst=more.pop("dst", image6), **more)

def syn(**more):
    return TCP(sport=port, dport=more.pop("dport", web), flags=more.pop("flags", "S"), seq=more.pop("seq", 1000), **more)

def broken(packet, at, value):
    """The packet with a byte changed, and no checksum put right."""
    b = bytearray(bytes(packet))
    b[at] = value
    return Ether(src=here, dst=mac, type=0x86dd if b[0] >> 4 == 6 and at != 0 else 0x800) / Raw(bytes(b))

def checked(f):
    """The frame with the checksum of its IP header put right."""
    b = bytearray(bytes(f))
    size = 14 + 4 * (b[14] & 15)
    b[24:26] = b"\0\0"
    b[24:26] = checksum(bytes(b[14:size])).to_bytes(2, "big")
    return Ether(bytes(b[:14])) / Raw(bytes(b[14:]))

def pieces(packet, size):
    return fragment(packet, fragsize=size)

def pieces6(head, body, cuts):
    """Fragments of an IPv6 packet, cut at multiples of 8."""
    b, ident, out = bytes(body), random.getrandbits(32), []
    for i, (lo, hi) in enumerate(cuts):
        out.append(head / IPv6ExtHdrFragment(nh=6, id=ident, offset=lo // 8, m=0 if i == len(cuts) - 1 else 1) / Raw(b[lo:hi]))
    return out

def whole6(segment):
    """A TCP segment with the checksum that it has whole."""
    return bytes((v6() / segment))[40:]

def overlap4():
    b = bytes(v4() / syn() / Raw(b"x" * 20))[20:]
    def piece(lo, hi, more, data=b):
        return IP(src=friend4, dst=image4, id=77, proto=6, flags="MF" if more else 0, frag=lo // 8) / Raw(data[lo:hi])
    other = bytearray(b)
    other[2:4] = admin.to_bytes(2, "big")
    return piece(0, 24, True), piece(0, 16, True, bytes(other)), piece(16, len(b), False)

def conversation(window, mss, timeout=1.5):
    """A request by somebody who takes so little at once. Says how much came of it."""
    options = [("MSS", mss)] if mss else []
    send(frame(v4() / syn(window=window, options=options)))
    for p in arrivals(1):
        if word(p, port) == "SYN-ACK":
            break
    else:
        return "no SYN-ACK"
    seq, ack = p[TCP].ack, p[TCP].seq + 1
    text = b"GET / HTTP/1.1\r\nHost: image\r\n\r\n"
    tell = lambda flags, data=b"": send(frame(v4() / TCP(sport=port, dport=web, flags=flags, seq=seq, ack=ack, window=window) / Raw(data)))
    tell("A")
    tell("PA", text)
    seq += len(text)
    got = most = 0
    for p in arrivals(timeout):
        if TCP not in p or p[TCP].dport != port or IP not in p:
            continue
        data = p[IP].len - 4 * p[IP].ihl - 4 * p[TCP].dataofs
        most = max(most, data)
        if data > 0 and p[TCP].seq == ack:
            got, ack = got + data, ack + data
            tell("A")
    tell("R")
    if most > max(window, 1): # one byte may be sent to ask for the window
        return "%d bytes into a window of %d" % (most, window)
    return "no byte" if got == 0 else "what fits"

def data_into(window):
    return conversation(window, 0)

def reset_blindly(offset):
    """Opens a connection, resets it with a sequence number that is off, and asks."""
    send(frame(v4() / syn()))
    for p in arrivals(1):
        if word(p, port) == "SYN-ACK":
            break
    else:
        return "no SYN-ACK"
    seq, ack = p[TCP].ack, p[TCP].seq + 1
    send(frame(v4() / TCP(sport=port, dport=web, flags="A", seq=seq, ack=ack)))
    send(frame(v4() / TCP(sport=port, dport=web, flags="R", seq=(seq + offset) % 2**32)))
    time.sleep(0.1)
    send(frame(v4() / TCP(sport=port, dport=web, flags="PA", seq=seq, ack=ack) / Raw(b"GET / HTTP/1.1\r\nHost: image\r\nConnection: close\r\n\r\n")))
    for p in arrivals(1):
        if TCP in p and p[TCP].dport == port and b"HTTP/1." in bytes(p[TCP].payload):
            send(frame(v4() / TCP(sport=port, dport=web, flags="R", seq=p[TCP].ack)))
            return "an answer"
        if TCP in p and p[TCP].dport == port and "R" in str(p[TCP].flags):
            return "RST"
    return "nothing"

def chain6(n):
    p = v6()
    for i in range(n):
        p = p / (IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) if i == 0 else IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]))
    return p / syn()

def flags(f):
    return lambda: ask(v4() / syn(flags=f))

def advertise():
    return ask(frame(IPv6(src="fe80::bad", dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=9000) /
        ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64) / ICMPv6NDOptSrcLLAddr(lladdr="02:66:66:66:66:66"), dst="33:33:00:00:00:01"))

attempts = {
    "syn": lambda: ask(v4() / syn()),
    "syn-6": lambda: ask(v6() / syn()),
    "syn-denied": lambda: ask(v4() / syn(dport=admin)),
    "syn-denied-6": lambda: ask(v6() / syn(dport=admin)),
    "syn-unserved": lambda: ask(v4() / syn(dport=spare)),
    "syn-unserved-6": lambda: ask(v6() / syn(dport=spare)),
    "syn-data": lambda: ask(v4() / syn() / Raw(b"GET / HTTP/1.1\r\n\r\n")),
    "null": flags(""), "fin": flags("F"), "xmas": flags("FPU"), "ack": flags("A"), "rst": flags("R"), "syn-fin": flags("SF"),
    "syn-rst": flags("SR"), "all": flags("FSRPAUEC"), "syn-ack": flags("SA"), "syn-ecn": flags("SEC"),
    "ip-checksum": lambda: ask(v4(chksum=0x1234) / syn()),
    "tcp-checksum": lambda: ask(v4() / syn(chksum=0x1234)),
    "tcp-checksum-6": lambda: ask(v6() / syn(chksum=0x1234)),
    "length-over": lambda: ask(v4(len=1000) / syn()),
    "length-under": lambda: ask(v4(len=30) / syn()),
    "length-zero": lambda: ask(v4(len=0) / syn()),
    "length-over-6": lambda: ask(v6(plen=1000) / syn()),
    "length-under-6": lambda: ask(v6(plen=10) / syn()),
    "version": lambda: ask(broken(v4() / syn(), 0, 0x55)),
    "ihl-short": lambda: ask(broken(v4() / syn(), 0, 0x44)),
    "ihl-long": lambda: ask(broken(v4() / syn(), 0, 0x4f)),
    "offset-short": lambda: ask(v4() / syn(dataofs=4)),
    "offset-long": lambda: ask(v4() / syn(dataofs=15)),
    "trailer": lambda: ask(Ether(bytes(frame(v4() / syn())) + b"behind the packet")),
    "source-route": lambda: ask(v4(options=IPOption(b"\x83\x07\x04\x0a\x63\x00\x01")) / syn()),
    "strict-route": lambda: ask(v4(options=IPOption(b"\x89\x07\x04\x0a\x63\x00\x01")) / syn()),
    "record-route": lambda: ask(v4(options=IPOption(b"\x07\x07\x04\0\0\0\0")) / syn()),
    "option-long": lambda: ask(checked(broken(v4(options=IPOption(b"\x07\x07\x04\0\0\0\0")) / syn(), 21, 0xff))),
    "tcp-options": lambda: ask(v4() / syn(options=[(253, b"x" * 30)])),
    "tcp-option-zero": lambda: ask(v4() / TCP(sport=port, dport=web, flags="S", seq=1000, dataofs=6) / Raw(b"\x02\x00\xff\xff")),
    "mss-zero": lambda: ask(v4() / syn(options=[("MSS", 0)])),
    "ttl-zero": lambda: ask(v4(ttl=0) / syn()),
    "reserved-bit": lambda: ask(v4(flags=4) / syn()),
    "land": lambda: ask(v4(src=image4) / TCP(sport=web, dport=web, flags="S")),
    "land-6": lambda: ask(v6(src=image6) / TCP(sport=web, dport=web, flags="S")),
    "from-broadcast": lambda: ask(v4(src="255.255.255.255") / syn()),
    "from-multicast": lambda: ask(v4(src="224.0.0.1") / syn()),
    "from-nowhere": lambda: ask(v4(src="0.0.0.0") / syn()),
    "from-multicast-6": lambda: ask(v6(src="ff02::1") / syn()),
    "from-nowhere-6": lambda: ask(v6(src="::") / syn()),
    "from-loopback-6": lambda: ask(v6(src="::1") / syn()),
    "mapped": lambda: ask(v6(src=mapped) / syn()),
    "to-broadcast": lambda: ask(frame(v4(dst="255.255.255.255") / syn(), dst="ff:ff:ff:ff:ff:ff")),
    "to-multicast-6": lambda: ask(frame(v6(dst="ff02::1") / syn(), dst="33:33:00:00:00:01")),
    "to-loopback": lambda: ask(v4(dst="127.0.0.1") / syn()),
    "to-another": lambda: ask(v4(dst="10.99.0.2") / syn()),
    "to-loopback-6": lambda: ask(v6(dst="::1") / syn()),
    "fragments": lambda: ask(*pieces(v4() / syn() / Raw(b"x" * 40), 24)),
    "fragments-tiny": lambda: ask(*pieces(v4() / syn() / Raw(b"x" * 40), 8)),
    "fragment-first": lambda: ask(pieces(v4() / syn() / Raw(b"x" * 40), 24)[0]),
    "fragments-overlap": lambda: ask(*overlap4()),
    "fragment-huge": lambda: ask(v4(frag=8189, proto=6) / Raw(b"x" * 400)),
    "fragments-6": lambda: ask(*pieces6(v6(), whole6(syn() / Raw(b"x" * 40)), [(0, 24), (24, 60)])),
    "fragments-overlap-6": lambda: ask(*pieces6(v6(), whole6(syn() / Raw(b"x" * 40)), [(0, 24), (16, 60)])),
    "fragment-atomic-6": lambda: ask(v6() / IPv6ExtHdrFragment(nh=6, m=0, offset=0, id=1) / syn()),
    "hop-by-hop-6": lambda: ask(v6() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / syn()),
    "destination-6": lambda: ask(v6() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / syn()),
    "chain-6": lambda: ask(chain6(6)),
    "chain-long-6": lambda: ask(chain6(120)),
    "hop-by-hop-late-6": lambda: ask(v6() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / syn()),
    "routing-0-6": lambda: ask(v6() / IPv6ExtHdrRouting(addresses=["fd99::2"]) / syn()),
    "chain-ends-6": lambda: ask(v6(nh=60) / Raw(b"\x06\xff" + b"\0" * 30)),
    "no-next-6": lambda: ask(v6(nh=59) / Raw(bytes(syn()))),
    "udp": lambda: ask(v4() / UDP(sport=port, dport=web)),
    "udp-length": lambda: ask(v4() / UDP(sport=port, dport=web, len=4000) / Raw(b"x")),
    "sctp": lambda: ask(v4() / SCTP(sport=port, dport=web) / SCTPChunkInit()),
    "gre": lambda: ask(v4() / GRE() / IP(src=friend4, dst=image4) / syn()),
    "ip-in-ip": lambda: ask(v4(proto=4) / IP(src=friend4, dst=image4) / syn()),
    "6-in-4": lambda: ask(v4(proto=41) / v6() / syn()),
    "esp": lambda: ask(v4(proto=50) / ESP(data=b"x" * 40)),
    "ah-6": lambda: ask(v6() / AH(nh=6, payloadlen=4, icv=b"\0" * 12) / syn()),
    "echo": lambda: ask(v4() / ICMP(id=port) / Raw(b"x" * 56)),
    "echo-6": lambda: ask(v6() / ICMPv6EchoRequest(id=port, data=b"x" * 56)),
    "echo-stranger": lambda: ask(v4(src="10.99.0.200") / ICMP(id=port)),
    "echo-broadcast": lambda: ask(frame(v4(dst="255.255.255.255") / ICMP(id=port), dst="ff:ff:ff:ff:ff:ff")),
    "icmp-timestamp": lambda: ask(v4() / ICMP(type=13, id=port)),
    "icmp-mask": lambda: ask(v4() / ICMP(type=17, id=port)),
    "icmp-redirect": lambda: ask(v4() / ICMP(type=5, code=1, gw="10.99.0.66") / IP(src=image4, dst="10.99.0.2") / TCP(sport=web, dport=port)),
    "icmp-unasked": lambda: ask(v4() / ICMP(type=3, code=3) / IP(src=image4, dst=friend4) / TCP(sport=web, dport=port)),
    "icmp-too-big": lambda: ask(v4() / ICMP(type=3, code=4, nexthopmtu=68) / IP(src=image4, dst=friend4) / TCP(sport=web, dport=port)),
    "icmp-short": lambda: ask(v4(proto=1) / Raw(b"\x08")),
    "router-6": advertise,
    "redirect-6": lambda: ask(frame(IPv6(src="fe80::bad", dst=image6, hlim=255) / ICMPv6ND_Redirect(tgt="fe80::bad", dst="fd99::2"))),
    "neighbour-far-6": lambda: ask(frame(v6(hlim=64) / ICMPv6ND_NS(tgt=image6))),
    "mld-6": lambda: ask(v6(hlim=1) / ICMPv6MLReport(mladdr="ff02::1")),
    "arp-other": lambda: ask(frame(ARP(op=2, hwsrc="02:66:66:66:66:66", psrc="10.99.0.2", hwdst=mac, pdst=image4))),
    "arp-broken": lambda: ask(frame(ARP(op=1, hwlen=255, plen=255, hwsrc=here, psrc="10.99.0.2", pdst=image4))),
    "vlan": lambda: ask(Ether(src=here, dst=mac) / Dot1Q(vlan=7) / v4() / syn()),
    "ether-type": lambda: ask(frame(Raw(b"x" * 60), type=0x88b5)),
    "ether-other": lambda: ask(frame(v4() / syn(), dst="02:77:77:77:77:77")),
    "ether-short": lambda: ask(Ether(src=here, dst=mac, type=0x800) / Raw(b"\x45")),
    "ether-6-short": lambda: ask(Ether(src=here, dst=mac, type=0x86dd) / Raw(b"\x60\0\0\0")),
    "window-one": lambda: data_into(1),
    "window-zero": lambda: data_into(0),
    "window-ten": lambda: data_into(10),
    "mss-one": lambda: conversation(200, 1),
    "reset-far": lambda: reset_blindly(1 << 30),
    "reset-exact": lambda: reset_blindly(0),
}

print("ready", flush=True)
for line in sys.stdin:
    port += 1
    for _ in arrivals(0): # what comes of attempts before
        pass
    try:
        print(attempts[line.strip()](), flush=True)
    except Exception as e: # says what went wrong, and is no answer that anybody expects
        print("failed: %r" % e, flush=True)
