package learn

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/diff"
)

// A Proposal is the least policy that allows what was learnt from, checked: it loads, and
// the reference evaluator allows by it every connection and every call that was seen.
type Proposal struct {
	Deployment string `json:"deployment"`
	Counts
	Sections    []Section        `json:"sections"`
	Generalised []Generalised    `json:"generalised"`
	Unused      []string         `json:"unusedRoutes"` // routes that no record is about: they could go
	Tests       []Failing        `json:"failingTests"` // of the present policy: taken out of the document
	Notes       []string         `json:"notes,omitempty"`
	Against     *diff.Deployment `json:"against"` // the present policy: what is taken away, and what is newly allowed

	// Document is the file of the policy with these sections. Straight says that it is as
	// it was elsewhere, comments included.
	Document []byte `json:"-"`
	Straight bool   `json:"straight"`
}

// A Section is a part of the spec of the policy.
type Section struct {
	Name string `json:"name"` // "network.ingress"
	Text string `json:"text"` // with its key
}

// A Failing test is one that no longer holds.
type Failing struct {
	Name    string `json:"name"`
	Line    string `json:"line"`
	Problem string `json:"problem"`
}

// A Source is the documents that the deployment was read from.
type Source struct {
	Files  []policy.File
	Folder bool
}

// proposing is a proposal on its way.
type proposing struct {
	*Learner
	*Proposal
	src     Source
	at      int // the file of the policy
	ingress []*ingress
	permits []*permit
	without map[any]bool // rules that others make superfluous
}

// Propose makes a proposal of all that was added, and checks it.
func (l *Learner) Propose(ctx context.Context, src Source) (*Proposal, error) {
	if l.Learnt == 0 {
		return nil, errNothing
	}
	p := &proposing{Learner: l, src: src, Proposal: &Proposal{Deployment: l.d.Name(), Counts: l.Counts, Generalised: []Generalised{}, Unused: []string{}, Tests: []Failing{}}}
	file := l.d.Policy.Metadata.Pos.File
	if p.at = slices.IndexFunc(src.Files, func(f policy.File) bool { return f.Name == filepath.Base(file) }); p.at < 0 {
		return nil, fmt.Errorf("the policy is in %s, which was not read", file)
	}
	var err error
	switch {
	case l.blind != nil && l.d.Policy.Network == nil:
		p.Notes = append(p.Notes, "no network rules: the policy has none, and decision "+l.blind.ID+" does not say from where it was asked")
	case len(l.packets) > 0:
		p.ingress = l.network()
	}
	if l.d.Authorization == nil {
		p.Notes = append(p.Notes, "no Cedar policies: the policy has no authorization section, so that records do not say what requests were judged by")
	} else if len(l.calls) == 0 {
		p.Notes = append(p.Notes, "no Cedar policies: no record is about a request that was authorized")
	} else if p.permits, err = l.permits(); err != nil {
		return nil, err
	}
	for {
		forgot, err := p.attempt(ctx)
		if err != nil {
			return nil, err
		}
		if forgot {
			return l.Propose(ctx, src)
		}
		if !p.narrow() {
			break
		}
	}
	for _, r := range l.d.Policy.Routes {
		if l.routes[r.Name] == 0 {
			p.Unused = append(p.Unused, r.Name)
		}
	}
	return p.Proposal, nil
}

