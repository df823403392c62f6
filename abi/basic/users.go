package basic

import (
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/authn"
)

// Bounds of a user list: what one file can make an image hold.
const (
	MaxUsersSize = 1 << 20 // bytes
	MaxUsers     = 10_000
	MaxGroups    = 64 // of one user
	MaxName      = 64 // bytes of the name of a user or a group
)

// A User is one line of a user list: a name, its groups, and a verifier of its
// password, of a form that was read.
type User struct {
	Name     string
	Groups   []string // sorted, each once
	Verifier string
	Line     int // counted from one
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
// with a verifier of one of the schemes; groups may be empty; empty lines and
// lines that start with # are comments. read returns what is wrong with a
// verifier: Problem, or less where an image has fewer schemes. Any error refuses
// the whole list, and is a *UsersError.
func ParseUsers(b []byte, read func(verifier string) string) (Users, error) {
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
		if msg == "" {
			msg = read(u.Verifier)
		}
		if msg == "" && us[u.Name] != nil {
			msg = fmt.Sprintf("user %q is listed twice", u.Name)
		}
		if msg == "" && len(us) == MaxUsers {
			msg = fmt.Sprintf("more than %d users", MaxUsers)
		}
		if msg != "" {
			return nil, &UsersError{Line: n, Message: msg}
		}
		u.Line = n
		us[u.Name] = u
	}
	return us, nil
}

func parseUser(line string) (*User, string) {
	name, rest, ok1 := strings.Cut(line, ":")
	groups, verifier, ok2 := strings.Cut(rest, ":")
	switch {
	case !ok1 || !ok2:
		return nil, "not of the form name:groups:verifier"
	case !ValidName(name):
		return nil, "the name may hold letters, digits and . _ @ + -, at most 64"
	case name == authn.Anonymous:
		return nil, fmt.Sprintf("the name %q is reserved for requests without credentials", authn.Anonymous)
	}
	u := &User{Name: name, Verifier: verifier}
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
	return u, ""
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
