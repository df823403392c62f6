package unikernel

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
)

// A wire is a network whose packets are the test's. Its connections are sockets.
type wire struct {
	Net
	filter pep.PacketFilter
}

var wireAddr = netip.MustParseAddr("192.0.2.2")

func (w *wire) Place(*launch.Params) pep.PacketPlace {
	return pep.PacketPlace{Own: []netip.Addr{wireAddr}, Ports: map[uint16]uint16{80: 8080}}
}
func (w *wire) Packets(f pep.PacketFilter) { w.filter = f }

// from makes a packet of TCP to port 80.
func (w *wire) from(src string, port uint16, flags uint8) []byte {
	b := append([]byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0}, append(netip.MustParseAddr(src).AsSlice(), wireAddr.AsSlice()...)...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, port), 80)
	return append(b, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, flags, 1, 0, 0, 0, 0, 0)
}

const wireSYN, wireACK = 2, 16

// A packet that is denied is recorded and counted as a connection that is.
func TestDeniedPacketsAreRecorded(t *testing.T) {
	w, watch := &wire{}, &watcher{gate: pep.Decision{Verdict: abi.Allow}}
	img := rigImage(TLS{}, []pep.Guard{watch})
	img.Net = w
	r := bootImage(t, img, nil, testProgram(1, testLimits()), text("ok"))
	in := func(want pep.Action, b []byte) {
		t.Helper()
		if got := w.filter.In(b); got != want {
			t.Errorf("%d, and not %d", got, want)
		}
	}
	// The first program is in force before anything arrives.
	in(pep.Pass, w.from("127.0.0.5", 4000, wireSYN))
	for range 5 {
		in(pep.Refuse, w.from("10.0.0.1", 4000, wireSYN))
	}
	in(pep.Drop, w.from("10.0.0.2", 4000, wireACK))
	r.run()
	records := r.kept(t, 3)
	stood := map[string]bool{}
	for _, k := range records {
		if k.Verdict != abi.Deny || k.Stage != abi.StageFirewall || k.Level != "normal" || k.Revision != 1 || k.ID == "" {
			t.Errorf("recorded %+v", k)
		}
		_, text, _ := strings.Cut(k.Reason, "; ")
		stood[k.Source+" "+text] = true
	}
	for _, want := range []string{"10.0.0.1 the record stands for 3 packets", "10.0.0.1 the record stands for 2 packets", "10.0.0.2 "} {
		if !stood[want] {
			t.Errorf("no record says %q: %v", want, stood)
		}
	}
	if seen := watch.rules(); len(seen) != 3 {
		t.Errorf("observers were told of %v", seen)
	}
	r.send(control.Frame{Kind: control.KindQuery})
	s, ok := r.next().(control.Stats)
	if !ok || s.Refused != 5 || s.Packets.In != 1 || s.Packets.Denied != 6 || s.Packets.Flows != 1 || len(s.Packets.Rules) != 2 {
		t.Errorf("counted are %+v", s)
	}
	// Another program is in force at once, for what is known as well.
	none := testProgram(2, testLimits())
	none.Sections[0].Data = (&flow.Section{Lists: []flow.List{{Level: "normal", Rules: []flow.Rule{{Rule: abi.Rule{ID: "elsewhere"},
		Verdict: abi.Allow, Src: netip.MustParsePrefix("10.0.0.0/8"), FromHi: 65535, PortLo: 8080, PortHi: 8080}}}}}).Encode()
	in(pep.Pass, w.from("127.0.0.5", 4000, wireACK))
	in(pep.Refuse, w.from("10.0.0.3", 4000, wireSYN))
	r.swap(7, 1, none)
	if k := r.kept(t, 4)[3]; k.Revision != 1 || k.Source != "10.0.0.3" {
		t.Errorf("recorded %+v", k)
	}
	in(pep.Drop, w.from("127.0.0.5", 4000, wireACK))
	in(pep.Pass, w.from("10.0.0.1", 4000, wireSYN))
	// What was denied last is recorded before an image ends.
	in(pep.Refuse, w.from("127.0.0.6", 4000, wireSYN))
	r.send(control.Drain{}.Frame())
	for r.next() != control.KindDrained { // the slot before is released
	}
	for _, k := range r.kept(t, 6)[4:] {
		if k.Revision != 2 || k.Source != "127.0.0.5" && k.Source != "127.0.0.6" {
			t.Errorf("recorded %+v", k)
		}
	}
}

func TestOneModuleJudgesPackets(t *testing.T) {
	img := rigImage(TLS{}, nil)
	img.Net = &wire{}
	img.Gates = append(img.Gates, Gate{Section: "another", Module: firewall.New()})
	if f, err := img.filterPackets(&launch.Params{}); err == nil {
		t.Errorf("%v", f)
	}
	// A network of sockets has no packets, and an image may have no firewall.
	img.Net = nil
	if f, err := img.filterPackets(&launch.Params{}); f != nil || err != nil {
		t.Errorf("%v, %v", f, err)
	}
	img.Net, img.Gates = &wire{}, nil
	if f, err := img.filterPackets(&launch.Params{}); f != nil || err != nil {
		t.Errorf("%v, %v", f, err)
	}
}
