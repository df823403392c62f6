package basic

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/pep/authn/basic/argon2id"
	"lorica.dev/lorica/pep/authn/basic/bcrypt"
	"lorica.dev/lorica/pep/authn/basic/pbkdf2"
)

func TestKnownIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	k := newKnown()
	used := mac{1}
	k.add(used)
	for i := range uint32(5 * knownHalf) {
		var m mac
		binary.BigEndian.PutUint32(m[4:], i)
		k.add(m)
		if !k.has(used) {
			t.Fatalf("forgotten after %d others", i)
		}
		if n := len(k.new) + len(k.old); n > 2*knownHalf {
			t.Fatalf("%d entries", n)
		}
	}
	if k.has(mac{2}) {
		t.Error("known without having been added")
	}
	var first mac
	if k.has(first) {
		t.Error("the oldest, never used again, is still known")
	}
}

func TestKeysDiffer(t *testing.T) {
	k := newKnown()
	ada := &user{mark: [32]byte{1}}
	seen := map[mac]credentials{}
	for _, c := range []credentials{{"ada", "x"}, {"adax", ""}, {"ad", "ax"}, {"ada", "y"}, {"", "adax"}} {
		key := k.key(ada, c)
		if other, twice := seen[key]; twice {
			t.Errorf("%+v and %+v have one key", c, other)
		}
		if k.key(ada, c) != key {
			t.Errorf("%+v has two keys", c)
		}
		if k.key(&user{mark: [32]byte{2}}, c) == key || newKnown().key(ada, c) == key {
			t.Errorf("%+v: the key ignores the verifier or the process", c)
		}
		seen[key] = c
	}
}

func TestFingerprintsCoverNameAndVerifier(t *testing.T) {
	base := fingerprint("ada", "$x$1")
	for name, c := range map[string][2]string{"name": {"bob", "$x$1"}, "verifier": {"ada", "$x$2"}, "border": {"ada$", "x$1"}} {
		if fingerprint(c[0], c[1]) == base {
			t.Errorf("another %s, and the same fingerprint", name)
		}
	}
}

// An unknown name costs what some user costs, by the scheme of that one, and always
// the same, also under the next program.
func TestStandInsImitateUsers(t *testing.T) {
	const list = "ada::$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA\n" +
		"bob::$2b$04$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzABCDE\n" +
		"eve::$pbkdf2-sha256$i=1000$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA\n"
	seed, schemes := maphash.MakeSeed(), []Scheme{argon2id.New(), bcrypt.New(), pbkdf2.New()}
	first, err := newUsers([]byte(list), schemes, seed)
	if err != nil {
		t.Fatal(err)
	}
	second, err := newUsers([]byte(list), schemes, seed)
	if err != nil {
		t.Fatal(err)
	}
	like := map[string]int{}
	for i := range 1000 {
		name := fmt.Sprint("nobody", i)
		u, again := first.find(name), second.find(name)
		if u.real || u.verifier != again.verifier || u.mark != again.mark || u.name != name || u.groups != nil {
			t.Fatalf("%+v, then %+v", u, again)
		}
		if problem := reads(u); problem != "" {
			t.Fatalf("%s: a verifier for another scheme: %s", name, problem)
		}
		like[basic.SchemeOf(u.verifier)]++
	}
	if len(like) != 3 || like["argon2id"] < 200 || like["bcrypt"] < 200 || like["pbkdf2"] < 200 {
		t.Errorf("stand-ins by scheme: %v", like)
	}
	for name, scheme := range map[string]string{"ada": "argon2id", "bob": "bcrypt", "eve": "pbkdf2"} {
		if u := first.find(name); !u.real || basic.SchemeOf(u.verifier) != scheme || reads(u) != "" {
			t.Errorf("%+v", u)
		}
	}
}

func reads(u *user) string {
	_, problem := u.scheme.Read(u.verifier)
	return problem
}

// Whoever asks an image without users waits as long as for a wrong password, by the
// scheme that a line of `lorica passwd` would have.
func TestWithoutUsersAnUnknownNameIsHashed(t *testing.T) {
	for _, s := range []Scheme{argon2id.New(), bcrypt.New(), pbkdf2.New()} {
		us, err := newUsers(nil, []Scheme{s}, maphash.MakeSeed())
		if err != nil {
			t.Fatal(err)
		}
		u := us.find("ada")
		if u.real || u.verifier != s.StandIn() || reads(u) != "" || basic.Weak(u.verifier) != "" {
			t.Errorf("%+v: %s %s", u, reads(u), basic.Weak(u.verifier))
		}
	}
}

// counted is a scheme that counts what it hashes.
type counted struct {
	Scheme
	hashed int
}

func (c *counted) Matches(verifier, password string) bool {
	c.hashed++
	return c.Scheme.Matches(verifier, password)
}

// Whoever exists, each try costs one hash.
func TestEveryTryIsHashedOnce(t *testing.T) {
	s := &counted{Scheme: pbkdf2.New()}
	us, err := newUsers([]byte("ada::$pbkdf2-sha256$i=1000$c2l4dGVlbiBieXRlcyBvaw$uDQIipDZj/b0pet/J1Zj1iQJWuDW5og2QUPWUU30Y5w"), []Scheme{s}, maphash.MakeSeed())
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		name, password string
		want           bool
	}{{"ada", "pässwörd", true}, {"ada", "x", false}, {"eve", "pässwörd", false}, {"eve", "x", false}} {
		if got := us.find(c.name).matches(c.password); got != c.want || s.hashed != i+1 {
			t.Errorf("%+v: %v, after %d hashes", c, got, s.hashed)
		}
	}
}

func TestAVerifierOfASchemeThatIsNotThere(t *testing.T) {
	const list = "ada::$2b$04$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzABCDE"
	if _, err := newUsers([]byte(list), []Scheme{argon2id.New()}, maphash.MakeSeed()); err == nil || !strings.Contains(err.Error(), "line 1: the verifier is of a form that this image has no module for") {
		t.Errorf("%v", err)
	}
	if _, err := newUsers(nil, nil, maphash.MakeSeed()); err == nil {
		t.Error("an image without any scheme")
	}
}

func TestConcurrency(t *testing.T) {
	for _, c := range []struct {
		procs  int
		memory uint32
		limit  int64
		want   int
	}{
		{2, 19456, math.MaxInt64, 2}, {8, 19456, 64 << 20, 1}, {8, 19456, 128 << 20, 3}, {2, 19456, 128 << 20, 2}, {2, 65536, 64 << 20, 1}, {4, 8, 0, 1},
	} {
		if got := concurrency(c.procs, c.memory, c.limit); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, s := range []string{"", "YTpi", " YTpi", "YTo=", "YTo", "OmI=", "YQBiOmM=", strings.Repeat("YWFh", 400)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		c, err := parseBasic(header)
		if err != nil {
			if c != (credentials{}) {
				t.Fatal("an error and credentials")
			}
			return
		}
		if c.name == "" || strings.Contains(c.name, ":") || len(c.name) > basic.MaxName || len(c.password) > maxPassword {
			t.Fatalf("%q gives %+v", header, c)
		}
		if want := base64.StdEncoding.EncodeToString([]byte(c.name + ":" + c.password)); header != want {
			t.Fatalf("%q is a second spelling of %q", header, want)
		}
	})
}
