package tender

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/program"
)

// An Applied says which program is in force after a replacement.
type Applied struct {
	Program  string `json:"program"`
	Content  string `json:"content"`
	Level    string `json:"level"`
	Revision uint64 `json:"revision"`
}

// replace puts a signed batch in force, with its secrets, at the level that is asked
// for, or changes nothing. The image judges it; its reason is the error.
func (t *tender) replace(ctx context.Context, b Batch) (Applied, error) {
	if err := checkPrograms(b.Program, b.Others); err != nil {
		return Applied{}, err
	}
	if err := checkSecrets(b.Secrets); err != nil {
		return Applied{}, err
	}
	levels, begin, err := orderPrograms(b.Program, b.Others)
	if err != nil {
		return Applied{}, err
	}
	select {
	case t.change <- struct{}{}:
		defer func() { <-t.change }()
	case <-ctx.Done():
		return Applied{}, ctx.Err()
	}
	asked := time.Now()
	t.mu.Lock()
	stance := t.stance
	before := t.status.Level
	t.mu.Unlock()
	stance.Initial = begin
	stance.keep(namesOf(levels))
	stance.expire(asked)
	level, why := stance.decide(namesOf(levels))
	l := levels[slices.IndexFunc(levels, func(l *levelled) bool { return l.name == level })]
	a, err := t.enforce(ctx, l, b.Secrets, levels)
	if err != nil {
		return Applied{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	raised := t.stance.Raised // meanwhile, too
	t.levels, t.stance = levels, stance
	t.stance.Raised = raised
	t.stance.keep(namesOf(levels))
	if level != before {
		t.status.Standing.Since, t.status.Standing.TookMillis = time.Now().UTC(), millis(time.Since(asked))
	}
	t.stands(l, why, before)
	t.nudge()
	return a, nil
}

// ErrNotReady reports an image that cannot be given a program at this moment: it starts, or
// it or its tender has ended before it had it. The same may succeed a moment later.
var ErrNotReady = errors.New("programs are replaced while it is ready")

// enforce puts the program of a level in force, with its secrets, or changes nothing. It
// needs change. A batch that is not verified yet is while the image looks at the program.
func (t *tender) enforce(ctx context.Context, l *levelled, secrets []control.Secret, batch []*levelled) (_ Applied, err error) {
	signed := l.Program
	t.mu.Lock()
	inst, state := t.inst, t.status.State
	t.mu.Unlock()
	if inst == nil || state != Ready {
		return Applied{}, fmt.Errorf("tender: the instance is %s; %w", state, ErrNotReady)
	}
	final := false
	defer func() {
		if err != nil && !final && inst.ends() {
			err = fmt.Errorf("%w; %w", err, ErrNotReady)
		}
	}()
	if inst.target.intact != nil {
		if err := inst.target.intact(); err != nil {
			inst.fail(err)
			return Applied{}, fmt.Errorf("tender: %w", err)
		}
	}
	slot, err := t.slot(ctx, inst, signed)
	if err != nil {
		return Applied{}, err
	}
	t.txn++
	o := offer{txn: t.txn, slot: slot, sum: t.memory.sum(slot)}
	verified := make(chan error, 1)
	if l.sum = o.sum; batch != nil {
		go func() { verified <- t.verify(batch) }()
	} else {
		verified <- nil
	}
	answer, err := inst.prepare(ctx, o, control.Prepare{Txn: o.txn, Slot: slot, Length: uint32(len(signed)), Secrets: secrets})
	if err != nil {
		t.memory.withdraw(slot)
		return Applied{}, fmt.Errorf("tender: %w", err)
	}
	if answer.Err != "" {
		t.memory.withdraw(slot)
		t.log(FromTender, "program %s was refused: %s", o.sum, answer.Err)
		return Applied{}, errors.New("the image refused the program: " + printable(answer.Err))
	}
	whole := <-verified
	r := &l.reading
	if err := t.mayTake(r); err != nil {
		final = true
		inst.fail(fmt.Errorf("it accepted a program that it must refuse: %w", err))
		return Applied{}, err
	}
	if whole != nil { // it is another program of the batch that is wrong
		t.memory.withdraw(slot)
		return Applied{}, errors.Join(whole, inst.abort(o.txn))
	}
	if err := t.withdraw(inst, r.Program); err != nil {
		return Applied{}, err
	}
	if err := inst.commit(); err != nil {
		return Applied{}, fmt.Errorf("tender: %w", err)
	}
	return t.applied(inst, r, signed, secrets)
}

// busyWithin bounds the wait for a free slot: requests hold the program that
// judges them until their body has come, which the policy bounds.
const busyWithin = 2 * time.Minute

// slot offers a program as soon as a slot is free. It does not wait for an image that has
// ended: the next one is launched when this change is over.
func (t *tender) slot(ctx context.Context, inst *instance, signed []byte) (uint8, error) {
	ctx, cancel := context.WithTimeout(ctx, busyWithin)
	defer cancel()
	for {
		slot, err := t.memory.offer(signed)
		if !errors.Is(err, errBusy) {
			return slot, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-inst.proc.Done():
			return 0, fmt.Errorf("tender: %w", inst.unanswered())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// mayTake judges a program that the image has accepted, by the same rules: an image
// that does not keep them any more must not have an old program replayed to it.
func (t *tender) mayTake(p *reading) error {
	if p.err != nil {
		return p.err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	plan, err := program.ParsePlanID(t.cfg.Plan)
	switch {
	case err != nil:
		return fmt.Errorf("tender: %w", err)
	case p.Plan != plan:
		return fmt.Errorf("tender: it is for %s, the image is of %s", p.Plan, plan)
	case p.Tenant != t.cfg.Tenant || p.Workload != t.cfg.Workload:
		return fmt.Errorf("tender: it is for %s/%s", p.Tenant, p.Workload)
	}
	if err := t.batch.Follows(p.Revision, p.Level(), p.sum); err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	return nil
}

// withdraw puts the new rules for connections in force just before the image does:
// what they take away is gone when they are said to be in force. An image that
// does not commit then is killed.
func (t *tender) withdraw(inst *instance, p *program.Program) error {
	if inst.outlet == nil {
		return nil
	}
	s, err := egressOf(p)
	if err != nil {
		inst.fail(fmt.Errorf("it accepted a program that it must refuse: %w", err))
		return err
	}
	if s == nil {
		s = &egress.Section{}
	}
	inst.outlet.enforce(*s)
	return nil
}

// applied makes signed the program that restarts begin with. An image that took
// what its trust root did not sign is not what it should be.
func (t *tender) applied(inst *instance, r *reading, signed []byte, secrets []control.Secret) (Applied, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.describeProgram(r); err != nil {
		inst.fail(fmt.Errorf("it accepted a program that it must refuse: %w", err))
		return Applied{}, err
	}
	t.program, t.secrets = signed, secrets
	s := &t.status
	return Applied{Program: s.Program, Content: s.Content, Level: s.Level, Revision: s.Revision}, nil
}
