package tender

import (
	"lorica.dev/lorica/abi/program"

	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":               "",
		"plain, ünïcode": "plain, ünïcode",
		"\x1b[2J":        `\x1b[2J`,
		"a\r\nb\tc":      `a\r\nb\tc`,
		"\u202egnp":      `\u202egnp`,
		"\u009b31m":      `\u009b31m`,
		"\xff\xfe":       `\xff\xfe`,
		"\ufffd":         "\ufffd",
		"\u00a0":         `\u00a0`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b]0;x\x07", "\u202e", "\xff", "a\u0300", "\U000e0001", "日本"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := printable(s)
		if !utf8.ValidString(out) || len(out) > 10*len(s) || printable(out) != out {
			t.Fatalf("%q became %q", s, out)
		}
		for _, r := range out {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
				t.Fatalf("%q became %q", s, out)
			}
		}
	})
}

// FuzzRequest is what a client may send; FuzzFrames, what an image may.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"op":"status"}`, `{"op":"replace","length":3,"secrets":[{"Name":"a","Value":"Ag=="}]}`,
		`{"op":"drain","grace":1000000000,"limit":-1}`, `{"op":"decisions","from":7,"follow":true}`, `{"op":"status"} {}`, `[]`, `{"op":1}`,
		`{"Op":"status","unknown":1}`, "", strings.Repeat("[", 10000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if r.Length < 0 || r.Length > program.MaxSize || r.Program != nil || r.Grace < 0 || r.Limit < 0 || r.Grace > time.Hour || r.Limit > time.Hour {
			t.Fatalf("%q gives %+v", b, r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRequest(again); err != nil {
			t.Fatalf("%q is not understood: %v", again, err)
		}
	})
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\nb"), 4)
	f.Add(bytes.Repeat([]byte("x"), 9000), 5000)
	f.Add([]byte("\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit = max(0, limit%10000)
		line, err := readLine(bufio.NewReader(bytes.NewReader(b)), limit)
		if err == nil && (len(line) > limit || !bytes.HasPrefix(b, line) || bytes.IndexByte(line, '\n') != len(line)-1) {
			t.Fatalf("%q gives %q at limit %d", b, line, limit)
		}
	})
}

// A recorder keeps what an instance hands over.
type recorder struct{ kept, notes, freed int }

func (r *recorder) keep(b []audit.Record) error { r.kept += len(b); return nil }
func (r *recorder) note(string, string)         { r.notes++ }
func (r *recorder) enforced(uint8)              {}
func (r *recorder) fired(control.Fired) error   { r.notes++; return nil }
func (r *recorder) released(uint8) error        { r.freed++; return nil }

// FuzzFrames feeds an instance with frames in any order: it must come to an end
// of each, never to a panic, and never be ready without a Hello before.
func FuzzFrames(f *testing.F) {
	frames := func(list ...control.Frame) []byte {
		var b bytes.Buffer
		for _, m := range list {
			control.WriteFrame(&b, m)
		}
		return b.Bytes()
	}
	hello := control.Hello{Version: 1}.Frame()
	f.Add(frames(hello, control.Ready(), control.Log{Line: "x"}.Frame(), control.Drained()))
	f.Add(frames(hello, control.Ready(), control.Committed{Txn: 1}.Frame()))
	f.Add(frames(hello, control.Ready(), control.Prepared{Txn: 1}.Frame(), control.Stats{}.Frame(), control.Released{Slot: 9}.Frame()))
	f.Add(frames(control.Ready()))
	f.Add(frames(hello, control.Log{}.Frame(), control.Records{Seq: 1}.Frame()))
	f.Add(frames(hello, control.Ready(), control.Fired{At: 1, Trigger: "guessed"}.Frame()))
	f.Add([]byte{1, 0, 0, 0, 64, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &recorder{}
		i := &instance{keeper: r, hello: make(chan struct{}), ready: make(chan struct{})}
		// What a tender waits for in the middle of a replacement.
		i.offer, i.prepared, i.committed, i.asked = offer{txn: 1}, make(chan control.Prepared, 1), make(chan struct{}), 1
		in := bytes.NewReader(b)
		for {
			frame, err := control.ReadFrame(in, control.MaxFromImage)
			if err != nil {
				break
			}
			m, err := frame.Decode()
			if _, records := m.(control.Records); err != nil || records { // answered over a connection
				break
			}
			if i.take(frame.Kind, m) != nil {
				break
			}
		}
		if closed(i.ready) && !closed(i.hello) {
			t.Fatal("ready without a hello")
		}
		if r.kept+r.freed > 0 && !closed(i.ready) {
			t.Fatal("it was believed before it was ready")
		}
	})
}

