package tender

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
)

// A Signed is the program of one more level.
type Signed struct {
	Program []byte   `json:"program"`
	Plan    string   `json:"plan,omitempty"`  // of the image that the level has of its own, where that is another one
	Lacks   []string `json:"lacks,omitempty"` // what the level asks for and this image cannot enforce: its program denies it
}

// A Batch is what replaces the programs of an instance: those of all levels, signed under
// one revision.
type Batch struct {
	Program []byte   // of the level to begin with
	Others  []Signed // of the other levels
	Secrets []control.Secret
}

// maxPrograms bounds the programs of a batch together, in bytes.
const maxPrograms = 3 * program.MaxSize

// check refuses what is too large. Programs are held as long as they can be selected.
func checkPrograms(first []byte, others []Signed) error {
	sum := len(first)
	for _, p := range append([]Signed{{Program: first}}, others...) {
		if len(p.Program) == 0 || len(p.Program) > program.MaxSize {
			return fmt.Errorf("tender: a program of %d bytes; the limit is %d", len(p.Program), program.MaxSize)
		}
	}
	for _, p := range others {
		sum += len(p.Program)
	}
	if sum > maxPrograms {
		return fmt.Errorf("tender: the programs of %d levels have %d bytes; the limit is %d", len(others)+1, sum, maxPrograms)
	}
	return nil
}

// A Standing says which levels there are and why one of them is in force.
type Standing struct {
	Levels     []string  `json:"levels"` // from the lowest
	Since      time.Time `json:"since"`
	Why        string    `json:"why"`
	Trigger    string    `json:"trigger,omitempty"` // that raised it, and where that is written
	Line       string    `json:"line,omitempty"`
	Until      time.Time `json:"until,omitzero"` // zero: until something else is asked for
	Held       bool      `json:"held,omitempty"` // no trigger raises it
	TookMillis float64   `json:"tookMillis"`     // from when it was asked for until it was in force
	Lacks      []string  `json:"lacks,omitempty"`
	Plan       string    `json:"plan,omitempty"` // of the image that the level has of its own, where that is another one
	Stance     Stance    `json:"stance"`
}

// A LevelChange is a line of the stream of Client.Levels.
type LevelChange struct {
	Level    string   `json:"level"`
	Before   string   `json:"before,omitempty"`
	Revision uint64   `json:"revision"`
	Standing Standing `json:"standing"`
}

// levelled is the program of a level, which is one of a batch.
type levelled struct {
	Signed
	name    string
	rank    int
	sum     program.Digest // of the signed bytes, once they were summed
	reading reading
	fires   []obligation.Trigger
}

// order returns the programs of a batch from the lowest level up, and the level of the
// first. Nothing of it is verified yet.
func orderPrograms(first []byte, others []Signed) (list []*levelled, begin string, err error) {
	for i, p := range append([]Signed{{Program: first}}, others...) {
		l := &levelled{Signed: p}
		if n := len(p.Program) - 64; n > 0 { // as many bytes as a signature has
			if d, err := program.Decode(p.Program[:n]); err == nil {
				l.name, l.rank = d.Level(), len(d.Levels)
			}
		}
		if i == 0 {
			begin = l.name
		}
		if slices.ContainsFunc(list, func(x *levelled) bool { return x.name == l.name }) {
			return nil, "", fmt.Errorf("tender: two programs for level %q", l.name)
		}
		list = append(list, l)
	}
	slices.SortStableFunc(list, func(a, b *levelled) int { return a.rank - b.rank })
	return list, begin, nil
}

// verify reads the programs of a batch and reports whether they are one: whoever selects
// a level later gets one of these and no other.
func (t *tender) verify(list []*levelled) error {
	var failed error
	for _, l := range list {
		if l.sum == (program.Digest{}) {
			l.sum = program.Sum(l.Program)
		}
		if l.reading = t.read(l.Program, l.sum); l.reading.err == nil {
			l.fires, l.reading.err = triggersOf(l.reading.Program)
		}
		if failed == nil {
			failed = l.reading.err
		}
	}
	if failed != nil {
		return failed
	}
	top := list[len(list)-1].reading
	for _, l := range list {
		p := l.reading
		if p.Revision != top.Revision || p.Plan != top.Plan || p.Tenant != top.Tenant || p.Workload != top.Workload || p.Policy != top.Policy ||
			len(p.Levels) > len(top.Levels) || !slices.Equal(p.Levels, top.Levels[:len(p.Levels)]) {
			return fmt.Errorf("tender: the programs of levels %q and %q are not of one batch", p.Level(), top.Level())
		}
	}
	return nil
}

