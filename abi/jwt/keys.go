package jwt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"lorica.dev/lorica/abi/strictjson"
)

// Bounds of a key set.
const (
	MaxKeysSize = 256 << 10 // bytes
	MaxKeys     = 64
	MaxKeyID    = 256  // bytes
	MinRSA      = 2048 // bits
	MaxRSA      = 8192
)

// A Key verifies tokens of one algorithm.
type Key struct {
	ID        string // kid; empty: none
	Algorithm Algorithm
	Public    crypto.PublicKey // *ecdsa.PublicKey, ed25519.PublicKey or *rsa.PublicKey
	Material  []byte           // the same as bytes, one form for each key of the algorithm
}

// A KeysError says what is wrong with a key set, and where. It never shows what a
// member holds.
type KeysError struct {
	Line    int // counted from one
	Message string
}

func (e *KeysError) Error() string { return fmt.Sprintf("keys: line %d: %s", e.Line, e.Message) }

// ParseKeys reads a JWK set (RFC 7517). Keys that are for something else
// (encryption, other algorithms, other curves) are passed over, as the standard
// asks; one that is for a known algorithm and malformed refuses the set, and so
// does one that holds a secret, whatever it is for. Any error is a *KeysError.
func ParseKeys(doc []byte) ([]Key, error) {
	fail := func(at int, err error) ([]Key, error) {
		return nil, &KeysError{1 + bytes.Count(doc[:min(at, len(doc))], []byte("\n")), err.Error()}
	}
	if len(doc) > MaxKeysSize {
		return fail(0, fmt.Errorf("the set has %d bytes; the limit is %d", len(doc), MaxKeysSize))
	}
	var found [1]strictjson.Value
	if err := strictjson.Find(doc, []strictjson.Pointer{{"keys"}}, found[:]); err != nil {
		var se *strictjson.Error
		if errors.As(err, &se) {
			return fail(se.At, errors.New(se.Message))
		}
		return fail(0, err)
	}
	if found[0].Kind != strictjson.Array {
		return fail(0, errors.New(`not a key set: want {"keys": [...]}`))
	}
	var list []Key
	ids := map[string]bool{}
	passed, at := 0, 0
	err := strictjson.Elements(found[0], func(v strictjson.Value) error {
		at = v.At
		k, err := parseKey(v)
		switch {
		case errors.Is(err, errOther):
			passed++
			return nil
		case err != nil:
			return err
		case k.ID != "" && ids[k.ID]:
			return fmt.Errorf("two keys have the kid %q", k.ID)
		case len(list) == MaxKeys:
			return fmt.Errorf("more than %d keys", MaxKeys)
		}
		ids[k.ID] = true
		list = append(list, k)
		return nil
	})
	if err == nil && len(list) == 0 {
		err, at = fmt.Errorf("none of the %d keys can verify %s", passed, strings.Join(AlgorithmNames(), ", ")), found[0].At
	}
	if err != nil {
		return fail(at, err)
	}
	return list, nil
}

// errOther is about a key that is well formed as far as we can tell and for
// something else.
var errOther = errors.New("a key for something else")

// Members of a key that are read.
const (
	memberKty = iota
	memberUse
	memberOps
	memberAlg
	memberKid
	memberCrv
	memberX
	memberY
	memberN
	memberE
	firstSecret // and all that follow
)

var members = []strictjson.Pointer{{"kty"}, {"use"}, {"key_ops"}, {"alg"}, {"kid"}, {"crv"}, {"x"}, {"y"}, {"n"}, {"e"},
	{"d"}, {"p"}, {"q"}, {"dp"}, {"dq"}, {"qi"}, {"oth"}, {"k"}}

// A jwk holds the members of one key.
type jwk []strictjson.Value

func parseKey(v strictjson.Value) (Key, error) {
	if v.Kind != strictjson.Object {
		return Key{}, errors.New("a key must be an object")
	}
	j := make(jwk, len(members))
	if err := strictjson.Find(v.Text, members, j); err != nil {
		var se *strictjson.Error
		if errors.As(err, &se) {
			err = errors.New(se.Message)
		}
		return Key{}, err
	}
	for i := firstSecret; i < len(j); i++ {
		if j[i].Kind != strictjson.Missing {
			return Key{}, fmt.Errorf("the key holds a secret (member %q): a set for verifying has public keys only; take it out, and replace the key if others could read it", members[i][0])
		}
	}
	for i, kind := range []strictjson.Kind{memberKty: strictjson.String, memberUse: strictjson.String, memberOps: strictjson.Array,
		memberAlg: strictjson.String, memberKid: strictjson.String, memberCrv: strictjson.String, memberX: strictjson.String,
		memberY: strictjson.String, memberN: strictjson.String, memberE: strictjson.String} {
		if j[i].Kind != kind && j[i].Kind != strictjson.Missing {
			return Key{}, fmt.Errorf("member %q has the wrong JSON type", members[i][0])
		}
	}
	a, err := j.algorithm()
	if err != nil {
		return Key{}, err
	}
	k := Key{ID: j.text(memberKid), Algorithm: a}
	if j[memberKid].Kind != strictjson.Missing && (k.ID == "" || len(k.ID) > MaxKeyID) {
		return Key{}, fmt.Errorf("a kid has 1 to %d bytes", MaxKeyID)
	}
	switch a {
	case ES256:
		err = j.es256(&k)
	case EdDSA:
		err = j.eddsa(&k)
	default:
		err = j.rs256(&k)
	}
	return k, err
}

