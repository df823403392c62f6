package tender_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/tender"
)

var ladder = []string{"normal", "elevated", "lockdown"}

// batch are the programs of three levels; each allows less than the one below.
func batch(t *testing.T, revision uint64) []tender.Signed {
	t.Helper()
	var list []tender.Signed
	for i, paths := range [][]string{{"/hello", "/who", "/slow"}, {"/hello", "/who"}, {"/hello"}} {
		list = append(list, tender.Signed{Program: signedAt(t, ladder[:i+1], revision, paths...)})
	}
	return list
}

// levelledStart starts an instance with three levels.
func levelledStart(t *testing.T) *tender.Client {
	t.Helper()
	cfg := configure(t)
	b := batch(t, 1)
	cfg.Program, cfg.Others = b[0].Program, b[1:]
	return start(t, cfg)
}

// at fails the test unless the image judges by a level.
func at(t *testing.T, c *tender.Client, level string) tender.Status {
	t.Helper()
	s := status(t, c)
	if s.Level != level {
		t.Fatalf("level %s is in force, want %s: %+v", s.Level, level, s.Standing)
	}
	for path, to := range map[string]string{"/who": "elevated", "/slow": "normal"} {
		want := 404
		if level == "normal" || level == to {
			want = 200
		}
		if code, _ := get(t, s, path); code != want {
			t.Errorf("at level %s: %s is answered %d", level, path, code)
		}
	}
	return s
}

func set(t *testing.T, c *tender.Client, level string, d time.Duration, hold bool) tender.LevelChange {
	t.Helper()
	l, err := c.SetLevel(background, level, d, hold)
	if err != nil || l.Level != level {
		t.Fatalf("setting %s: %+v, %v", level, l, err)
	}
	return l
}

func TestLevelsAreSetByHand(t *testing.T) {
	c := levelledStart(t)
	s := at(t, c, "normal")
	if x := s.Standing; x.Why != tender.WhyStart || len(x.Levels) != 3 || x.Since.IsZero() {
		t.Errorf("at start: %+v", x)
	}
	l := set(t, c, "elevated", 0, false)
	if l.Before != "normal" || l.Standing.Why != tender.WhyHand || l.Standing.TookMillis <= 0 || l.Revision != 1 {
		t.Errorf("set: %+v", l)
	}
	if x := at(t, c, "elevated"); x.PID != s.PID || x.Program == s.Program || x.Batch != s.Batch {
		t.Errorf("the status is %+v", x)
	}
	// More often than there are slots, and back again.
	for range 3 {
		set(t, c, "lockdown", 0, false)
		set(t, c, "normal", 0, false)
	}
	at(t, c, "normal")
	for ask, want := range map[string]string{"elevatde": `there is no level "elevatde"; there are normal, elevated, lockdown`, "": "there is no level"} {
		if _, err := c.SetLevel(background, ask, 0, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("level %q: %v", ask, err)
		}
	}
	if _, err := c.ReleaseLevel(background); err == nil || !strings.Contains(err.Error(), "nothing holds the level: it is normal") {
		t.Errorf("a release of nothing: %v", err)
	}
	at(t, c, "normal")
}

// A level for a time ends by itself in the one that was set before, and a release ends it
// sooner. Whoever follows is told of each.
func TestALevelForATime(t *testing.T) {
	c := levelledStart(t)
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	told := make(chan tender.LevelChange, 16)
	go c.Levels(ctx, func(l tender.LevelChange) error { told <- l; return nil })
	next := func(level, why string) {
		t.Helper()
		select {
		case l := <-told:
			if l.Level != level || l.Standing.Why != why {
				t.Errorf("told of %s, %+v; want %s", l.Level, l.Standing, level)
			}
		case <-time.After(time.Minute):
			t.Fatalf("nobody tells of %s", level)
		}
	}
	next("normal", tender.WhyStart)
	set(t, c, "elevated", 0, false)
	next("elevated", tender.WhyHand)
	if l := set(t, c, "lockdown", 300*time.Millisecond, false); l.Standing.Until.IsZero() {
		t.Errorf("it has no end: %+v", l)
	}
	next("lockdown", tender.WhyHand)
	next("elevated", tender.WhyHand)
	at(t, c, "elevated")
	set(t, c, "lockdown", time.Hour, true)
	next("lockdown", tender.WhyHand)
	if l, err := c.ReleaseLevel(background); err != nil || l.Level != "elevated" {
		t.Errorf("released: %+v, %v", l, err)
	}
	next("elevated", tender.WhyHand)
}

