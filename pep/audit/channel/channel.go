// Package channel keeps records with the tender, over the control channel: a request is
// answered when the tender has its record in the spool, and an image that nobody hears
// does not serve.
package channel

import (
	"context"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep"
)

// A Module hands records to the control channel of its image.
type Module struct{ tender pep.Keeper }

// New returns the module.
func New() *Module { return &Module{} }

// Prepare implements pep.Sink.
func (m *Module) Prepare(in *pep.Input) (pep.SinkState, error) {
	if _, err := audit.DecodeChannel(in.Section); err != nil {
		return nil, err
	}
	return state{m}, nil
}

// Start implements pep.Sink.
func (m *Module) Start(tender pep.Keeper) { m.tender = tender }

// Drain implements pep.Sink. The channel itself is drained last of all.
func (*Module) Drain(context.Context) error { return nil }

type state struct{ *Module }

// Keep implements pep.SinkState.
func (s state) Keep(r audit.Record, wait bool) error { return s.tender.Keep(r, wait) }

// Demands implements pep.SinkState: where the channel is at its end, the image is.
func (state) Demands() bool { return false }

// Enforce implements pep.SinkState.
func (state) Enforce() {}
