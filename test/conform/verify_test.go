package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	"lorica.dev/lorica/test/conform/packets"
)

// stages are the sections that there are.
var stages = []string{
	flow.Name, transport.Name, obligation.Name, route.Name, limit.SourceName, jwt.Name, basic.Name, mtls.Name, authn.Name,
	limit.PrincipalName, authz.Name, egress.Name, audit.Name, audit.SyslogName, audit.OTLPName, audit.ChannelName,
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
		switch s.Name {
		case authz.Name:
			_, err = authz.Open(s.Data)
		case flow.Name:
			_, err = flow.Open(s.Data)
		}
		if err != nil {
			return false
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
		if _, err := verify.Check(b, trust()); (err == nil) != (slices.Contains(stages, name) && name != authz.Name && name != flow.Name) {
			t.Errorf("an empty section %q: %v", name, err)
		}
	}
}

// both reads a section with the image's reader and with the verifier, which must agree:
// but for a forest that loses rules, which images leave to the compiler. It reports what
// the verifier says.
func both(t testing.TB, name string, section []byte) bool {
	t.Helper()
	var image error
	if name == flow.Name {
		_, image = flow.Open(section)
	} else {
		_, image = authz.Open(section)
	}
	b := must(program.Sign(&program.Program{Levels: []string{"normal"}, Sections: []program.Section{{Name: name, Data: section}}}, signer))
	_, second := verify.Check(b, nil)
	if (image == nil) != (second == nil) && !(name == flow.Name && image == nil && strings.Contains(second.Error(), "that flows")) {
		t.Fatalf("an image says %v, the verifier says %v\n%x", image, second, section)
	}
	return second == nil
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
	for seed := range uint64(60) {
		g := seeded(seed)
		b := g.section(t)
		if !both(t, authz.Name, b) {
			t.Fatalf("seed %d: what was compiled is refused", seed)
		}
		for range 300 {
			c := bytes.Clone(b)
			g.mutate(c)
			seen[both(t, authz.Name, c)]++
		}
	}
	t.Logf("of the changed sections, both refuse %d and take %d", seen[false], seen[true])
	if seen[true] < 2000 || seen[false] < 2000 {
		t.Errorf("one-sided: %v", seen)
	}
}

// What the verifier accepts of a forest finds the rules that its definition finds; what
// it refuses for losing rules, images take.
func TestTheVerifierKnowsForests(t *testing.T) {
	seen := map[bool]int{}
	for seed := range uint64(60) {
		g := seeded(seed)
		b := planted(packets.Rules(seed, 60))
		if !both(t, flow.Name, b) {
			t.Fatalf("seed %d: what was compiled is refused", seed)
		}
		for range 60 {
			c := bytes.Clone(b)
			g.mutate(c)
			ok := both(t, flow.Name, c)
			seen[ok]++
			if ok {
				findsRules(t, seed, c)
			}
		}
	}
	t.Logf("of the changed sections, %d are refused and %d taken", seen[false], seen[true])
	if seen[true] < 500 || seen[false] < 500 {
		t.Errorf("one-sided: %v", seen)
	}
}

// Tables that no flow can go through, or through which rules are everywhere.
func TestTheVerifierKnowsTables(t *testing.T) {
	table := func(many, behind uint8, from flow.Sources) []byte {
		l := flow.List{Rule: abi.Rule{ID: abi.RuleNetwork}}
		tree := flow.Tree{V6: true, Src: [2]uint8{1, 128}, From: from, Nodes: []flow.Node{{Field: flow.FieldPort, Bits: many, Shift: behind, Child: 1}}}
		for _, src := range []string{"2001:db8::/32", "2001:db9::/32"} {
			l.Rules = append(l.Rules, flow.Rule{Src: netip.MustParsePrefix(src), FromHi: 1, PortLo: 1024, PortHi: 3<<10 - 1})
		}
		for child := range 1 << many {
			if first := child << behind; first < 3<<10 && first+1<<behind > 1<<10 {
				tree.Nodes = append(tree.Nodes, flow.Node{Child: 2})
				tree.Rules = append(tree.Rules, 0, 1)
			} else {
				tree.Nodes = append(tree.Nodes, flow.Node{})
			}
		}
		l.Trees = []flow.Tree{tree}
		return (&flow.Section{Lists: []flow.List{l}}).Encode()
	}
	for name, c := range map[string]struct {
		section []byte
		takes   bool
	}{
		"a table":                              {table(2, 10, flow.FromSome), true},
		"rules more than twice":                {table(3, 9, flow.FromSome), false},
		"rules about more than the table":      {table(1, 10, flow.FromSome), false},
		"more bits than a table has":           {table(17, 0, flow.FromSome), false},
		"more bits than a port has":            {table(6, 11, flow.FromSome), false},
		"source ports that are none":           {table(2, 10, flow.FromSome+1), false},
		"rules on other source ports than its": {table(2, 10, flow.FromAll), false},
	} {
		if both(t, flow.Name, c.section) != c.takes {
			t.Errorf("%s: taken is %t", name, !c.takes)
		}
	}
}

// findsRules holds the forest of a section to the definition of its rules.
func findsRules(t testing.TB, seed uint64, section []byte) {
	t.Helper()
	v, s := must(flow.Open(section)), must(flow.Decode(section))
	next := packets.Flows(seed, &s)
	for range 200 {
		f := next().Plain()
		if !f.Src.IsValid() {
			continue
		}
		at := flow.At(f)
		for i := range v.Lists {
			l, want := &v.Lists[i], flow.None
			if j := slices.IndexFunc(s.Lists[i].Rules, func(r flow.Rule) bool { return r.Matches(f) }); j >= 0 {
				want = l.First + j
			}
			if got := v.Match(l, &at); got != want {
				t.Fatalf("list %d, %+v: the forest finds rule %d, the definition %d, and the verifier took it\n%x", i, f, got, want, section)
			}
		}
	}
}

func FuzzTheVerifierAgreesWithImages(f *testing.F) {
	for seed := range uint64(3) {
		f.Add(seeded(seed).section(f), false)
		f.Add(planted(packets.Rules(seed, 50)), true)
	}
	f.Fuzz(func(t *testing.T, section []byte, network bool) {
		name := authz.Name
		if network {
			name = flow.Name
		}
		if both(t, name, section) && network {
			findsRules(t, 1, section)
		}
	})
}
