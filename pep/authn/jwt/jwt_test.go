package jwt_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	wire "lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authn/jwt"
)

const issuer = "https://idp.acme.internal"

// start is when every test begins.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func section() wire.Section {
	return wire.Section{Realm: "payments", Groups: "/groups", Issuers: []wire.Issuer{{
		Rule: abi.Rule{ID: "idp", Line: "p.yaml:7"}, Issuer: issuer, Audiences: []string{"payments", "ledger"}, Keys: "keys",
		Algorithms: wire.AllAlgorithms, Principal: "sub", Leeway: 30 * time.Second}}}
}

func prepare(t testing.TB, m *jwt.Module, s wire.Section, keys string) pep.GuardState {
	t.Helper()
	st, err := m.Prepare(&pep.Input{Section: s.Encode(), Secrets: map[string][]byte{"keys": []byte(keys)}})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// A client is a source at a time.
type client struct {
	from string
	now  time.Time
}

var somebody = client{"192.0.2.1", start}

func (c client) ask(st pep.GuardState, token string) (*pep.Exchange, pep.Decision) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	x := &pep.Exchange{Request: r, Header: http.Header{}, Now: c.now, Flow: flow.Flow{Src: netip.MustParseAddr(c.from)}}
	return x, st.Judge(x)
}

// status asks once: 200 where it is allowed.
func (c client) status(st pep.GuardState, token string) int {
	if _, d := c.ask(st, token); d.Verdict != abi.Allow {
		return d.Status
	}
	return 200
}

func TestWhoIsWho(t *testing.T) {
	rule := section().Issuers[0].Rule
	for _, s := range []*signer{newES256("k1"), newEdDSA("k1"), newRS256("k1"), newES256(""), newEdDSA(""), newRS256("")} {
		st := prepare(t, jwt.New(), section(), set(s))
		body := claims(map[string]any{"groups": []string{"tellers", "staff", "tellers"}, "amount": 7})
		token := s.raw(s.header(), body)
		for range 3 { // the second is remembered
			x, d := somebody.ask(st, token)
			if d.Verdict != abi.Allow || d.Stage != abi.StageAuthn || d.Rule != rule || x.Principal != "ada" || !reflect.DeepEqual(x.Groups, []string{"staff", "tellers"}) {
				t.Fatalf("%s: %+v, %q in %q", s.alg, d, x.Principal, x.Groups)
			}
			if string(x.Claims) != body || !x.Expires.Equal(start.Add(630*time.Second)) {
				t.Errorf("%s: claims %s until %v", s.alg, x.Claims, x.Expires)
			}
			if len(x.Request.Header["Authorization"]) > 0 {
				t.Errorf("%s: the application would see the token", s.alg)
			}
		}
	}
}

