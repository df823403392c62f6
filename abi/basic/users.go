package basic

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lorica.dev/lorica/abi/authn"
)

// Bounds of a user list. They are about what one file can make an image hold
// and what one line can make it compute: argon2id with MaxMemory and MaxTime
// takes some seconds of one core.
const (
	MaxUsersSize = 1 << 20 // bytes
	MaxUsers     = 10_000
	MaxGroups    = 64 // of one user
	MaxName      = 64 // bytes of the name of a user or a group
	MinMemory    = 8  // KiB for each lane (RFC 9106, 3.1)
	MaxMemory    = 64 << 10
	MaxTime      = 10
	MaxThreads   = 4
	MinSalt      = 8
	MaxSalt      = 64
	MinHash      = 16
	MaxHash      = 64
)

// A User is one line of a user list: a name, its groups, and an argon2id
// verifier of its password (RFC 9106).
type User struct {
	Name    string
	Groups  []string // sorted, each once
	Memory  uint32   // KiB
	Time    uint32
	Threads uint8
	Salt    []byte
	Hash    []byte
}

// Users is a user list by name; read only, safe for concurrent use.
type Users map[string]*User

// A UsersError says what is wrong on which line. It never holds a salt or a
// hash.
type UsersError struct {
	Line    int // counted from one; 0: the whole file
	Message string
}

func (e *UsersError) Error() string {
	if e.Line == 0 {
		return "users: " + e.Message
	}
	return fmt.Sprintf("users: line %d: %s", e.Line, e.Message)
}

// ParseUsers reads a user list. Each line is
//
//	name:group1,group2:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH
//
// with the verifier in the PHC string format (raw base64); groups may be empty;
// empty lines and lines that start with # are comments. Any error refuses the
// whole list, and is a *UsersError.
func ParseUsers(b []byte) (Users, error) {
	if len(b) > MaxUsersSize {
		return nil, &UsersError{Message: fmt.Sprintf("the list has %d bytes; the limit is %d", len(b), MaxUsersSize)}
	}
	us := make(Users)
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		u, msg := parseUser(line)
		if msg == "" && us[u.Name] != nil {
			msg = fmt.Sprintf("user %q is listed twice", u.Name)
		}
		if msg == "" && len(us) == MaxUsers {
			msg = fmt.Sprintf("more than %d users", MaxUsers)
		}
		if msg != "" {
			return nil, &UsersError{Line: n, Message: msg}
		}
		us[u.Name] = u
	}
	return us, nil
}

func parseUser(line string) (*User, string) {
	name, rest, ok1 := strings.Cut(line, ":")
	groups, phc, ok2 := strings.Cut(rest, ":")
	switch {
	case !ok1 || !ok2:
		return nil, "not of the form name:groups:verifier"
	case !ValidName(name):
		return nil, "the name may hold letters, digits and . _ @ + -, at most 64"
	case name == authn.Anonymous:
		return nil, fmt.Sprintf("the name %q is reserved for requests without credentials", authn.Anonymous)
	}
	u := &User{Name: name}
	if groups != "" {
		u.Groups = strings.Split(groups, ",")
	}
	if len(u.Groups) > MaxGroups {
		return nil, fmt.Sprintf("more than %d groups", MaxGroups)
	}
	for _, g := range u.Groups {
		if !ValidName(g) {
			return nil, "a group may hold letters, digits and . _ @ + -, at most 64"
		}
	}
	slices.Sort(u.Groups)
	if len(slices.Compact(slices.Clone(u.Groups))) != len(u.Groups) {
		return nil, "a group is listed twice"
	}
	return u, u.verifier(phc)
}

// ValidName reports whether s can name a user or a group. Neither ':' nor ','
// nor anything that a header or a log could mistake is allowed.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("._@+-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// verifier reads a PHC string and returns what is wrong with it.
func (u *User) verifier(s string) string {
	p := strings.Split(s, "$")
	if len(p) != 6 || p[0] != "" || p[1] != "argon2id" || p[2] != "v=19" {
		return "the verifier is not of the form $argon2id$v=19$m=,t=,p=$SALT$HASH"
	}
	cost := strings.Split(p[3], ",")
	if len(cost) != 3 {
		return "the cost is not of the form m=,t=,p="
	}
	threads, ok3 := parameter(cost[2], "p=", 1, MaxThreads)
	memory, ok1 := parameter(cost[0], "m=", MinMemory*max(1, threads), MaxMemory)
	time, ok2 := parameter(cost[1], "t=", 1, MaxTime)
	switch {
	case !ok1:
		return fmt.Sprintf("m must be from %d for each p to %d (KiB)", MinMemory, MaxMemory)
	case !ok2:
		return fmt.Sprintf("t must be from 1 to %d", MaxTime)
	case !ok3:
		return fmt.Sprintf("p must be from 1 to %d", MaxThreads)
	}
	u.Memory, u.Time, u.Threads = memory, time, uint8(threads)
	if strings.ContainsAny(s, "\r\n") { // which base64 would skip
		return "a line break inside the verifier"
	}
	raw := base64.RawStdEncoding.Strict()
	var err error
	if u.Salt, err = raw.DecodeString(p[4]); err != nil || len(u.Salt) < MinSalt || len(u.Salt) > MaxSalt {
		return fmt.Sprintf("the salt is not raw base64 of %d to %d bytes", MinSalt, MaxSalt)
	}
	if u.Hash, err = raw.DecodeString(p[5]); err != nil || len(u.Hash) < MinHash || len(u.Hash) > MaxHash {
		return fmt.Sprintf("the hash is not raw base64 of %d to %d bytes", MinHash, MaxHash)
	}
	return ""
}

func parameter(s, prefix string, lo, hi uint32) (uint32, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), ok && err == nil && s[0] != '0' && uint32(v) >= lo && uint32(v) <= hi
}
