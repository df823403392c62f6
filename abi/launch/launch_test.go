package launch

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/control"
)

func params() *Params {
	return &Params{Version: 1, Instance: "i-1", Tenant: "acme", Workload: "shop", Tier: "full", Trust: [32]byte{1, 2}, MinRevision: 7,
		MaxProcs: 2, MemoryLimit: 64 << 20, Slots: 3, SlotSize: 16 << 20,
		First:     control.Prepare{Txn: 1, Slot: 1, Length: 4096, Secrets: []control.Secret{{Name: "users", Value: []byte("x")}}},
		Listeners: []Listener{{"api", 8443, 0}, {"admin", 9000, 0}},
		Seal:      []Instruction{{0x20, 0, 0, 4}, {0x15, 1, 0, 0xc000003e}, {0x06, 0, 0, 0x80000000}}}
}

func TestParamsSurviveTheChannel(t *testing.T) {
	p := params()
	got, err := Decode(p.Frame())
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestListenersFollowTheDialSocket(t *testing.T) {
	p := params()
	if p.FirstListener() != ProgramFD+1 {
		t.Errorf("without one: %d", p.FirstListener())
	}
	p.Dials = true
	if got, err := Decode(p.Frame()); err != nil || !got.Dials || got.FirstListener() != DialFD+1 {
		t.Errorf("with one: %+v, %v", got, err)
	}
}

// microVM returns the parameters of one.
func microVM() *Params {
	p := params()
	p.Seal, p.Now, p.Link = nil, 1<<60, Link{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.2.2/30"), netip.MustParsePrefix("fd00::2/126")},
		Hosts: []netip.Addr{netip.MustParseAddr("10.0.2.1"), netip.MustParseAddr("fd00::1")}, SLAAC: true, MTU: 1500, MAC: [6]byte{2, 1}, Offload: true}
	for i := range p.Listeners {
		p.Listeners[i].Bind = p.Listeners[i].Port
	}
	return p
}

func TestALinkSurvivesTheChannel(t *testing.T) {
	p := microVM()
	if got, err := Decode(p.Frame()); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParamsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Params)
		want   string
	}{
		"no filter":             {func(p *Params) { p.Seal = nil }, "no filter"},
		"no slot":               {func(p *Params) { p.Slots = 0 }, "0 slots"},
		"one slot":              {func(p *Params) { p.Slots = 1 }, "1 slots"},
		"too many slots":        {func(p *Params) { p.Slots = MaxSlots + 1 }, "slots"},
		"empty slots":           {func(p *Params) { p.SlotSize = 0 }, "slots of 0 bytes"},
		"slots of half pages":   {func(p *Params) { p.SlotSize = 4097 }, "slots of 4097 bytes"},
		"program in no slot":    {func(p *Params) { p.First.Slot = 3 }, "outside its slot"},
		"program beyond slot":   {func(p *Params) { p.First.Length = p.SlotSize + 1 }, "outside its slot"},
		"no listener":           {func(p *Params) { p.Listeners = nil }, "0 listeners"},
		"too many listeners":    {func(p *Params) { p.Listeners = make([]Listener, MaxListener+1) }, "17 listeners"},
		"a link to itself":      {func(p *Params) { *p = *microVM(); p.Link.Hosts[0] = p.Link.Addrs[0].Addr() }, "a link of"},
		"a link elsewhere":      {func(p *Params) { *p = *microVM(); p.Link.Hosts[0] = netip.MustParseAddr("10.9.9.9") }, "a link of"},
		"a link without bits":   {func(p *Params) { *p = *microVM(); p.Link.Addrs[0] = netip.PrefixFrom(p.Link.Addrs[0].Addr(), 33) }, "a link of"},
		"a link to nobody":      {func(p *Params) { *p = *microVM(); p.Link.Hosts[0] = netip.Addr{} }, "without a tender"},
		"two links of a family": {func(p *Params) { *p = *microVM(); p.Link.Addrs[1], p.Link.Hosts[1] = p.Link.Addrs[0], p.Link.Hosts[0] }, "each family"},
		"no port of a link":     {func(p *Params) { *p = *microVM(); p.Listeners[1].Bind = 0 }, "bind port 0"},
		"a port twice":          {func(p *Params) { *p = *microVM(); p.Listeners[1].Bind = p.Listeners[0].Bind }, "as another does"},
		"a port without a link": {func(p *Params) { p.Listeners[1].Bind = 80 }, "bind port 80"},
		"window beyond itself":  {func(p *Params) { p.SlotSize = 1<<32 - 4096; p.Slots = 4 }, "slots of"},
	} {
		p := params()
		c.change(p)
		if _, err := Decode(p.Frame()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Decode(control.Ready()); err == nil {
		t.Error("another frame is taken for a launch")
	}
}

func TestNoPrefixOfParamsIsParams(t *testing.T) {
	f := params().Frame()
	for n := range f.Payload {
		if p, err := Decode(control.Frame{Kind: f.Kind, Payload: f.Payload[:n]}); err == nil {
			t.Errorf("%d bytes decode to %+v", n, p)
		}
	}
	f.Payload = append(f.Payload, 0)
	if _, err := Decode(f); err == nil {
		t.Error("one byte too many is accepted")
	}
}

// The guard and the window must be what the filter compares, high words of
// addresses, and user space must reach that far (47 bits).
func TestTheWindowIsAligned(t *testing.T) {
	if WindowBase%(1<<32) != 0 || WindowHigh<<32 != WindowBase || GuardHigh+1 != WindowHigh || WindowBase >= 1<<47 {
		t.Error("the window is not a 4 GiB range of its own")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(params().Frame().Payload)
	f.Add(microVM().Frame().Payload)
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{255}, 64))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(control.Frame{Kind: control.KindLaunch, Payload: data})
		if err != nil {
			return
		}
		if len(p.Seal) == 0 && !p.Link.Present() || p.First.Length > p.SlotSize || p.First.Slot >= p.Slots || len(p.Listeners) == 0 {
			t.Errorf("accepted %+v", p)
		}
		if again := p.Frame(); !bytes.Equal(again.Payload, data) {
			t.Errorf("two encodings:\n%x\n%x", data, again.Payload)
		}
	})
}
