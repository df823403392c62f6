package record

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A Replayer asks one policy about many records: what it prepares for that, it prepares
// once. It is for one goroutine at a time.
type Replayer struct {
	d   *policy.Deployment
	ref *policy.Reference
}

// NewReplayer returns one for a deployment.
func NewReplayer(d *policy.Deployment) *Replayer { return &Replayer{d, d.Reference()} }

// Replay is that of a Replayer, for one record.
func Replay(d *policy.Deployment, r Decision) (policy.Decision, error) {
	return NewReplayer(d).Replay(r)
}

// Replay says what a policy decides about what was recorded, by the reference evaluator: a
// connection by the network rules; a request by these, by the routes, by authentication as
// it went then and by authorization. Limits and obligations, which count what came before,
// are left out, and what a record never holds, such as the size of a body, is taken to be
// within bounds. Its error says what the record lacks that would decide.
func (p *Replayer) Replay(r Decision) (policy.Decision, error) {
	r = Judged(r)
	if err := replays(&r); err != nil {
		return policy.Decision{}, err
	}
	if judges(p.d.Policy) {
		dec, err := p.admit(&r)
		if err != nil || r.Method == "" || dec.Verdict != abi.Allow {
			return dec, err
		}
	} else if r.Method == "" {
		return policy.Decision{Verdict: abi.Allow, Rule: policy.NetworkDefault(p.d.Policy), Level: r.Level}, nil
	}
	a, err := p.ask(&r, false)
	dec := policy.Decision{Verdict: a.Verdict, Rule: a.Rule, Level: a.Level, Reason: a.Reason}
	if w := a.DryRun; w != nil {
		dec.Would = &policy.Decision{Verdict: w.Verdict, Rule: w.Rule, Level: w.Level, Reason: w.Reason}
	}
	return dec, err
}

// Judged is a record with what the policy said, where that was tried as a whole and let
// through.
func Judged(r Decision) Decision {
	if w := r.DryRun; w != nil && r.Rule == abi.RuleDryRun {
		r.Decision, r.Stage, r.Rule, r.Line, r.Reason = w.Decision, w.Stage, w.Rule, w.Line, w.Reason
	}
	return r
}

// Explain is Replay with reasons, of a request on a connection that was admitted, or of a
// connection.
func Explain(d *policy.Deployment, r Decision) (policy.Answer, error) {
	r = Judged(r)
	if err := replays(&r); err != nil {
		return policy.Answer{}, err
	}
	if r.Method != "" {
		return NewReplayer(d).ask(&r, true)
	}
	k, err := packet(&r)
	if err != nil {
		return policy.Answer{}, err
	}
	return d.Classified(r.Level, k)
}

// Connection is the connection of a record, where the policy judges connections: guarded is
// false where it does not. Its error says what the record lacks.
func Connection(d *policy.Deployment, r Decision) (k api.Packet, guarded bool, err error) {
	if !judges(d.Policy) {
		return k, false, replays(&r)
	}
	if err := replays(&r); err != nil {
		return k, true, err
	}
	if len(policy.LevelsTo(d.Policy, r.Level)) == 0 {
		return k, true, fmt.Errorf("the policy has no level %q", r.Level)
	}
	k, err = packet(&r)
	return k, true, err
}

// Request is what a policy decides about the request of a record on a connection that was
// admitted, with what authorization was asked.
func (p *Replayer) Request(r Decision) (policy.Answer, error) {
	if err := replays(&r); err != nil {
		return policy.Answer{}, err
	}
	return p.ask(&r, false)
}

// replays reports why nothing can be said about a record, whatever the policy.
func replays(r *Decision) error {
	switch denied := r.Decision != abi.Allow.String(); {
	case r.Stage == abi.StageObligations, denied && (r.Stage == abi.StageSourceLimit || r.Stage == abi.StagePrincipalLimit):
		return fmt.Errorf("%s decided by what came before, which the record does not hold", r.Rule)
	case r.Stage == abi.StageTLS:
		return errors.New("no request was made: the handshake was refused, of which a record holds nothing")
	case r.Stage == abi.StageEgress:
		return errors.New("the connection went out of the image; only what comes in is replayed")
	case denied && r.Stage == abi.StageFilter && r.Rule == abi.RuleRequest:
		return errors.New("the request was malformed, or beyond a limit, and a record holds only what was well formed")
	case r.Rule == abi.RuleError:
		return errors.New("an error of the image denied, not the policy")
	case r.Method == "" && r.Stage != abi.StageFirewall:
		return fmt.Errorf("stage %s decided about what is neither a request nor a connection", r.Stage)
	}
	return nil
}

// judges reports whether the policy judges connections.
func judges(p *api.SecurityPolicy) bool { return p.Network != nil || p.Default.Network != abi.Allow }