func TestGoodTokens(t *testing.T) {
	s := newES256("k1")
	st := prepare(t, jwt.New(), section(), set(newEdDSA("k0"), s))
	for name, token := range map[string]string{
		"one of several audiences": s.token(map[string]any{"aud": []string{"other", "ledger"}}),
		"typ JWT":                  s.raw(`{"alg": "ES256", "kid": "k1", "typ": "JWT"}`, claims(nil)),
		"typ at+jwt":               s.raw(`{"alg": "ES256", "kid": "k1", "typ": "application/at+jwt"}`, claims(nil)),
		"no kid, one key fits":     s.raw(`{"alg": "ES256"}`, claims(nil)),
		"keys it brings along":     s.raw(`{"alg": "ES256", "kid": "k1", "jwk": {}, "jku": "https://evil/", "x5u": "x", "x5c": [1]}`, claims(nil)),
		"no groups":                s.token(nil),
		"one group, as a string":   s.token(map[string]any{"groups": "staff"}),
		"not before, within":       s.token(map[string]any{"nbf": start.Unix() + 30}),
		"expired, within":          s.token(map[string]any{"exp": start.Unix() - 29}),
		"issued ahead, within":     s.token(map[string]any{"iat": start.Unix() + 30}),
	} {
		if x, d := somebody.ask(st, token); d.Verdict != abi.Allow || x.Principal != "ada" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestRefusals(t *testing.T) {
	es, ed, rs := newES256("es"), newEdDSA("ed"), newRS256("rs")
	other := newES256("es")
	st := prepare(t, jwt.New(), section(), set(es, ed, rs))
	body, good := claims(nil), es.token(nil)
	part := strings.Split(good, ".")
	digest := sha256.Sum256([]byte(part[0] + "." + part[1]))
	der := must(ecdsa.SignASN1(rand.Reader, es.key.(*ecdsa.PrivateKey), digest[:]))
	spki := must(x509.MarshalPKIXPublicKey(rs.key.Public()))
	nested := func(n int) string {
		return strings.TrimSuffix(body, "}") + `,"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
	}
	claim := func(name string, v any) string { return es.token(map[string]any{name: v}) }
	text := func(old, new string) string { return es.raw(es.header(), replaced(t, body, old, new)) }
	exp := fmt.Sprintf(`"exp":%d`, start.Unix()+600)
	for name, token := range map[string]string{
		"nothing":                           "",
		"no parts":                          "abc",
		"two parts":                         part[0] + "." + part[1],
		"four parts":                        good + ".x",
		"an empty signature":                part[0] + "." + part[1] + ".",
		"an empty part":                     part[0] + ".." + part[2],
		"padding":                           good + "==",
		"a space":                           good + " ",
		"a line break":                      part[0] + ".\n" + part[1] + "." + part[2],
		"standard base64":                   part[0] + "." + part[1] + "." + strings.Repeat("+", 86),
		"bits behind the end":               part[0] + "." + part[1] + "." + spare(part[2]),
		"a short signature":                 part[0] + "." + part[1] + "." + part[2][:84],
		"a zero signature":                  part[0] + "." + part[1] + "." + b64.EncodeToString(make([]byte, 64)),
		"the signature of another token":    part[0] + "." + part[1] + "." + strings.Split(claim("sub", "bob"), ".")[2],
		"other claims under the signature":  part[0] + "." + b64.EncodeToString([]byte(claims(map[string]any{"sub": "root"}))) + "." + part[2],
		"the signature in DER":              part[0] + "." + part[1] + "." + b64.EncodeToString(der),
		"another key with the same kid":     other.token(nil),
		"alg none":                          b64.EncodeToString([]byte(`{"alg":"none"}`)) + "." + part[1] + ".",
		"alg none, with a signature":        es.raw(`{"alg": "none", "kid": "es"}`, body),
		"alg nOnE":                          es.raw(`{"alg": "nOnE", "kid": "es"}`, body),
		"alg es256":                         es.raw(`{"alg": "es256", "kid": "es"}`, body),
		"no alg":                            es.raw(`{"kid": "es"}`, body),
		"alg null":                          es.raw(`{"alg": null, "kid": "es"}`, body),
		"alg as a list":                     es.raw(`{"alg": ["ES256"], "kid": "es"}`, body),
		"HS256 with the public key":         hs256(`{"alg":"HS256","kid":"rs"}`, body, spki),
		"HS256 with the public key, in PEM": hs256(`{"alg":"HS256","kid":"rs"}`, body, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
		"RS256 said, HS256 made":            hs256(`{"alg":"RS256","kid":"rs"}`, body, spki),
		"the kid of a key of another alg":   es.raw(`{"alg": "ES256", "kid": "rs"}`, body),
		"the alg of another key":            es.raw(`{"alg": "EdDSA", "kid": "es"}`, body),
		"an unknown kid":                    es.raw(`{"alg": "ES256", "kid": "no"}`, body),
		"an empty kid":                      es.raw(`{"alg": "ES256", "kid": ""}`, body),
		"a kid that is a path":              es.raw(`{"alg": "ES256", "kid": "../../dev/null"}`, body),
		"a kid that is a number":            es.raw(`{"alg": "ES256", "kid": 1}`, body),
		"crit":                              es.raw(`{"alg": "ES256", "kid": "es", "crit": ["exp"], "exp": 1}`, body),
		"an empty crit":                     es.raw(`{"alg": "ES256", "kid": "es", "crit": []}`, body),
		"b64":                               es.raw(`{"alg": "ES256", "kid": "es", "b64": false}`, body),
		"zip":                               es.raw(`{"alg": "ES256", "kid": "es", "zip": "DEF"}`, body),
		"typ of another use":                es.raw(`{"alg": "ES256", "kid": "es", "typ": "logout+jwt"}`, body),
		"typ dpop":                          es.raw(`{"alg": "ES256", "kid": "es", "typ": "dpop+jwt"}`, body),
		"alg twice":                         es.raw(`{"alg": "none", "alg": "ES256", "kid": "es"}`, body),
		"alg twice, in another case":        es.raw(`{"alg": "ES256", "Alg": "none", "kid": "es"}`, body),
		"a header that is a list":           es.raw(`[{"alg": "ES256", "kid": "es"}]`, body),
		"something behind the header":       es.raw(es.header()+"{}", body),
		"a long header":                     es.raw(`{"alg": "ES256", "kid": "es", "x": "`+strings.Repeat("x", 1024)+`"}`, body),
		"claims that are a list":            es.raw(es.header(), "["+body+"]"),
		"claims that are no JSON":           es.raw(es.header(), "ada"),
		"invalid UTF-8":                     text(`"ada"`, "\"\xff\""),
		"sub twice":                         text(`"sub":"ada"`, `"sub":"ada","sub":"root"`),
		"sub twice, in another case":        text(`"sub":"ada"`, `"sub":"ada","SUB":"root"`),
		"sub twice, one of them escaped":    text(`"sub":"ada"`, `"sub":"ada","\u0073ub":"root"`),
		"sub twice, with a long s":          text(`"sub":"ada"`, `"sub":"ada","\u017fub":"root"`),
		"iss twice, one of them escaped":    text(`"sub":"ada"`, `"sub":"ada","is\u0073":"https://evil"`),
		"a kid in another case":             es.raw(`{"alg": "ES256", "kid": "es", "\u212aid": "rs"}`, body),
		"a member twice, deep inside":       text(`"sub":"ada"`, `"sub":"ada","x":[{"a":1,"a":2}]`),
		"a bomb":                            es.raw(es.header(), nested(1000)),
		"just too deep":                     es.raw(es.header(), nested(65)),
		"no issuer":                         claim("iss", nil),
		"another issuer":                    claim("iss", "https://evil"),
		"the issuer and a slash":            claim("iss", issuer+"/"),
		"the issuer in a list":              claim("iss", []string{issuer}),
		"no audience":                       claim("aud", nil),
		"another audience":                  claim("aud", "paymentss"),
		"no audience in the list":           claim("aud", []string{}),
		"an audience that is a number":      claim("aud", 7),
		"a number among the audiences":      claim("aud", []any{"payments", 7}),
		"the audience in a list in a list":  claim("aud", [][]string{{"payments"}}),
		"audiences without end":             claim("aud", strings.Split(strings.Repeat("x,", 64)+"payments", ",")),
		"no end":                            claim("exp", nil),
		"an end as text":                    claim("exp", fmt.Sprint(start.Unix()+600)),
		"an end that is null":               text(exp, `"exp":null`),
		"an end with a fraction":            text(exp, fmt.Sprintf(`"exp":%d.5`, start.Unix()+600)),
		"an end with an exponent":           text(exp, `"exp":3e9`),
		"an end far beyond":                 text(exp, `"exp":253402300800`),
		"an end that overflows":             text(exp, `"exp":18446744073709551617`),
		"a negative end":                    text(exp, `"exp":-1`),
		"an end at zero":                    text(exp, `"exp":0`),
		"NaN":                               text(exp, `"exp":NaN`),
		"expired, at the leeway":            claim("exp", start.Unix()-30),
		"not valid yet":                     claim("nbf", start.Unix()+31),
		"a begin as text":                   claim("nbf", "0"),
		"issued in the future":              claim("iat", start.Unix()+31),
		"no principal":                      claim("sub", nil),
		"an empty principal":                claim("sub", ""),
		"a principal that is a number":      claim("sub", 7),
		"anonymous by name":                 claim("sub", "anonymous"),
		"a principal with a comma":          claim("sub", "ada,root"),
		"a principal with a line break":     claim("sub", "ada\r\nX: y"),
		"a principal beyond ASCII":          claim("sub", "ädä"),
		"a long principal":                  claim("sub", strings.Repeat("a", 256)),
		"a group with a comma":              claim("groups", []string{"a,b"}),
		"a group that is a number":          claim("groups", []any{"a", 1}),
		"groups that are an object":         claim("groups", map[string]any{"a": 1}),
		"groups that are null":              text(`"sub":"ada"`, `"sub":"ada","groups":null`),
		"too many groups":                   claim("groups", strings.Split(strings.Repeat("g,", 64)+"h", ",")),
		"a huge token":                      claim("x", strings.Repeat("x", 7000)),
	} {
		for range 2 { // a refusal is not remembered as anything else
			x, d := somebody.ask(st, token)
			if d.Verdict != abi.Deny || d.Status != 401 || d.Stage != abi.StageAuthn || d.Rule.ID == "" || d.Reason == "" || x.Principal != "" || x.Groups != nil || x.Claims != nil {
				t.Errorf("%s: %+v, %q", name, d, x.Principal)
			}
			if got := x.Header.Get("WWW-Authenticate"); got != `Bearer realm="payments", error="invalid_token"` {
				t.Errorf("%s: challenge %q", name, got)
			}
			if len(x.Request.Header["Authorization"]) > 0 {
				t.Errorf("%s: the header is still there", name)
			}
		}
	}
	if got := somebody.status(st, good); got != 200 {
		t.Errorf("the token that they were made of: %d", got)
	}
}

// spare changes only bits that no byte of the decoded text holds.
func spare(s string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return s[:len(s)-1] + string(digits[strings.IndexByte(digits, s[len(s)-1])|1])
}

func TestTheLimitsOfDepthAndGroupsAreReached(t *testing.T) {
	s := newES256("k")
	st := prepare(t, jwt.New(), section(), set(s))
	groups := make([]string, 64)
	for i := range groups {
		groups[i] = fmt.Sprint("g", i)
	}
	x, d := somebody.ask(st, s.token(map[string]any{"groups": groups}))
	if d.Verdict != abi.Allow || len(x.Groups) != 64 {
		t.Errorf("64 groups: %+v", d)
	}
	deep := strings.TrimSuffix(claims(nil), "}") + `,"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + "}"
	if _, d := somebody.ask(st, s.raw(s.header(), deep)); d.Verdict != abi.Allow {
		t.Errorf("64 levels: %+v", d)
	}
}

func TestWhatIsNotABearerTokenIsLeftToOthers(t *testing.T) {
	st := prepare(t, jwt.New(), section(), set(newEdDSA("k")))
	for name, h := range map[string][]string{"no header": nil, "another scheme": {"Basic YTpi"}, "a scheme that begins alike": {"Bearers x"}} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = h
		x := &pep.Exchange{Request: r, Header: http.Header{}, Now: start}
		if d := st.Judge(x); d.Verdict != abi.Allow || d.Rule != (abi.Rule{}) || x.Principal != "" || len(r.Header["Authorization"]) != len(h) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["Authorization"] = []string{"Bearer a", "Basic b"}
	x := &pep.Exchange{Request: r, Header: http.Header{}, Now: start}
	if d := st.Judge(x); d.Verdict != abi.Deny || d.Status != 400 || len(r.Header["Authorization"]) > 0 {
		t.Errorf("two headers: %+v", d)
	}
}

func TestOnlyAllowedAlgorithmsVerify(t *testing.T) {
	es, ed := newES256("es"), newEdDSA("ed")
	s := section()
	s.Issuers[0].Algorithms = wire.Of(wire.ES256)
	st := prepare(t, jwt.New(), s, set(es, ed))
	if got := somebody.status(st, es.token(nil)); got != 200 {
		t.Errorf("allowed: %d", got)
	}
	if got := somebody.status(st, ed.token(nil)); got != 401 {
		t.Errorf("a good signature of an algorithm that is not: %d", got)
	}
}

func TestWithoutAKidOneKeyMustFit(t *testing.T) {
	a, b := newES256("a"), newES256("b")
	st := prepare(t, jwt.New(), section(), set(a, b))
	if got := somebody.status(st, a.raw(`{"alg": "ES256"}`, claims(nil))); got != 401 {
		t.Errorf("two keys fit: %d", got)
	}
	if got := somebody.status(st, b.token(nil)); got != 200 {
		t.Errorf("with the kid: %d", got)
	}
	// A kid is text, and an empty one is none that a key could have.
	unnamed, seven := newES256(""), newEdDSA("7")
	st = prepare(t, jwt.New(), section(), set(unnamed, seven))
	for kid, token := range map[string]string{"an empty kid": unnamed.raw(`{"alg": "ES256", "kid": ""}`, claims(nil)), "a number": seven.raw(`{"alg": "EdDSA", "kid": 7}`, claims(nil))} {
		if got := somebody.status(st, token); got != 401 {
			t.Errorf("%s: %d", kid, got)
		}
	}
}

func TestIssuersAreVerifiedWithTheirOwnKeys(t *testing.T) {
	mine, theirs := newES256("k"), newES256("k")
	s := section()
	second := s.Issuers[0]
	second.Rule.ID, second.Issuer, second.Keys, second.Principal = "partner", "https://partner", "partner", "email"
	s.Issuers = append(s.Issuers, second)
	st, err := jwt.New().Prepare(&pep.Input{Section: s.Encode(), Secrets: map[string][]byte{"keys": []byte(set(mine)), "partner": []byte(set(theirs))}})
	if err != nil {
		t.Fatal(err)
	}
	partner := map[string]any{"iss": "https://partner", "email": "bob@partner"}
	for name, c := range map[string]struct {
		token     string
		status    int
		rule      string
		principal string
	}{
		"the first":                     {mine.token(nil), 200, "idp", "ada"},
		"the second":                    {theirs.token(partner), 200, "partner", "bob@partner"},
		"the first's key for the other": {mine.token(partner), 401, "partner", ""},
		"the second's key for ours":     {theirs.token(nil), 401, "idp", ""},
		"neither":                       {mine.token(map[string]any{"iss": "x"}), 401, abi.RuleAuthn, ""},
		"the claim of the other":        {theirs.token(map[string]any{"iss": "https://partner"}), 401, "partner", ""},
	} {
		x, d := somebody.ask(st, c.token)
		if (d.Verdict == abi.Allow) != (c.status == 200) || d.Verdict == abi.Deny && d.Status != c.status || d.Rule.ID != c.rule || x.Principal != c.principal {
			t.Errorf("%s: %+v, %q", name, d, x.Principal)
		}
	}
}

// What was remembered is asked for its time at every use.
func TestRememberedTokensEnd(t *testing.T) {
	s := newES256("k")
	st := prepare(t, jwt.New(), section(), set(s))
	token := s.token(map[string]any{"nbf": start.Unix() - 10})
	for _, c := range []struct {
		after  time.Duration
		status int
	}{{0, 200}, {629 * time.Second, 200}, {630*time.Second - 1, 200}, {630 * time.Second, 401}, {time.Hour, 401}, {0, 200}, {-40 * time.Second, 401}, {-30 * time.Second, 200}} {
		if got := (client{"192.0.2.1", start.Add(c.after)}).status(st, token); got != c.status {
			t.Errorf("after %v: %d, want %d", c.after, got, c.status)
		}
	}
}

func TestChangesReachRememberedTokens(t *testing.T) {
	s, next := newES256("k"), newES256("k2")
	token := s.token(map[string]any{"groups": []string{"staff"}, "email": "ada@acme"})
	change := func(f func(*wire.Section)) wire.Section {
		x := section()
		f(&x)
		return x
	}
	same := newES256("k") // another key under the same kid
	for name, c := range map[string]struct {
		section wire.Section
		keys    string
		status  int
		who     string
		groups  int
	}{
		"nothing changed":          {section(), set(s), 200, "ada", 1},
		"a key was added":          {section(), set(next, s), 200, "ada", 1},
		"the key was taken out":    {section(), set(next), 401, "", 0},
		"the key was replaced":     {section(), set(same), 401, "", 0},
		"the key has another kid":  {section(), set(&signer{s.alg, "renamed", s.key}), 401, "", 0},
		"another issuer":           {change(func(x *wire.Section) { x.Issuers[0].Issuer = "x" }), set(s), 401, "", 0},
		"another audience":         {change(func(x *wire.Section) { x.Issuers[0].Audiences = []string{"x"} }), set(s), 401, "", 0},
		"another principal":        {change(func(x *wire.Section) { x.Issuers[0].Principal = "email" }), set(s), 200, "ada@acme", 1},
		"no groups":                {change(func(x *wire.Section) { x.Groups = "" }), set(s), 200, "ada", 0},
		"the algorithm is refused": {change(func(x *wire.Section) { x.Issuers[0].Algorithms = wire.Of(wire.EdDSA) }), set(s, newEdDSA("ed")), 401, "", 0},
		"another line":             {change(func(x *wire.Section) { x.Issuers[0].Rule.Line = "p.yaml:9" }), set(s), 200, "ada", 1},
	} {
		m := jwt.New()
		first := prepare(t, m, section(), set(s))
		for range 2 {
			if got := somebody.status(first, token); got != 200 {
				t.Fatal(got)
			}
		}
		st := prepare(t, m, c.section, c.keys)
		for range 2 {
			x, d := somebody.ask(st, token)
			if (d.Verdict == abi.Allow) != (c.status == 200) || x.Principal != c.who || len(x.Groups) != c.groups {
				t.Errorf("%s: %+v, %q in %q", name, d, x.Principal, x.Groups)
			}
			if d.Rule != c.section.Issuers[0].Rule {
				t.Errorf("%s: by %+v", name, d.Rule)
			}
		}
		// A request of the old generation still is of the old one.
		if got := somebody.status(first, token); got != 200 {
			t.Errorf("%s: the old generation says %d", name, got)
		}
	}
}

func TestPrepareRefuses(t *testing.T) {
	good := set(newES256("k"))
	for name, c := range map[string]struct {
		section []byte
		secret  string
		keys    string
	}{
		"no section":     {nil, "keys", good},
		"malformed":      {[]byte{1}, "keys", good},
		"zero bytes":     {make([]byte, 64), "", good},
		"no secret":      {encoded(section()), "other", good},
		"no JSON":        {encoded(section()), "keys", "secret-text"},
		"no keys":        {encoded(section()), "keys", `{"keys": []}`},
		"no allowed key": {encoded(wire.Section{Issuers: []wire.Issuer{{Issuer: "i", Audiences: []string{"a"}, Keys: "keys", Principal: "sub", Algorithms: wire.Of(wire.EdDSA)}}}), "keys", good},
	} {
		st, err := jwt.New().Prepare(&pep.Input{Section: c.section, Secrets: map[string][]byte{c.secret: []byte(c.keys)}})
		if err == nil || st != nil {
			t.Errorf("%s is accepted", name)
		}
		if err != nil && strings.Contains(err.Error(), "secret-text") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

func encoded(s wire.Section) []byte { return s.Encode() }
