package compiler

import (
	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// obliged reports whether the image of the i-th level has obligations or triggers.
func obliged(p *api.SecurityPolicy, i int) bool {
	return len(policy.Obligations(p, modules(p, i)))+len(p.Levels.Triggers) > 0
}

// obligationSection holds the obligations of the i-th level that are enforced, with the
// triggers, or those that are tried; there may be none.
func obligationSection(p *api.SecurityPolicy, i int, tried bool) *obligation.Section {
	s := &obligation.Section{}
	for _, o := range policy.Obligations(p, i) {
		if policy.Tries(p, o.DryRun) != tried {
			continue
		}
		on, _ := obligation.Parse(o.On) // one that is unknown counts nothing, which no image takes
		s.Obligations = append(s.Obligations, obligation.Obligation{Rule: abi.Rule{ID: o.Name, Line: o.Pos.Short()},
			On: on, Count: o.Count, Window: o.Window, Alert: o.Alert, Block: o.Block})
	}
	for _, t := range p.Levels.Triggers {
		if tried {
			break // triggers are not
		}
		on, _ := obligation.Parse(t.On)
		key, _ := obligation.ParseKey(t.Key)
		s.Triggers = append(s.Triggers, obligation.Trigger{Rule: abi.Rule{ID: t.Name, Line: t.Pos.Short()},
			On: on, Key: key, Count: t.Count, Window: t.Window, To: t.To, Hold: t.Hold})
	}
	if len(s.Obligations)+len(s.Triggers) > 0 {
		s.Limits = policy.SourceLimits(p, i)
	}
	return s
}