// attempt writes the rules, checks them, and compares; not where it has forgotten something.
func (p *proposing) attempt(ctx context.Context) (forgot bool, err error) {
	p.without = make(map[any]bool)
	d, err := p.load(all(p.d.Policy.Tests))
	if err != nil {
		return false, err
	}
	if forgot, err := p.verify(d); err != nil || forgot {
		return forgot, err
	}
	if p.spare(d); len(p.without) > 0 {
		if d, err = p.load(all(p.d.Policy.Tests)); err != nil {
			return false, err
		}
		if forgot, err := p.verify(d); err != nil || forgot {
			return false, defect("some rule was not superfluous: %v", err)
		}
	}
	p.Tests = []Failing{}
	var drop []api.Pos
	tested := *d.Policy
	tested.Tests = p.d.Policy.Tests
	for _, r := range (&policy.Deployment{Workload: d.Workload, Policy: &tested, Authorization: d.Authorization}).RunTests() {
		if r.Problem != "" {
			drop = append(drop, r.Test.Pos)
			p.Tests = append(p.Tests, Failing{r.Test.Name, r.Test.Pos.Short(), r.Problem})
		}
	}
	if d, err = p.load(drop); err != nil {
		return false, err
	}
	p.Against, err = diff.Deployments(ctx, p.d, d.Enforced(), p.o.Steps)
	return false, err
}

func all(tests []api.Test) (out []api.Pos) {
	for _, t := range tests {
		out = append(out, t.Pos)
	}
	return out
}

// narrow has permits ask what their parents ask, where they would allow more. It reports
// whether any is changed by that.
func (p *proposing) narrow() (changed bool) {
	unknown := slices.ContainsFunc(p.Against.NotAnalysed, func(u diff.Unanalysed) bool { return u.What == "requests" })
	for _, x := range p.permits {
		wider := slices.ContainsFunc(p.Against.Allowed, func(c diff.Change) bool { return c.Kind == diff.Request && c.New.Rule == x.id })
		if x.parent != nil && !x.within && (wider || unknown) {
			x.within, changed = true, true
		}
	}
	return changed
}

// load reads the documents with the proposal in them.
func (p *proposing) load(drop []api.Pos) (*policy.Deployment, error) {
	sections := p.write()
	files := slices.Clone(p.src.Files)
	data, straight, err := edited(files[p.at], p.d.Policy, sections, drop)
	if err != nil {
		return nil, err
	}
	files[p.at].Data = data
	p.Document, p.Straight = data, straight
	b, err := policy.ParseUntested(files, p.src.Folder)
	if err != nil {
		return nil, defect("it does not load: %v", err)
	}
	i := slices.IndexFunc(b.Deployments, func(d *policy.Deployment) bool { return d.Name() == p.d.Name() })
	if i < 0 {
		return nil, defect("the workload is no longer there")
	}
	return b.Deployments[i], nil
}

func defect(format string, args ...any) error {
	return fmt.Errorf("the proposal is wrong, which is a defect of Lorica, please report it: "+format, args...)
}

// verify asks the reference about everything that was seen. What the default denied and a
// rule that stays denies at a higher level, it has forgotten, and reports that.
func (p *proposing) verify(d *policy.Deployment) (forgot bool, err error) {
	ref := d.Enforced().Reference()
	if len(p.ingress) > 0 {
		for _, key := range slices.Sorted(maps.Keys(p.packets)) {
			x := p.packets[key]
			dec := ref.Classify(x.level, x.Packet)
			switch {
			case dec.Verdict == abi.Allow:
			case !slices.Contains(x.parents, -1):
				return false, defect("decision %s (%s) is denied by %s", x.ID, x.What, dec.Rule.ID)
			default:
				delete(p.packets, key)
				p.forget(&x.seen, dec.Rule.ID)
				forgot = true
			}
		}
	}
	if len(p.permits) > 0 {
		for _, key := range slices.Sorted(maps.Keys(p.calls)) {
			x := p.calls[key]
			dec := ref.Authorize(x.Call)
			switch {
			case dec.Verdict == abi.Allow:
			case !slices.Contains(x.parents, nil):
				return false, defect("decision %s (%s) is denied by %s", x.ID, x.What, dec.Rule.ID)
			default:
				delete(p.calls, key)
				p.forget(&x.seen, dec.Rule.ID)
				forgot = true
			}
		}
	}
	return forgot, nil
}

