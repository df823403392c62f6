package control

import (
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/wire"
)

// A Sink counts the records for a collector, since the image started.
type Sink struct {
	Name      string
	Connected bool
	Waiting   uint64 // records, now
	Delivered uint64 // records that were sent; where the protocol confirms, that arrived
	Repeated  uint64 // of them, those sent again: whether they had arrived is not known
	Lost      uint64 // records that there was no place for, or that the collector refused
	Trouble   string // why it is not connected; empty: nothing is wrong
}

func writeSinks(w *wire.Writer, list []Sink) {
	w.U32(uint32(len(list)))
	for _, s := range list {
		w.String(s.Name)
		w.Bool(s.Connected)
		for _, n := range []uint64{s.Waiting, s.Delivered, s.Repeated, s.Lost} {
			w.U64(n)
		}
		w.String(audit.Cut(s.Trouble, audit.MaxField))
	}
}

func readSinks(r *wire.Reader) (list []Sink) {
	for range r.Count(4 + 1 + 4*8 + 4) {
		list = append(list, Sink{r.String(), r.Bool(), r.U64(), r.U64(), r.U64(), r.U64(), r.String()})
	}
	return list
}
