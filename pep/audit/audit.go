// Package audit turns decisions into records: who, what, by which rule, under
// which program. Denials are always kept; allowed requests are sampled, by their
// random id, which no client chooses; allowed connections are kept only where
// their rule asks for it, since the requests on them are judged anyway.
//
// A record never holds the raw request target: its path is the canonical one, or
// empty where the request was refused before it had one. Fields are cut to the
// bounds of abi/audit when the record is encoded.
package audit

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep"
)

// Redacted stands for a value that the policy keeps out of records.
const Redacted = "[redacted]"

// A Module has no state of its own.
type Module struct{}

// New returns the module.
func New() *Module { return &Module{} }

// Prepare refuses a field that it could not redact.
func (*Module) Prepare(in *pep.Input) (pep.AuditState, error) {
	s, err := audit.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	st := &state{rate: uint64(s.AllowedPerMillion), level: in.Level, revision: in.Revision, program: in.Program, hideNamed: map[string]bool{}}
	for _, f := range s.Redact {
		name, one := strings.CutPrefix(f, audit.FieldAttribute)
		switch {
		case f == audit.FieldPrincipal:
			st.hidePrincipal = true
		case f == audit.FieldSource:
			st.hideSource = true
		case f == audit.FieldPath:
			st.hidePath = true
		case f == audit.FieldGroups:
			st.hideGroups = true
		case f == audit.FieldAttributes:
			st.hideAttributes = true
		case one && name != "":
			st.hideNamed[name] = true
		default:
			return nil, fmt.Errorf("audit: field %q cannot be redacted", f)
		}
	}
	return st, nil
}

type state struct {
	rate     uint64
	level    string
	revision uint64
	program  [32]byte

	hidePrincipal, hideSource, hidePath, hideGroups bool
	hideAttributes                                  bool
	hideNamed                                       map[string]bool // attributes
}

// Record returns the record of d and whether it is to be kept.
func (s *state) Record(x *pep.Exchange, d pep.Decision) (audit.Record, bool) {
	if !s.keeps(x, d) {
		return audit.Record{}, false
	}
	r := audit.Record{
		ID: x.ID, Verdict: d.Verdict, Stage: d.Stage, Rule: d.Rule, Reason: d.Reason,
		Principal: x.Principal, Path: x.Path, Groups: x.Groups,
		Level: s.level, Revision: s.revision, Program: s.program,
	}
	if !x.Now.IsZero() {
		r.Time = x.Now.UnixNano()
	}
	flow := x.Flow.Plain()
	if flow.Src.IsValid() {
		r.Source = flow.Src.String()
	}
	r.Protocol, r.Port = uint8(flow.Protocol), flow.DstPort
	if x.Request != nil {
		r.Method = x.Request.Method
	}
	if x.Route != nil {
		r.Route = x.Route.Name
	}
	if x.Witness != nil {
		r.Facts = x.Witness.Facts(x)
	}
	if d.Verdict != abi.Allow {
		r.Verdict = abi.Deny
		if x.Request != nil {
			r.Status = http.StatusForbidden
			if d.Status > 0 && d.Status < 1000 {
				r.Status = uint16(d.Status)
			}
		}
		if r.Rule.ID == "" {
			r.Rule.ID = abi.RuleError
		}
	}
	if w := d.Would; w != nil {
		r.DryRun = &audit.Would{Verdict: abi.Deny, Stage: w.Stage, Rule: w.Rule, Reason: w.Reason}
		if w.Verdict == abi.Allow {
			r.DryRun.Verdict = abi.Allow
		} else if w.Rule.ID == "" {
			r.DryRun.Rule.ID = abi.RuleError
		}
	}
	s.redact(&r, x)
	for i := range r.Facts { // as it will be encoded: what waits to be kept must not hold bodies
		if f := &r.Facts[i]; len(f.Value) > audit.MaxField {
			f.Value = strings.Clone(audit.Cut(f.Value, audit.MaxField))
			if f.State == audit.FactWhole {
				f.State = audit.FactCut
			}
		}
	}
	return r, true
}

// keeps decides before anything is composed, since most decisions of a busy
// service are allowed and not sampled.
func (s *state) keeps(x *pep.Exchange, d pep.Decision) bool {
	if d.Verdict != abi.Allow || d.Record || d.Would != nil {
		return true
	}
	if x.Request == nil {
		return false
	}
	return s.rate == audit.Million || s.rate > 0 && hash(x.ID)%audit.Million < s.rate
}

func (s *state) redact(r *audit.Record, x *pep.Exchange) {
	var hidden []string
	hide := func(field *string, partial audit.Partial) {
		if *field != "" {
			hidden = append(hidden, *field)
			*field = Redacted
			r.Partial |= partial
		}
	}
	if s.hidePath {
		hide(&r.Path, audit.PartialPath)
		for _, p := range x.Params {
			hide(&p.Value, 0)
		}
	}
	if s.hidePrincipal {
		hide(&r.Principal, audit.PartialPrincipal)
	}
	if s.hideSource {
		hide(&r.Source, audit.PartialSource)
	}
	if s.hideGroups && len(r.Groups) > 0 {
		hidden = append(hidden, r.Groups...)
		r.Groups, r.Partial = []string{Redacted}, r.Partial|audit.PartialGroups
	}
	for i := range r.Facts {
		f := &r.Facts[i]
		if s.hideAttributes || s.hideNamed[f.Name] {
			hide(&f.Value, 0)
			f.Value, f.State = Redacted, audit.FactHidden
		}
	}
	// What is longer than a text is not in it. Clients choose how long values are, and to
	// look for one may take time by the square of its length.
	most := len(r.Reason)
	if r.DryRun != nil {
		most = max(most, len(r.DryRun.Reason))
	}
	hidden = slices.DeleteFunc(hidden, func(h string) bool { return len(h) > most })
	if len(hidden) == 0 {
		return
	}
	// In one pass, the longest first: what stands in for one is not searched for the
	// next, and none leaves the rest of a longer one.
	slices.SortStableFunc(hidden, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, h := range hidden {
		pairs = append(pairs, h, Redacted)
	}
	replace := strings.NewReplacer(pairs...)
	r.Reason = replace.Replace(r.Reason)
	if r.DryRun != nil {
		r.DryRun.Reason = replace.Replace(r.DryRun.Reason)
	}
}

// hash is FNV-1a over an id that is random already.
func hash(id string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(id); i++ {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return h
}