// forget leaves out what a rule that is kept denies.
func (l *Learner) forget(x *seen, rule string) {
	l.Learnt = max(0, l.Learnt-x.count)
	l.LeftOut = append(l.LeftOut, Left{"denied by " + rule + ", which is kept: --fresh keeps no rule", x.count, x.Example})
}

// spare finds rules without which everything that was seen is allowed as well. What one was
// for, the next must not be taken from.
func (p *proposing) spare(d *policy.Deployment) {
	var packets []*packet
	var calls []*call
	d = d.Enforced()
	for _, x := range p.ingress {
		if x.kept {
			continue
		}
		less := *d.Policy
		n := *d.Policy.Network
		less.Network = &n
		n.Ingress = slices.DeleteFunc(slices.Clone(n.Ingress), func(r api.IngressRule) bool { return r.Name == x.Name })
		y := &policy.Deployment{Workload: d.Workload, Policy: &less, Authorization: d.Authorization}
		ref := y.Reference()
		if !slices.ContainsFunc(append(packets, x.packets...), func(k *packet) bool { return ref.Classify(k.level, k.Packet).Verdict != abi.Allow }) {
			p.without[x] = true
			d, packets = y, append(packets, x.packets...)
		}
	}
	for _, x := range p.permits {
		a := *d.Authorization
		a.Rules = slices.DeleteFunc(slices.Clone(a.Rules), func(r policy.CedarRule) bool { return r.ID == x.id })
		y := &policy.Deployment{Workload: d.Workload, Policy: d.Policy, Authorization: &a}
		ref := y.Reference()
		if !slices.ContainsFunc(append(calls, x.calls...), func(c *call) bool { return ref.Authorize(c.Call).Verdict != abi.Allow }) {
			p.without[x] = true
			d, calls = y, append(calls, x.calls...)
		}
	}
}

// write makes the sections.
func (p *proposing) write() (out []section) {
	p.Sections, p.Generalised = nil, []Generalised{}
	add := func(path []string, lines []string) {
		out = append(out, section{path, lines})
		p.Sections = append(p.Sections, Section{strings.Join(path, "."), strings.Join(lines, "\n") + "\n"})
	}
	def := p.d.Policy.Default
	closed := def
	if len(p.ingress) > 0 {
		closed.Network = abi.Deny
	}
	if len(p.permits) > 0 {
		closed.Authorization = abi.Deny
	}
	if closed != def {
		add([]string{"default"}, []string{fmt.Sprintf("default: {network: %s, authorization: %s}", closed.Network, closed.Authorization)})
	}
	if len(p.ingress) > 0 {
		endpoints, rules := p.networkLines()
		if len(endpoints) > 1 {
			add([]string{"endpoints"}, endpoints)
		}
		add([]string{"network", "ingress"}, rules)
	}
	if len(p.permits) > 0 {
		add([]string{"authorization", "cedar"}, p.cedarLines())
	}
	return out
}

