package verify

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// records are those of the instance, as they come.
type records struct {
	mu     sync.Mutex
	list   []tender.Decision
	byID   map[string]int
	more   chan struct{} // closed when one comes
	err    error
	closed bool
}

// follow reads records until ctx ends.
func follow(ctx context.Context, stream func(context.Context, func(tender.Decision) error) error) *records {
	r := &records{byID: map[string]int{}, more: make(chan struct{})}
	go func() {
		err := stream(ctx, func(d tender.Decision) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.byID[d.ID] = len(r.list)
			r.list = append(r.list, d)
			close(r.more)
			r.more = make(chan struct{})
			return nil
		})
		r.mu.Lock()
		defer r.mu.Unlock()
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("it has ended")
			}
			r.err, r.closed = err, true
			close(r.more)
			r.more = make(chan struct{})
		}
	}()
	return r
}

func (r *records) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// find waits for the record of a decision.
func (r *records) find(ctx context.Context, id string) (tender.Decision, bool) {
	return r.wait(ctx, waitForRecord, func() (tender.Decision, bool) {
		i, ok := r.byID[id]
		if !ok {
			return tender.Decision{}, false
		}
		return r.list[i], true
	})
}

// connection waits for the record of a connection from an address that began at a time:
// one that was refused has shown no client a name of its decision. Of several, as others may
// come from there too, it is the next behind a number.
func (r *records) connection(ctx context.Context, late time.Duration, from netip.Addr, began time.Time, behind uint64) (tender.Decision, bool) {
	at := 0
	return r.wait(ctx, late, func() (tender.Decision, bool) {
		for ; at < len(r.list); at++ {
			d := &r.list[at]
			if (d.Stage == abi.StageFirewall || d.Stage == abi.StageTLS || d.Stage == abi.StageObligations && d.Method == "") &&
				d.Seq > behind && d.Source == from.String() && !d.Time.Before(began.Add(-clockSlack)) {
				at++
				return *d, true
			}
		}
		return tender.Decision{}, false
	})
}

func (r *records) wait(ctx context.Context, late time.Duration, get func() (tender.Decision, bool)) (tender.Decision, bool) {
	timer := time.NewTimer(late)
	defer timer.Stop()
	for {
		r.mu.Lock()
		d, ok := get()
		more, closed := r.more, r.closed
		r.mu.Unlock()
		if ok || closed {
			return d, ok
		}
		select {
		case <-more:
		case <-timer.C:
			return d, false
		case <-ctx.Done():
			return d, false
		}
	}
}

// since returns what was recorded of a source from a time on.
func (r *records) since(from netip.Addr, began time.Time) (out []tender.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.list) - 1; i >= 0; i-- {
		d := &r.list[i]
		if d.Time.Before(began) {
			break
		}
		if a, err := netip.ParseAddr(d.Source); err == nil && source(a) == source(from) {
			out = append(out, *d)
		}
	}
	return out
}

func source(a netip.Addr) netip.Prefix { return flow.Flow{Src: a}.Source() }

// blocks returns why one more denial of a kind must not come from an address: an
// obligation would block it. Nothing: it may.
func (v *verifier) blocks(stage string, from netip.Addr) string {
	for _, o := range policy.Obligations(v.Deployment.Policy, v.level) {
		if o.Block == 0 || !counts(o.On, stage) {
			continue
		}
		n := uint32(0)
		for _, d := range v.records.since(from, time.Now().Add(-o.Window-clockSlack)) {
			if d.Decision == abi.Deny.String() && d.Rule != abi.RuleError && counts(o.On, d.Stage) {
				n++
			}
		}
		if n+1 >= o.Count {
			return "one more denial from here, and the obligation " + o.Name + " would block this machine"
		}
	}
	return ""
}

// counts reports whether an obligation counts denials of a stage.
func counts(on, stage string) bool {
	switch stage {
	case abi.StageAuthn:
		return on == obligation.Authentication.String() || on == obligation.Any.String()
	case abi.StageAuthz:
		return on == obligation.Authorization.String() || on == obligation.Any.String()
	case abi.StageFilter:
		return on == obligation.Request.String() || on == obligation.Any.String()
	case abi.StageSourceLimit, abi.StagePrincipalLimit:
		return on == obligation.Any.String()
	}
	return false
}

// let returns what the newest record of a connection that was let in from an address says.
func (r *records) let(from netip.Addr, e expectation) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.list) - 1; i >= 0; i-- {
		if d := &r.list[i]; d.Stage == abi.StageFirewall && d.Decision == abi.Allow.String() && d.Source == from.String() {
			return d.Decision + " by " + d.Rule, d.Rule == e.rule.ID && d.Line == e.rule.Line
		}
	}
	return "Allow, and no record of the connection", false
}
