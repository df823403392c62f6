package jwt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"sync"
)

// A tag stands for a token.
type tag [16]byte

// known remembers verified tokens, in two halves: when the newer one is full, the
// older one goes. Each is bounded in entries and in bytes; only tokens that an
// issuer signed can fill them, each twice at most (ECDSA has two signatures).
type known struct {
	tags  cipher.AEAD
	rooms sync.Pool // of *room

	mu       sync.RWMutex
	new, old map[tag]*verified
	size     int // bytes that new takes, about
}

// Bounds of each of the two halves.
const (
	halfEntries = 8192
	halfBytes   = 4 << 20
	entryBytes  = 256 // of an entry, beside what it holds
)

func newKnown() *known {
	var key [16]byte
	rand.Read(key[:]) // cannot fail: crypto/rand ends the process instead
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 16 bytes is one
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	k := &known{tags: gcm, new: map[tag]*verified{}}
	k.rooms.New = func() any { return new(room) }
	return k
}

// A room is where a tag is made without allocation.
type room struct {
	token []byte
	out   [16]byte
	nonce [12]byte
}

// tag is GMAC of the token. The key and the tags never leave this process, and so
// one nonce serves for all: what is used of GMAC is that it is a universal hash
// under a secret key. Two different tokens of up to 8 KiB, chosen without it,
// have one tag with a probability below 2^-118. It takes a third of the time of
// HMAC-SHA256, for every request.
func (k *known) tag(token string) tag {
	r := k.rooms.Get().(*room)
	r.token = append(r.token[:0], token...)
	t := tag(k.tags.Seal(r.out[:0], r.nonce[:], nil, r.token))
	clear(r.token) // no copy of a token stays behind
	k.rooms.Put(r)
	return t
}

func (k *known) get(t tag) *verified {
	k.mu.RLock()
	v, isNew := k.new[t]
	if !isNew {
		v = k.old[t]
	}
	k.mu.RUnlock()
	if v != nil && !isNew {
		k.add(t, v)
	}
	return v
}

func (k *known) add(t tag, v *verified) {
	n := v.bytes()
	k.mu.Lock()
	defer k.mu.Unlock()
	if was := k.new[t]; was != nil {
		k.size -= was.bytes()
	} else if len(k.new) >= halfEntries || k.size+n > halfBytes {
		k.old, k.new, k.size = k.new, map[tag]*verified{}, 0
	}
	k.new[t] = v
	k.size += n
}

// bytes is about what v takes.
func (v *verified) bytes() int {
	n := entryBytes + len(v.principal) + cap(v.claims)
	for _, g := range v.groups {
		n += 16 + len(g)
	}
	return n
}
