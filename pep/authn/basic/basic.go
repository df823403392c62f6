// Package basic establishes who makes a request, by HTTP Basic (RFC 7617) against
// a list of users. What hashes passwords is a module for each scheme.
//
// A credential that was verified once is remembered, under a key that nobody but
// this process knows and that covers the user's verifier: a changed or revoked
// user misses at once, while the memory outlives a change of program. Everything
// else costs a hash, so it first passes a limit on failures per source (an IPv4
// address or an IPv6 /64) and then a bound on concurrent hashes.
//
// A source over its limit is refused new verifications; credentials that are
// remembered keep working, so that a guessing neighbour behind the same address
// does not lock out who is in. But then an answer tells a right guess from a
// wrong one without a hash, so failures also count for each source and name:
// over that limit nothing is answered but 429, right or wrong.
//
// An unknown user costs what a known one does, whatever schemes there are, and gets
// the same answer as a wrong password. The application never sees the password.
package basic

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authn"
	"lorica.dev/lorica/pep/authn/attempt"
)

// A Scheme verifies passwords by verifiers of one form. It is safe for concurrent
// use.
type Scheme interface {
	// StandIn returns a verifier of the usual cost, of nobody's password.
	StandIn() string
	// Read returns the memory that a verification takes, in KiB, or what is wrong
	// with the verifier.
	Read(verifier string) (memory uint32, problem string)
	// Matches hashes the password, whatever it is, and compares in constant time.
	Matches(verifier, password string) bool
}

// A Module holds what outlives a program: verified credentials, failures by
// source, and the bound on hashing.
type Module struct {
	schemes  []Scheme
	known    *known
	failures *attempt.Failures
	hashes   *attempt.Queue
	seed     maphash.Seed
}

// New returns the module, which verifies passwords by these schemes, at least one.
func New(schemes ...Scheme) *Module {
	return &Module{schemes: schemes, known: newKnown(), failures: attempt.NewFailures(), hashes: attempt.NewQueue(), seed: maphash.MakeSeed()}
}

// Prepare reads the section and the user list that it names.
func (m *Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := basic.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	if s.Attempts == 0 || s.Window < time.Duration(s.Attempts) {
		return nil, fmt.Errorf("basic: %d attempts in %v leave nobody a first one", s.Attempts, s.Window)
	}
	list, ok := in.Secrets[s.Secret]
	if !ok {
		return nil, fmt.Errorf("basic: secret %q, the user list, is missing", s.Secret)
	}
	users, err := newUsers(list, m.schemes, m.seed)
	if err != nil {
		return nil, fmt.Errorf("basic: secret %q: %w", s.Secret, err)
	}
	return &state{
		module: m, section: s, challenge: s.Challenge(), users: users,
		limit: attempt.Limit{Attempts: s.Attempts, Window: s.Window},
	}, nil
}

type state struct {
	module    *Module
	section   basic.Section
	challenge string
	users     *users
	limit     attempt.Limit
}

// Judge sets Principal and Groups, and takes the credentials out of the request.
// What is not HTTP Basic is left to the other methods.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	header, ok, err := authn.Take(x, "Basic")
	switch {
	case err != nil:
		return s.deny(http.StatusBadRequest, err.Error())
	case !ok:
		return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn}
	}
	c, err := parseBasic(header)
	if err != nil {
		return s.refuse(x, err.Error())
	}
	from := x.Source()
	asName := attempt.Key{Source: from, Name: maphash.String(s.module.seed, c.name) | 1}
	if wait := s.module.failures.Wait(asName, s.limit, x.Now); wait > 0 {
		return s.retry(x, &limited{wait})
	}
	u := s.users.find(c.name)
	key := s.module.known.key(u, c)
	if u.real && s.module.known.has(key) {
		return s.enter(x, u)
	}

	// Charged in advance, so that attempts at the same time cannot exceed the
	// limit together; refunded on success.
	charged := [...]attempt.Key{asName, {Source: from}}
	ok, err = s.module.hashes.Verify(key, s.users.concurrency,
		func() error { return s.charge(charged[:], x.Now) },
		func() bool {
			if !u.matches(c.password) {
				return false
			}
			for _, a := range charged {
				s.module.failures.Refund(a, s.limit)
			}
			s.module.known.add(key)
			return true
		})
	switch {
	case err != nil:
		return s.retry(x, err)
	case !ok:
		return s.refuse(x, "unknown user or wrong password")
	}
	return s.enter(x, u)
}

// Steady implements pep.Steady. Failures lock guesses out: whoever is in, on this
// connection and with these words, stays.
func (s *state) Steady(*pep.Exchange) bool { return true }

// charge charges every attempt, also when one must wait: a guess that the source
// may not have hashed still counts against the name.
func (s *state) charge(list []attempt.Key, now time.Time) error {
	var wait time.Duration
	for _, a := range list {
		wait = max(wait, s.module.failures.Charge(a, s.limit, now))
	}
	if wait > 0 {
		return &limited{wait}
	}
	return nil
}

// limited is the error of a source, or a source and name, over its limit.
type limited struct{ wait time.Duration }

func (*limited) Error() string { return "too many failures from this source" }

func (s *state) enter(x *pep.Exchange, u *user) pep.Decision {
	x.Principal, x.Groups = u.name, u.groups
	return s.allow()
}

func (s *state) allow() pep.Decision {
	return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn, Rule: s.section.Rule}
}

func (s *state) deny(status int, reason string) pep.Decision {
	return pep.Decision{Stage: abi.StageAuthn, Rule: s.section.Rule, Reason: reason, Status: status}
}

func (s *state) refuse(x *pep.Exchange, reason string) pep.Decision {
	x.Header.Set("WWW-Authenticate", s.challenge)
	return s.deny(http.StatusUnauthorized, reason)
}

// retry denies for now: with 429 a source over its limit, with 503 when too many
// wait.
func (s *state) retry(x *pep.Exchange, err error) pep.Decision {
	status, wait := http.StatusServiceUnavailable, time.Second
	var l *limited
	if errors.As(err, &l) {
		status, wait = http.StatusTooManyRequests, l.wait
	}
	x.RetryAfter(wait)
	return s.deny(status, err.Error())
}
