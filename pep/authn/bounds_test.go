package authn

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/flow"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func from(i uint32) attempt {
	var a [16]byte
	a[0] = 0x20
	binary.BigEndian.PutUint32(a[4:], i)
	return attempt{source: flow.Flow{Src: netip.AddrFrom16(a)}.Source()}
}

func TestFailuresAreBoundedAndKeepTheWorst(t *testing.T) {
	f := newFailures()
	l := limit{attempts: 5, window: time.Minute}
	worst := from(0)
	for range 5 {
		f.charge(worst, l, begin)
	}
	for i := range uint32(3 * maxAttempts) {
		if wait := f.charge(from(i+1), l, begin); wait != 0 {
			t.Fatalf("source %d, which never failed, waits %v", i+1, wait)
		}
		if len(f.until) > maxAttempts {
			t.Fatalf("%d entries", len(f.until))
		}
	}
	if f.wait(worst, l, begin) == 0 {
		t.Error("many sources pushed out the one over its limit")
	}
}

func TestForgottenFailuresMakeRoomFirst(t *testing.T) {
	f := newFailures()
	l := limit{attempts: 2, window: time.Minute}
	for i := range uint32(maxAttempts) {
		f.charge(from(i), l, begin)
	}
	later := begin.Add(time.Hour)
	for i := range uint32(100) {
		f.charge(from(maxAttempts+i), l, later)
	}
	if len(f.until) > maxAttempts {
		t.Errorf("%d entries", len(f.until))
	}
	for i := range uint32(100) {
		if _, there := f.until[from(maxAttempts+i)]; !there {
			t.Errorf("source %d was pushed out while forgotten ones remain", i)
		}
	}
}

// Over any stretch of time a source fails at most its attempts and one more for
// each window/attempts that passed.
func TestTheRateHolds(t *testing.T) {
	for _, l := range []limit{{1, time.Second}, {3, time.Minute}, {10, 7 * time.Second}} {
		f := newFailures()
		passed := 0
		const steps = 1000
		for i := range steps {
			if f.charge(from(1), l, begin.Add(time.Duration(i)*l.cost()/4)) == 0 {
				passed++
			}
		}
		if want := int(l.attempts) + (steps-1)/4; passed != want {
			t.Errorf("%+v: %d of %d passed, want %d", l, passed, steps, want)
		}
	}
}

func TestRefund(t *testing.T) {
	f := newFailures()
	l := limit{attempts: 2, window: time.Minute}
	for range 100 {
		if f.charge(from(1), l, begin) != 0 {
			t.Fatal("refunded attempts count")
		}
		f.refund(from(1), l)
	}
	f.refund(from(2), l)
	if _, there := f.until[from(2)]; there {
		t.Error("a refund made an entry")
	}
}

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
	base := authn.User{Name: "ada", Memory: 8, Time: 1, Threads: 1, Salt: []byte("salt"), Hash: []byte("hash"), Groups: []string{"a"}}
	for name, c := range map[string]struct {
		change func(*authn.User)
		same   bool
	}{
		"groups":  {func(u *authn.User) { u.Groups = nil }, true},
		"name":    {func(u *authn.User) { u.Name = "bob" }, false},
		"memory":  {func(u *authn.User) { u.Memory++ }, false},
		"time":    {func(u *authn.User) { u.Time++ }, false},
		"threads": {func(u *authn.User) { u.Threads++ }, false},
		"salt":    {func(u *authn.User) { u.Salt = []byte("salz") }, false},
		"hash":    {func(u *authn.User) { u.Hash = []byte("hasch") }, false},
		"border":  {func(u *authn.User) { u.Salt, u.Hash = []byte("salth"), []byte("ash") }, false},
	} {
		u := base
		c.change(&u)
		if (fingerprint(&u) == fingerprint(&base)) != c.same {
			t.Errorf("%s: same is %v", name, !c.same)
		}
	}
}

func TestAPanicWhileHashingDeniesAndFreesTheSlot(t *testing.T) {
	h := newHasher()
	admit := func() error { return nil }
	entered, followed := make(chan struct{}), make(chan bool)
	go func() {
		defer func() { recover() }()
		h.verify(mac{1}, 1, admit, func() bool { <-entered; panic("argon2") })
	}()
	for { // until the first holds the slot
		h.mu.Lock()
		n := h.running
		h.mu.Unlock()
		if n == 1 {
			break
		}
	}
	go func() {
		ok, _ := h.verify(mac{1}, 1, admit, func() bool { return false })
		followed <- ok
	}()
	close(entered)
	if <-followed {
		t.Error("a panic let the follower in")
	}
	if ok, err := h.verify(mac{2}, 1, admit, func() bool { return true }); !ok || err != nil {
		t.Errorf("afterwards: %v, %v", ok, err)
	}
	if h.running != 0 || len(h.calls) != 0 || len(h.waiting) != 0 {
		t.Errorf("%d running, %d calls, %d waiting", h.running, len(h.calls), len(h.waiting))
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

func TestNeverMoreHashesThanAllowed(t *testing.T) {
	h := newHasher()
	var mu sync.Mutex
	running, most, done := 0, 0, 0
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			concurrency := 3
			if i >= 30 {
				concurrency = 1 // a new program allows fewer
			}
			_, err := h.verify(mac{byte(i)}, concurrency, func() error { return nil }, func() bool {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				defer func() { mu.Lock(); running--; done++; mu.Unlock() }()
				time.Sleep(time.Millisecond)
				return true
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most > 3 || done != 60 || h.running != 0 {
		t.Errorf("%d at once, %d done, %d left", most, done, h.running)
	}
}

func TestANewProgramMayAllowFewerHashes(t *testing.T) {
	h := newHasher()
	admit := func() error { return nil }
	state := func() (running, waiting int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.running, len(h.waiting)
	}
	release, returned := make(chan struct{}), make(chan struct{})
	for i := range 3 {
		started := make(chan struct{})
		go func() {
			h.verify(mac{1, byte(i)}, 3, admit, func() bool { close(started); <-release; return true })
			returned <- struct{}{}
		}()
		<-started
	}
	last := make(chan struct{})
	go func() {
		h.verify(mac{2}, 1, admit, func() bool { return true })
		close(last)
	}()
	for waiting := 0; waiting == 0; runtime.Gosched() {
		_, waiting = state()
	}
	for left := 2; left > 0; left-- {
		release <- struct{}{}
		<-returned
		if running, waiting := state(); running != left || waiting != 1 {
			t.Errorf("%d old hashes left: %d running, %d waiting", left, running, waiting)
		}
	}
	release <- struct{}{}
	<-returned
	<-last
	if running, waiting := state(); running != 0 || waiting != 0 {
		t.Errorf("at the end: %d running, %d waiting", running, waiting)
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, s := range []string{"", "Basic", "Basic YTpi", "basic  YTpi", "Basic YTo=", "Basic YTo", "Basic OmI=", "Basic YQBiOmM=", "Bearer YTpi", "Basic " + strings.Repeat("YWFh", 400)} {
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
		if c.name == "" || strings.Contains(c.name, ":") || len(c.name) > authn.MaxName || len(c.password) > maxPassword {
			t.Fatalf("%q gives %+v", header, c)
		}
		if want := base64.StdEncoding.EncodeToString([]byte(c.name + ":" + c.password)); !strings.HasSuffix(header, " "+want) {
			t.Fatalf("%q is a second spelling of %q", header, want)
		}
	})
}
