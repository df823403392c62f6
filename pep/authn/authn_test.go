package authn_test

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	wire "lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authn"
)

var (
	rule    = abi.Rule{ID: abi.RuleAuthn, Line: "p.yaml:7"}
	section = wire.Section{Rule: rule, Challenges: []string{`Bearer realm="r"`, `Basic realm="r"`}}
)

func judge(t testing.TB, s wire.Section, principal string, headers ...string) (*pep.Exchange, pep.Decision) {
	t.Helper()
	st, err := authn.New().Prepare(&pep.Input{Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	x := exchange(headers...)
	x.Principal = principal
	return x, st.Judge(x)
}

func exchange(headers ...string) *pep.Exchange {
	r := httptest.NewRequest("GET", "/", nil)
	for _, h := range headers {
		r.Header.Add("Authorization", h)
	}
	return &pep.Exchange{Request: r, Header: http.Header{}}
}

func TestWithoutCredentials(t *testing.T) {
	x, d := judge(t, section, "")
	if d.Verdict != abi.Deny || d.Status != 401 || d.Rule != rule || x.Principal != "" {
		t.Errorf("required: %+v, %q", d, x.Principal)
	}
	if got := x.Header["Www-Authenticate"]; !reflect.DeepEqual(got, section.Challenges) {
		t.Errorf("challenges %q", got)
	}
	optional := section
	optional.Optional = true
	x, d = judge(t, optional, "")
	if d.Verdict != abi.Allow || d.Rule != rule || d.Stage != abi.StageAuthn || x.Principal != wire.Anonymous || x.Groups != nil {
		t.Errorf("optional: %+v, %q", d, x.Principal)
	}
}

func TestAPrincipalPassesUnderTheRuleOfItsMethod(t *testing.T) {
	x, d := judge(t, section, "ada")
	if d.Verdict != abi.Allow || d.Rule != (abi.Rule{}) || x.Principal != "ada" {
		t.Errorf("%+v, %q", d, x.Principal)
	}
}

func TestCredentialsThatNobodyTookAreRefused(t *testing.T) {
	optional := section
	optional.Optional = true
	for name, c := range map[string]struct {
		principal string
		headers   []string
		status    int
	}{
		"an unknown scheme":                     {"", []string{"Digest x"}, 401},
		"an empty header":                       {"", []string{""}, 401},
		"beside a certificate":                  {"spiffe://a/b", []string{"Bearer x"}, 401},
		"two headers":                           {"", []string{"Basic x", "Bearer y"}, 400},
		"two headers beside a certificate":      {"spiffe://a/b", []string{"Basic x", "Bearer y"}, 400},
		"the same header twice":                 {"", []string{"Digest x", "Digest x"}, 400},
		"an unknown scheme that begins a known": {"", []string{"Bearers x"}, 401},
	} {
		x, d := judge(t, optional, c.principal, c.headers...)
		if d.Verdict != abi.Deny || d.Status != c.status || d.Rule != rule || x.Principal == wire.Anonymous {
			t.Errorf("%s: %+v, %q", name, d, x.Principal)
		}
		if len(x.Request.Header["Authorization"]) > 0 {
			t.Errorf("%s: the header is still there", name)
		}
	}
}

func TestTake(t *testing.T) {
	for name, c := range map[string]struct {
		headers []string
		rest    string
		ok, err bool
		left    int
	}{
		"none":                    {nil, "", false, false, 0},
		"the scheme":              {[]string{"Bearer abc"}, "abc", true, false, 0},
		"in any case, more space": {[]string{"bEARER   abc "}, "abc ", true, false, 0},
		"nothing behind it":       {[]string{"Bearer"}, "", true, false, 0},
		"another":                 {[]string{"Basic abc"}, "", false, false, 1},
		"a tab is no space":       {[]string{"Bearer\tabc"}, "", false, false, 1},
		"two":                     {[]string{"Bearer a", "Bearer a"}, "", false, true, 0},
	} {
		x := exchange(c.headers...)
		rest, ok, err := authn.Take(x, "Bearer")
		if rest != c.rest || ok != c.ok || (err != nil) != c.err || len(x.Request.Header["Authorization"]) != c.left {
			t.Errorf("%s: %q, %v, %v, %v", name, rest, ok, err, x.Request.Header)
		}
	}
}

func TestPrepareFailsClosed(t *testing.T) {
	split := section
	split.Challenges = []string{"Basic\r\nSet-Cookie: x"}
	for name, b := range map[string][]byte{"no section": nil, "malformed": {1}, "a challenge that splits": split.Encode()} {
		if st, err := authn.New().Prepare(&pep.Input{Section: b}); err == nil || st != nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if st, err := authn.New().Prepare(&pep.Input{Section: make([]byte, 13)}); err == nil {
		if d := st.Judge(exchange()); d.Verdict != abi.Deny {
			t.Errorf("zero bytes let strangers pass: %+v", d)
		}
	} else {
		t.Fatal(err)
	}
}

// Whoever shows anything is nobody until a method has taken it: no header, however
// it is written, passes as no credentials or reaches the application.
func FuzzJudge(f *testing.F) {
	for _, s := range []string{"", "Basic YTpi", "bearer  x", "Digest x", "Basic", " ", "Bearer\tx", "Basic x, Bearer y"} {
		f.Add(s, "", false)
		f.Add(s, "Bearer y", true)
	}
	optional := section
	optional.Optional = true
	st, err := authn.New().Prepare(&pep.Input{Section: optional.Encode()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, one, other string, both bool) {
		headers := []string{one}
		if both {
			headers = append(headers, other)
		}
		x := exchange(headers...)
		if d := st.Judge(x); d.Verdict != abi.Deny || d.Rule != rule || d.Reason == "" || x.Principal != "" || x.Request.Header["Authorization"] != nil {
			t.Fatalf("%q: %+v as %q with %q", headers, d, x.Principal, x.Request.Header)
		}
		x = exchange(headers...)
		rest, ok, err := authn.Take(x, "Basic")
		taken := x.Request.Header["Authorization"] == nil
		switch {
		case (err != nil) != both, ok && (err != nil || !taken), !ok && rest != "":
			t.Fatalf("%q: %q, %v, %v", headers, rest, ok, err)
		case !both && ok != taken:
			t.Fatalf("%q: taken %v, and ok is %v", headers, taken, ok)
		case ok && (!strings.EqualFold(one[:5], "basic") || strings.HasPrefix(rest, " ") || !strings.HasSuffix(one, rest)):
			t.Fatalf("%q: %q", one, rest)
		}
	})
}