func (j jwk) text(member int) string { return string(j[member].Text) }

// algorithm returns what the key is for, by its type; alg, use and key_ops can
// only narrow it.
func (j jwk) algorithm() (Algorithm, error) {
	var a Algorithm
	switch kty, crv := j.text(memberKty), j.text(memberCrv); {
	case kty == "":
		return 0, errors.New(`member "kty" is missing`)
	case kty == "EC" && crv == "P-256":
		a = ES256
	case kty == "OKP" && crv == "Ed25519":
		a = EdDSA
	case kty == "RSA":
		a = RS256
	default:
		return 0, errOther
	}
	alg := j.text(memberAlg)
	fully := a == EdDSA && alg == "Ed25519" // RFC 9864
	if alg != "" && alg != a.String() && !fully || j[memberUse].Kind != strictjson.Missing && j.text(memberUse) != "sig" {
		return 0, errOther
	}
	if j[memberOps].Kind == strictjson.Missing {
		return a, nil
	}
	verifies := false
	err := strictjson.Elements(j[memberOps], func(v strictjson.Value) error {
		verifies = verifies || v.Kind == strictjson.String && string(v.Text) == "verify"
		return nil
	})
	if err == nil && !verifies {
		err = errOther
	}
	return a, err
}

// bytes reads a member in base64url; fixed is its length, 0 for any.
func (j jwk) bytes(member, fixed int) ([]byte, error) {
	name := members[member][0]
	b, ok := DecodeSegment(j[member].Text)
	switch {
	case j[member].Kind == strictjson.Missing:
		return nil, fmt.Errorf("member %q is missing", name)
	case !ok:
		return nil, fmt.Errorf("member %q is not base64url without padding", name)
	case fixed > 0 && len(b) != fixed:
		return nil, fmt.Errorf("member %q has %d bytes, not %d", name, len(b), fixed)
	}
	return b, nil
}

func (j jwk) es256(k *Key) error {
	x, err1 := j.bytes(memberX, 32)
	y, err2 := j.bytes(memberY, 32)
	if err := errors.Join(err1, err2); err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	k.Material = append(append([]byte{4}, x...), y...)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Material)
	if err != nil {
		return errors.New("x and y are not a point of P-256")
	}
	k.Public = public
	return nil
}

func (j jwk) eddsa(k *Key) error {
	x, err := j.bytes(memberX, ed25519.PublicKeySize)
	k.Material, k.Public = x, ed25519.PublicKey(x)
	return err
}

func (j jwk) rs256(k *Key) error {
	n, err := j.bytes(memberN, 0)
	if err != nil {
		return err
	}
	e, err := j.bytes(memberE, 0)
	if err != nil {
		return err
	}
	modulus := new(big.Int).SetBytes(n)
	switch bits := modulus.BitLen(); {
	case bits < MinRSA || bits > MaxRSA:
		return fmt.Errorf("an RSA key of %d bits; %d to %d are accepted", bits, MinRSA, MaxRSA)
	case len(n) > 0 && n[0] == 0 || modulus.Bit(0) == 0:
		return errors.New(`member "n" is not an odd number without leading zeros`)
	case !bytes.Equal(e, []byte{1, 0, 1}):
		return errors.New("only the RSA exponent 65537 (AQAB) is accepted")
	}
	k.Material, k.Public = n, &rsa.PublicKey{N: modulus, E: 65537}
	return nil
}

// DecodeSegment reads base64url in its one spelling: no padding, no line breaks,
// no bits behind the end.
func DecodeSegment(s []byte) ([]byte, bool) {
	if bytes.ContainsAny(s, "\r\n") { // which base64 would skip
		return nil, false
	}
	b := make([]byte, base64.RawURLEncoding.DecodedLen(len(s)))
	n, err := base64.RawURLEncoding.Strict().Decode(b, s)
	return b[:max(n, 0)], err == nil
}
