// Package learn reads recorded decisions and proposes the least policy that would have
// allowed them: rules that are narrowed to what was seen, and generalised where that is
// told.
//
// It learns from observed behaviour, generalises and composes, after Hurel et al.,
// behavioral and dynamic security functions chaining for Android devices, CNSM 2015.
package learn

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
)

// Defaults of Options.
const (
	DefaultUsers    = 20
	DefaultValues   = 8
	DefaultPrefixes = 4
)

// Bounds of what is kept of a log: what was seen twice is kept once.
const (
	maxSeen  = 50_000   // different calls, and different connections
	maxBytes = 64 << 20 // of their texts
)

// Options say what is learnt from, and how far it is generalised.
type Options struct {
	Exact  bool // generalise nothing
	Fresh  bool // keep no rule of the present policy, not even those that only deny
	Denied bool // learn from what the default denied, too

	Users    int // users that a rule names, at most; 0: never by name, but anybody
	Values   int // texts that a condition lists, at most
	Prefixes int // of either family, for the sources of a rule or the addresses of a condition

	Since, Until time.Time // zero: no bound
	Steps        int64     // of the comparison with the present policy
}

// An Example is a record: its decision id, and what it is about in words.
type Example struct {
	ID   string `json:"id"`
	What string `json:"what"`
}

// Left is records that nothing is learnt from.
type Left struct {
	Why     string  `json:"why"`
	Count   int     `json:"count"`
	Example Example `json:"example"`
}

// Counts say what became of the records.
type Counts struct {
	Records  int    `json:"records"`
	Learnt   int    `json:"learnt"`  // every one is allowed by the proposal
	Denied   int    `json:"denied"`  // denied then, and left out
	Outside  int    `json:"outside"` // before or after what was asked for
	Foreign  int    `json:"foreign"` // of instances of other workloads
	First    string `json:"firstForeign,omitempty"`
	Damaged  int    `json:"damaged"` // lines that are no records
	LeftOut  []Left `json:"leftOut"`
	FromThen int    `json:"otherPrograms"` // programs that decided, beyond the first
}

// seen is how often something was, and one time that it was.
type seen struct {
	count int
	Example
}

// A call is a question to authorization that was asked, at a level where levels matter.
type call struct {
	policy.Call
	parents []*policy.CedarRule // the present permits, one for each level that differs; nil: none permits
	seen
}

// A packet is a connection that was asked for.
type packet struct {
	api.Packet
	level   string
	parents []int // the present rules that allow it at the levels up to its own; -1: none does
	seen
}

// A Learner takes in records of one deployment.
type Learner struct {
	Counts
	doc      *policy.Deployment // as it is written
	d        *policy.Deployment // what of it is enforced, or would be if it were not tried as a whole
	o        Options
	ref      *policy.Reference
	replayer *record.Replayer
	calls    map[string]*call
	packets  map[string]*packet
	programs map[string]bool
	routes   map[string]int // records by route
	bytes    int
	blind    *Example // a record that does not say where it came from, with a policy that did not ask
}

// New returns a Learner for a deployment, which it changes nothing of.
func New(doc *policy.Deployment, o Options) *Learner {
	d := doc.Enforced()
	return &Learner{doc: doc, d: d, o: o, ref: d.Reference(), replayer: record.NewReplayer(d), calls: make(map[string]*call), packets: make(map[string]*packet),
		programs: make(map[string]bool), routes: make(map[string]int), Counts: Counts{LeftOut: []Left{}}}
}

// Add takes a record in. Its error says that there is too much of it.
func (l *Learner) Add(x record.Decision) error {
	l.Records++
	x = record.Judged(x)
	if record.Workload(&x) != l.d.Workload.Metadata.Name {
		if l.Foreign++; l.First == "" {
			l.First = x.Instance
		}
		return nil
	}
	if !l.o.Since.IsZero() && x.Time.Before(l.o.Since) || !l.o.Until.IsZero() && x.Time.After(l.o.Until) {
		l.Outside++
		return nil
	}
	if x.Decision != abi.Allow.String() {
		switch {
		case !l.o.Denied:
			l.Denied++
			return nil
		case x.Rule != abi.RuleNetwork && x.Rule != abi.RuleAuthz:
			l.leave(&x, "denied by "+x.Rule+", which is not that nothing matched")
			return nil
		}
	}
	k, guarded, err := record.Connection(l.d, x)
	if err == nil && !guarded {
		k, err = l.unguarded(&x)
	}
	if err != nil {
		l.leave(&x, err.Error())
		return nil
	}
	var p *packet
	if k.From.IsValid() {
		var why string
		if p, why = l.packet(k, x.Level); why != "" {
			l.leave(&x, why)
			return nil
		}
	}
	var c *call
	if x.Method != "" {
		a, err := l.replayer.Request(x)
		if err != nil {
			l.leave(&x, err.Error())
			return nil
		}
		var why string
		if c, why = l.call(&a); why != "" {
			l.leave(&x, why)
			return nil
		}
		l.routes[a.Route]++
	}
	return l.keep(&x, p, c)
}

// unguarded is a connection that the present policy does not judge.
func (l *Learner) unguarded(x *record.Decision) (api.Packet, error) {
	from, err := netip.ParseAddr(x.Source)
	if err != nil || slices.Contains(x.Partial, "source") || x.Protocol == "" || x.Port == 0 && x.Protocol != api.ICMP {
		if l.blind == nil {
			e := exampleOf(x)
			l.blind = &e
		}
		return api.Packet{}, nil
	}
	return api.Packet{From: from.Unmap(), Protocol: x.Protocol, Port: x.Port}, nil
}

