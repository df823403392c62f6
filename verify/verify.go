// Package verify shows from outside that what runs enforces what is written: for each rule
// it makes a connection or a request that the rule must decide, really sends it, and holds
// the answer and the record of the decision to what the reference evaluator says. It also
// sends the requests that servers are known to read differently.
//
// What cannot be shown from this machine, with these credentials, at this moment, is listed
// with its reason, and never counts as shown.
package verify

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// A Target is an instance, and what is written for it.
type Target struct {
	Deployment *policy.Deployment
	Level      *compiler.Level // in force
	Program    string          // digest of the program in force
	Listeners  []netip.AddrPort

	// Decisions streams the records to come, or all that are kept before as well, the
	// oldest first.
	Decisions func(ctx context.Context, kept bool, emit func(tender.Decision) error) error
}

// Options say what may be sent.
type Options struct {
	Identities try.Identities      // issue development tokens and certificates
	Users      map[string]try.User // whom the policy knows
	Write      bool                // requests that may change something reach the application, too
	Limits     bool                // rate limits are used up
	Brief      bool                // first witnesses alone, up to the first that is let in, or is not, against what is expected
	Progress   func(text string)
}

// A State is what came of a rule.
type State string

// States.
const (
	Shown    State = "shown"
	Differs  State = "differs"
	NotShown State = "not shown"
)

// A Result is what is known of one rule.
type Result struct {
	Rule     string  `json:"rule"`
	Line     string  `json:"line,omitempty"`
	Stage    string  `json:"stage"`
	Where    string  `json:"enforced"` // one of the places of package compiler
	State    State   `json:"state"`
	Witness  string  `json:"witness,omitempty"` // in words: the one that differs, or the first
	Expected string  `json:"expected,omitempty"`
	Got      string  `json:"got,omitempty"`
	Why      string  `json:"reason,omitempty"` // it is not shown
	Sent     []Trial `json:"sent,omitempty"`   // all that was
}

