package pep_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
)

// A says answers every request the same way, and does something to it.
type says struct {
	pep.Decision
	do func(*pep.Exchange)
}

func (s says) Judge(x *pep.Exchange) pep.Decision {
	if s.do != nil {
		s.do(x)
	}
	return s.Decision
}

func lets(rule string) says {
	return says{Decision: pep.Decision{Verdict: abi.Allow, Rule: abi.Rule{ID: rule}}}
}

func stops(stage, rule string) says {
	return says{Decision: pep.Decision{Stage: stage, Rule: abi.Rule{ID: rule}, Reason: "denied by " + rule, Status: 404}}
}

func request() *pep.Exchange {
	r := httptest.NewRequest("POST", "/a", strings.NewReader("0123456789"))
	return &pep.Exchange{Request: r, Header: http.Header{}, MaxBody: 100}
}

// What is tried is recorded where it differs, and changes nothing.
func TestWhatIsTriedBesideAGuard(t *testing.T) {
	rude := stops("", "tried")
	rude.do = func(x *pep.Exchange) { x.Header.Set("Retry-After", "9") }
	wild := says{do: func(*pep.Exchange) { panic("tried") }}
	for name, c := range map[string]struct {
		guard, tried pep.GuardState
		after        pep.GuardState // the next guard; nil: none
		want, would  string         // verdict and rule
	}{
		"both allow":                          {lets("r"), lets("tried"), nil, "Allow r", ""},
		"both deny":                           {stops("", "r"), stops("", "tried"), nil, "Deny r", ""},
		"it would deny":                       {lets("r"), stops("", "tried"), nil, "Allow r", "Deny tried"},
		"it would deny, and say so":           {lets("r"), rude, nil, "Allow r", "Deny tried"},
		"it would allow":                      {stops("", "r"), lets("tried"), nil, "Deny r", "Allow tried"},
		"it grants nothing":                   {stops("", "r"), lets(""), nil, "Deny r", ""},
		"it fails":                            {lets("r"), wild, nil, "Allow r", "Deny default:error"},
		"it would deny, as the next one does": {lets("r"), stops("", "tried"), stops("", "next"), "Deny next", ""},
		"a verdict that does not exist":       {lets("r"), says{Decision: pep.Decision{Verdict: 7, Rule: abi.Rule{ID: "odd"}}}, nil, "Allow r", "Deny odd"},
		"the guard fails":                     {wild, lets("tried"), nil, "Deny default:error", ""},
	} {
		chain := pep.Chain{{Stage: "authz", Guard: c.guard, Tried: c.tried}}
		if c.after != nil {
			chain = append(chain, pep.Link{Stage: "next", Guard: c.after})
		}
		x := request()
		d := chain.Judge(x)
		if got := d.Verdict.String() + " " + d.Rule.ID; got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		would := ""
		if d.Would != nil {
			would = d.Would.Verdict.String() + " " + d.Would.Rule.ID
			if d.Would.Stage != "authz" || !d.Record {
				t.Errorf("%s: %+v, of which a record is %v", name, d.Would, d.Record)
			}
		}
		if would != c.would {
			t.Errorf("%s: would have been %q, want %q", name, would, c.would)
		}
		if len(x.Header) > 0 {
			t.Errorf("%s: the client is told %v", name, x.Header)
		}
	}
}

// Of several that would deny, the first is recorded.
func TestTheFirstThatIsTriedCounts(t *testing.T) {
	chain := pep.Chain{{Stage: "obligations", Guard: lets("r"), Tried: stops("", "first")}, {Stage: "authz", Guard: lets("s"), Tried: stops("", "second")}}
	if d := chain.Judge(request()); d.Rule.ID != "s" || d.Would == nil || d.Would.Rule.ID != "first" {
		t.Errorf("%+v", d)
	}
}

