package basic_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"lorica.dev/lorica/abi"
	wire "lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authn/basic"
	"lorica.dev/lorica/pep/authn/basic/argon2id"
	"lorica.dev/lorica/pep/authn/basic/bcrypt"
	"lorica.dev/lorica/pep/authn/basic/pbkdf2"
)

// newModule is the module with every scheme.
func newModule() *basic.Module { return basic.New(argon2id.New(), bcrypt.New(), pbkdf2.New()) }

// line writes a user list's line. The cost is the least that argon2id has.
func line(name, groups, password string) string { return costly(name, groups, password, 8) }

func costly(name, groups, password string, memory uint32) string {
	salt := []byte("salt of " + name)
	raw := base64.RawStdEncoding
	return fmt.Sprintf("%s:%s:$argon2id$v=19$m=%d,t=1,p=1$%s$%s\n", name, groups, memory, raw.EncodeToString(salt),
		raw.EncodeToString(argon2.IDKey([]byte(password), salt, 1, memory, 1, 32)))
}

var section = wire.Section{Rule: abi.Rule{ID: "login", Line: "p.yaml:7"}, Realm: "payments", Secret: "users", Attempts: 3, Window: time.Minute}

func prepare(t testing.TB, m *basic.Module, s wire.Section, users string) pep.GuardState {
	t.Helper()
	st, err := m.Prepare(&pep.Input{Section: s.Encode(), Secrets: map[string][]byte{"users": []byte(users)}})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// start is when every test begins.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A client is a source at a time.
type client struct {
	from string
	now  time.Time
}

var somebody = client{"192.0.2.1", start}

func (c client) ask(st pep.GuardState, headers ...string) (*pep.Exchange, pep.Decision) {
	r := httptest.NewRequest("GET", "/", nil)
	for _, h := range headers {
		r.Header.Add("Authorization", h)
	}
	x := &pep.Exchange{Request: r, Header: http.Header{}, Now: c.now}
	if c.from != "" {
		x.Flow = flow.Flow{Src: netip.MustParseAddr(c.from)}
	}
	return x, st.Judge(x)
}

// login returns the status of an attempt: 200 where it is allowed.
func (c client) login(st pep.GuardState, name, password string) int {
	_, d := c.ask(st, header(name, password))
	if d.Verdict == abi.Allow {
		return 200
	}
	return d.Status
}

func header(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func TestWhoIsWho(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "tellers,staff", "lovelace")+line("bob", "", "builder: yes"))
	x, d := somebody.ask(st, header("ada", "lovelace"))
	if d.Verdict != abi.Allow || d.Stage != abi.StageAuthn || d.Rule != section.Rule || x.Principal != "ada" || !reflect.DeepEqual(x.Groups, []string{"staff", "tellers"}) {
		t.Errorf("ada: %+v, %q in %q", d, x.Principal, x.Groups)
	}
	if _, there := x.Request.Header["Authorization"]; there {
		t.Error("the application would see the password")
	}
	x, d = somebody.ask(st, header("bob", "builder: yes"))
	if d.Verdict != abi.Allow || x.Principal != "bob" || len(x.Groups) != 0 {
		t.Errorf("bob: %+v, %q in %q", d, x.Principal, x.Groups)
	}
}

