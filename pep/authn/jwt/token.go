package jwt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/pep/authn/attempt"
)

// Bounds of a token.
const (
	maxToken     = 8 << 10 // bytes
	maxHeader    = 1 << 10 // of the decoded header
	maxGroups    = 64
	maxAudiences = 64
	maxTime      = 253402300799 // the end of the year 9999
)

var (
	errLong    = fmt.Errorf("the token has more than %d bytes", maxToken)
	errForm    = errors.New("not three parts of base64url: the token is malformed")
	errHeader  = errors.New("the header of the token is malformed")
	errUnknown = errors.New("the header of the token demands what is not understood")
	errType    = errors.New("the token is of another type")
	errNoAlg   = errors.New("the algorithm is not accepted")
	errIssuer  = errors.New("the issuer is not known")
	errTimes   = errors.New("exp is missing, or one of exp, nbf and iat is not a whole number of seconds")
	errNobody  = errors.New("the claim of the principal is missing, or cannot be the name of one")
	errGroups  = errors.New("the claim of the groups is not an array of names")
)

// A header is what a token says about its signature.
type header struct {
	algorithm jwt.Algorithm
	named     bool // by kid
	kid       string
}

// What verified tokens are remembered by.
type verified struct {
	trust     trust
	principal string
	groups    []string // sorted, each once
	claims    []byte
	times
}

// A candidate is a token about which everything is checked but the signature.
type candidate struct {
	verified
	key       *key
	signed    []byte // what the signature is over
	signature []byte
}

// mac stands for the token and what it is to be verified with.
func (c *candidate) mac(t tag) (m attempt.Mac) {
	copy(m[:16], t[:])
	copy(m[16:], c.trust[:])
	return m
}

// examine reads a token and checks everything but the signature. The issuer is
// known where it could be told.
func (s *state) examine(raw string, now time.Time) (*candidate, *issuer, error) {
	first := strings.IndexByte(raw, '.')
	last := strings.LastIndexByte(raw, '.')
	if first <= 0 || last <= first+1 || last == len(raw)-1 {
		return nil, nil, errForm
	}
	head, ok1 := jwt.DecodeSegment([]byte(raw[:first]))
	payload, ok2 := jwt.DecodeSegment([]byte(raw[first+1 : last])) // a third point is no base64url
	signature, ok3 := jwt.DecodeSegment([]byte(raw[last+1:]))
	if !ok1 || !ok2 || !ok3 {
		return nil, nil, errForm
	}
	h, err := parseHeader(head)
	if err != nil {
		return nil, nil, err
	}
	found := make([]strictjson.Value, len(s.want))
	if err := strictjson.Find(payload, s.want, found); err != nil {
		return nil, nil, fmt.Errorf("the claims are malformed: %w", err)
	}
	if found[claimRoot].Kind != strictjson.Object || found[claimIssuer].Kind != strictjson.String {
		return nil, nil, errIssuer
	}
	i := s.issuers[string(found[claimIssuer].Text)]
	if i == nil {
		return nil, nil, errIssuer
	}
	c := &candidate{signed: []byte(raw[:last]), signature: signature}
	if c.key, err = i.key(h); err != nil {
		return nil, i, err
	}
	c.verified = verified{trust: c.key.trust, claims: payload}
	if err := c.read(i, found, s.grouped, now); err != nil {
		return nil, i, err
	}
	return c, i, nil
}

// Claims that are read, as indices.
const (
	claimRoot = iota
	claimIssuer
	claimAudience
	claimExpires
	claimNotBefore
	claimIssued
	claimGroups
	claimPrincipal // and one for each issuer
)

// read checks the claims and takes over what they say.
func (c *candidate) read(i *issuer, found []strictjson.Value, grouped bool, now time.Time) error {
	var ok1, ok2, ok3 bool
	c.expires, ok1 = numericDate(found[claimExpires])
	c.notBefore, ok2 = numericDate(found[claimNotBefore])
	c.issued, ok3 = numericDate(found[claimIssued])
	if !ok1 || !ok2 || !ok3 || c.expires == 0 {
		return errTimes // a token without an end is none
	}
	if err := i.timely(c.times, now); err != nil {
		return err
	}
	if err := i.audience(found[claimAudience]); err != nil {
		return err
	}
	who := found[i.claim]
	if who.Kind != strictjson.String || !authn.ValidPrincipal(string(who.Text)) {
		return errNobody
	}
	c.principal = string(who.Text)
	if !grouped || found[claimGroups].Kind == strictjson.Missing {
		return nil
	}
	var err error
	if c.groups, err = texts(found[claimGroups], maxGroups); err != nil {
		return errGroups
	}
	for _, g := range c.groups {
		if !authn.ValidPrincipal(g) {
			return errGroups
		}
	}
	slices.Sort(c.groups)
	c.groups = slices.Compact(c.groups)
	return nil
}

// members of a header that are read. Those that bring keys along (jwk, jku, x5u,
// x5c) are not among them.
var headerMembers = []strictjson.Pointer{{}, {"alg"}, {"typ"}, {"kid"}, {"crit"}, {"b64"}, {"zip"}}

func parseHeader(b []byte) (*header, error) {
	if len(b) > maxHeader {
		return nil, errHeader
	}
	var found [7]strictjson.Value
	if err := strictjson.Find(b, headerMembers, found[:]); err != nil || found[0].Kind != strictjson.Object {
		return nil, errHeader
	}
	alg, typ, kid := found[1], found[2], found[3]
	for _, v := range found[4:] { // crit, b64, zip
		if v.Kind != strictjson.Missing {
			return nil, errUnknown
		}
	}
	if alg.Kind != strictjson.String {
		return nil, errNoAlg
	}
	a, ok := jwt.ParseAlgorithm(string(alg.Text))
	if !ok {
		return nil, errNoAlg
	}
	if typ.Kind != strictjson.Missing && (typ.Kind != strictjson.String || !isType(string(typ.Text))) {
		return nil, errType
	}
	h := &header{algorithm: a, named: kid.Kind != strictjson.Missing, kid: string(kid.Text)}
	if h.named && kid.Kind != strictjson.String {
		return nil, errHeader
	}
	return h, nil
}

// isType accepts JWT and at+jwt (RFC 9068) as media types are compared.
func isType(s string) bool {
	const application = "application/"
	if len(s) > len(application) && strings.EqualFold(s[:len(application)], application) {
		s = s[len(application):]
	}
	return strings.EqualFold(s, "JWT") || strings.EqualFold(s, "at+jwt")
}

// numericDate reads whole seconds since 1970, above 0 and before the year 10000;
// 0 for what is missing. Fractions, which RFC 7519 allows, are refused: readers
// round them differently.
func numericDate(v strictjson.Value) (int64, bool) {
	if v.Kind == strictjson.Missing {
		return 0, true
	}
	if v.Kind != strictjson.Number || len(v.Text) > 12 {
		return 0, false
	}
	n := int64(0)
	for _, c := range v.Text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, n > 0 && n <= maxTime
}

// texts reads a string, or an array of at most so many strings.
func texts(v strictjson.Value, most int) ([]string, error) {
	wrong := errors.New("is not a string or an array of strings, or has too many")
	switch v.Kind {
	case strictjson.String:
		return []string{string(v.Text)}, nil
	case strictjson.Array:
		var list []string
		err := strictjson.Elements(v, func(e strictjson.Value) error {
			if e.Kind != strictjson.String || len(list) == most {
				return wrong
			}
			list = append(list, string(e.Text))
			return nil
		})
		return list, err
	}
	return nil, wrong
}
