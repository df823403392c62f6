package diff

import (
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
)

// A Replay is what both policies decide about what was recorded.
type Replay struct {
	Records   int        `json:"records"`
	Unchanged int        `json:"unchanged"`
	Allowed   []Replayed `json:"newlyAllowed"`
	Denied    []Replayed `json:"newlyDenied"`
	Not       []Excluded `json:"notReplayed"`
}

// A Replayed is records that one rule allowed and another denies, or the reverse.
type Replayed struct {
	Old     Side    `json:"old"`
	New     Side    `json:"new"`
	Count   int     `json:"count"`
	Example Example `json:"example"`
}

// An Example is a record: its decision id, and what it is about in words.
type Example struct {
	ID   string `json:"id"`
	What string `json:"what"`
}

// An Excluded is records that could not be replayed.
type Excluded struct {
	Why     string  `json:"why"`
	Count   int     `json:"count"`
	Example Example `json:"example"`
}

// A Replayer asks the policies of a report about records.
type Replayer struct {
	report *Report
	sides  [][2]*record.Replayer

	// Foreign counts records of instances of other workloads, and First is the first of those.
	Foreign int    `json:"foreign"`
	First   string `json:"firstForeign,omitempty"`
	// Damaged counts lines that were passed over.
	Damaged int `json:"damaged"`
}

// NewReplayer begins to replay for a report of the two bundles.
func NewReplayer(r *Report, before, after *policy.Bundle) *Replayer {
	p := &Replayer{report: r}
	find := func(b *policy.Bundle, name string) *record.Replayer {
		return record.NewReplayer(b.Deployments[slices.IndexFunc(b.Deployments, func(d *policy.Deployment) bool { return d.Name() == name })])
	}
	for _, d := range r.Deployments {
		d.Replay = &Replay{Allowed: []Replayed{}, Denied: []Replayed{}, Not: []Excluded{}}
		p.sides = append(p.sides, [2]*record.Replayer{find(before, d.Name), find(after, d.Name)})
	}
	r.Replayer = p
	return p
}

// Add replays one record.
func (p *Replayer) Add(x record.Decision) {
	workload := record.Workload(&x)
	var of []int
	for i := range p.report.Deployments {
		if _, name, _ := strings.Cut(p.report.Deployments[i].Name, "/"); name == workload {
			of = append(of, i)
		}
	}
	switch len(of) {
	case 0:
		if p.Foreign++; p.First == "" {
			p.First = x.Instance
		}
	case 1:
		p.report.Deployments[of[0]].Replay.add(p.sides[of[0]], &x)
	default:
		r := p.report.Deployments[of[0]].Replay
		r.Records++
		r.exclude("several tenants have a workload "+workload+": say which one with --workload", &x)
	}
}

func (r *Replay) add(sides [2]*record.Replayer, x *record.Decision) {
	r.Records++
	var decs [2]policy.Decision
	for s, p := range sides {
		dec, err := p.Replay(*x)
		if err != nil {
			r.exclude(err.Error(), x)
			return
		}
		decs[s] = dec
	}
	if decs[0].Verdict == decs[1].Verdict {
		r.Unchanged++
		return
	}
	was, is := side(decs[0].Verdict, decs[0].Rule), side(decs[1].Verdict, decs[1].Rule)
	list := &r.Denied
	if decs[1].Verdict == abi.Allow {
		list = &r.Allowed
	}
	for i := range *list {
		if o := &(*list)[i]; o.Old == was && o.New == is {
			o.Count++
			return
		}
	}
	*list = append(*list, Replayed{was, is, 1, Example{x.ID, record.About(x)}})
}

func (r *Replay) exclude(why string, x *record.Decision) {
	for i := range r.Not {
		if r.Not[i].Why == why {
			r.Not[i].Count++
			return
		}
	}
	r.Not = append(r.Not, Excluded{why, 1, Example{x.ID, record.About(x)}})
}