// What was set outlives a change of the policy and the death of the image, as long as
// there is such a level.
func TestALevelOutlivesProgramsAndImages(t *testing.T) {
	c := levelledStart(t)
	s := status(t, c)
	set(t, c, "elevated", 0, false)
	b := batch(t, 2)
	if a, err := c.Replace(background, tender.Batch{Program: b[0].Program, Others: b[1:]}); err != nil || a.Level != "elevated" || a.Revision != 2 {
		t.Fatalf("replaced: %+v, %v", a, err)
	}
	at(t, c, "elevated")
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a second life", func() bool { s := status(t, c); return s.Restarts == 1 && s.State == tender.Ready })
	if x := at(t, c, "elevated"); x.Standing.Why != tender.WhyHand {
		t.Errorf("why: %+v", x.Standing)
	}
	set(t, c, "lockdown", 0, false)
	b = batch(t, 3)
	if a, err := c.Replace(background, tender.Batch{Program: b[1].Program, Others: b[:1]}); err != nil || a.Level != "elevated" {
		t.Fatalf("without the level that was set: %+v, %v", a, err)
	}
	if x := at(t, c, "elevated"); x.Standing.Why != tender.WhyStart {
		t.Errorf("why: %+v", x.Standing)
	}
}

// Programs that are not of one batch are refused before any of them is in force, and the
// image goes on.
func TestABatchIsOneBatch(t *testing.T) {
	c := levelledStart(t)
	s := status(t, c)
	whole, other := batch(t, 2), batch(t, 3)
	forged := batch(t, 2)[2]
	forged.Program[len(forged.Program)-1] ^= 1
	for name, x := range map[string]struct {
		others []tender.Signed
		want   string
	}{
		"of another revision": {[]tender.Signed{whole[1], other[2]}, "not of one batch"},
		"forged":              {[]tender.Signed{whole[1], forged}, "signature"},
		"a level twice":       {[]tender.Signed{whole[1], whole[1]}, "two programs for level"},
		"other names below":   {[]tender.Signed{{Program: signedAt(t, []string{"quiet", "elevated"}, 2, "/hello")}}, "not of one batch"},
		"nothing":             {[]tender.Signed{{}}, "0 bytes"},
	} {
		if _, err := c.Replace(background, tender.Batch{Program: whole[0].Program, Others: x.others}); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if x := at(t, c, "normal"); x.PID != s.PID || x.Revision != 1 {
		t.Errorf("the status is %+v", x)
	}
	set(t, c, "elevated", 0, false)
	if a, err := c.Replace(background, tender.Batch{Program: whole[0].Program, Others: whole[1:]}); err != nil || a.Level != "elevated" {
		t.Errorf("afterwards: %+v, %v", a, err)
	}
}

// Who takes the place of another asks for what was asked of that one, except where its
// documents differ.
func TestAStanceIsAdopted(t *testing.T) {
	c := levelledStart(t)
	until := time.Now().Add(time.Hour).UTC()
	s := tender.Stance{Initial: "lockdown", Raised: []tender.Raised{{Trigger: "curious", Line: "p.yaml:5", Level: "elevated", Until: until}, {Trigger: "old", Level: "gone"}}}
	l, err := c.Adopt(background, s)
	if err != nil || l.Level != "elevated" || l.Standing.Trigger != "curious" || !l.Standing.Until.Equal(until) {
		t.Errorf("adopted: %+v, %v", l, err)
	}
	if x := at(t, c, "elevated").Standing.Stance; x.Initial != "normal" || len(x.Raised) != 1 {
		t.Errorf("it stands at %+v", x)
	}
	if l, err := c.ReleaseLevel(background); err != nil || l.Level != "normal" {
		t.Errorf("released: %+v, %v", l, err)
	}
}

// An instance begins at the level that the one before it was at.
func TestAnInstanceBeginsWithAStance(t *testing.T) {
	cfg := configure(t)
	b := batch(t, 1)
	cfg.Program, cfg.Others = b[1].Program, []tender.Signed{b[0], b[2]}
	cfg.Stance = &tender.Stance{Initial: "normal", Order: &tender.Order{Level: "elevated", Until: time.Now().Add(2 * time.Second)}}
	c := start(t, cfg)
	if s := status(t, c); s.Standing.Why != tender.WhyHand || s.Standing.Until.IsZero() {
		t.Errorf("it stands at %+v", s.Standing)
	}
	eventually(t, "the order ends", func() bool { return status(t, c).Level == "normal" })
	at(t, c, "normal")
}
