// Package jwt establishes who makes a request, by bearer tokens (RFC 6750) that
// are JSON Web Tokens (RFC 7519), signed by an issuer of the policy.
//
// A token chooses nothing: its issuer, its key and its algorithm must be ones
// that the policy and the key set name, and the algorithm is the key's. Keys and
// certificates that a token brings along are never read. Everything that costs
// little is checked before the signature.
//
// A verified token is remembered until it ends or is pushed out, by a tag under a
// key that only this process knows, together with a fingerprint of the key that
// verified it and of what its issuer must say: a rotated key or a changed policy
// misses at once, while the memory outlives a change of program. Whether it is
// still, and already, valid is asked at every use.
//
// Signatures that do not verify count against the source (an IPv4 address or an
// IPv6 /64): beyond the limit, tokens that are not remembered are refused unseen.
// Few signatures are verified at once, and few wait. The application never sees
// the token.
package jwt

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/authn"
	"lorica.dev/lorica/pep/authn/attempt"
)

// failureLimit is what one source may make us verify in vain. It is above what
// can be in the queue and in work at once, each charged in advance: tokens that
// are good never meet it.
var failureLimit = attempt.Limit{Attempts: 128, Window: time.Minute}

// maxConcurrency bounds the signatures that are verified at once, however many
// processors there are.
const maxConcurrency = 32

// A Module holds what outlives a program: verified tokens, failures by source,
// and the bound on verifying.
type Module struct {
	known    *known
	failures *attempt.Failures
	queue    *attempt.Queue
}

// New returns the module.
func New() *Module {
	return &Module{known: newKnown(), failures: attempt.NewFailures(), queue: attempt.NewQueue()}
}

// Prepare reads the section and the key sets that it names.
func (m *Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	section, err := jwt.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	s := &state{
		module: m, challenge: section.Challenge() + `, error="invalid_token"`, issuers: map[string]*issuer{}, trusts: map[trust]*issuer{},
		// Half of the processors are left to those who are in.
		concurrency: max(1, min(maxConcurrency, runtime.GOMAXPROCS(0)/2)),
	}
	if err := s.claims(&section); err != nil {
		return nil, err
	}
	for i := range section.Issuers {
		x, err := newIssuer(&section, i, in.Secrets)
		if err != nil {
			return nil, err
		}
		s.issuers[x.Issuer.Issuer] = x
		for _, k := range x.keys {
			s.trusts[k.trust] = x
		}
	}
	s.rule = section.Issuers[0].Rule
	if len(section.Issuers) > 1 {
		s.rule.ID = abi.RuleAuthn
	}
	return s, nil
}

type state struct {
	module      *Module
	rule        abi.Rule // names refusals of tokens whose issuer is not known
	challenge   string
	issuers     map[string]*issuer // by claim iss
	trusts      map[trust]*issuer
	want        []strictjson.Pointer // claims that are read: the fixed ones, the groups, the principal of each issuer
	grouped     bool                 // the groups are among them
	concurrency int
}

// Judge sets what the token says about who asks, and takes it out of the request.
// A request without a bearer token is left to the other methods.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	raw, ok, err := authn.Take(x, "Bearer")
	switch {
	case err != nil:
		return deny(s.rule, http.StatusBadRequest, err.Error())
	case !ok:
		return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn}
	case len(raw) > maxToken:
		return s.refuse(x, s.rule, errLong)
	}
	tag := s.module.known.tag(raw)
	if v := s.module.known.get(tag); v != nil {
		if i := s.trusts[v.trust]; i != nil {
			return s.enter(x, i, v)
		}
	}
	v, i, err := s.examine(raw, x.Now)
	switch {
	case err != nil && i != nil:
		return s.refuse(x, i.Rule, err)
	case err != nil:
		return s.refuse(x, s.rule, err)
	}
	from := attempt.Key{Source: x.Source()}
	ok, err = s.module.queue.Verify(v.mac(tag), s.concurrency,
		func() error {
			if wait := s.module.failures.Charge(from, failureLimit, x.Now); wait > 0 {
				return &limited{wait}
			}
			return nil
		},
		func() bool {
			if !v.verifies() {
				return false
			}
			s.module.failures.Refund(from, failureLimit)
			kept := v.verified // without the token
			s.module.known.add(tag, &kept)
			return true
		})
	switch {
	case err != nil:
		return retry(x, i.Rule, err)
	case !ok:
		return s.refuse(x, i.Rule, errors.New("the signature does not verify"))
	}
	return s.enter(x, i, &v.verified)
}

// Steady implements pep.Steady: a token says the same until it ends.
func (s *state) Steady(*pep.Exchange) bool { return true }

// limited is the error of a source over its limit.
type limited struct{ wait time.Duration }

func (*limited) Error() string { return "too many tokens from this source did not verify" }

// enter lets a verified token in, if it is its time.
func (s *state) enter(x *pep.Exchange, i *issuer, v *verified) pep.Decision {
	if err := i.timely(v.times, x.Now); err != nil {
		return s.refuse(x, i.Rule, err)
	}
	x.Principal, x.Groups, x.Claims = v.principal, v.groups, v.claims
	x.Expires = time.Unix(v.expires, 0).Add(i.Leeway)
	return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn, Rule: i.Rule}
}

func (s *state) refuse(x *pep.Exchange, rule abi.Rule, err error) pep.Decision {
	x.Header.Set("WWW-Authenticate", s.challenge)
	return deny(rule, http.StatusUnauthorized, err.Error())
}

// retry denies for now: with 429 a source over its limit, with 503 when too many
// wait.
func retry(x *pep.Exchange, rule abi.Rule, err error) pep.Decision {
	status, wait := http.StatusServiceUnavailable, time.Second
	var l *limited
	if errors.As(err, &l) {
		status, wait = http.StatusTooManyRequests, l.wait
	}
	x.RetryAfter(wait)
	return deny(rule, status, err.Error())
}

func deny(rule abi.Rule, status int, reason string) pep.Decision {
	return pep.Decision{Stage: abi.StageAuthn, Rule: rule, Reason: reason, Status: status}
}

// claims lists the claims to read.
func (s *state) claims(section *jwt.Section) error {
	s.want = append(s.want, strictjson.Pointer{}, strictjson.Pointer{"iss"}, strictjson.Pointer{"aud"},
		strictjson.Pointer{"exp"}, strictjson.Pointer{"nbf"}, strictjson.Pointer{"iat"})
	groups, err := strictjson.ParsePointer(section.Groups)
	if err != nil {
		return fmt.Errorf("jwt: %w", err)
	}
	s.grouped = section.Groups != ""
	s.want = append(s.want, groups)
	for _, i := range section.Issuers {
		s.want = append(s.want, strictjson.Pointer{i.Principal})
	}
	return nil
}
