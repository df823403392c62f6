package jwt_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authn/jwt"
)

// forged is the n-th token of somebody without the key.
func forged(s *signer, n int) string {
	token := s.token(map[string]any{"n": n})
	at := strings.LastIndexByte(token, '.')
	return token[:at+1] + b64.EncodeToString(append(make([]byte, 60), byte(n>>8), byte(n), 1, 1))
}

func TestForgedTokensAreVerifiedSoOften(t *testing.T) {
	s := newES256("k")
	st := prepare(t, jwt.New(), section(), set(s))
	known := s.token(nil)
	if got := somebody.status(st, known); got != 200 {
		t.Fatal(got)
	}
	for n := range 128 {
		if got := somebody.status(st, forged(s, n)); got != 401 {
			t.Fatalf("forgery %d: %d", n, got)
		}
	}
	x, d := somebody.ask(st, forged(s, 128))
	if d.Verdict != abi.Deny || d.Status != 429 || x.Header.Get("Retry-After") != "1" {
		t.Errorf("beyond the limit: %+v, %v", d, x.Header)
	}
	for name, c := range map[string]struct {
		from  client
		token string
		want  int
	}{
		"a remembered token, same source":  {somebody, known, 200},
		"a good one that is new":           {somebody, s.token(map[string]any{"sub": "bob"}), 429},
		"a good one from another source":   {client{"192.0.2.2", start}, s.token(map[string]any{"sub": "cyd"}), 200},
		"malformed, which costs nothing":   {somebody, "x", 401},
		"a good one, when a failure ended": {client{"192.0.2.1", start.Add(time.Second)}, s.token(map[string]any{"sub": "eve"}), 200},
	} {
		if got := c.from.status(st, c.token); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestFailuresOutliveAProgram(t *testing.T) {
	s, m := newES256("k"), jwt.New()
	st := prepare(t, m, section(), set(s))
	for n := range 128 {
		somebody.status(st, forged(s, n))
	}
	if got := somebody.status(prepare(t, m, section(), set(s)), forged(s, 128)); got != 429 {
		t.Errorf("a new program forgives: %d", got)
	}
}

func TestGoodTokensAreNotCharged(t *testing.T) {
	s := newES256("k")
	st := prepare(t, jwt.New(), section(), set(s))
	for n := range 300 {
		if got := somebody.status(st, s.token(map[string]any{"n": n})); got != 200 {
			t.Fatalf("token %d: %d", n, got)
		}
	}
}

// At once: every answer is right or says to come again, and forgeries never pass.
func TestManyAtOnce(t *testing.T) {
	s, m := newES256("k"), jwt.New()
	old, next := prepare(t, m, section(), set(s)), prepare(t, m, section(), set(newES256("k")))
	var good []string
	for n := range 20 {
		good = append(good, s.token(map[string]any{"sub": fmt.Sprint("user", n)}))
	}
	var passed, waited atomic.Int32
	var wg sync.WaitGroup
	for n := range 400 {
		wg.Go(func() {
			from := client{fmt.Sprintf("10.0.%d.1", n%50), start}
			token, want, who := good[n%20], 200, fmt.Sprint("user", n%20)
			st := old
			switch n % 4 {
			case 1:
				token, want = forged(s, n), 401
			case 2:
				st, want = next, 401 // the key is gone there
			}
			x, d := from.ask(st, token)
			switch {
			case d.Status == 503:
				waited.Add(1)
			case (d.Verdict == abi.Allow) != (want == 200), d.Verdict == abi.Allow && x.Principal != who:
				t.Errorf("request %d: %+v, %q", n, d, x.Principal)
			case d.Verdict == abi.Allow:
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	if passed.Load() == 0 {
		t.Errorf("nobody passed; %d were told to wait", waited.Load())
	}
}

// Whatever the token, nobody becomes somebody without the key.
func FuzzJudge(f *testing.F) {
	s := newES256("k")
	st := prepare(f, jwt.New(), section(), set(s, newEdDSA("ed")))
	good := s.token(nil)
	part := strings.Split(good, ".")
	for _, token := range []string{"", good, part[0] + "." + part[1] + ".", "..", part[1] + "." + part[0] + "." + part[2], good + "=", strings.ToUpper(good),
		hs256(`{"alg":"HS256"}`, claims(nil), []byte("k")), forged(s, 1), s.raw(`{"alg":"ES256","kid":"k","crit":[]}`, claims(nil))} {
		f.Add(token)
	}
	n := uint32(0)
	f.Fuzz(func(t *testing.T, token string) {
		n++
		from := client{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}).String(), start}
		x, d := from.ask(st, token)
		if (d.Verdict == abi.Allow) != (strings.TrimLeft(token, " ") == good) || d.Verdict != abi.Allow && x.Principal != "" {
			t.Fatalf("%q: %+v, %q", token, d, x.Principal)
		}
		if len(x.Request.Header["Authorization"]) > 0 {
			t.Fatal("the header is still there")
		}
	})
}

// Whatever an issuer signs, what comes of it keeps every bound.
func FuzzClaims(f *testing.F) {
	s := newEdDSA("k")
	st := prepare(f, jwt.New(), section(), set(s))
	for _, c := range []string{claims(nil), "{}", "[]", "null", claims(map[string]any{"groups": []string{"b", "a", "b"}}), claims(map[string]any{"aud": []string{}}), `{"iss":"` + issuer + `"}`} {
		f.Add(s.header(), c)
	}
	f.Fuzz(func(t *testing.T, header, c string) {
		x, d := somebody.ask(st, s.raw(header, c))
		if d.Verdict != abi.Allow {
			return
		}
		if x.Principal == "" || x.Principal == "anonymous" || strings.ContainsAny(x.Principal, " ,\r\n") || len(x.Groups) > 64 || string(x.Claims) != c || x.Expires.Before(start) {
			t.Fatalf("%s: %+v", c, x)
		}
		for i, g := range x.Groups {
			if g == "" || strings.ContainsAny(g, " ,\r\n") || i > 0 && g <= x.Groups[i-1] {
				t.Fatalf("groups %q", x.Groups)
			}
		}
	})
}

func benchmark(b *testing.B, s *signer, remembered bool) {
	st := prepare(b, jwt.New(), section(), set(s))
	token := s.token(map[string]any{"groups": []string{"staff", "tellers"}, "jti": "0123456789abcdef"})
	if !remembered {
		token = token[:len(token)-4] + "AAAA"
	}
	b.Logf("%s: a token of %d bytes", s.alg, len(token))
	r := httptest.NewRequest("GET", "/", nil)
	header := []string{"Bearer " + token}
	x := &pep.Exchange{Request: r, Header: http.Header{}, Now: start, Flow: flow.Flow{Src: netip.MustParseAddr("192.0.2.1")}}
	b.ReportAllocs()
	for b.Loop() {
		r.Header["Authorization"] = header
		d := st.Judge(x)
		if (d.Verdict == abi.Allow) != remembered {
			b.Fatal(d)
		}
		if !remembered {
			x.Now = x.Now.Add(time.Second) // not over the limit
			if x.Now.Sub(start) > 500*time.Second {
				x.Now = start
				st = prepare(b, jwt.New(), section(), set(s))
			}
		}
	}
}

func BenchmarkRemembered(b *testing.B) { benchmark(b, newES256("k"), true) }

func BenchmarkForged(b *testing.B) {
	for _, s := range []*signer{newES256("k"), newEdDSA("k"), newRS256("k")} {
		b.Run(s.alg, func(b *testing.B) { benchmark(b, s, false) })
	}
}
