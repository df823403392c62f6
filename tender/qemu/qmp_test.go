package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\n"

// spoken is a monitor whose other end is script, which gets what is asked, line
// by line.
func spoken(t *testing.T, ctx context.Context, script func(ask func() string, say func(format string, args ...any))) (*monitor, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go func() {
		defer theirs.Close()
		in := bufio.NewReader(theirs)
		script(func() string { s, _ := in.ReadString('\n'); return s },
			func(format string, args ...any) { fmt.Fprintf(theirs, format, args...) })
	}()
	return newMonitor(ctx, ours)
}

func TestTheMonitorAnswers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var asked []string
	m, err := spoken(t, ctx, func(ask func() string, say func(string, ...any)) {
		say(greeting)
		asked = append(asked, ask())
		say(`{"timestamp": {"seconds": 1}, "event": "RESUME"}` + "\n")
		say(`{"return": {}, "id": 1}` + "\r\n")
		asked = append(asked, ask())
		say(`{"return": {"status": "running", "singlestep": false}, "id": 2}` + "\n")
		asked = append(asked, ask())
		say(`{"error": {"class": "GenericError", "desc": "no \u001b[2Jway"}, "id": 3}` + "\n")
		asked = append(asked, ask())
		say(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\n" + `{"return": {}, "id": 4}` + "\n")
	})
	if err != nil {
		t.Fatal(err)
	}
	var s struct{ Status string }
	if err := m.do(ctx, "query-status", &s); err != nil || s.Status != "running" {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := m.do(ctx, "stop", nil); err == nil || err.Error() != "qemu: stop: no ?[2Jway" {
		t.Errorf("got %v", err)
	}
	if err := m.do(ctx, "quit", nil); err != nil || m.reason() != "guest-reset" {
		t.Errorf("got %v, reason %q", err, m.reason())
	}
	want := []string{"qmp_capabilities", "query-status", "stop", "quit"}
	for i, w := range want {
		if line := fmt.Sprintf("{\"execute\":%q,\"id\":%d}\n", w, i+1); asked[i] != line {
			t.Errorf("asked %q, want %q", asked[i], line)
		}
	}
	if err := m.do(ctx, "stop", nil); err == nil {
		t.Error("an answer of nobody")
	}
}

func TestAMonitorThatIsNotBelieved(t *testing.T) {
	ready := func(ask func() string, say func(string, ...any)) {
		say(greeting)
		ask()
		say(`{"return": {}, "id": 1}` + "\n")
	}
	for name, c := range map[string]struct {
		script func(ask func() string, say func(string, ...any))
		want   string
	}{
		"that is silent":          {func(ask func() string, say func(string, ...any)) { ask() }, "no greeting: context"},
		"that is gone":            {func(ask func() string, say func(string, ...any)) {}, "EOF"},
		"that does not greet":     {func(_ func() string, say func(string, ...any)) { say(`{"event": "STOP"}` + "\n") }, "does not greet"},
		"that speaks otherwise":   {func(_ func() string, say func(string, ...any)) { say("220 mail\n") }, "no message"},
		"that greets half":        {func(_ func() string, say func(string, ...any)) { say(greeting[:20]) }, "unexpected EOF"},
		"that greets without end": {func(_ func() string, say func(string, ...any)) { say(strings.Repeat(" ", 2*maxLine)) }, "more than 65536 bytes"},
		"that falls silent":       {func(ask func() string, say func(string, ...any)) { ready(ask, say); ask(); ask() }, "no answer to query-status: context"},
		"that ends":               {func(ask func() string, say func(string, ...any)) { ready(ask, say); ask() }, "EOF"},
		"that answers something": {func(ask func() string, say func(string, ...any)) {
			ready(ask, say)
			ask()
			say(`{"return": {}, "id": 7}` + "\n")
			ask()
		}, "nobody asked"},
		"that greets again": {func(ask func() string, say func(string, ...any)) { ready(ask, say); ask(); say(greeting); ask() }, "nobody asked"},
		"that answers with a list": {func(ask func() string, say func(string, ...any)) {
			ready(ask, say)
			ask()
			say(`{"return": [], "id": 2}` + "\n")
			ask()
		}, "cannot unmarshal"},
		"whose line has no end": {func(ask func() string, say func(string, ...any)) {
			ready(ask, say)
			ask()
			say(`{"return": {"status": "%s`, strings.Repeat("x", 2*maxLine))
		}, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			m, err := spoken(t, ctx, c.script)
			var s struct{ Status string }
			if err == nil {
				err = m.do(ctx, "query-status", &s)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v; want %q", s, err, c.want)
			}
		})
	}
}