// What an image writes keeps its tender busy for a part of the time, also where nothing of
// it is kept.
func TestOutputWithoutEndIsReadAtAPace(t *testing.T) {
	for name, line := range map[string]string{"lines": "x\n", "empty lines": "\n", "no end of a line": strings.Repeat("x", maxText)} {
		synctest.Test(t, func(t *testing.T) {
			x := &tender{lines: throttle{limit: linesPerSecond}, logs: &spool{dir: t.TempDir(), prefix: logSpool, fileSize: logFile, files: logFiles, next: 1}}
			defer x.logs.close()
			const lines = 10_000
			start := time.Now()
			(&instance{keeper: x}).readOutput(strings.NewReader(strings.Repeat(line, lines)))
			if took, least := time.Since(start), (lines-linesPerSecond)/restEvery*time.Millisecond; took < least {
				t.Errorf("%s: %d took %v, want %v at least", name, lines, took, least)
			}
		})
	}
}

// watched is a target that knows whether its tender still had its folder when it was closed.
type watched struct {
	target
	dir   string
	owned bool
}

func (w *watched) close() { w.owned = !Ended(w.dir) }

// Who waits for the end of a tender finds nothing of it any more.
func TestTheFolderIsGivenUpLast(t *testing.T) {
	w := &watched{dir: t.TempDir()}
	var err error
	x := &tender{cfg: Config{Dir: w.dir}, target: w}
	if x.decisions, err = openSpool(w.dir, decisionSpool, decisionFile, decisionFiles); err != nil {
		t.Fatal(err)
	}
	if x.logs, err = openSpool(w.dir, logSpool, logFile, logFiles); err != nil {
		t.Fatal(err)
	}
	s, err := x.serve()
	if err != nil {
		t.Fatal(err)
	}
	x.leave(s)
	if !w.owned || !Ended(w.dir) {
		t.Errorf("it has its folder as it gives up the rest: %v; then it has ended: %v", w.owned, Ended(w.dir))
	}
}

// Who looks whether a folder has an owner keeps no tender from becoming that; another owner
// does.
func TestALookKeepsNoTenderFromItsFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		open := func() *os.File {
			f, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		look, lock, other := open(), open(), open()
		defer lock.Close()
		defer other.Close()
		if err := unix.Flock(int(look.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Millisecond, func() { look.Close() })
		if err := own(lock); err != nil {
			t.Errorf("beside a look: %v", err)
		}
		if err := own(other); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("beside an owner: %v", err)
		}
	})
}

// What dies again and again is started again later each time, and never much later.
func TestPausesAreBounded(t *testing.T) {
	var pause time.Duration
	for n, want := range []string{"250ms", "500ms", "1s", "2s", "4s", "8s", "16s", "30s", "30s"} {
		if pause = NextPause(pause); pause.String() != want {
			t.Errorf("pause %d is %v, want %s", n+1, pause, want)
		}
	}
}

