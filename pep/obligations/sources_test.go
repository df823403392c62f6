package obligations

import (
	"net/netip"
	"testing"
	"time"
)

func TestTheOneThatEndsFirstMakesRoom(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := newSources()
	nth := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	for i := range maxSources {
		// The seventh ends first.
		end := time.Hour + time.Duration(i)*time.Second
		if i == 7 {
			end = time.Minute
		}
		if !s.add(nth(i), now, now.Add(end), true) {
			t.Fatalf("source %d has no place", i)
		}
	}
	s.add(nth(maxSources), now, now.Add(time.Hour), true)
	if len(s.held) != maxSources || s.blocked(nth(7), now) || !s.blocked(nth(8), now) || !s.blocked(nth(maxSources), now) {
		t.Errorf("%d places; the wrong one was given up", len(s.held))
	}
	// What has passed goes before anything that has not.
	late := now.Add(time.Hour + 100*time.Second)
	s.add(nth(maxSources+1), late, late.Add(time.Second), true)
	if len(s.held) > maxSources-90 || !s.blocked(nth(101), late) || !s.blocked(nth(maxSources+1), late) {
		t.Errorf("%d places are taken", len(s.held))
	}
	// In a full set the newest can be the one that ends first, for the next to take.
	for i := range 2 * maxSources {
		s.add(nth(20_000+i), late, late.Add(time.Minute), true)
	}
	if len(s.held) != maxSources || !s.blocked(nth(maxSources-1), late) {
		t.Errorf("%d places: short blocks pushed out a long one", len(s.held))
	}
}
