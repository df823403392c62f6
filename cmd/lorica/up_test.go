package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
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

// reader takes everything but the results of requests, and ends the run once it is told how
// to.
type reader struct{ interrupt func() }

func (r reader) Write(b []byte) (int, error) {
	switch text := string(b); {
	case strings.Contains(text, `"tried"`):
		return 0, errors.New("the disk is full")
	case strings.Contains(text, "Ctrl-C drains"):
		r.interrupt()
	}
	return len(b), nil
}

// Requests that cannot be made or shown are said to be so, and are a failure, whether or
// not the command ends with them; that somebody ends it first is none.
func TestRequestsThatCannotBeTried(t *testing.T) {
	const many = "--try needs exactly one workload"
	for name, c := range map[string]struct {
		names       []string
		format      string
		exit        bool
		interrupted bool
		want        string
		code        int
	}{
		"two workloads, and the end":   {names: []string{"a/b", "a/c"}, exit: true, want: many, code: exitFailure},
		"two workloads":                {names: []string{"a/b", "a/c"}, want: many, code: exitFailure},
		"results that nobody can read": {names: []string{"a/b"}, format: "json", exit: true, want: "the disk is full", code: exitFailure},
		"none wrong, and the end":      {names: []string{"a/b"}, exit: true},
		"none wrong":                   {names: []string{"a/b"}},
		"Ctrl-C before":                {names: []string{"a/b", "a/c"}, interrupted: true},
	} {
		t.Run(name, func(t *testing.T) {
			var said strings.Builder
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			hinted, hint := context.WithCancel(t.Context())
			defer hint()
			u := &upping{cli: &cli{out: reader{func() { hint(); interrupt() }}, err: &said, format: cmp.Or(c.format, "text")}, status: map[string]*tender.Status{}, requests: &try.File{},
				identities: map[string]identities{}, exit: c.exit, trying: true, arrived: make(chan struct{}, 1), ready: make(chan struct{})}
			err := u.follow(ctx, func(inner context.Context) error {
				for _, n := range c.names {
					u.identities[n] = identities{deployment: &policy.Deployment{Policy: &api.SecurityPolicy{}}}
					u.event(run.Event{Kind: run.EventReady, Deployment: n, Status: &tender.Status{Workload: n, Listen: []tender.Listener{{Address: "127.0.0.1", Port: 1}}}})
				}
				if c.interrupted {
					interrupt()
				}
				u.event(run.Event{Kind: run.EventUp})
				if !c.exit {
					<-hinted.Done()
				}
				<-inner.Done()
				return nil
			})
			u.report(err)
			want := ""
			if c.want != "" {
				want = "lorica: " + c.want + "\n"
			}
			if said.String() != want || exitCode(err) != c.code {
				t.Errorf("%q, exit code %d", said.String(), exitCode(err))
			}
		})
	}
}

func TestExitCodesOfWrongUsage(t *testing.T) {
	for _, line := range []string{"frob", "up extra", "up --frob", "ps -o xml", "up --exit"} {
		if code := execute(context.Background(), strings.Fields(line), strings.NewReader(""), io.Discard, io.Discard); code != exitUsage {
			t.Errorf("lorica %s: exit code %d", line, code)
		}
	}
}