// triggersOf returns what raises the level, as a program has it.
func triggersOf(p *program.Program) ([]obligation.Trigger, error) {
	b := p.Section(obligation.Name)
	if b == nil {
		return nil, nil
	}
	s, err := obligation.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	return s.Triggers, nil
}

// firesPerSecond is how often an image may say that triggers fire: more than all that a
// program can have do.
const firesPerSecond = 64

// fired implements keeper: a trigger of a program of the batch asks for the level that it
// names there. An image that lies has its level raised, as far as its policy goes.
func (t *tender) fired(m control.Fired) error {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.IndexFunc(t.levels, func(l *levelled) bool { return l.reading.sum == m.Program })
	before := at < 0 // a batch of before judged: what its trigger does is said by the one in force
	if before {
		at = slices.IndexFunc(t.levels, func(l *levelled) bool { return l.name == t.status.Level })
	}
	if excess, _, _ := t.fires.add(now, 1); excess > 0 || at < 0 {
		return nil
	}
	for _, x := range t.levels[at].fires {
		if x.Rule.ID != m.Trigger {
			continue
		}
		r := Raised{Trigger: printable(x.Rule.ID), Line: printable(x.Rule.Line), Level: x.To}
		if x.Hold > 0 {
			r.Until = now.Add(x.Hold).UTC()
		}
		t.stance.raise(r)
		if t.asked.IsZero() {
			t.asked = now
			// The clocks of both are the same, or nearly so.
			if fired := time.Unix(0, m.At); fired.Before(now) && now.Sub(fired) < time.Minute {
				t.asked = fired
			}
		}
		t.nudge()
		return nil
	}
	if before {
		return nil // it is no more
	}
	return fmt.Errorf("it says that trigger %q fires, which its program does not have", m.Trigger)
}

func namesOf(list []*levelled) []string {
	var names []string
	for _, l := range list {
		names = append(names, l.name)
	}
	return names
}

// BatchContent names what the programs of a batch enforce, from the lowest level up,
// whatever plan and revision carry them.
func BatchContent(contents []program.Digest) string {
	h := sha256.New()
	for _, c := range contents {
		h.Write(c[:])
	}
	return program.Digest(h.Sum(nil)).String()
}

func contentsOf(list []*levelled) string {
	var contents []program.Digest
	for _, l := range list {
		contents = append(contents, l.reading.content)
	}
	return BatchContent(contents)
}