// Commands of several callers wait for each other, and each gets its own answer.
func TestCommandsAreOneAtATime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const callers = 20
	m, err := spoken(t, ctx, func(ask func() string, say func(string, ...any)) {
		say(greeting)
		ask()
		say(`{"return": {}, "id": 1}` + "\n")
		for i := 2; i < 2+callers; i++ {
			line := ask()
			_, command, _ := strings.Cut(line, `"execute":"`)
			command, _, _ = strings.Cut(command, `"`)
			say(`{"return": {"status": "%s"}, "id": %d}`+"\n", command, i)
		}
		ask()
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			var s struct{ Status string }
			command := fmt.Sprintf("command-%d", i)
			if err := m.do(ctx, command, &s); err != nil || s.Status != command {
				t.Errorf("%s: %+v, %v", command, s, err)
			}
		})
	}
	all.Wait()
	m.close()
	if err := m.do(ctx, "late", nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v", err)
	}
}

// A command without a deadline is not bound by that of one before.
func TestADeadlineIsThatOfItsCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		m, err := spoken(t, first, func(ask func() string, say func(string, ...any)) {
			say(greeting)
			for id := 1; ask() != ""; id++ {
				say(`{"return": {}, "id": %d}`+"\n", id)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		time.Sleep(2 * time.Second)
		if err := m.do(t.Context(), "query-status", nil); err != nil {
			t.Error(err)
		}
	})
}

// Whatever QEMU says without being asked, and however much, its tender takes it at a pace,
// and hears what it asked for.
func TestQEMUKeepsNobodyBusy(t *testing.T) {
	const times = 1000
	synctest.Test(t, func(t *testing.T) {
		m, err := spoken(t, t.Context(), func(ask func() string, say func(string, ...any)) {
			say(greeting)
			ask()
			say(`{"return": {}, "id": 1}` + "\n")
			ask()
			say(strings.Repeat(`{"event": "RTC_CHANGE"}`+"\n", times) + `{"return": {}, "id": 2}` + "\n")
			ask()
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		start := time.Now()
		if err := m.do(t.Context(), "query-status", nil); err != nil || time.Since(start) < times*unaskedPause {
			t.Errorf("%d events took %v: %v", times, time.Since(start), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		new(tail).readFrom(strings.NewReader(strings.Repeat("x", times*keptText)))
		if took := time.Since(start); took < times*unaskedPause {
			t.Errorf("%d bytes of standard error took %v", times*keptText, took)
		}
	})
}

func TestTextOfQEMU(t *testing.T) {
	var k tail
	k.readFrom(io.MultiReader(strings.NewReader(strings.Repeat("x", 3*keptText)+"\n"), strings.NewReader(program+": warning: slow\nthe\x00 end\xff\r\n")))
	if got := k.errors(); !strings.HasSuffix(got, "x | the? end?") || len(got) > keptText || len(k.text) > keptText || strings.Contains(got, "slow") {
		t.Errorf("kept %d bytes: %q", len(got), got)
	}
	var none tail
	none.readFrom(strings.NewReader(program + ": warning: slow\n"))
	if got := none.errors(); got != "" {
		t.Errorf("a warning is %q", got)
	}
}

// Whatever QEMU says, a message is one of four things and bounded.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {"status": "running"}, "id": 2}` + "\r\n" + `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}, "id": 3}` + "\n{}\n"))
	f.Add([]byte(`{"return": {}, "QMP": {}, "id": 1}` + "\n"))
	f.Add([]byte(`{"return": null, "id": 1}` + "\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bufio.NewReaderSize(strings.NewReader(string(data)), 256)
		for range 1 + strings.Count(string(data), "\n") {
			m, err := readMessage(in)
			if err != nil {
				return
			}
			kinds := 0
			for _, is := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
				if is {
					kinds++
				}
			}
			if kinds != 1 || (m.ID != nil) != (m.Return != nil || m.Error != nil) || len(m.Greeting)+len(m.Return)+len(m.Event) > 256 {
				t.Fatalf("%+v out of %q", m, data)
			}
			for _, r := range printable(append(m.Return, m.Event...)) {
				if r < ' ' || r == 0x7f {
					t.Fatalf("%q is shown", r)
				}
			}
		}
		t.Fatalf("more messages than lines: %q", data)
	})
}
