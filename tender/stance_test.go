package tender

import (
	"testing"
	"time"
)

func TestWhichLevelIsAskedFor(t *testing.T) {
	names := []string{"normal", "elevated", "lockdown"}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	guessed := Raised{"guessed", "p:1", "elevated", in(time.Minute)}
	flood := Raised{"flood", "p:2", "lockdown", in(time.Second)}
	manual := Raised{"leak", "p:3", "elevated", time.Time{}}
	for name, c := range map[string]struct {
		s         Stance
		after     time.Duration
		want, why string
		trigger   string
		next      time.Duration // from now; 0: never
	}{
		"nothing":                         {Stance{Initial: "normal"}, 0, "normal", WhyStart, "", 0},
		"a hand":                          {Stance{Initial: "elevated", Hand: "normal"}, 0, "normal", WhyHand, "", 0},
		"an order over a hand":            {Stance{Initial: "normal", Hand: "lockdown", Order: &Order{"elevated", in(time.Hour), false}}, 0, "elevated", WhyHand, "", time.Hour},
		"an order that is over":           {Stance{Initial: "normal", Hand: "lockdown", Order: &Order{"elevated", in(time.Hour), false}}, time.Hour, "lockdown", WhyHand, "", 0},
		"a trigger":                       {Stance{Initial: "normal", Raised: []Raised{guessed}}, 0, "elevated", WhyTrigger, "guessed", time.Minute},
		"the higher of two":               {Stance{Initial: "normal", Raised: []Raised{guessed, flood}}, 0, "lockdown", WhyTrigger, "flood", time.Second},
		"the lower when that is over":     {Stance{Initial: "normal", Raised: []Raised{flood, guessed}}, time.Second, "elevated", WhyTrigger, "guessed", time.Minute},
		"of two equal ones the longer":    {Stance{Initial: "normal", Raised: []Raised{guessed, manual}}, 0, "elevated", WhyTrigger, "leak", time.Minute},
		"one that lasts":                  {Stance{Initial: "normal", Raised: []Raised{manual}}, 1000 * time.Hour, "elevated", WhyTrigger, "leak", 0},
		"a trigger raises only":           {Stance{Initial: "normal", Hand: "lockdown", Raised: []Raised{guessed}}, 0, "lockdown", WhyHand, "", time.Minute},
		"a trigger over an order":         {Stance{Initial: "normal", Order: &Order{"normal", in(time.Hour), false}, Raised: []Raised{flood}}, 0, "lockdown", WhyTrigger, "flood", time.Second},
		"an order that holds":             {Stance{Initial: "normal", Order: &Order{"normal", time.Time{}, true}, Raised: []Raised{flood}}, 0, "normal", WhyHand, "", time.Second},
		"a trigger after one that held":   {Stance{Initial: "normal", Order: &Order{"normal", in(time.Second), true}, Raised: []Raised{guessed}}, time.Second, "elevated", WhyTrigger, "guessed", time.Minute},
		"everything over":                 {Stance{Initial: "normal", Raised: []Raised{flood, guessed}}, time.Minute, "normal", WhyStart, "", 0},
		"a level that is no more":         {Stance{Initial: "normal", Hand: "gone", Order: &Order{"gone", time.Time{}, true}, Raised: []Raised{{Level: "gone"}}}, 0, "normal", WhyStart, "", 0},
		"a firing that prolongs the last": {prolonged(guessed, in(time.Hour)), time.Minute, "elevated", WhyTrigger, "guessed", time.Hour},
	} {
		c.s.keep(names)
		next := c.s.expire(in(c.after))
		level, why := c.s.decide(names)
		if level != c.want || why.Why != c.why || why.Trigger != c.trigger {
			t.Errorf("%s: %s, %+v", name, level, why)
		}
		if c.next == 0 && !next.IsZero() || c.next != 0 && !next.Equal(in(c.next)) {
			t.Errorf("%s: the next is over at %v", name, next)
		}
	}
}

func prolonged(r Raised, until time.Time) Stance {
	s := Stance{Initial: "normal"}
	s.raise(r)
	r.Until = until
	s.raise(r)
	return s
}

// Whatever documents a trigger is written in, that it fires shortens and lowers nothing.
func TestAFiringLowersNothing(t *testing.T) {
	soon := time.Now().Add(time.Minute)
	s := Stance{Initial: "normal"}
	s.raise(Raised{Trigger: "t", Level: "lockdown"})
	s.raise(Raised{Trigger: "t", Level: "lockdown", Until: soon})
	s.raise(Raised{Trigger: "t", Level: "elevated", Until: soon})
	s.expire(soon.Add(time.Hour))
	if level, why := s.decide([]string{"normal", "elevated", "lockdown"}); level != "lockdown" || !why.Until.IsZero() {
		t.Errorf("%s, %+v", level, why)
	}
}

func TestWhatAHandDoes(t *testing.T) {
	s := Stance{Initial: "normal"}
	until := time.Now().Add(time.Hour)
	s.set("elevated", until, false)
	if s.Hand != "" || s.Order == nil {
		t.Errorf("for a time: %+v", s)
	}
	s.set("lockdown", time.Time{}, false)
	if s.Hand != "lockdown" || s.Order != nil {
		t.Errorf("for good: %+v", s)
	}
	s.set("elevated", time.Time{}, true)
	s.raise(Raised{Trigger: "a", Level: "lockdown"})
	if !s.release() || s.Hand != "lockdown" || s.Order != nil || len(s.Raised) != 0 || s.release() {
		t.Errorf("released: %+v", s)
	}
	if s.set("normal", time.Time{}, false); s.Hand != "" {
		t.Errorf("the initial level is no hand's: %+v", s)
	}
	kept, level := Stance{Initial: "normal", Hand: "elevated"}.Carry("lockdown", []string{"elevated", "lockdown"})
	if level != "elevated" || kept.Initial != "lockdown" {
		t.Errorf("carried: %+v, %s", kept, level)
	}
}