// settle puts the level in force that the stance asks for. It needs change, and returns
// when there is something to do again.
func (t *tender) settle(ctx context.Context) (next time.Time, err error) {
	t.mu.Lock()
	next = t.stance.expire(time.Now())
	level, why := t.stance.decide(namesOf(t.levels))
	at := slices.IndexFunc(t.levels, func(l *levelled) bool { return l.name == level })
	before, asked := t.status.Level, t.asked
	t.asked = time.Time{}
	t.mu.Unlock()
	if at < 0 {
		return next, fmt.Errorf("tender: there is no program for level %q", level)
	}
	l := t.levels[at]
	if level != before {
		if asked.IsZero() {
			asked = time.Now()
		}
		if _, err := t.enforce(ctx, l, t.secrets, nil); err != nil {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.asked = asked
			return next, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if level != before {
		t.status.Standing.Since = time.Now().UTC()
		t.status.Standing.TookMillis = millis(time.Since(asked))
	}
	t.stands(l, why, before)
	return next, nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// stands has the status say why l is in force, and tells who follows. It needs mu.
func (t *tender) stands(l *levelled, why reason, before string) {
	s := &t.status.Standing
	was := *s
	t.status.Batch = contentsOf(t.levels)
	s.Levels, s.Why, s.Trigger, s.Line, s.Until, s.Held = namesOf(t.levels), why.Why, why.Trigger, why.Line, why.Until, why.Held
	s.Lacks, s.Plan, s.Stance = l.Lacks, l.Plan, t.stance
	if l.name == before && was.Why == s.Why && was.Trigger == s.Trigger && was.Until.Equal(s.Until) && was.Held == s.Held && was.Plan == s.Plan && was.Levels != nil {
		return
	}
	if l.name != before {
		t.before = before
		t.log(FromTender, "level %s is in force instead of %s: %s", l.name, before, s.text())
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// text says why in words.
func (s *Standing) text() string {
	text := map[string]string{WhyStart: "it is what the documents say", WhyHand: "set by hand", WhyTrigger: "trigger " + s.Trigger + " (" + s.Line + ")"}[s.Why]
	if !s.Until.IsZero() {
		text += ", until " + s.Until.UTC().Format(time.RFC3339)
	}
	if len(s.Lacks) > 0 {
		text += "; its image cannot enforce, and denies: " + strings.Join(s.Lacks, ", ")
	}
	return text
}

// An ask is what somebody asks of the level.
type ask struct {
	Level   string        `json:"level,omitempty"`
	For     time.Duration `json:"for,omitempty"`
	Hold    bool          `json:"hold,omitempty"`
	Release bool          `json:"release,omitempty"`
	Adopt   *Stance       `json:"adopt,omitempty"` // of the instance before
}

// setLevel does what was asked, or leaves everything as it is.
func (t *tender) setLevel(ctx context.Context, a ask) (LevelChange, error) {
	asked := time.Now()
	select {
	case t.change <- struct{}{}:
		defer func() { <-t.change }()
	case <-ctx.Done():
		return LevelChange{}, ctx.Err()
	}
	t.mu.Lock()
	names, old := namesOf(t.levels), t.stance
	before := t.status.Level
	var err error
	switch {
	case a.Release:
		if !t.stance.release() {
			err = fmt.Errorf("nothing holds the level: it is %s, %s", before, t.status.Standing.text())
		}
	case a.Adopt != nil:
		t.stance = *a.Adopt
		t.stance.Initial = old.Initial
		t.stance.keep(names)
		for _, r := range old.Raised { // what has fired here
			if !slices.Contains(t.began, r) {
				t.stance.raise(r)
			}
		}
	case !slices.Contains(names, a.Level):
		err = fmt.Errorf("there is no level %q; there are %s", a.Level, strings.Join(names, ", "))
	default:
		until := time.Time{}
		if a.For > 0 {
			until = asked.Add(a.For).UTC()
		}
		t.stance.set(a.Level, until, a.Hold)
	}
	t.asked = asked
	t.mu.Unlock()
	if err == nil {
		_, err = t.settle(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && a.Adopt != nil {
		t.nudge() // it is what is asked for, and is tried again
		return LevelChange{}, err
	}
	if err != nil {
		t.asked = time.Time{}
		t.stance.Hand, t.stance.Order = old.Hand, old.Order
		if a.Release {
			t.stance.Raised = append(slices.Clone(old.Raised), t.stance.Raised...)
		}
		return LevelChange{}, err
	}
	t.nudge()
	return LevelChange{Level: t.status.Level, Before: before, Revision: t.status.Revision, Standing: t.status.Standing}, nil
}

// nudge has govern look again.
func (t *tender) nudge() {
	select {
	case t.stir <- struct{}{}:
	default:
	}
}

// settleAgain is when a level that could not be put in force is tried again.
const settleAgain = 2 * time.Second

// govern puts levels in force as triggers fire and times pass, until ctx ends.
func (t *tender) govern(ctx context.Context) {
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake.C:
		case <-t.stir:
		}
		select {
		case t.change <- struct{}{}:
		case <-ctx.Done():
			return
		}
		next, err := t.settle(ctx)
		<-t.change
		if err != nil && !errors.Is(err, ErrNotReady) && ctx.Err() == nil {
			t.log(FromTender, "the level stays as it is, and is tried again: %v", err)
		}
		pause := time.Hour
		if !next.IsZero() {
			pause = max(time.Until(next), 0)
		}
		if err != nil {
			pause = min(pause, settleAgain)
		}
		wake.Reset(pause)
	}
}

// levelChange returns the level in force and a channel that is closed when that changes.
func (t *tender) levelChange() (LevelChange, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return LevelChange{Level: t.status.Level, Before: t.before, Revision: t.status.Revision, Standing: t.status.Standing}, t.changed
}
