package basic

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"

	"lorica.dev/lorica/pep/authn/attempt"
)

// A mac stands for a verifier and a credential.
type mac = attempt.Mac

// known remembers the credentials that were verified. A user has one password,
// so that only changes of the user list can fill it; then the older half goes.
type known struct {
	hashes sync.Pool // of *keyed

	mu       sync.RWMutex
	new, old map[mac]struct{}
}

// knownHalf bounds each of the two halves.
const knownHalf = 8192

func newKnown() *known {
	var key [32]byte
	rand.Read(key[:]) // cannot fail: crypto/rand ends the process instead
	k := &known{new: map[mac]struct{}{}}
	k.hashes.New = func() any { return &keyed{hash: hmac.New(sha256.New, key[:])} }
	return k
}

// keyed is an HMAC-SHA256 under the key of this process, with room to work in.
type keyed struct {
	hash hash.Hash
	buf  []byte
}

// key covers the verifier, the name and the password; their borders are plain.
func (k *known) key(u *user, c credentials) mac {
	h := k.hashes.Get().(*keyed)
	b := append(h.buf[:0], u.mark[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(c.name)))
	b = append(b, c.name...)
	b = append(b, c.password...)
	h.hash.Reset()
	h.hash.Write(b)
	clear(b) // no copy of a password stays behind
	h.buf = h.hash.Sum(b[:0])
	out := mac(h.buf)
	k.hashes.Put(h)
	return out
}

func (k *known) has(m mac) bool {
	k.mu.RLock()
	_, isNew := k.new[m]
	_, isOld := k.old[m]
	k.mu.RUnlock()
	if isOld && !isNew {
		k.add(m)
	}
	return isNew || isOld
}

func (k *known) add(m mac) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.new) >= knownHalf {
		k.old, k.new = k.new, map[mac]struct{}{}
	}
	k.new[m] = struct{}{}
}
