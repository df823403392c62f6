package basic_test

import (
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/basic"
)

const (
	blowfish = "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
	sha256   = "$pbkdf2-sha256$i=600000$c2l4dGVlbiBieXRlcyBvaw$uDQIipDZj/b0pet/J1Zj1iQJWuDW5og2QUPWUU30Y5w"
	sha512   = "$pbkdf2-sha512$i=210000$c2l4dGVlbiBieXRlcyBvaw$XM4tqWikBIuYtv9OOkPy59t1d0bgWTdJSkAEuHZnMxXRm5LoSIjcw8IR75sB2lvIoR4AaEZc/4vgmvYTR06A7g"
)

func TestSchemesAreSeenFromTheVerifier(t *testing.T) {
	for verifier, want := range map[string]string{
		phc: "argon2id", blowfish: "bcrypt", strings.Replace(blowfish, "2b", "2a", 1): "bcrypt", strings.Replace(blowfish, "2b", "2y", 1): "bcrypt",
		sha256: "pbkdf2", sha512: "pbkdf2",
		// passlib's spelling, with '.' for '+' in its base64.
		"$pbkdf2-sha256$600000$c2l4dGVlbiBieXRlcyBvaw$uDQIipDZj/b0pet.J1Zj1iQJWuDW5og2QUPWUU30Y5w": "pbkdf2",
	} {
		if got := basic.SchemeOf(verifier); got != want || basic.Problem(verifier) != "" || !slices.Contains(basic.Schemes(), got) {
			t.Errorf("%s: %q, %s", verifier, got, basic.Problem(verifier))
		}
	}
	for _, other := range []string{"", "$", "secret", "argon2id$v=19", "2b$12$x", "$2x$12$x", "$2$12$x", "$1$x$y", "$6$x$y", "$argon2i$v=19", "$pbkdf2$x", "$pbkdf2-sha1$x", " " + blowfish} {
		if got := basic.SchemeOf(other); got != "" || !strings.Contains(basic.Problem(other), "not of the form") {
			t.Errorf("%q: %q, %s", other, got, basic.Problem(other))
		}
	}
}