func (p *proposing) networkLines() (endpoints, rules []string) {
	endpoints, rules = []string{"endpoints:"}, []string{"ingress:"}
	policyOf := p.d.Policy
	needed := make(map[string]bool) // endpoints that stay
	used := make(map[string]bool)
	for _, e := range policyOf.Endpoints {
		needed[e.Name], used[e.Name] = true, true
	}
	if policyOf.Network != nil {
		for _, r := range p.doc.Policy.Network.Ingress {
			for _, f := range r.From {
				needed[f] = false
			}
		}
	}
	type named struct{ name, cidrs string }
	var fresh []named
	names := make(map[string]bool)
	if policyOf.Network != nil {
		for _, r := range policyOf.Network.Egress {
			names[r.Name] = true
		}
	}
	for _, m := range policy.Methods(policyOf.Authentication) {
		names[m.Name] = true
	}
	for _, x := range policyOf.RateLimits {
		names[x.Name] = true
	}
	for _, x := range policyOf.Obligations {
		names[x.Name] = true
	}
	for _, x := range p.permits {
		names[x.id] = true
	}
	if p.d.Authorization != nil {
		for _, r := range p.doc.Authorization.Rules {
			names[r.ID] = true
		}
	}
	for _, x := range p.ingress {
		if x.kept {
			names[x.Name] = true
		}
	}
	for _, x := range p.ingress {
		r := &x.IngressRule
		if !x.kept {
			r.Name = unused(names, p.nameOf(x))
			names[r.Name] = true
		}
		if p.without[x] {
			continue
		}
		switch bounds := anywhere; {
		case x.kept:
		case x.parent >= 0:
			bounds = p.bounds(&policyOf.Network.Ingress[x.parent])
			fallthrough
		default:
			r.From = []string{api.AnyEndpoint}
			if x.parent >= 0 {
				r.From = policyOf.Network.Ingress[x.parent].From
			}
			if !slices.Equal(covering(bounds, 0, nil), x.sources) {
				name := unused(used, r.Name+"-seen")
				used[name] = true
				r.From = []string{name}
				fresh = append(fresh, named{name, prefixesText(x.sources)})
			}
		}
		for _, f := range r.From {
			if _, ok := needed[f]; ok {
				needed[f] = true
			}
		}
		if !x.kept {
			froms := make(map[netip.Addr]bool)
			for _, k := range x.packets {
				froms[k.From] = true
			}
			e := x.packets[0].Example
			rules = append(rules, fmt.Sprintf("  # %s from %s, such as %s (%s)", number(count(x.packets), "record"), number(len(froms), "source"), e.ID, e.What))
			for _, g := range x.general {
				g.Rule = r.Name
				p.Generalised = append(p.Generalised, g)
			}
		}
		rules = append(rules, "  - "+ruleText(r))
	}
	for _, e := range policyOf.Endpoints {
		if needed[e.Name] {
			endpoints = append(endpoints, fmt.Sprintf("  - {name: %s, cidrs: %s}", e.Name, prefixesText(e.CIDRs)))
		}
	}
	for _, e := range fresh {
		endpoints = append(endpoints, fmt.Sprintf("  - {name: %s, cidrs: %s}", e.name, e.cidrs))
	}
	return endpoints, rules
}

// nameOf is that of the rule that was narrowed, else one that tells what it is.
func (p *proposing) nameOf(x *ingress) string {
	if x.parent >= 0 {
		return p.d.Policy.Network.Ingress[x.parent].Name
	}
	return "learnt-network"
}

func ruleText(r *api.IngressRule) string {
	s := fmt.Sprintf("{name: %s, action: %s, from: [%s]", r.Name, r.Action, strings.Join(r.From, ", "))
	if len(r.Ports) > 0 {
		s += ", ports: " + portsText(r.Ports)
	}
	if r.Audit {
		s += ", audit: true"
	}
	if r.DryRun {
		s += ", enforcement: DryRun"
	}
	if r.MinLevel != "" {
		s += ", minLevel: " + r.MinLevel
	}
	if r.MaxLevel != "" {
		s += ", maxLevel: " + r.MaxLevel
	}
	return s + "}"
}

func (p *proposing) cedarLines() []string {
	lines := []string{"cedar: |"}
	add := func(text string) {
		if len(lines) > 1 {
			lines = append(lines, "")
		}
		for line := range strings.SplitSeq(text, "\n") {
			if line = strings.TrimRight(line, "\r"); line != "" {
				line = "  " + line
			}
			lines = append(lines, line)
		}
	}
	for _, x := range p.permits {
		if p.without[x] {
			continue
		}
		text, general := p.cedarText(x)
		e := x.calls[0].Example
		add(fmt.Sprintf("// %s by %s, such as %s (%s)\n", number(count(x.calls), "record"), who(x.calls), e.ID, e.What) + text)
		p.Generalised = append(p.Generalised, general...)
	}
	for _, r := range p.kept() {
		add(written(r))
	}
	return lines
}

func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
