package argon2id_test

import (
	"strings"
	"testing"

	"lorica.dev/lorica/pep/authn/basic/argon2id"
)

// Answers of the reference implementation in C (its test.c).
var known = []struct{ password, verifier string }{
	{"password", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"},
	{"password", "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"},
	{"password", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"},
}

func TestKnownAnswers(t *testing.T) {
	for _, k := range known {
		s := argon2id.New()
		if _, problem := s.Read(k.verifier); problem != "" {
			t.Errorf("%s: %s", k.verifier, problem)
		}
		if !s.Matches(k.verifier, k.password) {
			t.Errorf("%s: %q does not match", k.verifier, k.password)
		}
		if s.Matches(k.verifier, k.password+"x") || s.Matches(k.verifier, "") || s.Matches(strings.Replace(k.verifier, "t=2", "t=1", 1), k.password) {
			t.Errorf("%s: something else matches", k.verifier)
		}
	}
}

func TestMemoryIsSaid(t *testing.T) {
	if memory, problem := argon2id.New().Read(known[2].verifier); memory != 65536 || problem != "" {
		t.Errorf("%d KiB, %s", memory, problem)
	}
}

func TestWhatIsNoneMatchesNothing(t *testing.T) {
	for _, s := range []string{"", "$argon2id$", strings.Replace(known[0].verifier, "m=256", "m=4194304", 1)} {
		if _, problem := argon2id.New().Read(s); problem == "" || argon2id.New().Matches(s, "password") {
			t.Errorf("%q is a verifier", s)
		}
	}
}
