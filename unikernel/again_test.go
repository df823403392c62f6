package unikernel

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/pep"
)

// A namer is a guard that is steady: it takes a credential for a name, until it
// ends, and counts how often it was asked.
type namer struct {
	asked   atomic.Int64
	expires atomic.Pointer[time.Time]
}

func (n *namer) Prepare(in *pep.Input) (pep.GuardState, error) { return named{n, in.Revision}, nil }

type named struct {
	*namer
	revision uint64
}

func (n named) Judge(x *pep.Exchange) pep.Decision {
	n.asked.Add(1)
	x.Principal = fmt.Sprintf("%s@%d", x.Request.Header.Get("Authorization"), n.revision)
	x.Request.Header.Del("Authorization")
	if at := n.expires.Load(); at != nil {
		x.Expires = *at
		if !x.Now.Before(*at) {
			return pep.Decision{}
		}
	}
	return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn}
}

func (named) Steady(*pep.Exchange) bool { return true }

// The same head on the same connection is judged once and remembered, for as long
// as what was found out holds; guards that are not steady are asked every time.
func TestTheSameHeadIsJudgedOnce(t *testing.T) {
	n := &namer{}
	var counted atomic.Int64
	counter := guardFunc(func(*pep.Exchange) pep.Decision {
		counted.Add(1)
		return pep.Decision{Verdict: abi.Allow, Stage: "counter"}
	})
	r := newRig(t, testLimits(), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		fmt.Fprint(w, q.Header[pep.HeaderPrincipal], q.Header["Authorization"], q.Header["Lorica-X"], q.URL.Path, string(b))
		q.Header.Set(pep.HeaderPrincipal, "root") // of this request alone
		q.URL.Path = "/else"
	}), n, counter).run()
	c := r.dial()
	post := func(credential, body string) string {
		return fmt.Sprintf("POST /app/x HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\nLorica-X: y\r\nContent-Length: %d\r\n\r\n%s", credential, len(body), body)
	}
	ask := func(credential, body, want string) {
		t.Helper()
		io.WriteString(c, post(credential, body))
		if _, got, err := answer(c); err != nil || got != want {
			t.Errorf("got %q, want %q, %v", got, want, err)
		}
	}
	for i := range 5 {
		ask("ada", fmt.Sprint(i), fmt.Sprintf("[ada@1] [] []/app/x%d", i))
	}
	if n.asked.Load() != 2 || counted.Load() != 5 {
		t.Errorf("asked %d and %d times", n.asked.Load(), counted.Load())
	}
	ask("bob", "a", "[bob@1] [] []/app/xa")
	ask("ada", "a", "[ada@1] [] []/app/xa")

	for range 3 {
		ask("ada", "a", "[ada@1] [] []/app/xa")
	}
	asked := n.asked.Load()
	r.swap(1, 1, testProgram(2, testLimits()))
	for range 3 { // asked, kept, remembered
		ask("ada", "a", "[ada@2] [] []/app/xa")
	}
	if got := n.asked.Load() - asked; got != 1 {
		t.Errorf("under the new program: asked %d times", got)
	}
	records := r.kept(t, 13)
	for _, k := range records {
		if k.Verdict != abi.Allow || k.Path != "/app/x" || len(k.ID) != 32 {
			t.Errorf("recorded %+v", k)
		}
	}
	if k := records[12]; k.Principal != "ada@2" || k.Revision != 2 {
		t.Errorf("recorded %+v", k)
	}

	soon := time.Now().Add(150 * time.Millisecond)
	n.expires.Store(&soon)
	for range 3 {
		ask("cid", "a", "[cid@2] [] []/app/xa")
	}
	time.Sleep(time.Until(soon))
	io.WriteString(c, post("cid", "a"))
	if resp, _, err := answer(c); err != nil || resp.StatusCode != 403 {
		t.Errorf("after the end of the credential: %+v, %v", resp, err)
	}
}

// Whoever is refused by a guard that is not steady is refused however well known
// the request is.
func TestWhatIsKnownIsStillCounted(t *testing.T) {
	left := 4
	counter := guardFunc(func(*pep.Exchange) pep.Decision {
		if left--; left < 0 {
			return pep.Decision{Status: 429}
		}
		return pep.Decision{Verdict: abi.Allow}
	})
	r := newRig(t, testLimits(), text("ok"), counter).run()
	c := r.dial()
	var got []string
	for range 6 {
		io.WriteString(c, getApp)
		resp, _, err := answer(c)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(resp.StatusCode))
	}
	if s := strings.Join(got, " "); s != "200 200 200 200 429 429" {
		t.Errorf("got %s", s)
	}
}
