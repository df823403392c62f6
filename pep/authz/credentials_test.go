package authz

import (
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/pep"
)

func claim(typ authz.Type, optional bool, pointer string) []authz.Attribute {
	return []authz.Attribute{{Name: "x", Type: typ, Optional: optional, Source: authz.Source{Kind: authz.SourceClaim, Arg: pointer}}}
}

func claimHas(optional bool) []authz.Attribute {
	return []authz.Attribute{{Name: "x", Type: authz.TypeBool, Optional: optional, Source: authz.Source{Kind: authz.SourceClaimHas, Arg: "/amr", Has: "mfa"}}}
}

func withClaims(claims string) *pep.Exchange {
	x := ask("GET", "/", "")
	if claims != "" {
		x.Claims = []byte(claims)
	}
	return x
}

// The rules of this table permit where the attribute has the value.
func TestClaims(t *testing.T) {
	isHello := []step{{op: authz.OpAttr}, {v: authz.Value{Kind: authz.ValueString, A: str("hello")}}, {op: authz.OpEq}}
	isFive := []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueLong, int64(5))}, {op: authz.OpEq}}
	isTrue := []step{{op: authz.OpAttr}}
	present := []step{{op: authz.OpHasAttr}}
	for name, c := range map[string]struct {
		attrs  []authz.Attribute
		permit []step
		claims string
		rule   string
	}{
		"text":                            {claim(authz.TypeString, false, "/x"), isHello, `{"x": "hello"}`, "permit-it"},
		"another text":                    {claim(authz.TypeString, false, "/x"), isHello, `{"x": "hell"}`, abi.RuleAuthz},
		"a number":                        {claim(authz.TypeLong, false, "/x"), isFive, `{"x": 5}`, "permit-it"},
		"a truth value":                   {claim(authz.TypeBool, false, "/x"), isTrue, `{"x": true}`, "permit-it"},
		"nested":                          {claim(authz.TypeLong, false, "/a/b/1"), isFive, `{"a": {"b": [4, 5]}}`, "permit-it"},
		"missing, required":               {claim(authz.TypeLong, false, "/x"), isFive, `{"y": 5}`, abi.RuleAttribute},
		"missing, optional":               {claim(authz.TypeLong, true, "/x"), present, `{"y": 5}`, abi.RuleAuthz},
		"no token, required":              {claim(authz.TypeLong, false, "/x"), isFive, "", abi.RuleAttribute},
		"no token, optional":              {claim(authz.TypeLong, true, "/x"), present, "", abi.RuleAuthz},
		"a number as text":                {claim(authz.TypeLong, false, "/x"), isFive, `{"x": "5"}`, abi.RuleRequest},
		"a number with a fraction":        {claim(authz.TypeLong, false, "/x"), isFive, `{"x": 5.0}`, abi.RuleRequest},
		"null, optional":                  {claim(authz.TypeLong, true, "/x"), present, `{"x": null}`, abi.RuleRequest},
		"a list":                          {claim(authz.TypeString, false, "/x"), isHello, `{"x": ["hello"]}`, abi.RuleRequest},
		"a claim in another case":         {claim(authz.TypeString, true, "/x"), present, `{"X": "hello"}`, abi.RuleRequest},
		"has it, in a list":               {claimHas(false), isTrue, `{"amr": ["pwd", "mfa"]}`, "permit-it"},
		"has it, and another behind it":   {claimHas(false), isTrue, `{"amr": ["mfa", "pwd"]}`, "permit-it"},
		"has it, alone":                   {claimHas(false), isTrue, `{"amr": "mfa"}`, "permit-it"},
		"has something that begins alike": {claimHas(false), isTrue, `{"amr": ["mfa2", "mf"]}`, abi.RuleAuthz},
		"has nothing":                     {claimHas(false), isTrue, `{"amr": []}`, abi.RuleAuthz},
		"has no such claim":               {claimHas(false), isTrue, `{"sub": "mfa"}`, abi.RuleAuthz},
		"has a number beside it":          {claimHas(false), isTrue, `{"amr": ["mfa", 1]}`, abi.RuleRequest},
		"has it in a list in a list":      {claimHas(false), isTrue, `{"amr": [["mfa"]]}`, abi.RuleRequest},
		"has it as a name":                {claimHas(false), isTrue, `{"amr": {"mfa": true}}`, abi.RuleRequest},
		"has it nowhere, without a token": {claimHas(false), isTrue, "", abi.RuleAttribute},
		"may have, without a token":       {claimHas(true), present, "", abi.RuleAuthz},
		"may have, with a token":          {claimHas(true), present, `{}`, "permit-it"},
	} {
		d := prepare(t, section(c.attrs, c.permit)).Judge(withClaims(c.claims))
		if d.Rule.ID != c.rule || (d.Verdict == abi.Allow) != (c.rule == "permit-it") {
			t.Errorf("%s: %+v; want %s", name, d, c.rule)
		}
	}
}

