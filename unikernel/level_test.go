package unikernel

import (
	"strings"
	"testing"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
)

// levelled is a program of a level of a batch: the routes tell them apart.
func levelled(revision uint64, pattern string, levels ...string) *program.Program {
	p := testProgram(revision, testLimits())
	p.Levels = levels
	p.Sections[1].Data = (&route.Section{Limits: testLimits(), Routes: []route.Route{{Name: "any", Method: "*", Pattern: pattern}}}).Encode()
	return p
}

// The levels of one signed batch have one revision: an image takes another level of what
// is in force, and judges by it on connections that are open, whatever it remembers of
// them. It takes no other bytes under that revision, and no batch of before.
func TestALevelOfTheSameBatch(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	c := r.dial()
	ask := func(want int) {
		t.Helper()
		for range 3 { // the third is judged from memory
			c.Write([]byte(getApp))
			resp, _, err := answer(c)
			if err != nil || resp.StatusCode != want {
				t.Fatalf("got %+v, %v; want %d", resp, err, want)
			}
		}
	}
	normal, elevated := levelled(2, "/app/{rest...}", "normal"), levelled(2, "/other", "normal", "elevated")
	r.swap(1, 1, normal)
	r.next() // released
	ask(200)
	r.swap(2, 2, elevated)
	r.next()
	ask(404)
	for name, p := range map[string]*program.Program{
		"the same again":                   elevated,
		"the same level with other routes": levelled(2, "/app/{rest...}", "normal", "elevated"),
		"the level before, changed":        levelled(2, "/{rest...}", "normal"),
		"an older batch":                   levelled(1, "/app/{rest...}", "normal", "elevated", "lockdown"),
	} {
		r.send(control.Prepare{Txn: 9, Slot: 0, Length: r.put(0, p)}.Frame())
		if a, ok := r.next().(control.Prepared); !ok || !strings.Contains(a.Err, "revision") {
			t.Errorf("%s: answered %+v", name, a)
		}
	}
	ask(404)
	r.swap(3, 1, normal)
	r.next()
	ask(200)
}
