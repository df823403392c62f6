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
	if without := shown(&tender.Status{}); !strings.Contains(without, "network socket") || strings.Contains(without, "packets") {
		t.Errorf("without a stack: %s", without)
	}
}
