package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go"
)

// requestsOfASet is how many requests are made to one set of policies.
const requestsOfASet = 250

// counts says how often what came about.
type counts struct{ allowed, denied, silent, faulty int }

func (c *counts) add(o outcome) {
	switch {
	case o.allow:
		c.allowed++
	case len(o.reasons) > 0:
		c.denied++
	default:
		c.silent++
	}
	if len(o.errors) > 0 {
		c.faulty++
	}
}

// judgeSet has an author write policies, entities and requests, and compares the answers.
func (s *suite) judgeSet(a *author, where string, requests int) (c counts) {
	text := a.policies()
	p, err := newPair([]byte(text), a.entities())
	s.Tests++
	var refused refusal
	switch {
	case errors.As(err, &refused):
		if s.Refused++; len(s.Refusals) < most {
			s.Refusals = append(s.Refusals, fmt.Sprintf("%s: %v\n%s", where, err, indent(text)))
		}
		return c
	case err != nil:
		s.Unreadable = fmt.Sprintf("%s: %v\n%s", where, err, indent(text))
		return c
	}
	for range requests {
		s.Requests++
		r := a.request()
		o, m := p.compare(r)
		c.add(o)
		if m != nil {
			if m.Where = where; s.Mismatches == 0 {
				p.blame(m, r)
			}
			s.found(*m)
		}
	}
	return c
}

// blame leaves out of a mismatch what it does not need.
func (p *pair) blame(m *mismatch, r cedar.Request) {
	var list []*cedar.Policy
	for _, id := range p.ids {
		list = append(list, p.set.Get(cedar.PolicyID(id)))
	}
	var text []byte
	write := func() []byte {
		text = nil
		for _, x := range list {
			text = append(append(text, x.MarshalCedar()...), '\n')
		}
		return text
	}
	for i := len(list) - 1; i >= 0 && len(list) > 1; i-- {
		all := list
		list = append(append([]*cedar.Policy(nil), all[:i]...), all[i+1:]...)
		q, err := newPair(write(), p.entities)
		var less *mismatch
		if err == nil {
			_, less = q.compare(r)
		}
		if less == nil {
			list = all
			continue
		}
		m.Expected, m.Got = less.Expected, less.Got
	}
	m.Policies = string(write())
	if b, err := p.entities.MarshalJSON(); err == nil {
		m.Entities = string(b)
	}
}

// random judges so many requests, of sets that a seed and those after it give. One that is
// interrupted tells what it has done.
func random(seed uint64, requests int) *suite {
	all := &suite{Name: "random"}
	ctx, done := signal.NotifyContext(context.Background(), os.Interrupt)
	defer done()
	var next atomic.Uint64
	var mu sync.Mutex
	var wait sync.WaitGroup
	sets := uint64((requests + requestsOfASet - 1) / requestsOfASet)
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < sets; i = next.Add(1) - 1 {
				one := &suite{}
				one.judgeSet(newAuthor(number(seed+i)), fmt.Sprintf("seed %d", seed+i), min(requestsOfASet, requests-int(i)*requestsOfASet))
				mu.Lock()
				all.join(one)
				stop := all.Mismatches >= most
				mu.Unlock()
				if stop || ctx.Err() != nil {
					return
				}
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		all.Unreadable = "interrupted"
	}
	return all
}

func (s *suite) join(x *suite) {
	s.Tests, s.Requests, s.Refused, s.Mismatches = s.Tests+x.Tests, s.Requests+x.Requests, s.Refused+x.Refused, s.Mismatches+x.Mismatches
	if x.Unreadable != "" {
		s.Unreadable = x.Unreadable
	}
	s.Found = append(s.Found, x.Found[:min(len(x.Found), most-len(s.Found))]...)
	s.Refusals = append(s.Refusals, x.Refusals[:min(len(x.Refusals), most-len(s.Refusals))]...)
}
