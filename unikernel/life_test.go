package unikernel

import (
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/pep"
)

const getApp = "GET /app/x HTTP/1.1\r\nHost: a\r\n\r\n"

func TestAProgramThatOneModuleRefusesChangesNothing(t *testing.T) {
	r := newRig(t, testLimits(), text("ok"), &unwilling{}).run()
	before := r.life.server.current()
	r.send(control.Prepare{Txn: 1, Slot: 1, Length: r.put(1, testProgram(2, testLimits()))}.Frame())
	if a := r.next().(control.Prepared); !strings.Contains(a.Err, "unwilling") {
		t.Errorf("answered %+v", a)
	}
	if r.life.server.current() != before || r.life.used[1].Load() {
		t.Error("a refused program left something behind")
	}
	if resp, _ := r.ask(getApp); resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}
	eventually(t, "the refusal is logged", func() bool { return r.logged("unwilling") })
}

func TestASlotIsReleasedWhenItsLastRequestIsJudged(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	wait := guardFunc(func(x *pep.Exchange) pep.Decision {
		if x.Path == "/app/wait" {
			enter <- struct{}{}
			<-leave
		}
		return pep.Decision{Verdict: abi.Allow}
	})
	r := newRig(t, testLimits(), text("ok"), wait).run()
	c := r.dial()
	io.WriteString(c, strings.Replace(getApp, "/app/x", "/app/wait", 1))
	<-enter
	r.swap(1, 1, testProgram(2, testLimits()))
	r.ask(getApp)
	r.send(control.Prepare{Txn: 2, Slot: 0, Length: 100}.Frame())
	if a, ok := r.next().(control.Prepared); !ok || !strings.Contains(a.Err, "slot 0 is in use") {
		t.Fatalf("a slot that a request is under was given away: %+v", a)
	}
	close(leave)
	if m, ok := r.next().(control.Released); !ok || m.Slot != 0 {
		t.Fatalf("got %+v", m)
	}
	if _, body, err := answer(c); err != nil || body != "ok" {
		t.Errorf("got %q, %v", body, err)
	}
	// The new one was judged first; the other kept the generation it began under.
	if k := r.kept(t, 2); k[0].Revision != 2 || k[1].Revision != 1 {
		t.Errorf("judged under revisions %d and %d", k[0].Revision, k[1].Revision)
	}
}

func TestAHangingApplicationDoesNotHoldUpAChangeOfPolicy(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	r := newRig(t, testLimits(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(enter)
		<-leave
	})).run()
	defer close(leave)
	io.WriteString(r.dial(), getApp)
	<-enter
	r.swap(1, 1, testProgram(2, testLimits()))
	if m, ok := r.next().(control.Released); !ok || m.Slot != 0 {
		t.Fatalf("got %+v", m)
	}
}

func TestEvidencePrecedesTheAnswer(t *testing.T) {
	called := make(chan struct{}, 1)
	r := newRig(t, testLimits(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called <- struct{}{} })).run()
	r.setDeaf(true)
	// net.Pipe has no buffer: one frame is swallowed by the deaf reader, the next
	// write stays.
	r.send(control.Query())
	c := r.dial()
	io.WriteString(c, getApp)
	select {
	case <-called:
		t.Fatal("the application was called before the record was written")
	case <-time.After(100 * time.Millisecond):
	}
	r.setDeaf(false)
	<-called
	if _, _, err := answer(c); err != nil {
		t.Error(err)
	}
	r.kept(t, 1)
}

func TestTheEndOfTheChannelIsTheEndOfTheImage(t *testing.T) {
	for name, f := range map[string]func(*rig){
		"closed":                 func(r *rig) { r.tender.Close() },
		"a frame of the image":   func(r *rig) { r.send(control.Ready()) },
		"an unknown frame":       func(r *rig) { r.send(control.Frame{Kind: 60}) },
		"a second launch":        func(r *rig) { r.send(control.Frame{Kind: control.KindLaunch}) },
		"a Commit of nothing":    func(r *rig) { r.send(control.Txn{Txn: 5}.Frame(control.KindCommit)) },
		"an Ack of nothing":      func(r *rig) { r.send(control.Ack{Seq: 1}.Frame()) },
		"half a Prepare":         func(r *rig) { r.send(control.Frame{Kind: control.KindPrepare, Payload: []byte{1}}) },
		"more bytes than it may": func(r *rig) { r.tender.Write([]byte{0, 0, 0, 0x7f, 2, 0, 0, 0}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testLimits(), text("ok")).run()
			f(r)
			select {
			case err := <-r.done:
				if err == nil {
					t.Error("it ends as if drained")
				}
			case <-time.After(time.Minute):
				t.Error("it goes on")
			}
		})
	}
}

