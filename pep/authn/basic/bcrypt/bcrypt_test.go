package bcrypt_test

import (
	"strings"
	"testing"

	library "golang.org/x/crypto/bcrypt"

	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/pep/authn/basic/bcrypt"
)

// Answers of crypt(3) (libxcrypt); the first are of its own and of OpenBSD's tests.
var known = []struct{ password, verifier string }{
	{"U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"},
	{"U*U", "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"},
	{"U*U", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"},
	{"pässwörd", "$2b$05$CCCCCCCCCCCCCCCCCCCCC.VbkrrNItU.9NIb/IkEA2mwWrOjK5F3G"},
	{strings.Repeat("x", 72), "$2b$05$CCCCCCCCCCCCCCCCCCCCC.D7RDOYXakZhsFmh/LdqQNx0kQ424AFS"},
	{"lovelace", "$2y$04$abcdefghijklmnopqrstuuhiTVLHQPvYzPykOsCOnc5I00eOfh33K"},
}

func TestKnownAnswers(t *testing.T) {
	for _, k := range known {
		s := bcrypt.New()
		if memory, problem := s.Read(k.verifier); problem != "" || memory == 0 {
			t.Errorf("%s: %s", k.verifier, problem)
		}
		if !s.Matches(k.verifier, k.password) {
			t.Errorf("%s: %q does not match", k.verifier, k.password)
		}
		if s.Matches(k.verifier, k.password+"x") || s.Matches(k.verifier, "") || s.Matches(strings.Replace(k.verifier, "$05$", "$04$", 1), "U*U") {
			t.Errorf("%s: something else matches", k.verifier)
		}
	}
}

// What bcrypt does not see must not be free to choose.
func TestALongPasswordIsWrong(t *testing.T) {
	k := known[4]
	if err := library.CompareHashAndPassword([]byte(k.verifier), []byte(k.password+"y")); err != nil {
		t.Fatalf("the algorithm itself tells them apart: %v", err)
	}
	if bcrypt.New().Matches(k.verifier, k.password+"y") {
		t.Error("72 bytes and anything behind let somebody in")
	}
}

func TestWhatIsNoneMatchesNothing(t *testing.T) {
	for _, s := range []string{"", "$2b$", strings.Replace(known[0].verifier, "$05$", "$31$", 1), strings.Replace(known[0].verifier, "2a", "2x", 1)} {
		if _, problem := bcrypt.New().Read(s); problem == "" || bcrypt.New().Matches(s, "U*U") {
			t.Errorf("%q is a verifier", s)
		}
	}
}

// What we read the library reads, with the same cost: a verifier that it refused
// would be answered without a hash, and tell that its user exists.
func FuzzRead(f *testing.F) {
	for _, k := range known {
		f.Add(k.verifier)
	}
	f.Add(bcrypt.New().StandIn())
	f.Fuzz(func(t *testing.T, s string) {
		b, problem := basic.ReadBcrypt(s)
		if problem != "" {
			return
		}
		if cost, err := library.Cost([]byte(s)); err != nil || cost != int(b.Cost) {
			t.Fatalf("%q: cost %d, and for the library %d (%v)", s, b.Cost, cost, err)
		}
		if b.Cost > 4 {
			return // it takes long
		}
		if err := library.CompareHashAndPassword([]byte(s), []byte("x")); err != nil && err != library.ErrMismatchedHashAndPassword {
			t.Fatalf("%q is not hashed: %v", s, err)
		}
	})
}