// What differed is judged in full the next time; what did not is spared as ever.
func TestWhatIsTriedIsLearntToo(t *testing.T) {
	steady := func(g says) steadily { return steadily{g} }
	for name, c := range map[string]struct {
		tried pep.GuardState
		learn bool
	}{"the same": {steady(lets("tried")), true}, "another": {steady(stops("", "tried")), false}, "not steady": {lets("tried"), false}} {
		chain := pep.Chain{{Stage: "authz", Guard: steady(lets("r")), Tried: c.tried}}
		if _, j := chain.Learn(request()); (j != nil) != c.learn {
			t.Errorf("%s: %v", name, j)
		}
	}
	// The guard that may say something else is asked again, with what is tried beside it.
	n := 0
	count := says{Decision: pep.Decision{Stage: "limit-source", Rule: abi.Rule{ID: "tried"}}, do: func(*pep.Exchange) { n++ }}
	turns := &turning{says: []pep.GuardState{lets(""), count}}
	chain := pep.Chain{{Stage: "filter", Guard: steady(lets("r"))}, {Stage: "limit-source", Guard: lets(""), Tried: turns}}
	_, j := chain.Learn(request())
	d, ok := chain.Again(request(), j)
	if !ok || n != 1 || d.Verdict != abi.Allow || d.Would == nil || d.Would.Rule.ID != "tried" {
		t.Errorf("%v, %d, %+v", ok, n, d)
	}
}

type steadily struct{ says }

func (steadily) Steady(*pep.Exchange) bool { return true }

type turning struct{ says []pep.GuardState }

func (s *turning) Judge(x *pep.Exchange) pep.Decision {
	next := s.says[0]
	s.says = s.says[1:]
	return next.Judge(x)
}