func TestRefusals(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "staff", "lovelace")+line("bob", "", "builder"))
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"two headers":                 {[]string{header("ada", "lovelace"), header("ada", "lovelace")}, 400},
		"no colon":                    {[]string{"Basic " + base64.StdEncoding.EncodeToString([]byte("ada"))}, 401},
		"no name":                     {[]string{header("", "lovelace")}, 401},
		"no password":                 {[]string{header("ada", "")}, 401},
		"nothing behind the scheme":   {[]string{"Basic"}, 401},
		"anonymous by name":           {[]string{header("anonymous", "")}, 401},
		"not base64":                  {[]string{"Basic ???"}, 401},
		"base64 without padding":      {[]string{strings.TrimSuffix(header("bob", "builder"), "=")}, 401},
		"base64 with spare bits":      {[]string{strings.Replace(header("bob", "builder"), "I=", "J=", 1)}, 401},
		"a line break in base64":      {[]string{header("ada", "lovelace")[:10] + "\r\n" + header("ada", "lovelace")[10:]}, 401},
		"a control character":         {[]string{header("ada", "love\x00lace")}, 401},
		"invalid UTF-8":               {[]string{header("ada", "\xff")}, 401},
		"a name that is too long":     {[]string{header(strings.Repeat("a", 65), "x")}, 401},
		"a password that is too long": {[]string{header("ada", strings.Repeat("a", 1025))}, 401},
		"the name in capitals":        {[]string{header("ADA", "lovelace")}, 401},
		"a prefix of the password":    {[]string{header("ada", "lovelac")}, 401},
		"the password and more":       {[]string{header("ada", "lovelace ")}, 401},
	} {
		from := client{"192.0.2." + strconv.Itoa(len(name)), start} // not limited by the others
		x, d := from.ask(st, c.headers...)
		if d.Verdict != abi.Deny || d.Status != c.status || d.Rule != section.Rule || d.Reason == "" || x.Principal != "" || x.Groups != nil {
			t.Errorf("%s: %+v, %q", name, d, x.Principal)
		}
		if got := x.Header.Get("WWW-Authenticate"); (d.Status == 401) != (got == `Basic realm="payments", charset="UTF-8"`) {
			t.Errorf("%s: challenge %q", name, got)
		}
		if _, there := x.Request.Header["Authorization"]; there {
			t.Errorf("%s: the header is still there", name)
		}
	}
}

func TestTheSchemeIsReadLiberally(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "", "lovelace"))
	b := strings.Fields(header("ada", "lovelace"))[1]
	for _, h := range []string{"basic " + b, "BASIC  " + b} {
		if _, d := somebody.ask(st, h); d.Verdict != abi.Allow {
			t.Errorf("%q: %+v", h, d)
		}
	}
}

func TestUnknownUsersLookLikeWrongPasswords(t *testing.T) {
	for name, users := range map[string]string{"some users": line("ada", "", "lovelace") + line("bob", "", "builder"), "no users": ""} {
		m := newModule()
		st := prepare(t, m, section, users)
		for i := range 6 { // beyond the limit as well
			x, d := client{"192.0.2.1", start}.ask(st, header("ada", "wrong"))
			y, e := client{"192.0.2.2", start}.ask(st, header("eve", "wrong"))
			if d != e || !reflect.DeepEqual(x.Header, y.Header) || d.Verdict != abi.Deny {
				t.Errorf("%s, try %d: %+v %v and %+v %v", name, i, d, x.Header, e, y.Header)
			}
		}
	}
}

func TestAStandInNeverLetsAnybodyIn(t *testing.T) {
	// Every unknown name is hashed against some user's verifier; with one user
	// it is known whose.
	st := prepare(t, newModule(), section, line("ada", "", "lovelace"))
	for range 2 {
		if got := somebody.login(st, "eve", "lovelace"); got != 401 {
			t.Errorf("eve with ada's password: %d", got)
		}
	}
	if got := somebody.login(st, "ada", "lovelace"); got != 200 {
		t.Errorf("ada: %d", got)
	}
}

func TestWhatIsNotBasicIsLeftToOthers(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "staff", "lovelace"))
	for name, headers := range map[string][]string{"no header": nil, "another scheme": {"Bearer x"}, "an empty header": {""}, "a scheme that begins alike": {"Basics " + header("ada", "lovelace")[6:]}} {
		x, d := somebody.ask(st, headers...)
		if d.Verdict != abi.Allow || d.Rule != (abi.Rule{}) || x.Principal != "" || !reflect.DeepEqual([]string(x.Request.Header["Authorization"]), headers) {
			t.Errorf("%s: %+v, %q, %q", name, d, x.Principal, x.Request.Header["Authorization"])
		}
	}
}

