package jwt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/abi/wire"
)

// A trust is a fingerprint of a key and of everything that was checked when it
// verified a token.
type trust [sha256.Size]byte

// An issuer is one generation's view of who signs tokens, immutable.
type issuer struct {
	*jwt.Issuer
	claim int // of the principal, among what is read
	keys  []key
}

type key struct {
	jwt.Key
	trust trust
}

func newIssuer(s *jwt.Section, n int, secrets map[string][]byte) (*issuer, error) {
	x := &issuer{Issuer: &s.Issuers[n], claim: claimPrincipal + n}
	set, ok := secrets[x.Keys]
	if !ok {
		return nil, fmt.Errorf("jwt: secret %q, the keys of %q, is missing", x.Keys, x.Issuer.Issuer)
	}
	list, err := jwt.ParseKeys(set)
	if err != nil {
		return nil, fmt.Errorf("jwt: secret %q: %w", x.Keys, err)
	}
	for _, k := range list {
		if x.Algorithms.Has(k.Algorithm) {
			x.keys = append(x.keys, key{k, fingerprint(s.Groups, x.Issuer, &k)})
		}
	}
	if len(x.keys) == 0 {
		return nil, fmt.Errorf("jwt: secret %q has no key of an algorithm that is allowed", x.Keys)
	}
	return x, nil
}

// fingerprint leaves out what is asked at every use (the leeway) and what names
// decisions.
func fingerprint(groups string, i *jwt.Issuer, k *jwt.Key) trust {
	var w wire.Writer
	w.String(groups)
	w.String(i.Issuer)
	w.Strings(i.Audiences)
	w.String(i.Principal)
	w.U8(uint8(k.Algorithm))
	w.String(k.ID)
	w.Blob(k.Material)
	return sha256.Sum256(w.Bytes())
}

var (
	errAlgorithm = errors.New("the key does not sign with this algorithm, or the policy does not allow it")
	errKey       = errors.New("no key of the issuer has this kid")
	errWhichKey  = errors.New("the token does not say which key signed it, and not exactly one can have")
)

// key returns the one key that can have signed a token with this header.
func (i *issuer) key(h *header) (*key, error) {
	var fit *key
	for n := range i.keys {
		k := &i.keys[n]
		switch {
		case h.named && k.ID == h.kid && k.ID != "":
			if k.Algorithm != h.algorithm {
				return nil, errAlgorithm
			}
			return k, nil
		case !h.named && k.Algorithm == h.algorithm && fit != nil:
			return nil, errWhichKey
		case !h.named && k.Algorithm == h.algorithm:
			fit = k
		}
	}
	switch {
	case fit != nil:
		return fit, nil
	case h.named:
		return nil, errKey
	}
	return nil, errWhichKey
}

// times are claims in seconds since 1970; 0 where one is absent.
type times struct{ expires, notBefore, issued int64 }

// timely refuses a token that ended or has not begun, by more than the leeway.
func (i *issuer) timely(t times, at time.Time) error {
	// Whole seconds, each rounded to the side that denies.
	leeway := int64(i.Leeway / time.Second)
	now := at.Unix()
	switch {
	case now >= t.expires+leeway:
		return errors.New("the token has expired")
	case now < t.notBefore-leeway:
		return errors.New("the token is not valid yet")
	case now < t.issued-leeway:
		return errors.New("the token was issued in the future")
	}
	return nil
}

// audience reports whether claim aud, a string or an array of strings, holds one
// of the issuer's.
func (i *issuer) audience(v strictjson.Value) error {
	list, err := texts(v, maxAudiences)
	if err != nil {
		return fmt.Errorf("claim aud %w", err)
	}
	for _, a := range list {
		if slices.Contains(i.Audiences, a) {
			return nil
		}
	}
	return errors.New("the token is for another audience")
}
