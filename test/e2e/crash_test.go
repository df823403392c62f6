package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A struck is examples/accounts under load, whose policy is changed and whose
// processes are killed. The rules that allow are named after the number of the change,
// so that a record tells the policy that judged.
type struck struct {
	*user
	*evidence
	dir, addr string
	policy    string // as it is in the example
	level     string
	x         *upping

	changes int  // that were saved
	wanted  int  // the one that is to be in force
	limited bool // with rate limits, for which an image needs a module
	saves   int
}

func newStruck(t *testing.T) *struck {
	t.Helper()
	u := newUser(t)
	port := freePort(t)
	s := &struck{user: u, dir: u.example(port), addr: "127.0.0.1:" + port, level: "normal", limited: true}
	b, err := os.ReadFile(filepath.Join(s.dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.policy = string(b)
	s.evidence = u.evidence()
	s.save(0, true)
	s.begin()
	t.Cleanup(func() { // before 'up' is ended
		for t.Failed() && len(s.x.events) > 0 {
			s.tell(<-s.x.events)
		}
	})
	return s
}

// begin starts 'up', which takes over what runs, if anything does.
func (s *struck) begin() {
	s.user.t.Helper()
	s.x, _ = s.up(s.dir, "--level", s.level)
}

// change saves a policy that was not there before.
func (s *struck) change(limited bool) {
	s.changes++
	s.save(s.changes, limited)
}

// save writes the policy of one change, which another program enforces, on another
// image if limited differs. It is renamed into place, as editors do.
func (s *struck) save(change int, limited bool) {
	t := s.user.t
	t.Helper()
	s.wanted, s.limited = change, limited
	s.saves++
	text := strings.NewReplacer("staff-read", fmt.Sprintf("staff-read-%d", change), "teller-transfer", fmt.Sprintf("teller-transfer-%d", change)).Replace(s.policy) +
		fmt.Sprintf("# save %d\n", s.saves)
	if !limited {
		var found bool
		var before, after string
		before, text, found = strings.Cut(text, "  rateLimits:\n")
		_, after, _ = strings.Cut(text, "\n")
		if text = before + after; !found {
			t.Fatal("the example has no rate limits")
		}
	}
	next := filepath.Join(s.dir, "policy.next")
	write(t, next, text)
	if err := os.Rename(next, filepath.Join(s.dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
}

// converges waits until the policy that was saved last judges. A change that was
// refused because what it was made on died is saved again.
func (s *struck) converges() (a answer) {
	t := s.user.t
	t.Helper()
	eventually(t, fmt.Sprintf("change %d is in force", s.wanted), func() bool {
		for {
			select {
			case e, ok := <-s.x.events:
				if !ok {
					t.Fatalf("up ended: %s", s.x.stderr.String())
				}
				s.tell(e)
				if e.Event == "refused" {
					s.save(s.wanted, s.limited)
				}
				continue
			default:
			}
			break
		}
		a = s.answered(s.addr, "/accounts/7", staff, 200)
		r, _ := s.record(a.decision)
		return r.Rule == fmt.Sprintf("staff-read-%d", s.wanted) && r.Level == s.level
	})
	return a
}

// tell logs what went wrong as 'up' says it.
func (s *struck) tell(e event) {
	if e.Event == "refused" || e.Event == "died" || e.Event == "failed" {
		s.user.t.Logf("%s up: %s %s", time.Now().Format(time.TimeOnly), e.Event, e.Text)
	}
}

// kill ends a process, and waits until it has.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
	eventually(t, "it is dead", func() bool { return !alive(pid) })
}

// instance waits for an instance in a state, other than the given one.
func (s *struck) instance(state string, not int) (found status) {
	t := s.user.t
	t.Helper()
	eventually(t, "an instance is "+state, func() bool {
		for _, dir := range s.folders() {
			if st, err := ask(dir); err == nil && st.State == state && st.PID != 0 && st.TenderPID != not {
				found = st
				return true
			}
		}
		return false
	})
	return found
}

// tenders are those that are there, also those that have given up their folder and are
// about to end.
func tenders() map[int]bool {
	list := map[int]bool{}
	for _, p := range leftovers() {
		var pid int
		if n, err := fmt.Sscanf(p, "%d "+binary+" tender", &pid); err == nil && n == 1 {
			list[pid] = true
		}
	}
	return list
}

// nascent stops the next tender that starts beside others, as early as it is seen.
func (s *struck) nascent(others map[int]bool) int {
	t := s.user.t
	t.Helper()
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(time.Millisecond) {
		for pid := range tenders() {
			if others[pid] {
				continue
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no tender starts")
	return 0
}

// slow begins a request whose body is judged, and returns what ends it, once the image
// waits for that body.
func (s *struck) slow() (end func()) {
	t := s.user.t
	t.Helper()
	const body = `{"to": "1", "amount": 5}`
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST /accounts/7/transfers HTTP/1.1\r\nHost: a\r\nAuthorization: Basic %s\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s",
		base64.StdEncoding.EncodeToString([]byte(teller)), len(body), body[:5])
	sent, number := time.Now(), s.connection()
	x := adopt(s.addr, c)
	c.SetReadDeadline(time.Now().Add(patience))
	defer c.SetReadDeadline(time.Time{})
	const waits = "HTTP/1.1 100 Continue\r\n\r\n" // else it has answered, or has ended
	if b, _ := x.in.Peek(len(waits)); string(b) == waits {
		x.in.Discard(len(waits))
	}
	return sync.OnceFunc(func() {
		defer c.Close()
		io.WriteString(c, body[5:])
		if a, err := x.answer("POST"); err == nil {
			s.note(reply{a, sent, time.Now(), number})
		}
	})
}

// Whatever is killed in whichever state of a replacement, under load: every answer
// has its record, no request is judged by two policies or by an older one than was
// seen, the policy that was saved comes into force, and at the end nothing is left.
func TestKilledInEveryStateOfAReplacement(t *testing.T) {
	s := newStruck(t)
	defer s.load(s.addr, "/accounts/7", staff)()
	s.change(!s.limited) // so that both images are built
	s.converges()
	s.change(!s.limited)
	s.converges()

	// The image is stopped: it is asked to prepare and does not answer.
	for _, victim := range []string{"image", "tender", "up"} {
		t.Run("preparing, "+victim, func(t *testing.T) {
			now := s.instance("ready", 0)
			syscall.Kill(now.PID, syscall.SIGSTOP)
			s.change(s.limited)
			time.Sleep(300 * time.Millisecond)
			s.strike(victim, now, now)
			syscall.Kill(now.PID, syscall.SIGCONT)
			s.mend(victim)
		})
	}
	// The new tender is stopped at its start.
	for _, victim := range []string{"image", "tender", "new tender", "up"} {
		t.Run("starting, "+victim, func(t *testing.T) {
			old, before := s.instance("ready", 0), tenders()
			s.change(!s.limited)
			next := status{TenderPID: s.nascent(before)}
			s.strike(victim, old, next)
			syscall.Kill(next.TenderPID, syscall.SIGCONT)
			s.mend(victim)
		})
	}
	// 'up' is stopped while the new tender starts: both serve when it is killed.
	t.Run("handing over, up", func(t *testing.T) {
		old, before := s.instance("ready", 0), tenders()
		s.change(!s.limited)
		next := s.nascent(before)
		s.x.cmd.Process.Signal(syscall.SIGSTOP)
		syscall.Kill(next, syscall.SIGCONT)
		s.instance("ready", old.TenderPID)
		s.strike("up", old, old)
		s.mend("up")
	})
	// A request whose body does not come keeps the old instance.
	for _, victim := range []string{"image", "tender", "new image", "new tender", "up"} {
		t.Run("draining, "+victim, func(t *testing.T) {
			end := s.slow()
			s.change(!s.limited)
			old := s.instance("draining", 0)
			s.strike(victim, old, s.instance("ready", old.TenderPID))
			end()
			s.mend(victim)
		})
	}
	s.x.interrupt()
	s.gone(s.addr)
	s.check()
}

// strike kills one of those that take part.
func (s *struck) strike(victim string, old, next status) {
	t := s.user.t
	t.Helper()
	switch victim {
	case "image":
		kill(t, old.PID)
	case "tender": // first it reads no more: what is on its way to it is lost
		syscall.Kill(old.TenderPID, syscall.SIGSTOP)
		time.Sleep(100 * time.Millisecond)
		kill(t, old.TenderPID)
	case "new image":
		kill(t, next.PID)
	case "new tender":
		kill(t, next.TenderPID)
	case "up":
		s.x.kill()
	}
}

// mend does what a person would, and waits until all is well.
func (s *struck) mend(victim string) {
	s.user.t.Helper()
	if victim == "up" { // which says that it is ready when nothing else serves
		s.begin()
		s.settled(s.converges())
		return
	}
	a := s.converges()
	eventually(s.user.t, "one instance is left", func() bool {
		n := 0
		for _, dir := range s.folders() {
			if _, err := ask(dir); err == nil {
				n++
			}
		}
		return n == 1
	})
	s.settled(a)
}

// What a tender decided that is killed before 'up' has heard it is in its spool, and
// is shown before another takes its place.
func TestAKilledTenderIsReadToTheEnd(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	addr := "127.0.0.1:" + port
	e := u.evidence()
	x, s := u.up(u.witness(port, ""))
	x.cmd.Process.Signal(syscall.SIGSTOP)
	c := &client{addr: addr}
	defer c.close()
	for range 2000 { // more than a socket holds
		sent := time.Now()
		a, err := c.do("GET", "/app/x", "", "")
		if err != nil {
			t.Fatal(err)
		}
		e.note(reply{a, sent, time.Now(), 1})
	}
	e.look()
	kill(t, s.TenderPID)
	x.cmd.Process.Signal(syscall.SIGCONT)
	x.wait("died")
	x.wait("ready")
	shown := map[string]bool{}
	x.mu.Lock()
	for _, d := range x.decisions {
		shown[d.ID] = true
	}
	x.mu.Unlock()
	lost := 0
	for _, r := range e.asked {
		if !shown[r.decision] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d decisions are not shown", lost, len(e.asked))
	}
	x.interrupt()
	u.gone(addr)
	e.check()
}
