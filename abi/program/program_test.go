package program_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/program"
)

func key(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func trust(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func sample() *program.Program {
	return &program.Program{
		Plan: program.PlanID{1, 2, 3}, Revision: 7, Tenant: "acme", Workload: "payments", Policy: "p",
		Levels:   []string{"normal", "elevated"},
		Sections: []program.Section{{Name: "firewall", Data: []byte("rules")}, {Name: "authz", Data: []byte{0}}},
	}
}

func sign(t testing.TB, p *program.Program, k ed25519.PrivateKey) []byte {
	b, err := program.Sign(p, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatIsSignedOpens(t *testing.T) {
	signed := sign(t, sample(), key(1))
	got, err := program.Open(signed, trust(key(1)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, sample()) {
		t.Errorf("got %+v", got)
	}
	if got.Level() != "elevated" || string(got.Section("firewall")) != "rules" || got.Section("filter") != nil {
		t.Errorf("level %q, sections %q, %v", got.Level(), got.Section("firewall"), got.Section("filter"))
	}
	if !bytes.Equal(signed, sign(t, sample(), key(1))) {
		t.Error("signing twice gives different bytes")
	}
	if program.Sum(signed) != sha256.Sum256(signed) {
		t.Error("the digest is not the SHA-256 of the signed bytes")
	}
}

func TestEveryAlteredBitIsRefused(t *testing.T) {
	signed := sign(t, sample(), key(1))
	for i := range signed {
		for bit := range 8 {
			b := bytes.Clone(signed)
			b[i] ^= 1 << bit
			if _, err := program.Open(b, trust(key(1))); !errors.Is(err, program.ErrSignature) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
}

func TestEveryTruncationAndExtensionIsRefused(t *testing.T) {
	signed := sign(t, sample(), key(1))
	for n := range signed {
		if _, err := program.Open(signed[:n], trust(key(1))); !errors.Is(err, program.ErrSignature) {
			t.Fatalf("%d of %d bytes: %v", n, len(signed), err)
		}
	}
	if _, err := program.Open(append(bytes.Clone(signed), 0), trust(key(1))); !errors.Is(err, program.ErrSignature) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestKeysThatDoNotOpen(t *testing.T) {
	signed := sign(t, sample(), key(1))
	for name, k := range map[string]ed25519.PublicKey{
		"another key": trust(key(2)), "no key": nil, "a short key": trust(key(1))[:31], "a key of zeros": make([]byte, 32),
	} {
		if _, err := program.Open(signed, k); !errors.Is(err, program.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Thirty-two zero bytes are a point of order four. A signature with R the
// identity and S zero holds under it for every fourth message or so, for
// everybody: this forges one as an attacker would.
func TestAnUnsetTrustKeyCannotBeForgedFor(t *testing.T) {
	const context = "lorica program v1\x00"
	zero := make([]byte, ed25519.PublicKeySize)
	forged := make([]byte, ed25519.SignatureSize)
	forged[0] = 1 // R = (0, 1)
	for revision := range uint64(200) {
		p := sample()
		p.Revision = revision
		signed := sign(t, p, key(1))
		body := signed[:len(signed)-ed25519.SignatureSize]
		if !ed25519.Verify(zero, append([]byte(context), body...), forged) {
			continue
		}
		if _, err := program.Open(append(bytes.Clone(body), forged...), zero); !errors.Is(err, program.ErrSignature) {
			t.Fatalf("a forged program opens: %v", err)
		}
		return
	}
	t.Fatal("no forgery found: the test shows nothing")
}

func TestSignaturesOfOtherContextsAreRefused(t *testing.T) {
	signed := sign(t, sample(), key(1))
	body := signed[:len(signed)-ed25519.SignatureSize]
	for name, sig := range map[string][]byte{
		"bare":    ed25519.Sign(key(1), body),
		"version": ed25519.Sign(key(1), append([]byte("lorica program v2\x00"), body...)),
	} {
		if _, err := program.Open(append(bytes.Clone(body), sig...), trust(key(1))); !errors.Is(err, program.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	digest := sha512.Sum512(body)
	sig, err := key(1).Sign(nil, digest[:], &ed25519.Options{Hash: 5 + 2}) // crypto.SHA512, Ed25519ph
	if err != nil {
		t.Fatal(err)
	}
	if _, err := program.Open(append(bytes.Clone(body), sig...), trust(key(1))); !errors.Is(err, program.ErrSignature) {
		t.Errorf("prehashed: %v", err)
	}
}

func TestSignedNonsenseIsMalformed(t *testing.T) {
	seal := func(body []byte) []byte {
		return append(body, ed25519.Sign(key(1), append([]byte("lorica program v1\x00"), body...))...)
	}
	signed := sign(t, sample(), key(1))
	body := signed[:len(signed)-ed25519.SignatureSize]
	twice := sample()
	twice.Sections = append(twice.Sections, twice.Sections[0])
	twiceSigned := sign(t, twice, key(1))
	for name, b := range map[string][]byte{
		"nothing":          seal(nil),
		"zeros":            seal(make([]byte, 200)),
		"another magic":    seal(append([]byte("LORICAP2"), body[8:]...)),
		"cut short":        seal(bytes.Clone(body[:len(body)-1])),
		"a byte too many":  seal(append(bytes.Clone(body), 0)),
		"a section twice":  twiceSigned,
		"a count too high": seal(append(bytes.Clone(body[:len(body)-len("\x05\x00\x00\x00authz\x01\x00\x00\x00\x00")]), 255, 255, 255, 255)),
	} {
		if _, err := program.Open(b, trust(key(1))); !errors.Is(err, program.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSize(t *testing.T) {
	p := sample()
	p.Sections[0].Data = make([]byte, program.MaxSize)
	if _, err := program.Sign(p, key(1)); err == nil {
		t.Error("a program that fits no slot was signed")
	}
	p.Sections[0].Data = nil
	around := len(sign(t, p, key(1)))
	for over := range 2 {
		p.Sections[0].Data = make([]byte, program.MaxSize-around+over)
		if b, err := program.Sign(p, key(1)); (err == nil) != (over == 0) || over == 0 && len(b) != program.MaxSize {
			t.Errorf("%d bytes more than fit a slot: %d are signed, %v", over, len(b), err)
		}
	}
	if _, err := program.Open(make([]byte, program.MaxSize+1), trust(key(1))); err == nil {
		t.Error("a program that fits no slot was opened")
	}
}

func TestContentIgnoresPlanAndRevisionOnly(t *testing.T) {
	base := sample().Content()
	for name, c := range map[string]struct {
		change func(*program.Program)
		same   bool
	}{
		"plan":     {func(p *program.Program) { p.Plan[0]++ }, true},
		"revision": {func(p *program.Program) { p.Revision++ }, true},
		"tenant":   {func(p *program.Program) { p.Tenant += "x" }, false},
		"workload": {func(p *program.Program) { p.Workload += "x" }, false},
		"policy":   {func(p *program.Program) { p.Policy += "x" }, false},
		"levels":   {func(p *program.Program) { p.Levels = p.Levels[:1] }, false},
		"section":  {func(p *program.Program) { p.Sections[1].Data = []byte{1} }, false},
		"order":    {func(p *program.Program) { p.Sections[0], p.Sections[1] = p.Sections[1], p.Sections[0] }, false},
	} {
		p := sample()
		c.change(p)
		if (p.Content() == base) != c.same {
			t.Errorf("%s: equal content is %v", name, !c.same)
		}
	}
}

// Both ends name a content: what it is a digest of must not change.
func TestContentIsOfTheBody(t *testing.T) {
	plain := sample()
	plain.Plan, plain.Revision = program.PlanID{}, 0
	signed := sign(t, plain, key(1))
	if sample().Content() != sha256.Sum256(signed[:len(signed)-64]) {
		t.Error("the content is not the SHA-256 of the body without plan and revision")
	}
	if (&program.Program{}).Content() == sample().Content() {
		t.Error("a program without sections has the content of one with them")
	}
}

func TestPlanIDs(t *testing.T) {
	text := strings.Repeat("0a", 32)
	p, err := program.ParsePlanID(text)
	if err != nil || p.String() != "plan:"+text {
		t.Errorf("%v, %v", p, err)
	}
	for _, bad := range []string{"", text[2:], text + "00", strings.Repeat("zz", 32), "plan:" + text} {
		if _, err := program.ParsePlanID(bad); err == nil {
			t.Errorf("%q is a plan id", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, p := range []*program.Program{sample(), {}, {Levels: []string{"a"}}} {
		signed := sign(f, p, key(1))
		f.Add(signed[:len(signed)-ed25519.SignatureSize])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := program.Decode(body)
		if err != nil {
			if p != nil || !errors.Is(err, program.ErrFormat) {
				t.Fatalf("%v, %v", p, err)
			}
			return
		}
		signed := sign(t, p, key(1))
		if !bytes.Equal(signed[:len(signed)-ed25519.SignatureSize], body) {
			t.Fatal("two encodings of one program")
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(sign(f, sample(), key(1)))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, signed []byte) {
		if _, err := program.Open(signed, trust(key(2))); !errors.Is(err, program.ErrSignature) {
			t.Fatalf("opened with a key that signed nothing: %v", err)
		}
	})
}
