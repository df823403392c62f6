package main

import (
	"strings"
	"testing"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/tender"
)

// Which network an instance has, and what was counted of packets, is shown where there
// is a stack that sees them.
func TestInspectShowsPackets(t *testing.T) {
	shown := func(s *tender.Status) string {
		var b strings.Builder
		printInspected(&b, &inspected{Instance: s, Image: &builder.Image{}})
		return strings.Join(strings.Fields(b.String()), " ")
	}
	with := shown(&tender.Status{Way: "routed", Stats: tender.Stats{Packets: tender.Packets{In: 21, Out: 22, Denied: 23, Malformed: 24, Flows: 25, FlowsDropped: 26,
		Rules: []tender.RuleCount{{Rule: "web-in", Packets: 27}, {Rule: "default:\x1b[2J", Packets: 28}}}}})
	for _, want := range []string{"network direct (routed)", "21 in, 22 out; 23 denied, 24 malformed; 25 flows, 26 forgotten",
		"27 by web-in", `28 by default:\x1b[2J`} {
		if !strings.Contains(with, want) {
			t.Errorf("it does not say %q: %s", want, with)
		}
	}
	without := shown(&tender.Status{})
	if !strings.Contains(without, "network socket") || strings.Contains(without, "packets") {
		t.Errorf("without a stack: %s", without)
	}
	if strings.Contains(without, "last error") {
		t.Errorf("it says that there is nothing to say: %s", without)
	}
	machine := tender.Status{Target: "microvm", Accel: "tcg"}
	if vm := shown(&machine); !strings.Contains(vm, "target microvm (TCG)") {
		t.Errorf("of a microVM: %s", vm)
	}
}

// What comes with Go is not told to come from outside of its library.
func TestInspectKnowsTheStandardLibrary(t *testing.T) {
	var b strings.Builder
	printInspected(&b, &inspected{Image: &builder.Image{Packages: []string{"crypto/internal/entropy/v1.0.0", "vendor/golang.org/x/net/idna", "net/http", "lorica.dev/lorica/pep"}}})
	if _, linked, _ := strings.Cut(b.String(), "linked from outside the standard library:"); strings.TrimSpace(linked) != "lorica.dev/lorica/pep" || !strings.Contains(b.String(), "4 linked, 1 of them outside") {
		t.Errorf("it says %s", b.String())
	}
}
