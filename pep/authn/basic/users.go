package basic

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

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
	scheme   Scheme
	verifier string
	mark     [sha256.Size]byte // covers name and verifier
}

// users is one generation's user list, immutable.
type users struct {
	byName      map[string]*user
	ordered     []*user
	seed        maphash.Seed
	standIn     user // where there are no users to imitate
	concurrency int  // of hashes, by their memory and the processors
}

func newUsers(list []byte, schemes []Scheme, seed maphash.Seed) (*users, error) {
	if len(schemes) == 0 {
		return nil, errors.New("the image verifies no passwords")
	}
	// The first is imitated: an empty list must not answer faster than one with users.
	first := schemes[0].StandIn()
	us := &users{byName: map[string]*user{}, seed: seed, standIn: user{scheme: schemes[0], verifier: first}}
	most, _ := schemes[0].Read(first)
	by := func(verifier string) Scheme {
		of := basic.SchemeOf(verifier)
		i := slices.IndexFunc(schemes, func(s Scheme) bool { return basic.SchemeOf(s.StandIn()) == of })
		if of == "" || i < 0 {
			return nil
		}
		return schemes[i]
	}
	parsed, err := basic.ParseUsers(list, func(verifier string) string {
		s := by(verifier)
		if s == nil {
			return "the verifier is of a form that this image has no module for"
		}
		memory, problem := s.Read(verifier)
		most = max(most, memory)
		return problem
	})
	if err != nil {
		return nil, err
	}
	for name, r := range parsed {
		if name == authn.Anonymous {
			return nil, fmt.Errorf("user %q: the name stands for requests without credentials", name)
		}
		u := &user{name: name, groups: slices.Sorted(slices.Values(r.Groups)), real: true, scheme: by(r.Verifier), verifier: r.Verifier, mark: fingerprint(name, r.Verifier)}
		us.byName[name] = u
		us.ordered = append(us.ordered, u)
	}
	slices.SortFunc(us.ordered, func(a, b *user) int { return strings.Compare(a.name, b.name) })
	us.concurrency = concurrency(runtime.GOMAXPROCS(0), most, debug.SetMemoryLimit(-1))
	return us, nil
}

// find returns the named user. A name that is not in the list gets the verifier
// of some user, always the same one: where schemes and costs differ, an unknown
// name must look like a known one from one try to the next.
func (us *users) find(name string) *user {
	if u := us.byName[name]; u != nil {
		return u
	}
	u := us.standIn
	if n := uint64(len(us.ordered)); n > 0 {
		u = *us.ordered[maphash.String(us.seed, name)%n]
	}
	u.name, u.groups, u.real = name, nil, false
	return &u
}

// matches hashes the password and compares in constant time.
func (u *user) matches(password string) bool {
	return u.scheme.Matches(u.verifier, password) && u.real
}

func fingerprint(name, verifier string) [sha256.Size]byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(name)))
	return sha256.Sum256(append(append(b, name...), verifier...))
}
