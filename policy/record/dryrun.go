package record

import (
	"cmp"
	"slices"
	"time"
)

// A Trial says what would have been otherwise if what is tried were enforced.
type Trial struct {
	Decisions int       `json:"decisions"`
	Same      int       `json:"same"`      // would have been the same
	Otherwise int       `json:"otherwise"` // would not
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
	Rules     []*Tried  `json:"rules"` // most often first

	rules map[triedKey]*Tried
}

type triedKey struct{ decision, stage, rule, line string }

// A Tried is what one rule would have decided.
type Tried struct {
	Decision string    `json:"decision"` // it would have been
	Stage    string    `json:"stage"`
	Rule     string    `json:"rule"`
	Line     string    `json:"line,omitempty"`
	Count    int       `json:"count"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Who      []Counted `json:"who,omitempty"`    // principals, most often first
	From     []Counted `json:"from,omitempty"`   // sources
	Routes   []Counted `json:"routes,omitempty"` // connections have none
	Example  Decision  `json:"example"`          // the newest

	who, from, routes map[string]int
}

// A Counted is a name and how often it came.
type Counted struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// NewTrial returns one of no decisions.
func NewTrial() *Trial { return &Trial{Rules: []*Tried{}, rules: make(map[triedKey]*Tried)} }

// Add takes a decision into account.
func (t *Trial) Add(d Decision) {
	t.Decisions++
	t.First, t.Last = span(t.First, t.Last, d.Time)
	w := d.DryRun
	if w == nil {
		t.Same++
		return
	}
	t.Otherwise++
	k := triedKey{w.Decision, w.Stage, w.Rule, w.Line}
	x := t.rules[k]
	if x == nil {
		x = &Tried{Decision: w.Decision, Stage: w.Stage, Rule: w.Rule, Line: w.Line, who: map[string]int{}, from: map[string]int{}, routes: map[string]int{}}
		t.rules[k] = x
		t.Rules = append(t.Rules, x)
	}
	x.Count++
	x.First, x.Last = span(x.First, x.Last, d.Time)
	if x.Last.Equal(d.Time) {
		x.Example = d
	}
	for _, c := range []struct {
		in   map[string]int
		name string
	}{{x.who, d.Principal}, {x.from, d.Source}, {x.routes, d.Route}} {
		if c.name != "" {
			c.in[c.name]++
		}
	}
}

// span is a span of time with one more moment.
func span(first, last, at time.Time) (time.Time, time.Time) {
	if first.IsZero() || at.Before(first) {
		first = at
	}
	if at.After(last) {
		last = at
	}
	return first, last
}

// End puts what was added in order.
func (t *Trial) End() {
	for _, x := range t.Rules {
		x.Who, x.From, x.Routes = counted(x.who), counted(x.from), counted(x.routes)
	}
	slices.SortStableFunc(t.Rules, func(a, b *Tried) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Decision, b.Decision))
	})
}

func counted(in map[string]int) (list []Counted) {
	for name, n := range in {
		list = append(list, Counted{name, n})
	}
	slices.SortFunc(list, func(a, b Counted) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name)) })
	return list
}
