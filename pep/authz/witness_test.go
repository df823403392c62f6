package authz

import (
	"reflect"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/pep"
)

func attr(name string, t authz.Type, k authz.SourceKind, arg string) authz.Attribute {
	return authz.Attribute{Name: name, Type: t, Optional: true, Source: authz.Source{Kind: k, Arg: arg}}
}

func set(name string, t authz.Type, k authz.SourceKind, arg string) authz.Attribute {
	a := attr(name, t, k, arg)
	a.Set = true
	return a
}

var always = []step{{v: authz.Value{Kind: authz.ValueBool, A: 1}}}

// What is recorded is what was judged, in the spelling that lorica why takes.
func TestWhatWasJudgedIsTold(t *testing.T) {
	has := attr("mfa", authz.TypeBool, authz.SourceClaimHas, "/amr")
	has.Source.Has = "mfa"
	s := prepare(t, section([]authz.Attribute{
		attr("level", authz.TypeString, authz.SourceLevel, ""),
		attr("hour", authz.TypeLong, authz.SourceHour, ""),
		attr("minute", authz.TypeLong, authz.SourceMinute, ""),
		attr("weekday", authz.TypeLong, authz.SourceWeekday, ""),
		attr("from", authz.TypeIP, authz.SourcePeer, ""),
		attr("method", authz.TypeString, authz.SourceMethod, ""),
		attr("id", authz.TypeLong, authz.SourceRoute, "id"),
		attr("verbose", authz.TypeBool, authz.SourceQuery, "verbose"),
		attr("agent", authz.TypeString, authz.SourceHeader, "User-Agent"),
		attr("amount", authz.TypeDecimal, authz.SourceBody, "/amount"),
		attr("note", authz.TypeString, authz.SourceBody, "/note"),
		set("tags", authz.TypeString, authz.SourceBody, "/tags"),
		set("counts", authz.TypeLong, authz.SourceBody, "/counts"),
		set("prices", authz.TypeDecimal, authz.SourceBody, "/prices"),
		set("none", authz.TypeIP, authz.SourceBody, "/none"),
		attr("sub", authz.TypeString, authz.SourceClaim, "/sub"),
		has,
		attr("cn", authz.TypeString, authz.SourceSubject, ""),
		attr("dns", authz.TypeString, authz.SourceDNS, ""),
	}, always))
	x := ask("POST", "/r?verbose=true&secret=7", `{"amount": 500, "tags": ["a\"\\\u0001é", "b"], "counts": [1, -2], "prices": [1.5, 2], "none": []}`,
		"Content-Type", "application/json", "User-Agent", "curl")
	x.Params = []pep.Param{{Name: "id", Value: "7"}}
	x.Claims = []byte(`{"sub": "bob", "amr": ["pwd", "mfa"]}`)
	x.Peer = &pep.Peer{Subject: "Bob"}
	if x.Witness != nil {
		t.Fatal("there is a witness before anybody judged")
	}
	check(t, s.Judge(x), abi.Allow, "permit-it")
	want := []audit.Fact{
		{Name: "amount", Value: "500.0"}, {Name: "note", State: audit.FactAbsent},
		{Name: "tags", Value: `["a\"\\\u0001é","b"]`}, {Name: "counts", Value: `[1,-2]`}, {Name: "prices", Value: `["1.5","2.0"]`}, {Name: "none", Value: "[]"},
		{Name: "sub", Value: "bob"}, {Name: "mfa", Value: "true"},
		{Name: "hour", Value: "11"}, {Name: "minute", Value: "719"}, {Name: "weekday", Value: "5"}, {Name: "from", Value: "10.1.2.3"},
		{Name: "method", Value: "POST"}, {Name: "id", Value: "7"}, {Name: "verbose", Value: "true"}, {Name: "agent", Value: "curl"},
		{Name: "cn", Value: "Bob"}, {Name: "dns", State: audit.FactAbsent},
	}
	got := x.Witness.Facts(x)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if again := x.Witness.Facts(x); !reflect.DeepEqual(got, again) {
		t.Errorf("asked again: %+v", again)
	}
}

// A fact that cannot be had denies, and the others are recorded none the less.
func TestFactsOfWhatCannotBeRead(t *testing.T) {
	amount := attr("amount", authz.TypeLong, authz.SourceBody, "/amount")
	amount.Optional = false
	sub := attr("sub", authz.TypeString, authz.SourceClaim, "/sub")
	id := attr("id", authz.TypeLong, authz.SourceRoute, "id")
	note := attr("note", authz.TypeString, authz.SourceBody, "/note")
	s := prepare(t, section([]authz.Attribute{amount, note, sub, id}, always))
	for _, c := range []struct {
		body, id, rule string
		want           []audit.Fact
	}{
		{`{"note": "x"}`, "7", abi.RuleAttribute,
			[]audit.Fact{{Name: "amount", State: audit.FactAbsent}, {Name: "note", Value: "x"}, {Name: "sub", State: audit.FactAbsent}, {Name: "id", Value: "7"}}},
		{`{"note": "x", "amount": "lots"}`, "07", abi.RuleRequest,
			[]audit.Fact{{Name: "amount", State: audit.FactUnread}, {Name: "note", Value: "x"}, {Name: "sub", State: audit.FactAbsent}, {Name: "id", State: audit.FactUnread}}},
		{`{"note": `, "7", abi.RuleRequest,
			[]audit.Fact{{Name: "amount", State: audit.FactUnread}, {Name: "note", State: audit.FactUnread}, {Name: "sub", State: audit.FactAbsent}, {Name: "id", Value: "7"}}},
	} {
		x := ask("POST", "/r", c.body, "Content-Type", "application/json")
		x.Params = []pep.Param{{Name: "id", Value: c.id}}
		check(t, s.Judge(x), abi.Deny, c.rule)
		if got := x.Witness.Facts(x); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v", c.body, got)
		}
	}
}

func TestNobodyAskedKnowsNothing(t *testing.T) {
	s := prepare(t, section([]authz.Attribute{attr("note", authz.TypeString, authz.SourceBody, "/note")}, always))
	x := ask("POST", "/r", `{}`)
	x.Principal = ""
	if s.Judge(x); x.Witness != nil {
		t.Error("facts of a request that nobody authenticated")
	}
	x = ask("POST", "/r", `{}`)
	x.Route.Name = "other"
	if s.Judge(x); x.Witness != nil {
		t.Error("facts of a route that authorization does not know")
	}
}