func TestAbortOfNothingIsHarmless(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	r.send(control.Txn{Txn: 5}.Frame(control.KindAbort))
	r.swap(6, 1, testProgram(2, testLimits()))
}

func TestDrainEndsWithEverythingWritten(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	r.ask(getApp)
	r.send(control.Drain{Limit: time.Second}.Frame())
	for {
		if f := r.next(); f == control.KindDrained {
			break
		}
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	r.kept(t, 1)
}

// A tender is trusted, but what it sends is decoded by code that must hold.
func FuzzTender(f *testing.F) {
	seed := func(frames ...control.Frame) {
		var b strings.Builder
		for _, x := range frames {
			control.WriteFrame(&b, x)
		}
		f.Add([]byte(b.String()))
	}
	r := newRig(f, testLimits(), text("ok"))
	n := r.put(1, testProgram(2, testLimits()))
	secret := []control.Secret{{Name: "users", Value: []byte("x")}}
	seed(control.Query(), control.Ack{}.Frame())
	seed(control.Prepare{Txn: 1, Slot: 1, Length: n, Secrets: secret}.Frame(), control.Txn{Txn: 1}.Frame(control.KindCommit))
	seed(control.Prepare{Txn: 1, Slot: 2, Length: n}.Frame(), control.Txn{Txn: 1}.Frame(control.KindAbort))
	seed(control.Prepare{Txn: 1, Slot: 0, Length: testSlot + 1}.Frame())
	f.Add([]byte{1, 0, 0, 0, 3, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newRig(t, testLimits(), text("ok"))
		r.put(1, testProgram(2, testLimits()))
		go io.Copy(io.Discard, r.tender)
		go r.life.out.run()
		defer r.life.out.close(errClosed)
		r.life.channel = strings.NewReader(string(data))
		commands := make(chan any, 1<<16)
		go func() {
			if err := r.life.read(commands); err == nil {
				t.Error("the channel ended without an error")
			}
			close(commands)
		}()
		for m := range commands {
			if _, drain := m.(control.Drain); drain {
				continue // its goroutine would outlive the input
			}
			if r.life.obey(m) != nil {
				break
			}
		}
		for range commands {
		}
		if g := r.life.server.current(); g.revision == 2 != (g.slot == 1) || !r.life.used[g.slot].Load() {
			t.Errorf("revision %d from slot %d is in force", g.revision, g.slot)
		}
	})
}

func FuzzProgram(f *testing.F) {
	r := newRig(f, testLimits(), text("ok"))
	signed, err := program.Sign(testProgram(2, testLimits()), r.key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed, false)
	f.Add(signed[:len(signed)-64], true)
	f.Add([]byte("LORICAP1"), true)
	f.Fuzz(func(t *testing.T, body []byte, sign bool) {
		o := r.life.opener
		if sign { // malformed, but from the trust root
			p, err := program.Decode(body)
			if err != nil {
				return
			}
			if body, err = program.Sign(p, r.key); err != nil {
				return
			}
		}
		if len(body) > testSlot {
			return
		}
		o.mem.bytes = make([]byte, 3*testSlot)
		copy(o.mem.bytes, body)
		g, err := o.open(control.Prepare{Length: uint32(len(body))}, from(2))
		if err == nil && (g.audit == nil || len(g.gates) != 1 || len(g.guards) != 1 || g.revision < 2) {
			t.Errorf("took %+v", g)
		}
	})
}

func TestRevisionsDoNotWrapAround(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	r.swap(1, 1, testProgram(math.MaxUint64, testLimits()))
	if m, ok := r.next().(control.Released); !ok || m.Slot != 0 {
		t.Fatalf("got %+v", m)
	}
	r.send(control.Prepare{Txn: 2, Slot: 2, Length: r.put(2, testProgram(1, testLimits()))}.Frame())
	if a := r.next().(control.Prepared); !strings.Contains(a.Err, "is not above 18446744073709551615") {
		t.Errorf("answered %+v", a)
	}
}

func TestCommandsThatPileUpAreTheEnd(t *testing.T) {
	commands := make(chan any, 1)
	if err := hand(commands, 1); err != nil {
		t.Fatal(err)
	}
	if err := hand(commands, 2); err == nil {
		t.Error("the reader would wait")
	}
}
