package attempt

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"lorica.dev/lorica/abi/flow"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func from(i uint32) Key {
	var a [16]byte
	a[0] = 0x20
	binary.BigEndian.PutUint32(a[4:], i)
	return Key{Source: flow.Flow{Src: netip.AddrFrom16(a)}.Source()}
}

func TestFailuresAreBoundedAndKeepTheWorst(t *testing.T) {
	f := NewFailures()
	l := Limit{Attempts: 5, Window: time.Minute}
	worst := from(0)
	for range 5 {
		f.Charge(worst, l, begin)
	}
	for i := range uint32(3 * maxAttempts) {
		if wait := f.Charge(from(i+1), l, begin); wait != 0 {
			t.Fatalf("source %d, which never failed, waits %v", i+1, wait)
		}
		if len(f.until) > maxAttempts {
			t.Fatalf("%d entries", len(f.until))
		}
	}
	if f.Wait(worst, l, begin) == 0 {
		t.Error("many sources pushed out the one over its limit")
	}
}

func TestForgottenFailuresMakeRoomFirst(t *testing.T) {
	f := NewFailures()
	l := Limit{Attempts: 2, Window: time.Minute}
	for i := range uint32(maxAttempts) {
		f.Charge(from(i), l, begin)
	}
	later := begin.Add(time.Hour)
	for i := range uint32(100) {
		f.Charge(from(maxAttempts+i), l, later)
	}
	if len(f.until) > maxAttempts {
		t.Errorf("%d entries", len(f.until))
	}
	for i := range uint32(100) {
		if _, there := f.until[from(maxAttempts+i)]; !there {
			t.Errorf("source %d was pushed out while forgotten ones remain", i)
		}
	}
}

// Over any stretch of time a source fails at most its attempts and one more for
// each window/attempts that passed.
func TestTheRateHolds(t *testing.T) {
	for _, l := range []Limit{{1, time.Second}, {3, time.Minute}, {10, 7 * time.Second}} {
		f := NewFailures()
		passed := 0
		const steps = 1000
		for i := range steps {
			if f.Charge(from(1), l, begin.Add(time.Duration(i)*l.cost()/4)) == 0 {
				passed++
			}
		}
		if want := int(l.Attempts) + (steps-1)/4; passed != want {
			t.Errorf("%+v: %d of %d passed, want %d", l, passed, steps, want)
		}
	}
}

func TestRefund(t *testing.T) {
	f := NewFailures()
	l := Limit{Attempts: 2, Window: time.Minute}
	for range 100 {
		if f.Charge(from(1), l, begin) != 0 {
			t.Fatal("refunded attempts count")
		}
		f.Refund(from(1), l)
	}
	f.Refund(from(2), l)
	if _, there := f.until[from(2)]; there {
		t.Error("a refund made an entry")
	}
}
