package unikernel

import (
	"context"
	"errors"
	"net/http"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/pep"
)

// keep hands r to every sink of g. Sinks that demand a place for it are asked first: where
// one has none, no other has the record either. With spare they are left out.
func (g *generation) keep(r audit.Record, wait, spare bool) error {
	for _, k := range g.sinks {
		if spare && k.Demands() {
			continue
		}
		if err := k.Keep(r, wait); err != nil {
			return err
		}
	}
	return nil
}

// file keeps the record of d, where one is to be kept. Where it has no place, but must have
// one, what was decided gives way to a denial, whose record is kept where there is room.
func (g *generation) file(x *pep.Exchange, d pep.Decision, wait bool) (pep.Decision, error) {
	r, keep, err := record(g.audit, x, d)
	if err != nil || !keep {
		return d, err
	}
	if err = g.keep(r, wait, false); !errors.Is(err, pep.ErrNoRoom) {
		return d, err
	}
	d = pep.Decision{Stage: abi.StageAudit, Rule: abi.Rule{ID: abi.RuleAudit}, Status: http.StatusServiceUnavailable,
		Reason: "the records that wait for their collector fill their place, and nothing is to pass without one"}
	if r, keep, err = record(g.audit, x, d); err == nil && keep {
		err = g.keep(r, wait, true)
	}
	return d, err
}

// A keeper is the control channel as sinks see it.
type keeper struct{ *outbox }

// Keep implements pep.Keeper.
func (k keeper) Keep(r audit.Record, wait bool) error {
	if wait {
		return k.write(r)
	}
	return k.post(r)
}

// Log implements pep.Keeper.
func (k keeper) Log(line string) { k.log(line) }

// startSinks lets sinks begin.
func (l *life) startSinks() {
	for _, s := range l.img.Audit.Sinks {
		s.Module.Start(keeper{l.out})
	}
}

// lastRecords is the least time for records to get where they are kept, when an image ends.
const lastRecords = 2 * time.Second

// drainSinks waits until records are where they are to be. What gets nowhere in the time of
// the drain is named in the log.
func (l *life) drainSinks(end time.Time) {
	if least := time.Now().Add(lastRecords); end.Before(least) {
		end = least
	}
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	done := make(chan error)
	for _, s := range l.img.Audit.Sinks {
		go func() { done <- s.Module.Drain(ctx) }()
	}
	for range l.img.Audit.Sinks {
		if err := <-done; err != nil {
			l.out.log(err.Error())
		}
	}
}

// sinks returns what sinks count.
func (img *Image) sinks() (list []control.Sink) {
	for _, s := range img.Audit.Sinks {
		if r, ok := s.Module.(pep.SinkReporter); ok {
			list = append(list, r.Report())
		}
	}
	return list
}
