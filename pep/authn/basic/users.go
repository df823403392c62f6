package basic

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"runtime"
	"runtime/debug"
	"slices"

	"golang.org/x/crypto/argon2"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/basic"
)

// concurrency returns how many hashes may run at once, at least one: as many as
// there are processors and as fit, with memory in KiB each, in half of the image's
// memory limit in bytes; the other half is for what the collector has not freed.
func concurrency(procs int, memory uint32, limit int64) int {
	return int(max(1, min(int64(procs), limit/2/(int64(memory)<<10))))
}

// A user is a line of the user list, or the stand-in for a name that is not in it.
type user struct {
	name     string
	groups   []string // sorted; shared, read only
	real     bool
	record   *basic.User
	verifier [sha256.Size]byte // covers name, cost, salt and hash
}

// users is one generation's user list, immutable.
type users struct {
	byName      map[string]*user
	ordered     []*user
	seed        maphash.Seed
	concurrency int // of hashes, by their memory and the processors
}

// standIn is hashed for an unknown name where there are no users to imitate: the
// cost is the one that `lorica passwd` writes.
var standIn = basic.User{Memory: 19456, Time: 2, Threads: 1, Salt: make([]byte, 16), Hash: make([]byte, 32)}

func newUsers(list []byte, seed maphash.Seed) (*users, error) {
	parsed, err := basic.ParseUsers(list)
	if err != nil {
		return nil, err
	}
	us := &users{byName: map[string]*user{}, seed: seed}
	memory := standIn.Memory
	for name, r := range parsed {
		if name == authn.Anonymous {
			return nil, fmt.Errorf("user %q: the name stands for requests without credentials", name)
		}
		u := &user{name: name, groups: slices.Sorted(slices.Values(r.Groups)), real: true, record: r, verifier: fingerprint(r)}
		us.byName[name] = u
		us.ordered = append(us.ordered, u)
		memory = max(memory, r.Memory)
	}
	slices.SortFunc(us.ordered, func(a, b *user) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	us.concurrency = concurrency(runtime.GOMAXPROCS(0), memory, debug.SetMemoryLimit(-1))
	return us, nil
}

// find returns the named user. A name that is not in the list gets the verifier
// of some user, always the same one: where costs differ, an unknown name must
// look like a known one from one try to the next.
func (us *users) find(name string) *user {
	if u := us.byName[name]; u != nil {
		return u
	}
	u := &user{name: name, record: &standIn}
	if n := uint64(len(us.ordered)); n > 0 {
		other := us.ordered[maphash.String(us.seed, name)%n]
		u.record, u.verifier = other.record, other.verifier
	}
	return u
}

// matches hashes the password and compares in constant time.
func (u *user) matches(password string) bool {
	r := u.record
	got := argon2.IDKey([]byte(password), r.Salt, r.Time, r.Memory, r.Threads, uint32(len(r.Hash)))
	return subtle.ConstantTimeCompare(got, r.Hash) == 1 && u.real
}

func fingerprint(r *basic.User) [sha256.Size]byte {
	var b []byte
	for _, f := range [][]byte{[]byte(r.Name), r.Salt, r.Hash} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	b = binary.LittleEndian.AppendUint32(b, r.Memory)
	b = binary.LittleEndian.AppendUint32(b, r.Time)
	return sha256.Sum256(append(b, r.Threads))
}
