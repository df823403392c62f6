package conform

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/verify"
	"lorica.dev/lorica/policy"
)

// stages are the sections that there are.
var stages = []string{
	flow.Name, transport.Name, obligation.Name, route.Name, limit.SourceName, jwt.Name, basic.Name, mtls.Name, authn.Name,
	limit.PrincipalName, authz.Name, egress.Name, audit.Name,
}

var signer = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func trust() ed25519.PublicKey { return signer.Public().(ed25519.PublicKey) }

// examplePrograms compiles every example at every level, and signs.
func examplePrograms(t testing.TB) map[string][]byte {
	t.Helper()
	folders, err := os.ReadDir("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string][]byte{}
	for _, f := range folders {
		b, err := policy.Load(filepath.Join("../../examples", f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range b.Deployments {
			out := must(compiler.Compile(d))
			for _, l := range out.Levels {
				list[d.Name()+" at "+l.Name] = must(program.Sign(l.Program(d, program.PlanID{1}, 9), signer))
			}
		}
	}
	if len(list) < 5 {
		t.Fatalf("only %d programs", len(list))
	}
	return list
}

func TestProgramsOfTheExamplesAreVerified(t *testing.T) {
	sections := 0
	for name, b := range examplePrograms(t) {
		p := must(program.Open(b, trust()))
		rep, err := verify.Check(b, trust())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if unsigned, err := verify.Check(b, nil); err != nil || unsigned.Signed || !rep.Signed {
			t.Errorf("%s, without a key: %v", name, err)
		}
		if rep.Digest != program.Sum(b).String() || "plan:"+rep.Plan != p.Plan.String() || rep.Revision != p.Revision || rep.Tenant != p.Tenant ||
			rep.Workload != p.Workload || rep.Policy != p.Policy || rep.Levels[len(rep.Levels)-1] != p.Level() || len(rep.Sections) != len(p.Sections) {
			t.Errorf("%s: the report is of another program: %+v", name, rep)
		}
		for i, s := range rep.Sections {
			if s.Name != p.Sections[i].Name || !bytes.Equal(b[s.Offset:s.Offset+s.Size], p.Sections[i].Data) {
				t.Errorf("%s: section %d is %q at %d", name, i, s.Name, s.Offset)
			}
			if s.Name != authz.Name {
				continue
			}
			sections++
			v := must(authz.Open(p.Sections[i].Data))
			if s.Parts["rules"] != len(v.Rules) || s.Parts["nodes"] != v.Nodes() || s.Parts["strings"] != v.Strings() || s.Parts["attributes"] != len(v.Attributes) {
				t.Errorf("%s: the section has other parts than %v", name, s.Parts)
			}
		}
	}
	if sections == 0 {
		t.Error("no example has a section authz")
	}
}

// An altered program is refused: with the key because of its signature, wherever it was
// altered. Without it, a program cut off anywhere is refused, too; one with a changed
// byte is where an image would refuse its form, and else it is of the same shape: it
// says something else in the same places, which only the signature can tell.
func TestAlteredProgramsAreRefused(t *testing.T) {
	seen := map[bool]int{}
	for name, b := range examplePrograms(t) {
		whole := must(verify.Check(b, nil))
		for i := range b {
			if _, err := verify.Check(b[:i], nil); err == nil {
				t.Fatalf("%s: the first %d bytes are accepted", name, i)
			}
			c := bytes.Clone(b)
			c[i] ^= 1 << (i % 8)
			if _, err := verify.Check(c, trust()); err == nil {
				t.Fatalf("%s: with byte %d changed, it is accepted", name, i)
			}
			rep, err := verify.Check(c, nil)
			seen[err == nil]++
			if err == nil != imageReads(c) {
				t.Fatalf("%s: with byte %d changed, the verifier says %v, an image otherwise", name, i, err)
			}
			if err == nil && !sameShape(rep, whole) {
				t.Fatalf("%s: with byte %d changed, the report is %+v", name, i, rep)
			}
		}
	}
	t.Logf("without a key: %d changes refused, %d of what is said", seen[false], seen[true])
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("one-sided: %v", seen)
	}
}

// imageReads reports whether an image that takes any of its sections could read a
// program of which the signature is right.
func imageReads(b []byte) bool {
	p, err := program.Decode(b[:len(b)-ed25519.SignatureSize])
	if err != nil {
		return false
	}
	for _, s := range p.Sections {
		if !slices.Contains(stages, s.Name) {
			return false
		}
		if s.Name == authz.Name {
			if _, err := authz.Open(s.Data); err != nil {
				return false
			}
		}
	}
	return true
}

func sameShape(a, b verify.Report) bool {
	if len(a.Sections) != len(b.Sections) {
		return false
	}
	for i, s := range a.Sections {
		o := b.Sections[i]
		if s.Name != o.Name || s.Offset != o.Offset || s.Size != o.Size || len(s.Parts) != len(o.Parts) {
			return false
		}
		for name, n := range s.Parts {
			if n != o.Parts[name] && name != "deepest stack" && name != "deepest node" {
				return false
			}
		}
	}
	return true
}

func TestTheVerifierKnowsTheSections(t *testing.T) {
	for _, name := range append(slices.Clone(stages), "authz ", "", "authn limit-principal", "nothing") {
		b := must(program.Sign(&program.Program{Sections: []program.Section{{Name: name}}}, signer))
		if _, err := verify.Check(b, trust()); (err == nil) != (slices.Contains(stages, name) && name != authz.Name) {
			t.Errorf("an empty section %q: %v", name, err)
		}
	}
}

// both reads a section with the image's reader and with the verifier, which must agree.
func both(t testing.TB, section []byte) bool {
	t.Helper()
	_, image := authz.Open(section)
	b := must(program.Sign(&program.Program{Levels: []string{"normal"}, Sections: []program.Section{{Name: authz.Name, Data: section}}}, signer))
	_, second := verify.Check(b, nil)
	if (image == nil) != (second == nil) {
		t.Fatalf("an image says %v, the verifier says %v\n%x", image, second, section)
	}
	return image == nil
}

// sections compiles what the generator writes.
func (g *generator) section(t testing.TB) []byte {
	d := deployment(t, g.policies(), abi.Deny)
	return must(compiler.Compile(d)).Levels[0].Program(d, program.PlanID{}, 1).Section(authz.Name)
}

// mutate changes words where they lie, to what is near, is elsewhere in the section, or
// is a bound.
func (g *generator) mutate(b []byte) {
	for range pick(g, 1, 1, 1, 2, 3) {
		at := g.IntN(len(b) - 3)
		if g.IntN(8) > 0 { // words of most tables lie as the end does
			at -= (at - len(b)) & 3
			at = max(at, 0)
		}
		w := binary.LittleEndian.Uint32(b[at:])
		other := binary.LittleEndian.Uint32(b[g.IntN(len(b)-3):])
		w = pick(g, w+1, w-1, w^1, w+2, 0, 1, 2, authz.None, uint32(g.IntN(64)), other, 1<<31, w<<8)
		binary.LittleEndian.PutUint32(b[at:], w)
	}
}

func TestTheVerifierAgreesWithImages(t *testing.T) {
	seen := map[bool]int{}
	for seed := range uint64(100) {
		g := seeded(seed)
		b := g.section(t)
		if !both(t, b) {
			t.Fatalf("seed %d: what was compiled is refused", seed)
		}
		for range 300 {
			c := bytes.Clone(b)
			g.mutate(c)
			seen[both(t, c)]++
		}
	}
	t.Logf("of the changed sections, both refuse %d and take %d", seen[false], seen[true])
	if seen[true] < 3000 || seen[false] < 3000 {
		t.Errorf("one-sided: %v", seen)
	}
}

func FuzzTheVerifierAgreesWithImages(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seeded(seed).section(f))
	}
	f.Fuzz(func(t *testing.T, section []byte) { both(t, section) })
}
