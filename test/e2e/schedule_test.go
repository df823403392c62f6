package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Environment of TestSchedule: the seed of its steps, and how long it makes them.
const (
	seedVariable = "LORICA_SEED"
	soakVariable = "LORICA_SOAK"
)

// A step changes something and kills something a moment later.
type step struct {
	change string // "", "program", "image", "rollback", "level"
	victim string // "", "image", "tender", "up", "down": the last in order
	delay  time.Duration
	slow   bool   // a request is open meanwhile
	pick   uint64 // which of several
}

func (s step) String() string {
	return fmt.Sprintf("change %q, after %s kill %q, slow request %t, pick %d", s.change, s.delay, s.victim, s.slow, s.pick%100)
}

// steps is an endless schedule; the same seed gives the same.
func steps(seed uint64) func() step {
	rng := rand.New(rand.NewPCG(seed, 0))
	one := func(list ...string) string { return list[rng.IntN(len(list))] }
	return func() step {
		return step{
			change: one("", "program", "program", "image", "image", "rollback", "level"),
			victim: one("", "image", "image", "tender", "tender", "up", "up", "down"),
			delay:  time.Duration(rng.IntN(200)) * time.Millisecond, // a replacement takes no longer on an idle machine
			slow:   rng.IntN(3) == 0,
			pick:   rng.Uint64(),
		}
	}
}

// Whatever is changed and whatever crashes a moment later, in whatever order: every
// answer has its record, a request is judged by one generation, no older one follows
// a newer one, and nothing is left after the end.
func TestSchedule(t *testing.T) {
	seed, until, count := uint64(10), time.Time{}, 6 // these have some of everything
	if text := os.Getenv(soakVariable); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s: %v", soakVariable, err)
		}
		seed, until, count = uint64(time.Now().UnixNano()), time.Now().Add(d), 0
	}
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	t.Logf("%s=%d repeats these steps", seedVariable, seed)
	s := newStruck(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("up says on its standard error: %s", s.x.stderr.String())
		}
	})
	defer s.load(s.addr, "/accounts/7", staff)()
	next, history := steps(seed), []bool{s.limited}
	for n := 1; n <= count || time.Now().Before(until); n++ {
		st := next()
		t.Logf("%s step %d: %s", time.Now().Format(time.TimeOnly), n, st)
		s.take(st, &history)
		if t.Failed() {
			break
		}
	}
	s.x.interrupt()
	s.gone(s.addr)
	s.check()
}

func (s *struck) take(st step, history *[]bool) {
	t := s.user.t
	t.Helper()
	end := func() {}
	if st.slow {
		end = s.slow()
	}
	switch st.change {
	case "program", "image":
		s.change(s.limited != (st.change == "image"))
		*history = append(*history, s.limited)
	case "rollback":
		n := int(st.pick % uint64(len(*history)))
		s.save(n, (*history)[n])
	case "level": // they change with 'up'
		s.level = []string{"normal", "elevated", "lockdown"}[st.pick%3]
		s.x.kill()
		s.begin()
	}
	time.Sleep(st.delay)
	victim := st.victim
	switch victim {
	case "image", "tender":
		var pids []int
		for _, dir := range s.folders() {
			if i, err := ask(dir); err == nil && i.PID != 0 {
				pids = append(pids, map[string]int{"image": i.PID, "tender": i.TenderPID}[victim])
			}
		}
		if len(pids) > 0 { // it may be dying already
			syscall.Kill(pids[st.pick%uint64(len(pids))], syscall.SIGKILL)
		}
	case "up":
		s.x.kill()
	case "down":
		end() // else it is waited for
		s.user.run("down", "accounts")
		select {
		case <-s.x.done:
		case <-time.After(patience):
			t.Fatal("up goes on after its only workload was taken down")
		}
		s.gone(s.addr)
		victim = "up"
	}
	end()
	s.mend(victim)
	c := &client{addr: s.addr}
	defer c.close()
	want := 201
	if s.level == "lockdown" {
		want = 403
	}
	if a, err := c.do("POST", "/accounts/7/transfers", teller, `{"to": "1", "amount": 5}`); err != nil || a.status != want {
		t.Errorf("at level %s a teller pays with %d (%v)", s.level, a.status, err)
	}
}
