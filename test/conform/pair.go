package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/compiler"
	evaluator "lorica.dev/lorica/pep/authz/cedar"
	"lorica.dev/lorica/policy"
)

// A pair is a set of policies and entities on both sides: as cedar-go has them, and
// compiled.
type pair struct {
	ids      []string
	forbids  []bool
	set      *cedar.PolicySet
	entities types.EntityMap
	eval     *evaluator.Evaluation
}

// A refusal says why policies that cedar-go parses do not compile.
type refusal struct{ error }

// newPair gives policies the names policy0, policy1 and so on, as suites do.
func newPair(policies []byte, entities types.EntityMap) (*pair, error) {
	list, err := cedar.NewPolicyListFromBytes("policies", policies)
	if err != nil {
		return nil, err
	}
	p := &pair{set: cedar.NewPolicySet(), entities: entities}
	var rules []policy.CedarRule
	for i, x := range list {
		id := fmt.Sprintf("policy%d", i)
		p.ids, p.forbids = append(p.ids, id), append(p.forbids, x.Effect() == cedar.Forbid)
		p.set.Add(cedar.PolicyID(id), x)
		rules = append(rules, policy.CedarRule{ID: id, Policy: (*ast.Policy)(x.AST())})
	}
	s, err := compiler.Cedar(rules, entities)
	if err != nil {
		return nil, refusal{err}
	}
	view, err := authz.Open(s.Encode())
	if err != nil {
		return nil, fmt.Errorf("what was compiled does not open: %w", err)
	}
	p.eval = evaluator.New(view)
	return p, nil
}

// An outcome is what became of a request: the decision, the policies that it rests on and
// those that could not be evaluated.
type outcome struct {
	allow           bool
	reasons, errors []string
}

func (o outcome) String() string {
	word := "deny"
	if o.allow {
		word = "allow"
	}
	return fmt.Sprintf("%s by %v, errors %v", word, o.reasons, o.errors)
}

func (o outcome) equal(x outcome) bool {
	return o.allow == x.allow && slices.Equal(o.reasons, x.reasons) && slices.Equal(o.errors, x.errors)
}

func (o *outcome) sort() {
	slices.Sort(o.reasons)
	slices.Sort(o.errors)
}

// reference asks cedar-go.
func (p *pair) reference(r cedar.Request) (o outcome) {
	decision, diagnostic := cedar.Authorize(p.set, p.entities, r)
	o.allow = decision == cedar.Allow
	for _, x := range diagnostic.Reasons {
		o.reasons = append(o.reasons, string(x.PolicyID))
	}
	for _, x := range diagnostic.Errors {
		o.errors = append(o.errors, string(x.PolicyID))
	}
	o.sort()
	return o
}

// compiled asks the compiled policies, and has their faults skip them, as Cedar does. It
// is an error where the index leaves out a policy that would have done something.
func (p *pair) compiled(r cedar.Request) (o outcome, err error) {
	e := p.eval
	e.Start()
	e.Who(e.Entity(string(r.Principal.Type), string(r.Principal.ID)))
	e.What(e.Entity(string(r.Action.Type), string(r.Action.ID)))
	e.On(e.Entity(string(r.Resource.Type), string(r.Resource.ID)))
	context, err := p.value(r.Context)
	if err != nil {
		return o, err
	}
	e.Context(context)
	var permits, forbids []string
	candidates := slices.Clone(e.Candidates())
	for i, id := range p.ids {
		applies, fault := e.Applies(uint32(i))
		if _, candidate := slices.BinarySearch(candidates, uint32(i)); !candidate {
			if applies || fault != evaluator.NoFault {
				return o, fmt.Errorf("the index leaves out %s, which applies (%t) or faults (%s)", id, applies, fault)
			}
			continue
		}
		switch {
		case fault != evaluator.NoFault:
			o.errors = append(o.errors, id)
		case applies && p.forbids[i]:
			forbids = append(forbids, id)
		case applies:
			permits = append(permits, id)
		}
	}
	o.reasons = forbids
	if len(forbids) == 0 {
		o.allow, o.reasons = len(permits) > 0, permits
	}
	o.sort()
	return o, nil
}

// value gives a value of cedar-go to the evaluation.
func (p *pair) value(v types.Value) (evaluator.Value, error) {
	e := p.eval
	switch v := v.(type) {
	case types.Boolean:
		return evaluator.Bool(bool(v)), nil
	case types.Long:
		return evaluator.Long(int64(v)), nil
	case types.Decimal:
		return evaluator.Parse(authz.TypeDecimal, []byte(v.String()))
	case types.Datetime:
		return evaluator.Datetime(v.Milliseconds()), nil
	case types.Duration:
		return evaluator.Duration(v.ToMilliseconds()), nil
	case types.String:
		return e.Text([]byte(v)), nil
	case types.EntityUID:
		return e.Entity(string(v.Type), string(v.ID)), nil
	case types.IPAddr:
		return evaluator.IP(v.Addr().AsSlice(), v.Prefix().Bits()), nil
	case types.Set:
		var list []evaluator.Value
		for x := range v.All() {
			y, err := p.value(x)
			if err != nil {
				return y, err
			}
			list = append(list, y)
		}
		return e.Elements(list...), nil
	case types.Record:
		var list []evaluator.Value
		for name, x := range v.All() {
			y, err := p.value(x)
			if err != nil {
				return y, err
			}
			list = append(list, e.Text([]byte(name)), y)
		}
		return e.Members(list...), nil
	}
	return evaluator.Value{}, fmt.Errorf("%v is a %T", v, v)
}

// A mismatch is a request that is not decided as it should be.
type mismatch struct {
	Where    string // suite and test, or seed
	Request  string
	Expected string // with who expects it
	Got      string
	Policies string
	Entities string `json:",omitempty"`
}

func (m mismatch) String() string {
	return fmt.Sprintf("%s: %s\n  expected: %s\n  got:      %s\n%s", m.Where, m.Request, m.Expected, m.Got, indent(m.Policies))
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ") + "\n"
}

// compare asks both sides, and returns how they differ, if they do.
func (p *pair) compare(r cedar.Request) (reference outcome, m *mismatch) {
	reference = p.reference(r)
	got, err := p.compiled(r)
	if err == nil && got.equal(reference) {
		return reference, nil
	}
	m = &mismatch{Request: describe(r), Expected: "cedar-go: " + reference.String(), Got: got.String(), Policies: string(p.set.MarshalCedar())}
	if err != nil {
		m.Got = err.Error()
	}
	return reference, m
}

func describe(r cedar.Request) string {
	return fmt.Sprintf("%s, %s, %s, %s", r.Principal, r.Action, r.Resource, r.Context.MarshalCedar())
}
