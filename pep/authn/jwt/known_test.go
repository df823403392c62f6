package jwt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/pep/authn/attempt"
)

func numbered(n int) (t tag) {
	binary.BigEndian.PutUint64(t[:], uint64(n)+1)
	return t
}

func (k *known) total() (n int) {
	for _, half := range []map[tag]*verified{k.new, k.old} {
		for _, v := range half {
			n += v.bytes()
		}
	}
	return n
}

func TestKnownIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	for name, claims := range map[string]int{"small": 100, "large": 6 << 10} {
		k := newKnown()
		used := tag{0xff}
		k.add(used, &verified{principal: "ada"})
		for n := range 3 * halfEntries {
			k.add(numbered(n), &verified{claims: make([]byte, claims)})
			if v := k.get(used); v == nil || v.principal != "ada" {
				t.Fatalf("%s: forgotten after %d others", name, n)
			}
			if len(k.new) > halfEntries || len(k.old) > halfEntries || k.size > halfBytes {
				t.Fatalf("%s: %d and %d entries, %d bytes", name, len(k.new), len(k.old), k.size)
			}
		}
		if n := k.total(); n > 2*halfBytes {
			t.Errorf("%s: %d bytes", name, n)
		}
		if k.get(numbered(0)) != nil || k.get(tag{1, 2}) != nil {
			t.Errorf("%s: the oldest, or one that never was, is known", name)
		}
	}
}

// ES256 has two signatures for each that was made: (r, s) and (r, n-s). A token
// can so be remembered twice, and not without end.
func TestOneTokenHasTwoSpellings(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := candidate{key: &key{Key: jwt.Key{Algorithm: jwt.ES256, Public: &private.PublicKey}}, signed: []byte("a.b")}
	digest := sha256.Sum256(c.signed)
	r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N
	for name, x := range map[string]struct {
		r, s *big.Int
		ok   bool
	}{
		"as it was made": {r, s, true}, "the other s": {r, new(big.Int).Sub(n, s), true},
		"the other r": {new(big.Int).Sub(n, r), s, false}, "nothing": {new(big.Int), new(big.Int), false}, "n": {n, n, false},
	} {
		c.signature = append(x.r.FillBytes(make([]byte, 32)), x.s.FillBytes(make([]byte, 32))...)
		if c.verifies() != x.ok {
			t.Errorf("%s: %v", name, !x.ok)
		}
	}
	c.signature = append(append(r.FillBytes(make([]byte, 32)), 0), s.FillBytes(make([]byte, 32))...)
	if c.verifies() {
		t.Error("a zero before s verifies")
	}
	if more := new(big.Int).Add(r, n); more.BitLen() <= 256 {
		c.signature = append(more.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		if c.verifies() {
			t.Error("r + n verifies")
		}
	}
}

func TestReplacingCountsOnce(t *testing.T) {
	k := newKnown()
	for range 10 {
		k.add(numbered(1), &verified{claims: make([]byte, 1000)})
	}
	if k.size != k.total() || len(k.new) != 1 {
		t.Errorf("%d bytes are counted, %d are there", k.size, k.total())
	}
}

func TestTagsDiffer(t *testing.T) {
	k, other := newKnown(), newKnown()
	seen := map[tag]string{}
	for _, token := range []string{"", "a", "b", "aa", strings.Repeat("a", 16), strings.Repeat("a", 15) + "b", "b" + strings.Repeat("a", 15), strings.Repeat("a", 17), "\x00", "\x00\x00", strings.Repeat("\x00", 16)} {
		got := k.tag(token)
		if was, twice := seen[got]; twice {
			t.Errorf("%q and %q have one tag", was, token)
		}
		seen[got] = token
		if k.tag(token) != got {
			t.Errorf("%q has two tags", token)
		}
		if other.tag(token) == got {
			t.Errorf("%q: the tag does not depend on the process", token)
		}
	}
}

// The queue holds back whole tokens of good clients only: what can be charged at
// once must stay below the limit.
func TestTheLimitIsAboveWhatCanBeInWork(t *testing.T) {
	if failureLimit.Attempts <= maxConcurrency+attempt.MaxWaiting {
		t.Errorf("%d failures", failureLimit.Attempts)
	}
}