func TestWhatIsWrongWithAVerifier(t *testing.T) {
	for _, c := range []struct{ name, verifier, old, new, want string }{
		{"a cost that is too low", blowfish, "$12$", "$03$", "from 04 to 14"},
		{"a cost that takes minutes", blowfish, "$12$", "$20$", "from 04 to 14"},
		{"a cost that takes years", blowfish, "$12$", "$31$", "from 04 to 14"},
		{"a cost with a sign", blowfish, "$12$", "$+4$", "from 04 to 14"},
		{"a cost of one digit", blowfish, "$12$", "$5$", "two digits"},
		{"a hash that is cut off", blowfish, "OeW", "Oe", "53 characters"},
		{"a longer hash", blowfish, "OeW", "OeWW", "53 characters"},
		{"a character of another base64", blowfish, "OeW", "Oe+", "53 characters"},
		{"a line break", blowfish, "OeW", "Oe\r", "53 characters"},
		{"another field", blowfish, "$12$", "$12$x$", "not of the form"},
		{"too few iterations", sha256, "600000", "999", "from 1000 to 4000000"},
		{"iterations that take minutes", sha256, "600000", "4000001", "from 1000 to 4000000"},
		{"more iterations than 32 bits hold", sha256, "600000", "4294968296", "from 1000 to 4000000"},
		{"no iterations", sha256, "i=600000", "", "from 1000"},
		{"a leading zero", sha256, "600000", "0600000", "from 1000"},
		{"a hash longer than the digest", strings.Replace(sha512, "sha512", "sha256", 1), "i=", "i=", "16 to 32 bytes"},
		{"a short hash", sha256, "uDQIipDZj/b0pet/J1Zj1iQJWuDW5og2QUPWUU30Y5w", "uDQI", "16 to 32 bytes"},
		{"a short salt", sha256, "c2l4dGVlbiBieXRlcyBvaw", "c2l4", "the salt"},
		{"padding", sha256, "$uDQI", "==$uDQI", "the salt"},
		{"a line break in base64", sha256, "$uDQI", "$uDQ\nI", "line break"},
		{"another field in the end", sha256, "$uDQI", "$x$uDQI", "not of the form"},
	} {
		got := basic.Problem(strings.Replace(c.verifier, c.old, c.new, 1))
		if !strings.Contains(got, c.want) || strings.Contains(got, "c2l4") || strings.Contains(got, "CCCC") {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func TestWeakVerifiers(t *testing.T) {
	const long = "c2l4dGVlbiBieXRlcyBvaw"
	argon := strings.Replace(phc, salt, long, 1)
	for verifier, want := range map[string]string{
		argon: "", blowfish: "", sha256: "", sha512: "", "no verifier": "",
		strings.Replace(argon, "m=19456,t=2", "m=47104,t=1", 1): "",
		strings.Replace(argon, "m=19456,t=2", "m=7168,t=5", 1):  "",
		strings.Replace(argon, "m=19456,t=2", "m=19456,t=1", 1): "m=19456,t=2 is the least",
		strings.Replace(argon, "m=19456,t=2", "m=7167,t=10", 1): "m=19456,t=2 is the least",
		phc: "a salt of 14 bytes",
		strings.Replace(blowfish, "$12$", "$10$", 1):       "",
		strings.Replace(blowfish, "$12$", "$09$", 1):       "bcrypt of cost 9",
		strings.Replace(sha256, "600000", "599999", 1):     "600000 is the least",
		strings.Replace(sha512, "210000", "209999", 1):     "210000 is the least",
		strings.Replace(sha256, long, "c2l4dGVlbiBieQ", 1): "a salt of 10 bytes",
	} {
		if got := basic.Weak(verifier); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", verifier, got, want)
		}
	}
}

// What is read keeps every bound of what it will cost, by whichever scheme.
func FuzzVerifiers(f *testing.F) {
	for _, s := range []string{phc, blowfish, sha256, sha512, "$2y$04$", "$pbkdf2-sha256$1000$$", "$argon2id$v=19$m=32,t=1,p=4$" + salt + "$" + hash} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		problem := basic.Problem(s)
		if (basic.SchemeOf(s) == "") != strings.Contains(problem, basic.Forms) {
			t.Fatalf("%q", problem)
		}
		if problem != "" {
			if basic.Weak(s) != "" {
				t.Fatal("weak, and no verifier at all")
			}
			return
		}
		if strings.ContainsAny(s, "\r\n:") {
			t.Fatal("a verifier that no line can hold")
		}
		read := 0
		if a, bad := basic.ReadArgon2id(s); bad == "" {
			read++
			if a.Threads < 1 || a.Threads > basic.MaxThreads || a.Time < 1 || a.Time > basic.MaxTime || a.Memory < basic.MinMemory*uint32(a.Threads) || a.Memory > basic.MaxMemory {
				t.Fatalf("%+v", a)
			}
			lengths(t, a.Salt, a.Hash, basic.MaxHash)
		}
		if b, bad := basic.ReadBcrypt(s); bad == "" {
			if read++; b.Cost < basic.MinBcryptCost || b.Cost > basic.MaxBcryptCost || len(s) != 60 {
				t.Fatalf("%+v", b)
			}
		}
		if p, bad := basic.ReadPBKDF2(s); bad == "" {
			if read++; p.Iterations < basic.MinIterations || p.Iterations > basic.MaxIterations {
				t.Fatalf("%+v", p)
			}
			lengths(t, p.Salt, p.Hash, map[bool]int{false: 32, true: 64}[p.SHA512])
		}
		if read != 1 {
			t.Fatalf("%q is of %d schemes", s, read)
		}
	})
}

func lengths(t *testing.T, salt, hash []byte, most int) {
	if len(salt) < basic.MinSalt || len(salt) > basic.MaxSalt || len(hash) < basic.MinHash || len(hash) > most {
		t.Fatalf("a salt of %d and a hash of %d bytes", len(salt), len(hash))
	}
}
