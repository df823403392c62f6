package control

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
)

// messages is one of each kind, with its frame.
func messages() map[string]struct {
	frame Frame
	want  any
} {
	type m = struct {
		frame Frame
		want  any
	}
	prepare := Prepare{Txn: 1 << 40, Slot: 2, Length: 1 << 20, Secrets: []Secret{{"users", []byte("ann:x")}, {"empty", nil}}}
	records := Records{Seq: 9, Records: []audit.Record{
		{Time: 1, ID: "a", Verdict: abi.Allow, Stage: "authz", Rule: abi.Rule{ID: "r", Line: "p:1"}, Path: "/x", Revision: 3, Program: [32]byte{1}},
		{Time: -1, ID: "b", Reason: "no", Status: 403, Principal: "p", Source: "s", Method: "GET", Route: "r", Level: "normal"},
	}}
	all := map[string]m{
		"prepare":   {prepare.Frame(), prepare},
		"commit":    {Txn{7}.Frame(KindCommit), Txn{7}},
		"abort":     {Txn{7}.Frame(KindAbort), Txn{7}},
		"drain":     {Drain{time.Second, time.Minute}.Frame(), Drain{time.Second, time.Minute}},
		"query":     {Query(), nil},
		"clock":     {Clock{1 << 60}.Frame(), Clock{1 << 60}},
		"ack":       {Ack{8}.Frame(), Ack{8}},
		"hello":     {Hello{1, [32]byte{2}}.Frame(), Hello{1, [32]byte{2}}},
		"ready":     {Ready(), nil},
		"prepared":  {Prepared{7, "no"}.Frame(), Prepared{7, "no"}},
		"committed": {Committed{7, 1, 2, [32]byte{3}}.Frame(), Committed{7, 1, 2, [32]byte{3}}},
		"released":  {Released{1}.Frame(), Released{1}},
		"stats":     {counted.Frame(), counted},
		"log":       {Log{"line"}.Frame(), Log{"line"}},
		"records":   {records.Frame(), records},
		"drained":   {Drained(), nil},
		"fired":     {Fired{1 << 60, [32]byte{4}, "guessed"}.Frame(), Fired{1 << 60, [32]byte{4}, "guessed"}},
	}
	return all
}

func TestMessagesSurviveTheChannel(t *testing.T) {
	kinds := map[Kind]bool{}
	for name, m := range messages() {
		var b bytes.Buffer
		if err := WriteFrame(&b, m.frame); err != nil {
			t.Fatal(err)
		}
		f, err := ReadFrame(iotest.OneByteReader(&b), MaxFromTender)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := f.Decode()
		if err != nil || !reflect.DeepEqual(got, m.want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		kinds[f.Kind] = true
	}
	for k := KindPrepare; k <= KindFired; k++ {
		if (k <= KindClock || k >= KindHello) && !kinds[k] {
			t.Errorf("kind %d has no case", k)
		}
	}
}

func TestNoPrefixOfAMessageIsAMessage(t *testing.T) {
	for name, m := range messages() {
		for n := range m.frame.Payload {
			if got, err := (Frame{m.frame.Kind, m.frame.Payload[:n]}).Decode(); err == nil {
				t.Errorf("%s: %d bytes decode to %+v", name, n, got)
			}
		}
		if got, err := (Frame{m.frame.Kind, append(bytes.Clone(m.frame.Payload), 0)}).Decode(); err == nil {
			t.Errorf("%s: one byte too many decodes to %+v", name, got)
		}
	}
}

func TestFramesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		data  []byte
		limit int
		want  string
	}{
		"header cut":     {[]byte{1, 0, 0}, 10, "ended in its header"},
		"payload cut":    {[]byte{2, 0, 0, 0, 1, 0, 0, 0, 9}, 10, "ended in its payload"},
		"no payload":     {[]byte{2, 0, 0, 0, 1, 0, 0, 0}, 10, "ended in its payload"},
		"too long":       {[]byte{11, 0, 0, 0, 1, 0, 0, 0}, 10, "the limit is 10"},
		"giant":          {[]byte{255, 255, 255, 255, 1, 0, 0, 0}, MaxFromTender, "frame of 4294967295 bytes"},
		"reserved bytes": {[]byte{0, 0, 0, 0, 1, 0, 1, 0}, 10, "reserved"},
	} {
		_, err := ReadFrame(bytes.NewReader(c.data), c.limit)
		var fe *FrameError
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadFrame(bytes.NewReader(nil), 10); err != io.EOF {
		t.Errorf("between frames: %v", err)
	}
	for _, k := range []Kind{0, KindLaunch, KindClock + 1, KindHello - 1, KindFired + 1, 255} {
		if m, err := (Frame{Kind: k}).Decode(); err == nil {
			t.Errorf("kind %d decodes to %+v", k, m)
		}
	}
	if m, err := (Drain{Grace: -1}).Frame().Decode(); err == nil {
		t.Errorf("a negative duration decodes to %+v", m)
	}
}

