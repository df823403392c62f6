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
	ada := &user{verifier: [32]byte{1}}
	seen := map[mac]credentials{}
	for _, c := range []credentials{{"ada", "x"}, {"adax", ""}, {"ad", "ax"}, {"ada", "y"}, {"", "adax"}} {
		key := k.key(ada, c)
		if other, twice := seen[key]; twice {
			t.Errorf("%+v and %+v have one key", c, other)
		}
		if k.key(ada, c) != key {
			t.Errorf("%+v has two keys", c)
		}
		if k.key(&user{verifier: [32]byte{2}}, c) == key || newKnown().key(ada, c) == key {
			t.Errorf("%+v: the key ignores the verifier or the process", c)
		}
		seen[key] = c
	}
}

func TestFingerprintsCoverTheVerifier(t *testing.T) {
	base := basic.User{Name: "ada", Memory: 8, Time: 1, Threads: 1, Salt: []byte("salt"), Hash: []byte("hash"), Groups: []string{"a"}}
	for name, c := range map[string]struct {
		change func(*basic.User)
		same   bool
	}{
		"groups":  {func(u *basic.User) { u.Groups = nil }, true},
		"name":    {func(u *basic.User) { u.Name = "bob" }, false},
		"memory":  {func(u *basic.User) { u.Memory++ }, false},
		"time":    {func(u *basic.User) { u.Time++ }, false},
		"threads": {func(u *basic.User) { u.Threads++ }, false},
		"salt":    {func(u *basic.User) { u.Salt = []byte("salz") }, false},
		"hash":    {func(u *basic.User) { u.Hash = []byte("hasch") }, false},
		"border":  {func(u *basic.User) { u.Salt, u.Hash = []byte("salth"), []byte("ash") }, false},
	} {
		u := base
		c.change(&u)
		if (fingerprint(&u) == fingerprint(&base)) != c.same {
			t.Errorf("%s: same is %v", name, !c.same)
		}
	}
}

// An unknown name costs what some user costs, and always the same, also under
// the next program.
func TestStandInsImitateUsers(t *testing.T) {
	const list = "ada::$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA\nbob::$argon2id$v=19$m=64,t=3,p=2$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA\n"
	seed := maphash.MakeSeed()
	first, err := newUsers([]byte(list), seed)
	if err != nil {
		t.Fatal(err)
	}
	second, err := newUsers([]byte(list), seed)
	if err != nil {
		t.Fatal(err)
	}
	costs := map[uint32]int{}
	for i := range 1000 {
		name := fmt.Sprint("nobody", i)
		u, again := first.find(name), second.find(name)
		if u.real || u.record.Memory != again.record.Memory || u.verifier != again.verifier || u.name != name || u.groups != nil {
			t.Fatalf("%+v, then %+v", u, again)
		}
		costs[u.record.Memory]++
	}
	if len(costs) != 2 || costs[8] < 300 || costs[64] < 300 {
		t.Errorf("costs by memory: %v", costs)
	}
	if u := first.find("bob"); !u.real || u.record.Memory != 64 {
		t.Errorf("%+v", u)
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
