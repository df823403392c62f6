package authn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
)

// A mac stands for a verifier and a credential.
type mac [sha256.Size]byte

// known remembers the credentials that were verified. A user has one password,
// so that only changes of the user list can fill it; then the older half goes.
type known struct {
	hashes sync.Pool // of *hash.Hash keyed for this process

	mu       sync.RWMutex
	new, old map[mac]struct{}
}

// knownHalf bounds each of the two halves.
const knownHalf = 8192

func newKnown() *known {
	var key [32]byte
	rand.Read(key[:]) // cannot fail: crypto/rand ends the process instead
	k := &known{new: map[mac]struct{}{}}
	k.hashes.New = func() any { return hmac.New(sha256.New, key[:]) }
	return k
}

// key covers the verifier, the name and the password, each with its length.
func (k *known) key(u *user, c credentials) mac {
	h := k.hashes.Get().(hash.Hash)
	defer k.hashes.Put(h)
	h.Reset()
	var out mac
	buf := make([]byte, 0, 256)
	buf = append(buf, u.verifier[:]...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(c.name)))
	buf = append(buf, c.name...)
	buf = append(buf, c.password...)
	h.Write(buf)
	h.Sum(out[:0])
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
