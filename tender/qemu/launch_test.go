package qemu

import (
	"testing"
)

func TestCodesOfGuests(t *testing.T) {
	b := newBench(t)
	for code, want := range map[uint32]string{
		0: "the image exited", 3: "exited with code 3", 63: "63 or more", 64: "fault of its kernel", 65: "out of memory", 66: "entropy", 67: "boot information",
	} {
		g := b.mustStart(t, exitWith(code), nil)
		g.ended(t)
		t.Log(g.Death(), want, g.Limits())
	}
}
