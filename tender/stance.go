package tender

import (
	"slices"
	"time"
)

// Why a level is in force.
const (
	WhyStart   = "start"   // the documents, or who started it, have it so
	WhyHand    = "hand"    // somebody set it
	WhyTrigger = "trigger" // a trigger of the policy fired
)

// A Stance is what asks for levels. The level in force is the highest that is asked for,
// unless somebody said that one is to stay.
type Stance struct {
	Initial string   `json:"initial"`         // to begin with
	Hand    string   `json:"hand,omitempty"`  // set by hand, instead of Initial
	Order   *Order   `json:"order,omitempty"` // set by hand, for a time
	Raised  []Raised `json:"raised,omitempty"`
}

// An Order is a level that was set by hand until a time, or until it is released.
type Order struct {
	Level string    `json:"level"`
	Until time.Time `json:"until,omitzero"` // zero: until it is released
	Hold  bool      `json:"hold,omitempty"` // no trigger raises it
}

// A Raised is a trigger that fired and what it asks for.
type Raised struct {
	Trigger string    `json:"trigger"`
	Line    string    `json:"line,omitempty"`
	Level   string    `json:"level"`
	Until   time.Time `json:"until,omitzero"` // zero: until it is released
}

// A reason is what a level is in force for.
type reason struct {
	Why           string
	Trigger, Line string
	Until         time.Time
	Held          bool
}

// Carry returns the stance under other documents, and the level that it asks for then,
// of those that there are, lowest first.
func (s Stance) Carry(initial string, names []string) (Stance, string) {
	s.Initial = initial
	s.keep(names)
	s.expire(time.Now())
	level, _ := s.decide(names)
	return s, level
}

// Same reports whether two ask for the same.
func (s *Stance) Same(o *Stance) bool {
	return s.Initial == o.Initial && s.Hand == o.Hand && (s.Order == nil) == (o.Order == nil) && (s.Order == nil || *s.Order == *o.Order) &&
		slices.Equal(s.Raised, o.Raised)
}

// decide returns the level that is asked for, of those that there are, lowest first.
func (s *Stance) decide(names []string) (string, reason) {
	level, why := s.Initial, reason{Why: WhyStart}
	if s.Hand != "" {
		level, why.Why = s.Hand, WhyHand
	}
	if o := s.Order; o != nil {
		level, why = o.Level, reason{Why: WhyHand, Until: o.Until, Held: o.Hold}
		if o.Hold {
			return level, why
		}
	}
	for _, r := range s.Raised {
		at, now := slices.Index(names, r.Level), slices.Index(names, level)
		// Of two that ask for the same, the one that lasts says why.
		if at > now || at == now && why.Why == WhyTrigger && lasts(r.Until, why.Until) {
			level, why = r.Level, reason{WhyTrigger, r.Trigger, r.Line, r.Until, false}
		}
	}
	return level, why
}

// lasts reports whether what ends at a lasts longer than what ends at b.
func lasts(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || a.After(b)) }

// expire forgets what is over, and returns when the next is; zero: nothing will be.
func (s *Stance) expire(now time.Time) (next time.Time) {
	over := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if s.Order != nil && over(s.Order.Until) {
		s.Order = nil
	}
	s.Raised = slices.DeleteFunc(slices.Clone(s.Raised), func(r Raised) bool { return over(r.Until) })
	first := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if s.Order != nil {
		first(s.Order.Until)
	}
	for _, r := range s.Raised {
		first(r.Until)
	}
	return next
}

// keep forgets levels that there are not.
func (s *Stance) keep(names []string) {
	known := func(l string) bool { return slices.Contains(names, l) }
	if s.Order != nil && !known(s.Order.Level) {
		s.Order = nil
	}
	if !known(s.Hand) {
		s.Hand = ""
	}
	s.Raised = slices.DeleteFunc(slices.Clone(s.Raised), func(r Raised) bool { return !known(r.Level) })
}

// set asks for a level by hand. What was set by hand before is over, except that one set
// without an end is what an order ends in.
func (s *Stance) set(level string, until time.Time, hold bool) {
	if until.IsZero() && !hold {
		s.Hand, s.Order = level, nil
		if level == s.Initial {
			s.Hand = ""
		}
		return
	}
	s.Order = &Order{level, until, hold}
}

// release ends orders and what triggers ask for, and reports whether there was any.
func (s *Stance) release() bool {
	any := s.Order != nil || len(s.Raised) > 0
	s.Order, s.Raised = nil, nil
	return any
}

// raise has a trigger ask for a level. Its further firings prolong it, and shorten and
// lower nothing: under other documents a trigger of the same name may ask for less.
func (s *Stance) raise(r Raised) {
	list := slices.Clone(s.Raised)
	if at := slices.IndexFunc(list, func(x Raised) bool { return x.Trigger == r.Trigger && x.Level == r.Level }); at >= 0 {
		if lasts(list[at].Until, r.Until) {
			return
		}
		list = slices.Delete(list, at, at+1)
	}
	s.Raised = append(list, r)
}