// A length alone must not cost memory: a peer may promise much and send little.
func TestALengthCostsNothing(t *testing.T) {
	data := []byte{0, 0, 0x40, 0, 1, 0, 0, 0} // 4 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := ReadFrame(bytes.NewReader(data), MaxFromTender)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; err == nil || n > 200<<10 {
		t.Errorf("reading it allocates %d bytes, %v", n, err)
	}
}

func TestOneWriteForAFrame(t *testing.T) {
	n := 0
	w := writerFunc(func(b []byte) (int, error) { n++; return len(b), nil })
	if err := WriteFrame(w, Log{strings.Repeat("x", 4000)}.Frame()); err != nil || n != 1 {
		t.Errorf("%d writes, %v", n, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestFramesOfTheImageFit(t *testing.T) {
	long := strings.Repeat("ü", 1<<16)
	full := audit.Record{ID: long, Stage: long, Rule: abi.Rule{ID: long, Line: long}, Reason: long, Principal: long,
		Source: long, Method: long, Route: long, Path: long, Level: long, Groups: slices.Repeat([]string{"g"}, 1000),
		Facts: slices.Repeat([]audit.Fact{{Name: "name", Value: long}}, 100)}
	for name, f := range map[string]Frame{
		"log": Log{long}.Frame(), "prepared": Prepared{Err: long}.Frame(), "fired": Fired{Trigger: long}.Frame(), "record": Records{Records: []audit.Record{full}}.Frame(),
	} {
		if len(f.Payload) > audit.MaxRecord+16 {
			t.Errorf("%s: %d bytes", name, len(f.Payload))
		}
		if _, err := f.Decode(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Either side reads what the other sends; the image's side is hostile.
func FuzzFrame(f *testing.F) {
	for _, m := range messages() {
		var b bytes.Buffer
		WriteFrame(&b, m.frame)
		f.Add(b.Bytes())
	}
	f.Add([]byte{255, 255, 255, 255, 1, 0, 0, 0})
	f.Add([]byte{4, 0, 0, 0, byte(KindRecords), 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		for {
			frame, err := ReadFrame(in, MaxFromImage)
			if err != nil {
				return
			}
			m, err := frame.Decode()
			if err != nil {
				continue
			}
			again, ok := encode(frame.Kind, m)
			if !ok {
				t.Fatalf("kind %d decodes to %T", frame.Kind, m)
			}
			if !bytes.Equal(again.Payload, frame.Payload) && !cut(m) {
				t.Errorf("%+v has two encodings:\n%x\n%x", m, frame.Payload, again.Payload)
			}
		}
	})
}

// cut reports a message whose text its encoder shortens.
func cut(m any) bool {
	switch m := m.(type) {
	case Log:
		return len(m.Line) > audit.MaxRecord
	case Prepared:
		return len(m.Err) > audit.MaxRecord
	case Stats:
		return slices.ContainsFunc(m.Sinks, func(s Sink) bool { return len(s.Trouble) > audit.MaxField })
	}
	return false
}

func encode(k Kind, m any) (Frame, bool) {
	switch m := m.(type) {
	case nil:
		return Frame{Kind: k}, true
	case Txn:
		return m.Frame(k), true
	case interface{ Frame() Frame }:
		return m.Frame(), true
	}
	return Frame{}, false
}

var counted = Stats{1, 2, 3, 4, 5, 6, 7, Packets{8, 9, 10, 11, 12, 13, []RuleCount{{"a", 14}, {"b", 15}}}, []string{"192.0.2.10/24"}, []Sink{{"syslog", true, 16, 17, 18, 19, "late"}}}
