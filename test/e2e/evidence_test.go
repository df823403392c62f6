package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// An evidence is what the tenders of a user write to their spools, whatever becomes
// of them: it holds each file open from when it appears, so that one that is removed
// with its instance can be read to the end.
type evidence struct {
	t    *testing.T
	glob string
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	files map[string]*spooled
	byID  map[string]record
	asked []reply
	floor []reply // after which nothing is judged by an older revision
	conns int
}

// A spooled is one file of a spool.
type spooled struct {
	file *os.File
	in   *bufio.Reader
	rest []byte // of a line that is not whole yet
	last uint64 // the number of the last line
}

// A record is one with the runtime folder of the instance that made it.
type record struct {
	decision
	folder string
}

// A reply is an answer and when its request was sent and it had come.
type reply struct {
	answer
	sent, came time.Time
	conn       int // requests with the same number came one after another on one connection
}

// runtime is where the folders of her instances are.
func (u *user) runtime() string {
	for _, s := range u.settings {
		if dir, ok := strings.CutPrefix(s, "XDG_RUNTIME_DIR="); ok {
			return filepath.Join(dir, "lorica")
		}
	}
	return filepath.Join(u.home, ".local", "share", "lorica", "run")
}

func (u *user) evidence() *evidence {
	e := &evidence{t: u.t, glob: filepath.Join(u.runtime(), "*", "decisions-*.jsonl"), stop: make(chan struct{}), done: make(chan struct{}), files: map[string]*spooled{}, byID: map[string]record{}}
	go func() {
		defer close(e.done)
		for {
			e.look()
			select {
			case <-e.stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	u.t.Cleanup(func() {
		close(e.stop)
		<-e.done
		for _, s := range e.files {
			s.file.Close()
		}
	})
	return e
}

// look opens what is new.
func (e *evidence) look() {
	names, _ := filepath.Glob(e.glob)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range names {
		if e.files[n] != nil {
			continue
		}
		if f, err := os.Open(n); err == nil {
			e.files[n] = &spooled{file: f, in: bufio.NewReader(f)}
		}
	}
}

// read takes in what was kept since the last time.
func (e *evidence) read() {
	e.t.Helper()
	e.look()
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, s := range e.files {
		for {
			part, err := s.in.ReadBytes('\n')
			s.rest = append(s.rest, part...)
			if err != nil { // a tender that was killed may leave half a line
				break
			}
			var d decision
			if err := json.Unmarshal(s.rest, &d); err != nil {
				e.t.Errorf("%s: %v: %q", name, err, s.rest)
			}
			s.rest = nil
			if _, twice := e.byID[d.ID]; twice {
				e.t.Errorf("decision %s is recorded twice", d.ID)
			}
			if s.last > 0 && d.Seq != s.last+1 {
				e.t.Errorf("%s: record %d after %d", name, d.Seq, s.last)
			}
			s.last = d.Seq
			e.byID[d.ID] = record{d, filepath.Dir(name)}
		}
	}
}

// record returns the record of a decision, if there is one.
func (e *evidence) record(id string) (record, bool) {
	e.t.Helper()
	e.read()
	e.mu.Lock()
	defer e.mu.Unlock()
	r, ok := e.byID[id]
	return r, ok
}

// note keeps a reply for check.
func (e *evidence) note(r reply) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, r)
}

// connection returns a number for a new connection.
func (e *evidence) connection() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns++
	return e.conns
}

// settled says that nothing but what judged r serves from now on.
func (e *evidence) settled(a answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.floor = append(e.floor, reply{answer: a, came: time.Now()})
}

// load asks for path until the returned function is called, on connections of
// which half are kept, and notes what it was answered. A request that failed is no
// answer.
func (e *evidence) load(addr, path, user string) (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			c := &client{addr: addr}
			defer c.close()
			for n := 0; ; {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
				}
				if c.conn == nil {
					n = e.connection()
				}
				sent := time.Now()
				a, err := c.do("GET", path, user, "")
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				e.note(reply{a, sent, time.Now(), n})
				if i%2 == 1 {
					c.close()
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(stop); wg.Wait() })
}

