package tender

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/control"
)

// What an image counts is what is shown, each number at its place, and what it says of
// its rules is fit to be shown. An image that sees no packets has no numbers of them.
func TestStatsAreWhatTheImageCounts(t *testing.T) {
	var in control.Stats
	n := uint64(0)
	fill(reflect.ValueOf(&in).Elem(), &n)
	in.Packets.Rules = []control.RuleCount{{ID: "a\x1b[2J", Packets: 14}}
	in.Addresses = []string{"192.0.2.10/24", "a\x1b[2J", "2001:db8::1/64"}
	in.Sinks = []control.Sink{{Name: "sys\x1blog", Connected: true, Waiting: 14, Delivered: 15, Repeated: 16, Lost: 17, Trouble: "a\x1b[2J"}}
	want := Stats{1, 2, 3, 4, 5, 6, 7, Packets{8, 9, 10, 11, 12, 13, []RuleCount{{`a\x1b[2J`, 14}}}, []string{"192.0.2.10/24", "2001:db8::1/64"},
		[]Sink{{`sys\x1blog`, true, 14, 15, 16, 17, `a\x1b[2J`}}}
	if got := statsOf(in); n != 13 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, expected %+v", got, want)
	}
	b, err := json.Marshal(statsOf(control.Stats{Requests: 1}))
	if err != nil || strings.Contains(string(b), "packets") {
		t.Errorf("%s, %v", b, err)
	}
}

// fill numbers the numbers of v, in order.
func fill(v reflect.Value, n *uint64) {
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.Struct:
			fill(f, n)
		case f.CanUint():
			*n++
			f.SetUint(*n)
		}
	}
}
