package pep_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/pep"
)

// A guard of a test says what it is told to and counts how often it was asked.
type guard struct {
	asked int
	judge func(*pep.Exchange) pep.Decision
}

func (g *guard) Judge(x *pep.Exchange) pep.Decision {
	g.asked++
	return g.judge(x)
}

type steady struct {
	guard
	is bool
}

func (s *steady) Steady(*pep.Exchange) bool { return s.is }

type witness struct{}

func (witness) Facts(*pep.Exchange) []audit.Fact { return nil }

func allows(rule string, record bool) func(*pep.Exchange) pep.Decision {
	return func(*pep.Exchange) pep.Decision {
		return pep.Decision{Verdict: abi.Allow, Rule: abi.Rule{ID: rule}, Record: record}
	}
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func asking(at time.Time) *pep.Exchange {
	r, _ := http.NewRequest("POST", "http://h/x", strings.NewReader("abcdef"))
	return &pep.Exchange{Request: r, Header: http.Header{}, Now: at}
}

// A chain of two guards that are steady, the second of which says who asks, and of
// one that is not.
func chain() (c pep.Chain, path, who *steady, counter *guard) {
	path = &steady{is: true}
	path.judge = func(x *pep.Exchange) pep.Decision {
		x.Path, x.MaxBody, x.Params = "/x", 3, []pep.Param{{Name: "a", Value: "b"}}
		return pep.Decision{Verdict: abi.Allow, Rule: abi.Rule{ID: "path"}, Record: true}
	}
	who = &steady{is: true}
	who.judge = func(x *pep.Exchange) pep.Decision {
		x.Principal, x.Groups, x.Claims, x.Expires = "ada", []string{"staff"}, []byte("{}"), noon.Add(time.Minute)
		x.Witness = witness{}
		return pep.Decision{Verdict: abi.Allow, Rule: abi.Rule{ID: "who"}}
	}
	counter = &guard{}
	counter.judge = func(x *pep.Exchange) pep.Decision {
		if x.Principal != "ada" || counter.asked > 2 {
			return pep.Decision{Status: 429, Rule: abi.Rule{ID: "often"}}
		}
		return pep.Decision{Verdict: abi.Allow}
	}
	return pep.Chain{{Stage: "1", Guard: path}, {Stage: "2", Guard: who}, {Stage: "3", Guard: counter}}, path, who, counter
}

func TestWhatWasLearntIsNotAskedAgain(t *testing.T) {
	c, path, who, counter := chain()
	x := asking(noon)
	first, j := c.Learn(x)
	if first.Verdict != abi.Allow || first.Rule.ID != "who" || first.Stage != "2" || !first.Record || j == nil {
		t.Fatalf("learnt %+v, %v", first, j)
	}
	y := asking(noon.Add(time.Second))
	again, ok := c.Again(y, j)
	if !ok || again != first {
		t.Errorf("decided %+v, %t", again, ok)
	}
	if path.asked != 1 || who.asked != 1 || counter.asked != 2 {
		t.Errorf("asked %d, %d and %d times", path.asked, who.asked, counter.asked)
	}
	if y.Path != "/x" || y.Principal != "ada" || !slices.Equal(y.Groups, x.Groups) || string(y.Claims) != "{}" || y.Expires != x.Expires || y.MaxBody != 3 {
		t.Errorf("the exchange is %+v", y)
	}
	if x.Witness == nil || y.Witness != x.Witness {
		t.Errorf("the witness is %v, was %v", y.Witness, x.Witness)
	}
	if v, _ := y.Param("a"); v != "b" {
		t.Errorf("the parameter is %q", v)
	}
	if n, err := y.Request.Body.Read(make([]byte, 10)); n != 3 || err == nil {
		if _, err = y.Request.Body.Read(make([]byte, 10)); err == nil {
			t.Error("the body is not bounded")
		}
	}
	z := asking(noon)
	if d, ok := c.Again(z, j); !ok || d.Verdict == abi.Allow || d.Status != 429 || d.Rule.ID != "often" || z.Witness != nil {
		t.Errorf("who is not steady decided %+v, %t, witness %v", d, ok, z.Witness)
	}
}

func TestWhatWasLearntEnds(t *testing.T) {
	c, _, _, counter := chain()
	_, j := c.Learn(asking(noon))
	for _, at := range []time.Time{noon.Add(-time.Second), noon.Add(time.Minute), noon.Add(time.Hour)} {
		if d, ok := c.Again(asking(at), j); ok || d.Verdict == abi.Allow {
			t.Errorf("at %v: %+v", at, d)
		}
	}
	if d, ok := c[:2].Again(asking(noon), j); ok || d.Verdict == abi.Allow {
		t.Errorf("another chain decided %+v", d)
	}
	if counter.asked != 1 {
		t.Error("somebody was asked")
	}
}

func TestNothingToLearn(t *testing.T) {
	headed := &steady{is: true}
	headed.judge = func(x *pep.Exchange) pep.Decision {
		x.Header.Set("Connection", "close")
		return pep.Decision{Verdict: abi.Allow}
	}
	unsteady := &steady{}
	unsteady.judge = allows("a", false)
	plain := &guard{judge: allows("a", false)}
	refuses := &steady{is: true}
	refuses.judge = func(*pep.Exchange) pep.Decision { return pep.Decision{Status: 200} }
	for name, c := range map[string]pep.Chain{
		"no guard": nil, "a header": {{Stage: "a", Guard: headed}}, "not steady": {{Stage: "a", Guard: unsteady}, {Stage: "b", Guard: plain}},
		"a denial": {{Stage: "a", Guard: refuses}},
	} {
		x := asking(noon)
		want := c.Judge(asking(noon))
		d, j := c.Learn(x)
		if j != nil {
			t.Errorf("%s: learnt %+v", name, j)
		}
		if d != want || d.Verdict != abi.Allow && d.Status != 403 {
			t.Errorf("%s: decided %+v, %+v without learning", name, d, want)
		}
	}
}

func TestAPanicIsADenial(t *testing.T) {
	g := &steady{is: true}
	n := 0
	g.judge = func(*pep.Exchange) pep.Decision {
		if n++; n > 1 {
			panic("oops")
		}
		return pep.Decision{Verdict: abi.Allow, Rule: abi.Rule{ID: "a"}}
	}
	first := &steady{is: true}
	first.judge = allows("b", false)
	counter := &guard{judge: func(x *pep.Exchange) pep.Decision { return g.judge(x) }}
	c := pep.Chain{{Stage: "first", Guard: first}, {Stage: "then", Guard: counter}}
	_, j := c.Learn(asking(noon))
	for name, d := range map[string]func() pep.Decision{
		"judge": func() pep.Decision { return c.Judge(asking(noon)) },
		"again": func() pep.Decision { d, _ := c.Again(asking(noon), j); return d },
	} {
		if d := d(); d.Verdict != abi.Deny || d.Status != 403 || d.Stage != "then" || d.Rule.ID != abi.RuleError || fmt.Sprint(d.Reason) != "panic: oops" {
			t.Errorf("%s: decided %+v", name, d)
		}
	}
}
