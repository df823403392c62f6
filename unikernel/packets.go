package unikernel

import (
	"errors"
	"sync"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

// A PacketNet is a Net that has each packet judged: that of an image with a TCP stack of
// its own.
type PacketNet interface {
	Net
	// Place says what the filter has to know of the network. It is known before Open.
	Place(p *launch.Params) pep.PacketPlace
	// Packets sets the filter. It is called once at most, before Open: no packet is read
	// before there is a filter.
	Packets(pep.PacketFilter)
}

// filterPackets has the gate that judges packets, where there is one, do so on a network
// that has packets, and returns its filter.
func (img *Image) filterPackets(p *launch.Params) (filter pep.PacketFilter, err error) {
	n, ok := img.Net.(PacketNet)
	if !ok {
		return nil, nil
	}
	for _, g := range img.Gates {
		gate, ok := g.Module.(pep.PacketGate)
		switch {
		case !ok:
		case filter != nil:
			return nil, errors.New("two modules of the image judge packets; rebuild the image")
		default:
			filter = gate.Packets(n.Place(p))
			n.Packets(filter)
		}
	}
	return filter, nil
}

// A watch tells what a filter of packets counts, and what it denied.
type watch struct {
	filter pep.PacketFilter // nil where no module judges packets
	mu     sync.Mutex       // one report at a time
}

// reportEvery is how long denied packets wait for their record. What is denied
// meanwhile is sampled.
const reportEvery = time.Second

// run reports until the image ends.
func (w *watch) run(s *server) error {
	for {
		time.Sleep(reportEvery)
		if err := w.report(s); err != nil {
			return err
		}
	}
}

// report makes records of the packets that were denied since the last time, as of
// connections that are refused.
func (w *watch) report(s *server) error {
	r, ok := w.filter.(pep.PacketReporter)
	if !ok {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g := s.pin()
	defer g.unpin()
	for _, p := range r.Report() {
		if p.Opens && p.Decision.Verdict != abi.Allow {
			s.refused.Add(p.Count)
		}
		if _, err := s.tell(g, p.Flow, p.Decision, p.Count); err != nil {
			return err
		}
	}
	return nil
}

func (w *watch) counters() (c control.Packets) {
	if r, ok := w.filter.(pep.PacketReporter); ok {
		c = r.Counters()
	}
	return c
}