func TestThrottle(t *testing.T) {
	th := throttle{limit: 3}
	now := time.Unix(1000, 0)
	for n, want := range []int{0, 0, 0, 1, 2} {
		if excess, _, past := th.add(now.Add(time.Duration(n)*time.Millisecond), 1); excess != want || past != 0 {
			t.Errorf("event %d: excess %d, past %d", n, excess, past)
		}
	}
	if _, rest, _ := th.add(now.Add(900*time.Millisecond), 1); rest != 100*time.Millisecond {
		t.Errorf("the second lasts %v", rest)
	}
	if excess, _, past := th.add(now.Add(time.Second), 1); excess != 0 || past != 3 {
		t.Errorf("the next second: excess %d, past %d", excess, past)
	}
	if excess, _, past := th.add(now, 1); excess != 0 || past != 0 { // a clock that went back
		t.Errorf("an earlier second: excess %d, past %d", excess, past)
	}
}

func TestMemory(t *testing.T) {
	m, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	a, _ := m.offer([]byte("a"))
	m.enforce(a)
	b, _ := m.offer([]byte("bb"))
	c, _ := m.offer([]byte("ccc"))
	if _, err := m.offer([]byte("d")); err != errBusy || a == b || b == c || a == c {
		t.Errorf("slots %d, %d, %d, then %v", a, b, c, err)
	}
	if m.release(b) == nil || m.release(a) == nil || m.release(9) == nil {
		t.Error("a slot was released that is not retiring")
	}
	m.enforce(b)
	if err := m.release(a); err != nil {
		t.Error(err)
	}
	m.withdraw(c)
	if again, err := m.offer([]byte("dddd")); err != nil || again != a {
		t.Errorf("slot %d, %v", again, err)
	}
	for slot, written := range map[uint8]string{a: "dddd", b: "bb", c: "ccc"} {
		if m.sum(slot) != program.Sum([]byte(written)) {
			t.Errorf("slot %d: the sum is not that of %q", slot, written)
		}
	}

	// Nobody else can write, grow, shorten or unseal it.
	fd := int(m.file.Fd())
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err == nil {
		t.Error("written")
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("mapped writable")
	}
	if unix.Ftruncate(fd, 0) == nil || unix.Ftruncate(fd, 1<<30) == nil {
		t.Error("resized")
	}
	if unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096) == nil {
		t.Error("a hole was punched")
	}
	seen, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil || !strings.HasPrefix(string(seen), "dddd\x00") {
		t.Errorf("what an image sees is %q (%v)", seen[:8], err)
	}
	unix.Munmap(seen)
}

// What lies in a machine's memory can be altered there, which is noticed wherever a
// program is, and nowhere else.
func TestAlteredProgramsAreNoticed(t *testing.T) {
	data := make([]byte, windowSize)
	m := memoryIn(data)
	first, _ := m.offer([]byte("first"))
	m.enforce(first)
	second, _ := m.offer([]byte("another"))
	m.enforce(second) // the first retires
	third, _ := m.offer([]byte("a third"))
	for _, c := range []struct {
		slot uint8
		at   int
		want bool
	}{{first, 0, true}, {first, 4, true}, {first, 5, false}, {second, 6, true}, {third, 3, true}, {third, program.MaxSize - 1, false}} {
		b := &data[int(c.slot)*program.MaxSize+c.at]
		*b ^= 1
		if err := m.intact(); (err != nil) != c.want {
			t.Errorf("byte %d of slot %d is altered: %v", c.at, c.slot, err)
		}
		*b ^= 1
		if err := m.intact(); err != nil {
			t.Error(err)
		}
	}
	data[int(first)*program.MaxSize] = 0
	if err := m.release(first); err != nil {
		t.Fatal(err)
	}
	if err := m.intact(); err != nil {
		t.Errorf("a slot that holds no program any more: %v", err)
	}
	m.forget()
	if _, err := m.offer([]byte("x")); err != errNoMemory {
		t.Errorf("offered to a machine that has ended: %v", err)
	}
	if err := m.intact(); err != nil {
		t.Error(err)
	}
}

func TestForeignFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	link := dir + "/link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, dir + "/none"} {
		if err := ownFolder(p); err == nil {
			t.Errorf("%s was taken", p)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if err := ownFolder(dir); err == nil {
			t.Error("the folder of somebody else was taken")
		}
	}
}
