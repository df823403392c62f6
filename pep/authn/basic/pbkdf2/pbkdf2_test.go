package pbkdf2_test

import (
	"strings"
	"testing"

	"lorica.dev/lorica/pep/authn/basic/pbkdf2"
)

// Answers of OpenSSL, by Python's hashlib.pbkdf2_hmac; the first is RFC 6070's longest
// case with SHA-256.
var known = []struct{ password, verifier string }{
	{"passwordPASSWORDpassword", "$pbkdf2-sha256$i=4096$c2FsdFNBTFRzYWx0U0FMVHNhbHRTQUxUc2FsdFNBTFRzYWx0$NIyJ28vTKy8y2BS4EW6EzysXNH68GAAYHE4qH7jdU+E"},
	{"passwordPASSWORDpassword", "$pbkdf2-sha256$4096$c2FsdFNBTFRzYWx0U0FMVHNhbHRTQUxUc2FsdFNBTFRzYWx0$NIyJ28vTKy8y2BS4EW6EzysXNH68GAAYHE4qH7jdU.E"},
	{"lovelace", "$pbkdf2-sha512$i=1000$c2l4dGVlbiBieXRlcyBvaw$XM4tqWikBIuYtv9OOkPy59t1d0bgWTdJSkAEuHZnMxXRm5LoSIjcw8IR75sB2lvIoR4AaEZc/4vgmvYTR06A7g"},
	{"pässwörd", "$pbkdf2-sha256$i=1000$c2l4dGVlbiBieXRlcyBvaw$uDQIipDZj/b0pet/J1Zj1iQJWuDW5og2QUPWUU30Y5w"},
}

func TestKnownAnswers(t *testing.T) {
	for _, k := range known {
		s := pbkdf2.New()
		if memory, problem := s.Read(k.verifier); problem != "" || memory == 0 {
			t.Errorf("%s: %s", k.verifier, problem)
		}
		if !s.Matches(k.verifier, k.password) {
			t.Errorf("%s: %q does not match", k.verifier, k.password)
		}
		if s.Matches(k.verifier, k.password+"x") || s.Matches(k.verifier, "") || s.Matches(strings.Replace(k.verifier, "1000", "1001", 1), "lovelace") {
			t.Errorf("%s: something else matches", k.verifier)
		}
	}
	if pbkdf2.New().Matches(strings.Replace(known[2].verifier, "1000", "1001", 1), "lovelace") {
		t.Error("the number of iterations is ignored")
	}
}

func TestWhatIsNoneMatchesNothing(t *testing.T) {
	for _, s := range []string{"", "$pbkdf2-sha256$", strings.Replace(known[0].verifier, "4096", "4000001", 1), strings.Replace(known[0].verifier, "sha256", "sha1", 1)} {
		if _, problem := pbkdf2.New().Read(s); problem == "" || pbkdf2.New().Matches(s, "passwordPASSWORDpassword") {
			t.Errorf("%q is a verifier", s)
		}
	}
}
