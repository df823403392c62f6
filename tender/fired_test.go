package tender

import (
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
)

// A request that a program of before judged may fire after another has taken its place.
func TestAFiringOfTheProgramBefore(t *testing.T) {
	guessed := obligation.Trigger{Rule: abi.Rule{ID: "guessed", Line: "p.yaml:9"}, To: "elevated", Hold: time.Minute}
	now := program.Digest{1}
	for name, c := range map[string]struct {
		fired         control.Fired
		raised, wrong bool
	}{
		"of the program in force":                     {control.Fired{Program: now, Trigger: "guessed"}, true, false},
		"of one before":                               {control.Fired{Program: program.Digest{2}, Trigger: "guessed"}, true, false},
		"of one before, by a trigger that is gone":    {control.Fired{Program: program.Digest{2}, Trigger: "gone"}, false, false},
		"of a trigger that the program does not have": {control.Fired{Program: now, Trigger: "gone"}, false, true},
	} {
		x := &tender{fires: throttle{limit: 8}, stir: make(chan struct{}, 1),
			levels: []*levelled{{name: "normal", reading: reading{sum: now}, fires: []obligation.Trigger{guessed}}}}
		x.status.Level = "normal"
		err := x.fired(c.fired)
		if (err != nil) != c.wrong || (len(x.stance.Raised) == 1) != c.raised {
			t.Errorf("%s: %v, %+v", name, err, x.stance.Raised)
		}
	}
}