// A Trial is one witness that was sent.
type Trial struct {
	Witness  string `json:"witness"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
	Decision string `json:"decision,omitempty"`
	OK       bool   `json:"ok"`
}

// Turned reports whether the other verdict than the expected one came out, and not only the
// same by another rule.
func (t Trial) Turned() bool {
	want, _, _ := strings.Cut(t.Expected, " ")
	got, _, _ := strings.Cut(t.Got, " ")
	return !t.OK && want != got
}

// A Bypass is what became of a request of the corpus.
type Bypass struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Want  string `json:"expected,omitempty"` // statuses
	Got   string `json:"got,omitempty"`
	Why   string `json:"reason,omitempty"`
}

// A Report is what was found.
type Report struct {
	Deployment string   `json:"deployment"`
	Level      string   `json:"level"`
	Program    string   `json:"program"`
	Results    []Result `json:"rules"`
	Bypasses   []Bypass `json:"bypasses"`
}

// Count returns how many rules, and how many requests of the corpus, are in a state.
func (r *Report) Count(s State) (rules, bypasses int) {
	for _, x := range r.Results {
		if x.State == s {
			rules++
		}
	}
	for _, x := range r.Bypasses {
		if x.State == s {
			bypasses++
		}
	}
	return rules, bypasses
}

// OK reports that nothing differs.
func (r *Report) OK() bool {
	rules, bypasses := r.Count(Differs)
	return rules+bypasses == 0
}

// A verifier is one run.
type verifier struct {
	Target
	Options
	level   int // index of the one in force
	records *records
	people  people
	doors   []door // ways to the image that its network rules leave open
	now     func() time.Time
	report  Report
}

// Run verifies. Its error is that of the context, or that the instance could not be asked.
func Run(ctx context.Context, t Target, o Options) (*Report, error) {
	v := &verifier{Target: t, Options: o, now: time.Now, level: slices.Index(t.Deployment.Policy.Levels.Names, t.Level.Name)}
	if v.level < 0 {
		return nil, fmt.Errorf("the policy has no level %q, which is in force", t.Level.Name)
	}
	if v.Progress == nil {
		v.Progress = func(string) {}
	}
	v.report = Report{Deployment: t.Deployment.Name(), Level: t.Level.Name, Program: t.Program}
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, fmt.Errorf("it is not done after %s: the instance answers slowly, or not at all", maxTime))
	defer cancel()
	// What was denied before counts, too, where a source may be blocked.
	kept := slices.ContainsFunc(policy.Obligations(t.Deployment.Policy, v.level), func(o api.Obligation) bool { return o.Block > 0 })
	v.records = follow(ctx, func(ctx context.Context, emit func(tender.Decision) error) error { return t.Decisions(ctx, kept, emit) })
	v.people = v.gather()
	doors := v.connections()
	v.doors = open(doors)

	cases := v.cases(ctx)
	for i, e := range t.Level.Enforced {
		if err := v.broken(ctx); err != nil {
			return nil, err
		}
		v.Progress(fmt.Sprintf("%d of %d rules: %s", i+1, len(t.Level.Enforced), e.ID))
		r := Result{Rule: e.ID, Line: e.Line, Stage: e.Stage, Where: e.Where}
		if e.DryRun {
			r.Why = "it is a dry run, and decides nothing: see lorica dryrun report"
			v.report.Results = append(v.report.Results, r)
			continue
		}
		switch e.Stage {
		case abi.StageFirewall:
			v.network(ctx, &r, doors)
		case abi.StageTLS:
			v.handshakes(ctx, &r)
		case abi.StageFilter:
			v.routes(ctx, &r)
		case abi.StageAuthn:
			v.credentials(ctx, &r)
		case abi.StageAuthz:
			v.calls(ctx, &r, cases[e.ID], false)
		case abi.StageSourceLimit, abi.StagePrincipalLimit:
			r.Why = "a limit is shown by using it up (--limits)"
		case abi.StageObligations:
			r.Why = "it would act on this machine: it is not provoked"
		case abi.StageEgress:
			r.Why = "connections out are made by the application when it needs them"
		default:
			r.Why = "nothing is known of rules of " + e.Stage
		}
		v.report.Results = append(v.report.Results, r)
		if v.Brief && slices.ContainsFunc(r.Sent, Trial.Turned) {
			break
		}
	}
	if !v.Brief {
		v.more(ctx, cases)
	}
	for i := range v.report.Results {
		v.report.Results[i].conclude()
	}
	if err := v.broken(ctx); err != nil {
		return nil, err
	}
	return &v.report, nil
}

// more sends what goes beyond one witness of each rule.
func (v *verifier) more(ctx context.Context, cases map[string]*found) {
	v.Progress("more witnesses of rules")
	more := maxMore
	for i := range v.report.Results {
		r := &v.report.Results[i]
		if f := cases[r.Rule]; r.Stage == abi.StageAuthz && ctx.Err() == nil && f != nil && more > 0 {
			v.calls(ctx, r, f, true)
			more -= len(f.requests)
		}
	}
	v.corpus(ctx)
	if v.Limits {
		v.limits(ctx, cases)
	}
}

// broken says why nothing more can be found out.
func (v *verifier) broken(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := v.records.failed(); err != nil {
		return fmt.Errorf("the records of the instance: %w", err)
	}
	return nil
}

// add adds what came of a witness, or why nothing is shown by it.
func (r *Result) add(t Trial, err error) {
	if err != nil {
		r.Why = err.Error()
		return
	}
	r.Sent = append(r.Sent, t)
}

// conclude says what all of its trials come to.
func (r *Result) conclude() {
	r.State = NotShown
	if len(r.Sent) > 0 {
		t := r.Sent[0]
		r.State, r.Why = Shown, ""
		for _, x := range r.Sent {
			if !x.OK {
				t, r.State = x, Differs
				break
			}
		}
		r.Witness, r.Expected, r.Got = t.Witness, t.Expected, t.Got
	} else if r.Why == "" {
		r.Why = "nothing was sent"
	}
}

// An expectation is what the reference says of a witness.
type expectation struct {
	verdict abi.Verdict
	stage   string
	rule    abi.Rule
}

func (e expectation) String() string { return e.verdict.String() + " by " + e.rule.ID }

// held compares what was recorded with what is expected.
func (v *verifier) held(e expectation, d *tender.Decision) (got string, ok bool) {
	got = d.Decision + " by " + d.Rule
	switch {
	case d.Decision != e.verdict.String(), d.Rule != e.rule.ID, d.Stage != e.stage:
	case d.Line != e.rule.Line:
		got += " (" + d.Line + ")"
	case d.Level != v.Level.Name:
		got += " at level " + d.Level
	case d.Program != v.Program:
		got += " of the program " + d.Program
	default:
		return got, true
	}
	return got, false
}

// maxTime bounds all of it.
const maxTime = 10 * time.Minute

// waitForRecord is how long a record may be on its way: an image with a stack of its own
// reports denied packets from time to time.
const waitForRecord = 10 * time.Second

// clockSlack is how far the clock of an instance may be behind this one.
const clockSlack = 50 * time.Millisecond
