package compiler

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// accounts loads the example anew.
func accounts(t testing.TB) *policy.Deployment {
	t.Helper()
	b, err := policy.Load("../examples/accounts")
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Deployments) != 1 {
		t.Fatalf("%d deployments", len(b.Deployments))
	}
	return b.Deployments[0]
}

func compile(t testing.TB, d *policy.Deployment) *Output {
	t.Helper()
	out, err := Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func section(t *testing.T, l *Level, name string) []byte {
	t.Helper()
	for _, s := range l.Sections {
		if s.Name == name {
			return s.Data
		}
	}
	t.Fatalf("level %s has no section %s", l.Name, name)
	return nil
}

func TestSameInputSameBytes(t *testing.T) {
	for _, example := range []string{"accounts", "clinic"} { // in the latter are sets, whose elements come in any order
		load := func() *Output {
			b, err := policy.Load("../examples/" + example)
			if err != nil {
				t.Fatal(err)
			}
			return compile(t, b.Deployments[0])
		}
		first := load()
		for range 20 {
			again := load()
			for i := range first.Levels {
				a, b := first.Levels[i], again.Levels[i]
				if !slices.EqualFunc(a.Sections, b.Sections, func(x, y program.Section) bool { return x.Name == y.Name && bytes.Equal(x.Data, y.Data) }) {
					t.Fatalf("%s: level %s differs from one compilation to the next", example, a.Name)
				}
				if fmt.Sprint(a) != fmt.Sprint(b) {
					t.Fatalf("%s: level %s is described differently", example, a.Name)
				}
			}
		}
	}
}

func TestSectionsComeInChainOrder(t *testing.T) {
	for _, l := range compile(t, accounts(t)).Levels {
		var names []string
		for _, s := range l.Sections {
			names = append(names, s.Name)
		}
		if !slices.Equal(names, []string{flow.Name, route.Name, basic.Name, authn.Name, limit.PrincipalName, authz.Name, audit.Name, audit.ChannelName}) {
			t.Errorf("level %s: %v", l.Name, names)
		}
	}
}

func TestEverySectionOpens(t *testing.T) {
	out := compile(t, accounts(t))
	for i := range out.Levels {
		l := &out.Levels[i]
		if s, err := route.Decode(section(t, l, route.Name)); err != nil || len(s.Routes) != 3 || s.Open || s.Limits.MaxBodyBytes != 65536 || s.Limits.MaxPathBytes == 0 || !s.Limits.RejectEncodedSlash {
			t.Errorf("%s: filter: %+v, %v", l.Name, s, err)
		}
		if s, err := basic.Decode(section(t, l, basic.Name)); err != nil || s.Rule.ID != "staff-login" || s.Rule.Line == "" || s.Secret != "users" || s.Attempts == 0 || s.Window == 0 {
			t.Errorf("%s: basic: %+v, %v", l.Name, s, err)
		}
		if s, err := authn.Decode(section(t, l, authn.Name)); err != nil || s.Rule.ID != abi.RuleAuthn || s.Rule.Line == "" || s.Optional || len(s.Challenges) != 1 {
			t.Errorf("%s: authn: %+v, %v", l.Name, s, err)
		}
		if v, err := authz.Open(section(t, l, authz.Name)); err != nil || len(v.Rules) != 5 || v.Default != abi.Deny || v.Rule.ID != abi.RuleAuthz {
			t.Errorf("%s: authz: %v", l.Name, err)
		}
		if s, err := audit.Decode(section(t, l, audit.Name)); err != nil || s.AllowedPerMillion != audit.Million {
			t.Errorf("%s: audit: %+v, %v", l.Name, s, err)
		}
	}
}

func TestAuthorizationIsTheSameAtEveryLevel(t *testing.T) {
	out := compile(t, accounts(t))
	for i := range out.Levels {
		if !bytes.Equal(section(t, &out.Levels[i], authz.Name), section(t, &out.Levels[0], authz.Name)) {
			t.Errorf("level %s has another section", out.Levels[i].Name)
		}
	}
}

func TestNetworkListsAreKeptOncePerDifference(t *testing.T) {
	out := compile(t, accounts(t))
	for i, want := range [][]string{{"normal"}, {"normal"}, {"normal", "lockdown"}} {
		s, err := flow.Decode(section(t, &out.Levels[i], flow.Name))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range s.Lists {
			got = append(got, l.Level)
		}
		if !slices.Equal(got, want) {
			t.Errorf("level %s has the lists of %v", out.Levels[i].Name, got)
		}
	}
	s, _ := flow.Decode(section(t, &out.Levels[2], flow.Name))
	// ssh-never from anywhere is a rule for each family; corp-in has a prefix of each.
	if n := len(s.Lists[0].Rules); n != 5 {
		t.Errorf("%d rules at normal", n)
	}
	if n := len(s.Lists[1].Rules); n != 3 {
		t.Errorf("%d rules at lockdown", n)
	}
	first := s.Lists[0].Rules[0]
	if first.ID != "ssh-never" || first.Verdict != abi.Deny || !first.Audit || first.PortLo != 22 || first.PortHi != 22 || first.Src != netip.MustParsePrefix("0.0.0.0/0") || first.Protocol != flow.TCP {
		t.Errorf("%+v", first)
	}
	if r := s.Lists[0].Rule; r.ID != abi.RuleNetwork || r.Line != "policy.yaml:8" {
		t.Errorf("the default is %v", r)
	}
}

func TestRequirementsCiteTheirLines(t *testing.T) {
	d := accounts(t)
	var got []string
	for _, r := range compile(t, d).Levels[0].Requirements {
		if r.Why == "" {
			t.Errorf("%s has no reason", r.Any)
		}
		got = append(got, r.Any.String()+" "+r.Pos.Short())
	}
	want := []string{
		"image/process " + d.Workload.TargetPos.Short(), "net " + d.Workload.Listen[0].Pos.Short(),
		"net/socket " + d.Workload.Listen[0].Pos.Short(),
		"firewall " + d.Policy.Network.Pos.Short(), "filter " + d.Policy.RoutesPos.Short(),
		"authn " + d.Policy.Authentication.Pos.Short(), "authn/basic " + d.Policy.Authentication.Basic.Pos.Short(),
		"authn/basic/argon2id " + d.Policy.Authentication.Basic.Pos.Short(),
		"ratelimit/principal " + d.Policy.RateLimits[0].Pos.Short(), "authz/cedar " + d.Policy.Authorization.Pos.Short(),
		"audit " + d.Policy.Audit.Pos.Short(), "audit/channel " + d.Policy.Audit.Pos.Short(), "app/handler " + d.Workload.App.Handler.Pos.Short(),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, line := range got {
		if strings.HasSuffix(line, " ") {
			t.Errorf("%q has no line", line)
		}
	}
}

// Compression is the workload's to ask for, to refuse, or to leave to the choice.
func TestCompressionIsRequired(t *testing.T) {
	d := accounts(t)
	for value, want := range map[api.Compression][]string{
		"": {"app/files"}, api.CompressionOptional: {"app/files"},
		api.CompressionRequired: {"app/files", "app/files/compressed"}, api.CompressionNone: {"app/files", "app/files/plain"},
	} {
		w := *d.Workload
		w.App = api.App{Static: &api.StaticApp{Pos: w.App.Pos, Dir: "./public", Compression: value}}
		var got []string
		for _, r := range compile(t, &policy.Deployment{Workload: &w, Policy: d.Policy, Authorization: d.Authorization}).Levels[0].Requirements {
			if strings.HasPrefix(r.Any[0], "app/") {
				got = append(got, r.Any[0])
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v", value, got)
		}
	}
}

func TestWhatIsNotAskedForIsAbsent(t *testing.T) {
	d := accounts(t)
	p := *d.Policy
	p.Network, p.Authentication, p.Authorization, p.Routes, p.RateLimits, p.Audit = nil, nil, nil, nil, nil, nil
	p.Default.Network, p.Default.Authorization = abi.Allow, abi.Allow
	l := compile(t, &policy.Deployment{Workload: d.Workload, Policy: &p}).Levels[0]
	var got []string
	for _, r := range l.Requirements {
		got = append(got, r.Any...)
	}
	if !slices.Equal(got, []string{"image/process", "net", "net/socket", "filter", "audit", "audit/channel", "app/handler"}) || len(l.Sections) != 3 {
		t.Errorf("%v, %d sections", got, len(l.Sections))
	}
	s, err := route.Decode(section(t, &l, route.Name))
	if err != nil || !s.Open {
		t.Errorf("without routes every path must be open: %+v, %v", s, err)
	}
}

func TestAPolicyThatDeniesEverythingIsAnError(t *testing.T) {
	d := accounts(t)
	p := *d.Policy
	p.Authorization = nil
	_, err := Compile(&policy.Deployment{Workload: d.Workload, Policy: &p})
	if err == nil || !strings.Contains(err.Error(), "policy.yaml:8") || !strings.Contains(err.Error(), "authorization: Allow") {
		t.Errorf("%v", err)
	}
}

func TestRoutesSayWhatTheyRead(t *testing.T) {
	got := fmt.Sprint(compile(t, accounts(t)).Levels[0].Routes)
	want := "[{listAccounts [] [staff-read]} {readAccount [] [staff-read]} " +
		"{transfer [amount hour level] [teller-transfer large-by-day small-when-elevated read-only-in-lockdown]}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPortsSayWhoReachesThem(t *testing.T) {
	out := compile(t, accounts(t))
	for i, want := range []string{"[web-in corp-in]", "[web-in corp-in]", "[web-in]"} {
		if len(out.Levels[i].Ports) != 1 {
			t.Fatalf("%d ports", len(out.Levels[i].Ports))
		}
		p := out.Levels[i].Ports[0]
		var names []string
		for _, r := range p.Rules {
			names = append(names, r.ID)
		}
		if fmt.Sprint(names) != want || p.Port != 8445 || p.Default.Verdict != abi.Deny || p.Default.ID != abi.RuleNetwork {
			t.Errorf("%s: %+v", out.Levels[i].Name, p)
		}
	}
}

func TestEveryRuleSaysWhereItIsEnforced(t *testing.T) {
	out := compile(t, accounts(t))
	where := map[string]string{}
	for _, e := range out.Levels[0].Enforced {
		if e.Line == "" {
			t.Errorf("%s has no line", e.ID)
		}
		where[e.ID] = e.Stage + " " + e.Where
	}
	for id, want := range map[string]string{
		"ssh-never": "firewall accept", "corp-in": "firewall accept", abi.RuleNetwork: "firewall accept", abi.RuleRoute: "filter request",
		"staff-login": "authn request", "large-by-day": "authz request", abi.RuleAuthz: "authz request",
	} {
		if where[id] != want {
			t.Errorf("%s is enforced at %q", id, where[id])
		}
	}
	for _, e := range out.Levels[2].Enforced {
		if e.ID == "corp-in" {
			t.Error("corp-in is said to be enforced at lockdown, where it does not exist")
		}
	}
}

func TestProgramOfALevel(t *testing.T) {
	d := accounts(t)
	out := compile(t, d)
	l, err := out.Level("elevated")
	if err != nil {
		t.Fatal(err)
	}
	plan := program.PlanID{1, 2, 3}
	p := l.Program(d, plan, 7)
	if p.Plan != plan || p.Revision != 7 || p.Level() != "elevated" || len(p.Levels) != 2 || p.Tenant != "acme" || p.Workload != "accounts" || p.Policy != "accounts" || p.Section(authz.Name) == nil {
		t.Errorf("%+v", p)
	}
	if _, err := out.Level("paranoid"); err == nil {
		t.Error("a level that does not exist is found")
	}
}

// What repeats a redacted field is redacted with it.
func TestWhatIsRedacted(t *testing.T) {
	d := accounts(t)
	d.Policy.Authentication.JWT = []api.JWT{{Principal: "a/b"}}
	d.Authorization.Attributes, d.Authorization.GroupClaim = nil, "/sub"
	for i, x := range []authz.Source{{Kind: authz.SourceRoute, Arg: "id"}, {Kind: authz.SourceQuery, Arg: "q"}, {Kind: authz.SourcePeer}, {Kind: authz.SourceSPIFFE},
		{Kind: authz.SourceDNS}, {Kind: authz.SourceSubject}, {Kind: authz.SourceClaim, Arg: "/a~1b"}, {Kind: authz.SourceClaim, Arg: "/sub"}, {Kind: authz.SourceBody, Arg: "/q"}, {Kind: authz.SourceHour}} {
		d.Authorization.Attributes = append(d.Authorization.Attributes, authz.Attribute{Name: string(rune('a' + i)), Source: x})
	}
	for _, c := range []struct{ field, want string }{
		{"path", "path attribute.a attribute.b"}, {"source", "source attribute.c"}, {"groups", "groups attribute.h"}, {"attribute.j", "attribute.j"},
		{"principal", "principal attribute.d attribute.e attribute.f attribute.g"}, {"attributes", "attributes"},
	} {
		d.Policy.Audit = &api.Audit{Redact: []api.Redaction{{Field: c.field}}}
		if got := strings.Join(auditSection(d).Redact, " "); got != c.want {
			t.Errorf("%s: %s", c.field, got)
		}
	}
}