func TestCertificates(t *testing.T) {
	isHello := []step{{op: authz.OpAttr}, {v: authz.Value{Kind: authz.ValueString, A: str("hello")}}, {op: authz.OpEq}}
	for name, c := range map[string]struct {
		kind authz.SourceKind
		peer *pep.Peer
		rule string
	}{
		"the SPIFFE ID":    {authz.SourceSPIFFE, &pep.Peer{SPIFFE: "hello", Subject: "x"}, "permit-it"},
		"the first name":   {authz.SourceDNS, &pep.Peer{DNS: []string{"hello", "x"}}, "permit-it"},
		"the second name":  {authz.SourceDNS, &pep.Peer{DNS: []string{"x", "hello"}}, abi.RuleAuthz},
		"the subject":      {authz.SourceSubject, &pep.Peer{SPIFFE: "x", Subject: "hello"}, "permit-it"},
		"another name":     {authz.SourceSPIFFE, &pep.Peer{Subject: "hello", DNS: []string{"hello"}}, abi.RuleAttribute},
		"no DNS name":      {authz.SourceDNS, &pep.Peer{Subject: "hello"}, abi.RuleAttribute},
		"no certificate":   {authz.SourceSubject, nil, abi.RuleAttribute},
		"no certificate 2": {authz.SourceDNS, nil, abi.RuleAttribute},
	} {
		x := ask("GET", "/", "")
		x.Peer = c.peer
		attrs := []authz.Attribute{{Name: "x", Type: authz.TypeString, Source: authz.Source{Kind: c.kind}}}
		if d := prepare(t, section(attrs, isHello)).Judge(x); d.Rule.ID != c.rule {
			t.Errorf("%s: %+v; want %s", name, d, c.rule)
		}
	}
}

func TestTheClockIsInUTC(t *testing.T) {
	for name, c := range map[string]struct {
		kind authz.SourceKind
		at   string
		want uint32
	}{
		"Monday":             {authz.SourceWeekday, "2026-01-05T00:00:00Z", 1},
		"Sunday":             {authz.SourceWeekday, "2026-01-04T23:59:59Z", 7},
		"Sunday elsewhere":   {authz.SourceWeekday, "2026-01-05T01:00:00+02:00", 7},
		"the first minute":   {authz.SourceMinute, "2026-01-05T00:00:59Z", 0},
		"the last minute":    {authz.SourceMinute, "2026-01-05T23:59:59Z", 1439},
		"a minute elsewhere": {authz.SourceMinute, "2026-01-05T00:30:00+05:45", 1125},
		"the hour elsewhere": {authz.SourceHour, "2026-01-05T00:30:00+05:45", 18},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		x := ask("GET", "/", "")
		x.Now = at
		attrs := []authz.Attribute{{Name: "x", Type: authz.TypeLong, Source: authz.Source{Kind: c.kind}}}
		is := []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueLong, int64(c.want))}, {op: authz.OpEq}}
		if d := prepare(t, section(attrs, is)).Judge(x); d.Verdict != abi.Allow {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// A remembered decision is not taken for another claim, certificate or minute.
func TestMemoKnowsCredentialsAndTheClock(t *testing.T) {
	isHello := []step{{op: authz.OpAttr}, {v: authz.Value{Kind: authz.ValueString, A: str("hello")}}, {op: authz.OpEq}}
	t.Run("a claim", func(t *testing.T) {
		s := prepare(t, section(claim(authz.TypeString, false, "/x"), isHello))
		settle(t, s, withClaims(`{"x": "hello"}`), abi.Allow)
		settle(t, s, withClaims(`{"x": "hell"}`), abi.Deny)
		settle(t, s, withClaims(`{"x": "hello", "y": 1}`), abi.Allow)
		settle(t, s, withClaims(""), abi.Deny)
	})
	t.Run("what a claim has", func(t *testing.T) {
		s := prepare(t, section(claimHas(false), []step{{op: authz.OpAttr}}))
		settle(t, s, withClaims(`{"amr": ["mfa"]}`), abi.Allow)
		settle(t, s, withClaims(`{"amr": ["pwd"]}`), abi.Deny)
		settle(t, s, withClaims(""), abi.Deny)
	})
	t.Run("no token or none of the claim", func(t *testing.T) {
		s := prepare(t, section(claimHas(true), []step{{op: authz.OpHasAttr}}))
		settle(t, s, withClaims(`{}`), abi.Allow)
		settle(t, s, withClaims(""), abi.Deny)
	})
	t.Run("a certificate", func(t *testing.T) {
		s := prepare(t, section([]authz.Attribute{{Name: "x", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceSPIFFE}}}, isHello))
		x := ask("GET", "/", "")
		x.Peer = &pep.Peer{SPIFFE: "hello"}
		settle(t, s, x, abi.Allow)
		x.Peer = &pep.Peer{SPIFFE: "hello2"}
		settle(t, s, x, abi.Deny)
		x.Peer = nil
		settle(t, s, x, abi.Deny)
	})
	t.Run("the minute", func(t *testing.T) {
		less := []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueLong, int64(720))}, {op: authz.OpLt}}
		s := prepare(t, section([]authz.Attribute{{Name: "x", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceMinute}}}, less))
		x := ask("GET", "/", "") // at 11:59:59
		settle(t, s, x, abi.Allow)
		x.Now = x.Now.Add(time.Second)
		settle(t, s, x, abi.Deny)
	})
}
