package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
)

// What is said of a refused change is true, whatever became of what ran.
func TestARefusalSaysWhatRuns(t *testing.T) {
	var said strings.Builder
	u := &upping{cli: &cli{out: io.Discard, err: &said, format: "text"}, status: map[string]*tender.Status{}}
	for _, x := range []struct {
		event run.Event
		want  string
	}{
		{run.Event{Kind: run.EventReady, Deployment: "a/b", Status: &tender.Status{}}, "what ran before still runs"},
		{run.Event{Kind: run.EventDied, Deployment: "a/b"}, "nothing runs"},
		{run.Event{Kind: run.EventReady, Deployment: "a/b", Status: &tender.Status{}}, "what ran before still runs"},
		{run.Event{Kind: run.EventDrained, Deployment: "a/b"}, "nothing runs"},
	} {
		u.event(x.event)
		said.Reset()
		u.event(run.Event{Kind: run.EventRefused, Text: "no"})
		if !strings.Contains(said.String(), x.want) {
			t.Errorf("after %s: %q", x.event.Kind, said.String())
		}
	}
}

// Where the policy takes development tokens, what is shown to try gets in.
func TestHintsSignATokenWhereThePolicyTakesOne(t *testing.T) {
	p := &api.SecurityPolicy{Authentication: &api.Authentication{JWT: []api.JWT{{Name: "idp", Keys: "dev"}}}, Secrets: []api.Secret{{Name: "dev", Development: api.DevelopmentJWKS}}}
	for _, want := range []bool{true, false} {
		var said strings.Builder
		u := &upping{cli: &cli{out: &said, format: "text"}, path: "shop"}
		p.Routes = []api.Route{{Method: "POST", Path: "/a"}, {Method: "GET", Path: "/b/{id}"}, {Method: "GET", Path: "/c"}}
		if !want {
			p.Secrets[0].Development = ""
		}
		u.printHints(&tender.Status{Workload: "a/b"}, identities{deployment: &policy.Deployment{Policy: p}})
		if got := strings.Contains(said.String(), " dev token ada -f shop)\" http://"); got != want || !strings.HasPrefix(said.String(), "Try:\n  curl -i http://") || !strings.Contains(said.String(), "/c\n") {
			t.Errorf("development keys %v: %s", want, said.String())
		}
	}
}

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

func TestAnOutputThatNobodyReadsEndsTheRun(t *testing.T) {
	broken := 0
	w := &watched{gone{}, func() { broken++ }}
	if _, err := io.WriteString(w, "x"); err == nil || broken != 1 {
		t.Errorf("%v, %d calls", err, broken)
	}
}

func TestExitCodesOfWrongUsage(t *testing.T) {
	for _, line := range []string{"frob", "up extra", "up --frob", "ps -o xml", "up --exit"} {
		if code := execute(context.Background(), strings.Fields(line), strings.NewReader(""), io.Discard, io.Discard); code != exitUsage {
			t.Errorf("lorica %s: exit code %d", line, code)
		}
	}
}