// A policy that is tried as a whole: what each guard denies goes on, as far as it can.
func TestAPolicyThatIsTried(t *testing.T) {
	let := &abi.Rule{ID: abi.RuleDryRun, Line: "p.yaml:4"}
	known := lets("basic")
	known.do = func(x *pep.Exchange) { x.Principal, x.Groups = "ada", []string{"staff"} }
	routed := lets("read")
	routed.do = func(x *pep.Exchange) { x.Route = &route.Route{Name: "read"} }
	unrouted := stops(abi.StageFilter, abi.RuleRoute)
	unrouted.do = func(x *pep.Exchange) { x.Header.Set("Allow", "GET"); x.Header.Set("Connection", "close") }
	wrong := stops(abi.StageAuthn, "basic")
	wrong.do = func(x *pep.Exchange) { x.Header.Set("WWW-Authenticate", "Basic") }
	for name, c := range map[string]struct {
		obliged, filter, limit, basic, end, authz pep.GuardState
		want, would, who                          string
		asked                                     string // guards
	}{
		"allowed":              {lets(""), routed, lets(""), known, lets(""), lets("staff"), "Allow staff", "", "ada", "filter authn-basic authn authz"},
		"blocked":              {stops(abi.StageObligations, "o"), routed, lets(""), known, lets(""), lets("staff"), "Allow default:dry-run", "Deny o", "ada", "filter authn-basic authn authz"},
		"no route":             {lets(""), unrouted, lets(""), known, lets(""), stops(abi.StageAuthz, "a"), "Allow default:dry-run", "Deny default:route", "ada", "filter authn-basic authn"},
		"malformed":            {lets(""), stops(abi.StageFilter, abi.RuleRequest), lets(""), known, lets(""), lets("staff"), "Deny default:request", "", "", "filter"},
		"limited":              {lets(""), routed, stops(abi.StageSourceLimit, "l"), known, lets(""), stops(abi.StageAuthz, "a"), "Allow default:dry-run", "Deny l", "ada", "filter authn-basic authn authz"},
		"wrong credentials":    {lets(""), routed, lets(""), wrong, known, stops(abi.StageAuthz, "a"), "Allow default:dry-run", "Deny basic", authn.Anonymous, "filter authn-basic"},
		"no credentials":       {lets(""), routed, lets(""), lets(""), stops(abi.StageAuthn, abi.RuleAuthn), lets("staff"), "Allow default:dry-run", "Deny default:authentication", authn.Anonymous, "filter authn-basic authn"},
		"not authorized":       {lets(""), routed, lets(""), known, lets(""), stops(abi.StageAuthz, "a"), "Allow default:dry-run", "Deny a", "ada", "filter authn-basic authn authz"},
		"a guard that fails":   {lets(""), routed, lets(""), known, lets(""), says{do: func(*pep.Exchange) { panic("x") }}, "Deny default:error", "", "ada", "filter authn-basic authn authz"},
		"an error of a module": {lets(""), routed, lets(""), stops(abi.StageAuthn, abi.RuleError), lets(""), lets("staff"), "Deny default:error", "", "", "filter authn-basic"},
		"a stage of its own":   {stops("other", "o"), routed, lets(""), known, lets(""), lets("staff"), "Deny o", "", "", ""},
	} {
		var asked []string
		chain := pep.Chain{{Stage: abi.StageObligations, Guard: c.obliged}, {Stage: abi.StageFilter, Guard: c.filter}, {Stage: abi.StageSourceLimit, Guard: c.limit},
			{Stage: "authn-basic", Guard: c.basic}, {Stage: "authn", Guard: c.end}, {Stage: abi.StageAuthz, Guard: c.authz}}
		for i := range chain {
			l := &chain[i]
			l.DryRun = let
			if l.Stage != abi.StageObligations && l.Stage != abi.StageSourceLimit {
				g, stage := l.Guard, l.Stage
				l.Guard = spied{g, func() { asked = append(asked, stage) }}
			}
		}
		x := request()
		x.Request.Header.Set("Authorization", "Basic x")
		d := chain.Judge(x)
		would := ""
		if d.Would != nil {
			would = d.Would.Verdict.String() + " " + d.Would.Rule.ID
		}
		if got := d.Verdict.String() + " " + d.Rule.ID; got != c.want || would != c.would || x.Principal != c.who || strings.Join(asked, " ") != c.asked {
			t.Errorf("%s: %s, would %q, by %q, asked %v", name, got, would, x.Principal, asked)
		}
		if d.Rule.ID == abi.RuleDryRun && (d.Rule.Line != "p.yaml:4" || d.Reason != "" || !d.Record) {
			t.Errorf("%s: %+v", name, d)
		}
		if c.who == authn.Anonymous && (x.Groups != nil || x.Claims != nil || !x.Expires.IsZero() || x.Request.Header.Get("Authorization") != "") {
			t.Errorf("%s: %v is left of refused credentials", name, x.Request.Header)
		}
		if told := len(x.Header["Www-Authenticate"]) + len(x.Header["Allow"]); told > 0 {
			t.Errorf("%s: the client is told %v", name, x.Header)
		}
		if name == "no route" && x.Header.Get("Connection") != "close" {
			t.Errorf("%s: what was said of the connection is lost", name)
		}
	}
}

type spied struct {
	pep.GuardState
	see func()
}

func (s spied) Judge(x *pep.Exchange) pep.Decision { s.see(); return s.GuardState.Judge(x) }

// A body that a rule wanted to read, and could not, is for the application what it would
// have been unread.
func TestABodyThatIsTooLargeGoesOn(t *testing.T) {
	x := request()
	x.MaxBody = 4
	x.Limit()
	reads := stops(abi.StageAuthz, "tried")
	reads.do = func(x *pep.Exchange) { x.Body() }
	chain := pep.Chain{{Stage: abi.StageAuthz, Guard: lets("r"), Tried: reads}}
	if d := chain.Judge(x); d.Verdict != abi.Allow || d.Would == nil {
		t.Fatalf("%+v", d)
	}
	b := make([]byte, 20)
	n, err := x.Request.Body.Read(b)
	if string(b[:n]) != "0123" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	if n, err = x.Request.Body.Read(b); n != 0 || err == nil || err.Error() == "EOF" {
		t.Errorf("%d more bytes, %v", n, err)
	}
}