// afterThreeFailures is a state in which somebody has no attempt left.
func afterThreeFailures(t *testing.T) pep.GuardState {
	st := prepare(t, newModule(), section, line("ada", "", "lovelace")+line("bob", "", "builder"))
	for i := range 3 {
		if got := somebody.login(st, "ada", fmt.Sprint("guess", i)); got != 401 {
			t.Fatalf("guess %d: %d", i, got)
		}
	}
	return st
}

func TestSourceLimit(t *testing.T) {
	x, d := somebody.ask(afterThreeFailures(t), header("bob", "builder"))
	if d.Status != 429 || x.Header.Get("Retry-After") != "20" || d.Verdict != abi.Deny {
		t.Errorf("over the limit, even the right password of another user: %+v, %v", d, x.Header)
	}
	for name, c := range map[string]struct {
		from client
		want int
	}{
		"another source":             {client{"192.0.2.2", start}, 200},
		"the same source, mapped":    {client{"::ffff:192.0.2.1", start}, 429},
		"just before a failure ends": {client{"192.0.2.1", start.Add(20*time.Second - 1)}, 429},
		"when a failure ends":        {client{"192.0.2.1", start.Add(20 * time.Second)}, 200},
	} {
		if got := c.from.login(afterThreeFailures(t), "bob", "builder"); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestSourcesOfIPv6ArePrefixes(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "", "lovelace"))
	for i := range 3 {
		client{fmt.Sprintf("2001:db8:0:1::%d", i), start}.login(st, "ada", "guess")
	}
	if got := (client{"2001:db8:0:1:ffff::", start}).login(st, "ada", "lovelace"); got != 429 {
		t.Errorf("the same /64: %d", got)
	}
	if got := (client{"2001:db8:0:2::", start}).login(st, "ada", "lovelace"); got != 200 {
		t.Errorf("another /64: %d", got)
	}
}

func TestNoSourceIsOneSource(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "", "lovelace"))
	for range 3 {
		client{"", start}.login(st, "ada", "guess")
	}
	if got := (client{"", start}).login(st, "ada", "lovelace"); got != 429 {
		t.Errorf("%d", got)
	}
}

func TestSuccessIsNotCharged(t *testing.T) {
	var users string
	for i := range 10 {
		users += line(fmt.Sprint("user", i), "", "pw")
	}
	st := prepare(t, newModule(), section, users)
	for i := range 10 {
		if got := somebody.login(st, fmt.Sprint("user", i), "pw"); got != 200 {
			t.Errorf("user %d: %d", i, got)
		}
	}
}

func TestANeighbourLocksNobodyOut(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "", "lovelace")+line("bob", "", "builder"))
	if got := somebody.login(st, "ada", "lovelace"); got != 200 {
		t.Fatal(got)
	}
	for i := range 10 {
		somebody.login(st, "bob", fmt.Sprint("guess", i))
	}
	if got := somebody.login(st, "ada", "lovelace"); got != 200 {
		t.Errorf("who was in: %d", got)
	}
	if got := somebody.login(st, "bob", "builder"); got != 429 {
		t.Errorf("who was not: %d", got)
	}
}

// A remembered credential is answered without a hash: without a limit of its own
// it would be an oracle for whoever may not hash any more.
func TestRememberedCredentialsAreNoOracle(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "", "lovelace"))
	if got := somebody.login(st, "ada", "lovelace"); got != 200 {
		t.Fatal(got)
	}
	neighbour := client{"192.0.2.9", start}
	for i := range 3 {
		neighbour.login(st, "bob", fmt.Sprint(i)) // over the limit of the source
	}
	for i := range 3 {
		if got := neighbour.login(st, "ada", fmt.Sprint("guess", i)); got != 429 {
			t.Fatalf("a guess was hashed: %d", got)
		}
	}
	if got := neighbour.login(st, "ada", "lovelace"); got != 429 {
		t.Errorf("the right guess is told from wrong ones: %d", got)
	}
	if got := somebody.login(st, "ada", "lovelace"); got != 200 {
		t.Errorf("ada herself, elsewhere: %d", got)
	}
}