// check holds what was answered against what was recorded: every answer has one
// record, which says the same; what a record names is of one generation; and no request was judged by an older
// revision than one that was answered before it was sent, by the same instance, on the
// same connection, or since when only one instance serves.
func (e *evidence) check() {
	e.t.Helper()
	e.read()
	e.mu.Lock()
	defer e.mu.Unlock()
	type generation struct{ program, level, change string }
	generations := map[uint64]generation{}
	for _, d := range e.byID {
		g, ok := generations[d.Revision]
		if !ok {
			g = generation{d.Program, d.Level, ""}
		}
		if n := strings.LastIndexByte(d.Rule, '-'); n >= 0 && d.Decision == "Allow" { // named after a change
			if g.change != "" && g.change != d.Rule[n:] {
				e.t.Errorf("revision %d allows by %q, and by a rule of change %q", d.Revision, d.Rule, g.change)
			}
			g.change = d.Rule[n:]
		}
		if d.Revision == 0 || d.Program == "" || d.Program != g.program || d.Level != g.level {
			e.t.Errorf("revision %d is %+v, and in a record %q at level %q", d.Revision, g, d.Program, d.Level)
		}
		generations[d.Revision] = g
	}
	lost := 0
	newest := map[string][]reply{} // by instance: replies that raised the revision
	last := map[int]uint64{}       // by connection
	for _, r := range e.asked {
		d, ok := e.byID[r.decision]
		if !ok {
			if lost++; lost <= 5 {
				e.t.Errorf("%d was answered at %s and decision %q is not recorded", r.status, r.came.Format(time.StampMilli), r.decision)
			}
			continue
		}
		if (r.status < 300) != (d.Decision == "Allow") {
			e.t.Errorf("%d was answered; the record is %+v", r.status, d.decision)
		}
		if d.Revision < last[r.conn] {
			e.t.Errorf("connection %d: revision %d after %d", r.conn, d.Revision, last[r.conn])
		}
		last[r.conn] = d.Revision
		steps := newest[d.folder]
		for _, s := range append(steps, e.floor...) {
			if e.byID[s.decision].Revision > d.Revision && s.came.Before(r.sent) {
				e.t.Errorf("revision %d judged a request that was sent after %d had answered", d.Revision, e.byID[s.decision].Revision)
			}
		}
		if n := len(steps); n == 0 || d.Revision > e.byID[steps[n-1].decision].Revision {
			newest[d.folder] = append(steps, r)
		}
	}
	if lost > 5 {
		e.t.Errorf("%d of %d answers are not recorded", lost, len(e.asked))
	}
	if len(e.asked) == 0 {
		e.t.Error("nothing was answered")
	}
	e.t.Logf("%d answers, %d records of %d revisions in %d spools", len(e.asked), len(e.byID), len(generations), len(newest))
}

// answered waits until a request is answered as it should be, and notes it.
func (e *evidence) answered(addr, path, user string, want int) (a answer) {
	e.t.Helper()
	eventually(e.t, fmt.Sprintf("GET %s gets %d", path, want), func() (ok bool) {
		c := &client{addr: addr}
		defer c.close()
		sent := time.Now()
		var err error
		if a, err = c.do("GET", path, user, ""); err != nil {
			return false
		}
		e.note(reply{a, sent, time.Now(), e.connection()})
		return a.status == want
	})
	return a
}

// ask speaks to the tender that owns a runtime folder.
func ask(dir string) (s status, err error) {
	d, err := os.Open(dir) // a short name: a socket address holds 108 bytes
	if err != nil {
		return s, err
	}
	defer d.Close()
	c, err := net.DialTimeout("unix", fmt.Sprintf("/proc/self/fd/%d/control.sock", d.Fd()), time.Second)
	if err != nil {
		return s, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err = io.WriteString(c, `{"op":"status"}`+"\n"); err != nil {
		return s, err
	}
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(line, &struct {
		Result *status `json:"result"`
	}{&s})
}

// folders are the runtime folders that are there.
func (u *user) folders() (list []string) {
	entries, _ := os.ReadDir(u.runtime())
	for _, e := range entries {
		list = append(list, filepath.Join(u.runtime(), e.Name()))
	}
	return list
}

// gone fails the test if anything is left of what ran: a folder with its socket, a
// process of the command, an image without its tender, somebody who listens.
func (u *user) gone(addr string) {
	u.t.Helper()
	var left []string
	defer func() {
		if u.t.Failed() && len(left) > 0 {
			u.t.Logf("processes that are left: %q", left)
		}
	}()
	eventually(u.t, "no process is left", func() bool { left = leftovers(); return len(left) == 0 })
	if list := u.folders(); len(list) > 0 {
		u.t.Errorf("left behind: %v", list)
	}
	if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		c.Close()
		u.t.Errorf("somebody still listens on %s", addr)
	}
}

// leftovers are the processes of the command under test, and images whose tender is
// one of them or is gone. A tender leads a session of its own. A QEMU without a tender is an
// image's if it has what only a tender's has: there may be others on the machine.
func leftovers() (list []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmd, _ := os.ReadFile(p + "/cmdline")
		f := stat(p)
		if f == nil {
			continue
		}
		leader := "/proc/" + f[3]
		_, err := os.Stat(leader)
		image := string(cmd) == "lorica-image\x00" && (err != nil || ours(leader))
		name, _, _ := strings.Cut(string(cmd), "\x00")
		machine := filepath.Base(name) == emulator && (ours("/proc/"+f[1]) || f[1] == "1" && strings.Contains(string(cmd), "lorica.window=")) // it leads a session itself
		if f[0] != "Z" && (ours(p) || image || machine) {
			list = append(list, filepath.Base(p)+" "+strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return list
}

// ours reports whether a process is of the command under test.
func ours(proc string) bool {
	exe, err := os.Readlink(proc + "/exe")
	return err == nil && exe == binary
}

// stat returns what the kernel says of a process behind its name: its state, its parent, its
// group, its session; nil where it is gone.
func stat(proc string) []string {
	b, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}
