// Package authn establishes who makes a request, by HTTP Basic (RFC 7617) against
// argon2id verifiers (RFC 9106).
//
// A credential that was verified once is remembered, under a key that nobody but
// this process knows and that covers the user's verifier: a changed or revoked
// user misses at once, while the memory outlives a change of program. Everything
// else costs a hash, so it first passes a limit on failures per source and then
// a bound on concurrent hashes. A source over its limit is refused new
// verifications only; credentials that are remembered keep working, so that a
// guessing neighbour behind the same address locks nobody out who is in.
//
// An unknown user costs what a known one does and gets the same answer as a wrong
// password. The application never sees the password.
package authn

import (
	"fmt"
	"hash/maphash"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/pep"
)

// A Module holds what outlives a program: verified credentials, failures by
// source, and the bound on hashing.
type Module struct {
	known    *known
	failures *failures
	hasher   *hasher
	seed     maphash.Seed
}

// New returns the module.
func New() *Module {
	return &Module{known: newKnown(), failures: newFailures(), hasher: newHasher(), seed: maphash.MakeSeed()}
}

// Prepare reads the section and the user list that it names.
func (m *Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := authn.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	if s.Attempts == 0 || s.Window < time.Duration(s.Attempts) {
		return nil, fmt.Errorf("authn: %d attempts in %v leave nobody a first one", s.Attempts, s.Window)
	}
	challenge, err := challenge(s.Realm)
	if err != nil {
		return nil, err
	}
	list, ok := in.Secrets[s.Secret]
	if !ok {
		return nil, fmt.Errorf("authn: secret %q, the user list, is missing", s.Secret)
	}
	users, err := newUsers(list, m.seed)
	if err != nil {
		return nil, fmt.Errorf("authn: secret %q: %w", s.Secret, err)
	}
	return &state{
		module: m, section: s, challenge: challenge, users: users,
		limit: limit{attempts: s.Attempts, window: s.Window},
	}, nil
}

// challenge is the WWW-Authenticate header.
func challenge(realm string) (string, error) {
	for i := 0; i < len(realm); i++ {
		if realm[i] < ' ' || realm[i] > '~' {
			return "", fmt.Errorf("authn: realm %q is not printable ASCII", realm)
		}
	}
	return `Basic realm="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(realm) + `", charset="UTF-8"`, nil
}

type state struct {
	module    *Module
	section   authn.Section
	challenge string
	users     *users
	limit     limit
}

// Judge sets Principal and Groups, and takes the credentials out of the request.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	headers := x.Request.Header["Authorization"]
	delete(x.Request.Header, "Authorization")
	switch {
	case len(headers) == 0 && s.section.Require:
		return s.refuse(x, "no credentials")
	case len(headers) == 0:
		x.Principal = authn.Anonymous
		return s.allow()
	case len(headers) > 1:
		return s.deny(http.StatusBadRequest, "several Authorization headers")
	}
	c, err := parseBasic(headers[0])
	if err != nil {
		return s.refuse(x, err.Error())
	}
	u := s.users.find(c.name)
	key := s.module.known.key(u, c)
	if u.real && s.module.known.has(key) {
		return s.enter(x, u)
	}
	return s.verify(x, u, c, key)
}

// verify charges the source for a failure, hashes, and refunds a success.
func (s *state) verify(x *pep.Exchange, u *user, c credentials, key mac) pep.Decision {
	from := source(x.Flow.Src)
	if wait := s.module.failures.charge(from, s.limit, x.Now); wait > 0 {
		return s.retry(x, http.StatusTooManyRequests, wait, "too many failures from this source")
	}
	ok, err := s.module.hasher.verify(key, u, c.password, s.users.concurrency)
	if err != nil {
		s.module.failures.refund(from, s.limit)
		return s.retry(x, http.StatusServiceUnavailable, time.Second, err.Error())
	}
	if !ok {
		return s.refuse(x, "unknown user or wrong password")
	}
	s.module.failures.refund(from, s.limit)
	s.module.known.add(key)
	return s.enter(x, u)
}

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

func (s *state) retry(x *pep.Exchange, status int, wait time.Duration, reason string) pep.Decision {
	x.Header.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	return s.deny(status, reason)
}