func TestSwap(t *testing.T) {
	m := newModule()
	ada := line("ada", "staff", "lovelace")
	if got := somebody.login(prepare(t, m, section, ada+line("bob", "", "b")), "ada", "lovelace"); got != 200 {
		t.Fatal(got)
	}
	blocked := client{"192.0.2.77", start}
	for i := range 3 {
		blocked.login(prepare(t, m, section, ada), "eve", fmt.Sprint(i))
	}
	other := line("ada", "admins", "lovelace")
	for name, c := range map[string]struct {
		users, password string
		want            int
	}{
		"the same record is remembered":      {ada, "lovelace", 200},
		"other groups, the same verifier":    {other, "lovelace", 200},
		"a revoked user":                     {line("bob", "", "b"), "lovelace", 401},
		"nobody is left":                     {"", "lovelace", 401},
		"a changed password":                 {line("ada", "staff", "byron"), "lovelace", 401},
		"a changed password, with it":        {line("ada", "staff", "byron"), "byron", 200},
		"another cost for the same password": {costly("ada", "staff", "lovelace", 16), "lovelace", 200},
		"ada's verifier under another name":  {strings.Replace(ada, "ada:", "eva:", 1), "lovelace", 401},
	} {
		st := prepare(t, m, section, c.users)
		x, d := client{"192.0.2." + strconv.Itoa(100+len(name)), start}.ask(st, header("ada", c.password))
		if got := map[bool]int{true: 200, false: d.Status}[d.Verdict == abi.Allow]; got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		if d.Verdict == abi.Allow && strings.Contains(c.users, "admins") && !reflect.DeepEqual(x.Groups, []string{"admins"}) {
			t.Errorf("%s: old groups %q", name, x.Groups)
		}
	}
	// A source that may not hash shows what is remembered and what is not.
	for name, c := range map[string]struct {
		users string
		want  int
	}{
		"the same record": {ada, 200}, "other groups": {other, 200}, "a changed password": {line("ada", "", "x"), 429}, "revoked": {"", 429},
	} {
		if got := blocked.login(prepare(t, m, section, c.users), "ada", "lovelace"); got != c.want {
			t.Errorf("without hashing, %s: %d, want %d", name, got, c.want)
		}
	}
}

func TestLimitsSurviveASwap(t *testing.T) {
	m := newModule()
	users := line("ada", "", "lovelace")
	for i := range 3 {
		somebody.login(prepare(t, m, section, users), "ada", fmt.Sprint(i))
	}
	if got := somebody.login(prepare(t, m, section, users), "ada", "lovelace"); got != 429 {
		t.Errorf("a new program forgives: %d", got)
	}
}

func TestConcurrentGuessesCannotExceedTheLimit(t *testing.T) {
	st := prepare(t, newModule(), section, line("ada", "", "lovelace"))
	var hashed, limited atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			switch got := somebody.login(st, "ada", fmt.Sprint("guess", i)); got {
			case 401:
				hashed.Add(1)
			case 429:
				limited.Add(1)
			default:
				t.Errorf("guess %d: %d", i, got)
			}
		})
	}
	wg.Wait()
	if hashed.Load() != 3 || limited.Load() != 37 {
		t.Errorf("%d guesses were hashed, %d refused", hashed.Load(), limited.Load())
	}
}

func TestTheSameCredentialAtOnceIsOneAttempt(t *testing.T) {
	st := prepare(t, newModule(), section, costly("ada", "", "lovelace", 4096))
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if got := somebody.login(st, "ada", "lovelace"); got != 200 {
				t.Errorf("%d", got)
			}
		})
	}
	wg.Wait()
}

func TestOverloadIsSaid(t *testing.T) {
	st := prepare(t, newModule(), section, costly("ada", "", "lovelace", 8<<10))
	var overloaded, wrong atomic.Int32
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			x, d := client{fmt.Sprintf("10.0.0.%d", i), start}.ask(st, header("ada", fmt.Sprint("guess", i)))
			switch d.Status {
			case 503:
				overloaded.Add(1)
				if x.Header.Get("Retry-After") != "1" || d.Verdict != abi.Deny {
					t.Errorf("%+v, %v", d, x.Header)
				}
			case 401:
				wrong.Add(1)
			default:
				t.Errorf("%+v", d)
			}
		})
	}
	wg.Wait()
	if overloaded.Load() == 0 || wrong.Load() == 0 {
		t.Errorf("%d overloaded, %d answered", overloaded.Load(), wrong.Load())
	}
	if got := somebody.login(st, "ada", "lovelace"); got != 200 {
		t.Errorf("when the queue is empty again: %d", got)
	}
}