func (p *Replayer) admit(r *Decision) (policy.Decision, error) {
	k, _, err := Connection(p.d, *r)
	if err != nil {
		return policy.Decision{}, err
	}
	return p.ref.Classify(r.Level, k), nil
}

// packet is the first packet of the connection.
func packet(r *Decision) (api.Packet, error) {
	if err := lacks(r, audit.FieldSource); err != nil {
		return api.Packet{}, err
	}
	from, err := netip.ParseAddr(r.Source)
	if err != nil {
		return api.Packet{}, errors.New("the record has no source, and the policy has network rules")
	}
	if r.Protocol == "" || r.Port == 0 && r.Protocol != api.ICMP {
		return api.Packet{}, errors.New("the record does not say which port was asked for")
	}
	return api.Packet{From: from.Unmap(), Protocol: r.Protocol, Port: r.Port}, nil
}

// lacks reports why a field does not say what was judged.
func lacks(r *Decision, field string) error {
	if slices.Contains(r.Partial, field) {
		return fmt.Errorf("the record does not hold %s, which was redacted or cut", strings.Replace(field, audit.FieldAttribute, "attribute ", 1))
	}
	return nil
}

func (p *Replayer) ask(r *Decision, explain bool) (policy.Answer, error) {
	q := policy.Asked{Method: r.Method, Path: r.Path, Route: r.Route, Level: r.Level, Principal: r.Principal, Groups: r.Groups}
	if lacks(r, audit.FieldPath) != nil {
		q.Path = ""
	}
	if r.Principal == authn.Anonymous {
		q.Principal = "" // as where a policy asks for credentials
	}
	if q.Path == "" && q.Route == "" && len(p.d.Policy.Routes) > 0 {
		return policy.Answer{}, errors.New("the record holds neither the path nor the route")
	}
	refused := r.Decision != abi.Allow.String() && r.Stage == abi.StageAuthn
	q.Lacks = func(field string) error {
		switch {
		case field == audit.FieldPrincipal && refused && r.Reason != authn.NoCredentials:
			return errRefused
		case field == audit.FieldPrincipal && r.Stage == abi.StageFilter && r.Decision != abi.Allow.String():
			return errors.New("the request was denied before anybody asked who made it")
		case field == audit.FieldPrincipal && r.Stage == abi.StageFilter:
			return errors.New("the policy then asked nobody for credentials: who made the request, the record does not hold")
		}
		return lacks(r, field)
	}
	q.Fact = func(a authz.Attribute) (string, bool, error) { return fact(r, a) }
	a, err := p.ref.Ask(q, explain)
	if errors.Is(err, errRefused) {
		return policy.Answer{Stage: abi.StageAuthn, Rule: method(p.d, r.Rule), Level: r.Level, Route: r.Route, Reason: r.Reason}, nil
	}
	if a.Stage == abi.StageAuthn && a.Verdict == abi.Allow {
		a.Rule = method(p.d, r.Rule)
	}
	return a, err
}

// errRefused says that credentials were refused: so they are by every policy.
var errRefused = errors.New("refused")

// method is the rule of a method of authentication, or that of requests without credentials.
func method(d *policy.Deployment, name string) abi.Rule {
	for _, m := range policy.Methods(d.Policy.Authentication) {
		if m.Name == name {
			return m.Rule()
		}
	}
	return policy.AuthenticationDefault(d.Policy.Authentication)
}

// fact returns what a record says of an attribute: by what the policy takes it from, where
// a record always holds that, else by its name.
func fact(r *Decision, a authz.Attribute) (text string, found bool, err error) {
	at := r.Time.UTC()
	switch a.Source.Kind {
	case authz.SourceHour:
		return strconv.Itoa(at.Hour()), true, nil
	case authz.SourceMinute:
		return strconv.Itoa(60*at.Hour() + at.Minute()), true, nil
	case authz.SourceWeekday:
		return strconv.Itoa(int(at.Weekday()+6)%7 + 1), true, nil
	case authz.SourcePeer:
		if lacks(r, audit.FieldSource) == nil && r.Source != "" {
			return r.Source, true, nil
		}
	}
	v, recorded := r.Facts[a.Name]
	wrong := lacks(r, audit.FieldAttribute+a.Name)
	switch {
	case wrong != nil && !recorded:
		return "", false, fmt.Errorf("what the request had for attribute %s could not be read", a.Name)
	case wrong != nil:
		return "", false, wrong
	case !recorded && slices.Contains(r.Partial, audit.FieldAttributes):
		return "", false, fmt.Errorf("the record does not hold attribute %s: some were too large", a.Name)
	case !recorded:
		return "", false, fmt.Errorf("the record does not hold attribute %s, which the policy then did not read for this route", a.Name)
	case v == nil:
		return "", false, nil
	}
	if _, err := policy.ParseValue(a, *v); err != nil {
		return "", false, fmt.Errorf("attribute %s was recorded as another type: %w", a.Name, err)
	}
	return *v, true, nil
}