// packet finds the rules that allow a connection. It says why none is to.
func (l *Learner) packet(k api.Packet, level string) (*packet, string) {
	p := &packet{Packet: k, level: level}
	p.From = p.From.WithZone("")
	if l.o.Fresh {
		p.parents = []int{-1}
		return p, ""
	}
	for _, at := range policy.LevelsTo(l.d.Policy, level) {
		dec := l.ref.Classify(at, k)
		i := -1
		if dec.Rule.ID != abi.RuleNetwork {
			i = slices.IndexFunc(l.d.Policy.Network.Ingress, func(r api.IngressRule) bool { return r.Name == dec.Rule.ID })
		}
		if dec.Verdict != abi.Allow && (i >= 0 || !l.o.Denied) {
			return nil, "the policy denies it: " + dec.Rule.ID
		}
		if !slices.Contains(p.parents, i) {
			p.parents = append(p.parents, i)
		}
		if dec.Verdict != abi.Allow {
			break // above, it is asked for what is below as well
		}
	}
	return p, ""
}

// call finds the permits of a request, nil where it asks for none.
func (l *Learner) call(a *policy.Answer) (*call, string) {
	if a.Call == nil {
		if a.Verdict != abi.Allow {
			return nil, "the policy denies it: " + a.Rule.ID
		}
		return nil, ""
	}
	about := l.ref.About(a.Call.Route)
	byRule := func(id string) *policy.CedarRule {
		i := slices.IndexFunc(about.Rules, func(r *policy.CedarRule) bool { return r.ID == id })
		if i < 0 {
			return nil
		}
		return about.Rules[i]
	}
	c := &call{Call: *a.Call}
	levels := policy.LevelsTo(l.d.Policy, c.Level)
	if !about.ReadsLevel {
		levels, c.Level = levels[len(levels)-1:], ""
	}
	if l.o.Fresh {
		rule := byRule(a.Rule.ID)
		if a.Verdict != abi.Allow && a.Rule.ID != abi.RuleAuthz && (rule == nil || !rule.Forbids()) {
			return nil, "the policy denies it: " + a.Rule.ID
		}
		c.parents = []*policy.CedarRule{nil}
		return c, ""
	}
	for _, at := range levels {
		q := c.Call
		q.Level = at
		dec := l.ref.Authorize(q)
		if dec.Verdict != abi.Allow && (dec.Rule.ID != abi.RuleAuthz || !l.o.Denied) {
			return nil, "the policy denies it: " + dec.Rule.ID
		}
		var parent *policy.CedarRule
		if dec.Verdict == abi.Allow {
			parent = byRule(dec.Rule.ID)
		}
		if !slices.Contains(c.parents, parent) {
			c.parents = append(c.parents, parent)
		}
	}
	return c, ""
}

// keep notes what was seen.
func (l *Learner) keep(x *record.Decision, p *packet, c *call) error {
	l.Learnt++
	if !l.programs[x.Program] && len(l.programs) < maxSeen {
		l.programs[x.Program] = true
		l.FromThen = len(l.programs) - 1
	}
	if p != nil {
		key := fmt.Sprint(p.From, " ", p.Protocol, " ", p.Port, " ", p.level)
		if old := l.packets[key]; old != nil {
			p = old
		} else {
			p.seen = seen{0, exampleOf(x)}
			l.packets[key] = p
			l.bytes += len(key) + len(p.What)
		}
		p.count++
	}
	if c != nil {
		key := c.key()
		if old := l.calls[key]; old != nil {
			c = old
		} else {
			c.seen = seen{0, exampleOf(x)}
			l.calls[key] = c
			l.bytes += 2*len(key) + len(c.What)
		}
		c.count++
	}
	if len(l.calls) > maxSeen || len(l.packets) > maxSeen || l.bytes > maxBytes {
		return fmt.Errorf("the log has more than %d different calls, as many different connections, or %d MiB of what tells them apart: learn from less of it, with --since and --until", maxSeen, maxBytes>>20)
	}
	return nil
}

// key tells calls apart.
func (c *call) key() string {
	var b strings.Builder
	groups := slices.Clone(c.Groups)
	slices.Sort(groups)
	fmt.Fprintf(&b, "%q %q %q %q", c.Level, c.Route, c.Principal, groups)
	for _, name := range slices.Sorted(maps.Keys(c.Context)) {
		fmt.Fprintf(&b, " %q=%s", name, valueText(c.Context[name]))
	}
	return b.String()
}

func (l *Learner) leave(x *record.Decision, why string) {
	for i := range l.LeftOut {
		if l.LeftOut[i].Why == why {
			l.LeftOut[i].Count++
			return
		}
	}
	const others = "for other reasons"
	if len(l.LeftOut) >= 50 && why != others {
		l.leave(x, others)
		return
	}
	l.LeftOut = append(l.LeftOut, Left{why, 1, exampleOf(x)})
}

// exampleOf is a record in words that fit a comment.
func exampleOf(x *record.Decision) Example {
	return Example{clean(x.ID), clean(record.About(x))}
}

// clean makes text of strangers fit for one line of a comment.
func clean(s string) string {
	const most = 80
	var b strings.Builder
	for _, r := range s {
		if b.Len() > most {
			b.WriteString("...")
			break
		}
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// errNothing says that there is nothing to learn from.
var errNothing = errors.New("nothing to learn from: no record of an allowed request or connection of this deployment")