func TestPrepareRefuses(t *testing.T) {
	change := func(f func(*wire.Section)) []byte {
		s := section
		f(&s)
		return s.Encode()
	}
	good := line("ada", "", "x")
	for name, c := range map[string]struct {
		section []byte
		secret  string
		users   string
	}{
		"no section":                {nil, "users", good},
		"malformed":                 {[]byte{1}, "users", good},
		"no secret":                 {section.Encode(), "other", good},
		"a bad user list":           {section.Encode(), "users", "ada:staff:plaintext"},
		"anonymous as user":         {section.Encode(), "users", line("anonymous", "", "x")},
		"a user twice":              {section.Encode(), "users", good + good},
		"no attempts":               {change(func(s *wire.Section) { s.Attempts = 0 }), "users", good},
		"no window":                 {change(func(s *wire.Section) { s.Window = 0 }), "users", good},
		"a realm with a line break": {change(func(s *wire.Section) { s.Realm = "a\r\nSet-Cookie: x" }), "users", good},
		"zero bytes":                {make([]byte, 64), "", good},
	} {
		st, err := newModule().Prepare(&pep.Input{Section: c.section, Secrets: map[string][]byte{c.secret: []byte(c.users)}})
		if err == nil || st != nil {
			t.Errorf("%s is accepted", name)
		}
		if err != nil && strings.Contains(err.Error(), "plaintext") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

func TestTheRealmIsQuoted(t *testing.T) {
	s := section
	s.Realm = `a "b" \c`
	x, _ := somebody.ask(prepare(t, newModule(), s, ""), "Basic")
	if got := x.Header.Get("WWW-Authenticate"); got != `Basic realm="a \"b\" \\c", charset="UTF-8"` {
		t.Error(got)
	}
}

// Whatever the header, nobody becomes somebody without the password, and Basic
// credentials are gone.
func FuzzJudge(f *testing.F) {
	for _, h := range []string{"", "Basic", "Basic ", header("ada", "lovelace"), header("ada", "x"), header("anonymous", ""), "Basic =", "Bearer x", "basic\tYTpi", header(":", ":")} {
		f.Add(h)
	}
	right := header("ada", "lovelace")
	f.Fuzz(func(t *testing.T, h string) {
		x, d := somebody.ask(prepare(t, newModule(), section, line("ada", "staff", "lovelace")), h)
		scheme, rest, _ := strings.Cut(h, " ")
		isBasic := strings.EqualFold(scheme, "Basic")
		isRight := isBasic && strings.TrimLeft(rest, " ") == right[6:]
		if (d.Verdict == abi.Allow) != (isRight || !isBasic) || (x.Principal == "ada") != isRight || !isRight && x.Principal != "" {
			t.Fatalf("%q: %+v, %q", h, d, x.Principal)
		}
		if (len(x.Request.Header["Authorization"]) > 0) == isBasic {
			t.Fatal("the header is still there, or one that is not ours is gone")
		}
	})
}

func BenchmarkRemembered(b *testing.B) {
	st := prepare(b, newModule(), section, line("ada", "staff", "lovelace"))
	r := httptest.NewRequest("GET", "/", nil)
	header := []string{header("ada", "lovelace")}
	x := &pep.Exchange{Request: r, Header: http.Header{}, Now: start, Flow: flow.Flow{Src: netip.MustParseAddr("192.0.2.1")}}
	b.ReportAllocs()
	for b.Loop() {
		r.Header["Authorization"] = header
		if d := st.Judge(x); d.Verdict != abi.Allow {
			b.Fatal(d)
		}
	}
}
