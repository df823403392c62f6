package basic_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/basic"
)

const (
	salt = "c29tZXNhbHRzb21lc2E"         // somesaltsomesa
	hash = "aGFzaGhhc2hoYXNoaGFzaGhhc2g" // 20 bytes
	phc  = "$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$" + hash
)

func TestParseUsers(t *testing.T) {
	us, err := basic.ParseUsers([]byte("# staff\n\nann:ops,staff:"+phc+"\r\nbob::"+phc), basic.Problem)
	if err != nil {
		t.Fatal(err)
	}
	if len(us) != 2 || us["eve"] != nil {
		t.Fatalf("got %v", us)
	}
	want := &basic.User{Name: "ann", Groups: []string{"ops", "staff"}, Verifier: phc, Line: 3}
	if got := us["ann"]; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if us["bob"].Groups != nil {
		t.Errorf("bob has groups: %v", us["bob"].Groups)
	}
}

func TestGroupsAreSorted(t *testing.T) {
	us, err := basic.ParseUsers([]byte("ann:b,c,a:"+phc), basic.Problem)
	if err != nil || !reflect.DeepEqual(us["ann"].Groups, []string{"a", "b", "c"}) {
		t.Errorf("got %v, %v", us["ann"], err)
	}
}

func TestBadUserLists(t *testing.T) {
	with := func(old, new string) string { return "ann:staff:" + strings.Replace(phc, old, new, 1) }
	many := func(n int, line func(int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(line(i))
		}
		return b.String()
	}
	cases := []struct{ name, list, want string }{
		{"plain password", "ann:staff:secret", "line 1: the verifier is not of the form"},
		{"no groups field", "ann:" + phc, "line 1: not of the form name:groups:verifier"},
		{"bcrypt that is none", "ann::$2x$12$x", "verifier is not of the form"},
		{"fields after the verifier", "ann:staff:" + phc + ":x", "hash is not raw base64"},
		{"second line", "ann:staff:" + phc + "\nbob", "line 2: not of the form"},
		{"name of nobody", "anonymous::" + phc, "reserved"},
		{"empty name", ":staff:" + phc, "line 1: the name"},
		{"name with a space", "ann b:staff:" + phc, "line 1: the name"},
		{"name with a control character", "ann\x1b:staff:" + phc, "line 1: the name"},
		{"name beyond ASCII", "ännchen:staff:" + phc, "line 1: the name"},
		{"long name", strings.Repeat("a", 65) + "::" + phc, "line 1: the name"},
		{"empty group", "ann:staff,:" + phc, "line 1: a group"},
		{"group twice", "ann:a,a:" + phc, "a group is listed twice"},
		{"too many groups", "ann:" + many(65, func(i int) string { return fmt.Sprintf("g%d,", i) }) + "z:" + phc, "more than 64 groups"},
		{"user twice", "ann::" + phc + "\nann::" + phc, `line 2: user "ann" is listed twice`},
		{"no verifier", "ann:staff:", "verifier is not of the form"},
		{"argon2i", with("argon2id", "argon2i"), "verifier is not of the form"},
		{"old version", with("v=19", "v=16"), "verifier is not of the form"},
		{"memory above the bound", with("m=19456", "m=65537"), "m must be"},
		{"memory beyond 32 bits", with("m=19456", "m=4294967296"), "m must be"},
		{"memory below what the lanes need", with("m=19456,t=2,p=1", "m=31,t=2,p=4"), "m must be"},
		{"no pass", with("t=2", "t=0"), "t must be"},
		{"too many passes", with("t=2", "t=11"), "t must be"},
		{"no lane", with("p=1", "p=0"), "p must be"},
		{"too many lanes", with("p=1", "p=5"), "p must be"},
		{"signed number", with("t=2", "t=+2"), "t must be"},
		{"leading zero", with("t=2", "t=02"), "t must be"},
		{"no number", with("t=2", "t="), "t must be"},
		{"costs in another order", with("t=2,p=1", "p=1,t=2"), "t must be"},
		{"a fourth cost", with("p=1", "p=1,x=1"), "the cost"},
		{"short salt", with(salt, "c2hvcnQ"), "the salt"},
		{"padded base64", with(hash, "aGFzaGhhc2hoYXNoaGFzaA=="), "the hash"},
		{"bits behind the end", with(hash, "aGFzaGhhc2hoYXNoaGFzaB"), "the hash"},
		{"short hash", with(hash, "c2hvcnQ"), "the hash"},
		{"long hash", with(hash, strings.Repeat("QUFB", 22)), "the hash"},
		{"carriage return inside", with(hash, hash[:8]+"\r"+hash[8:]), "a line break"},
		{"too large", strings.Repeat("#", basic.MaxUsersSize+1), "the limit is 1048576"},
		{"too many users", many(basic.MaxUsers+1, func(i int) string { return fmt.Sprintf("u%d::%s\n", i, phc) }), "more than 10000 users"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			us, err := basic.ParseUsers([]byte(c.list), basic.Problem)
			var ue *basic.UsersError
			if us != nil || !errors.As(err, &ue) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v; want %q", us, err, c.want)
			}
			if strings.Contains(err.Error(), hash) || strings.Contains(err.Error(), salt) || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

// What is accepted keeps every bound, whatever was written.
func FuzzParseUsers(f *testing.F) {
	f.Add([]byte("# staff\nann:ops,staff:" + phc + "\r\nbob::" + phc))
	f.Add([]byte("ann:" + phc))
	f.Add([]byte("ann::$argon2id$v=19$m=32,t=1,p=4$" + salt + "$" + hash))
	f.Add([]byte(":::::$$$$$"))
	f.Add([]byte("ann::" + blowfish + "\nbob::" + sha256 + "\neve::" + sha512))
	f.Fuzz(func(t *testing.T, data []byte) {
		us, err := basic.ParseUsers(data, basic.Problem)
		if err != nil {
			var ue *basic.UsersError
			if us != nil || !errors.As(err, &ue) {
				t.Fatalf("%v and %T", us, err)
			}
			return
		}
		for name, u := range us {
			if u.Name != name || !basic.ValidName(name) || name == authn.Anonymous || len(u.Groups) > basic.MaxGroups {
				t.Fatalf("user %+v", u)
			}
			if problem := basic.Problem(u.Verifier); problem != "" || u.Line < 1 {
				t.Fatalf("%s: %+v", problem, u)
			}
			for i, g := range u.Groups {
				if !basic.ValidName(g) || i > 0 && g <= u.Groups[i-1] {
					t.Fatalf("groups of %+v", u)
				}
			}
		}
	})
}
