package redteam

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	seal "lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/tender/seccomp"
)

const reachable = "testdata/reachable.txt"

// How many system calls each example's image can reach once it is sealed is a
// golden: growth shows in review. They are found in the filter that is installed,
// and held against the manifests of the modules.
func TestReachableSystemCalls(t *testing.T) {
	names := numbered(t)
	folders, err := filepath.Glob("../../examples/*/workload.yaml")
	if err != nil || len(folders) == 0 {
		t.Fatalf("%d examples, %v", len(folders), err)
	}
	var text strings.Builder
	for _, f := range folders {
		b, err := planned(filepath.Dir(f))
		if err != nil {
			t.Fatal(err)
		}
		found := reached(t, b, names)
		if manifests := slices.Sorted(maps.Keys(listed(t, b))); !slices.Equal(found, manifests) {
			t.Errorf("%s: the filter lets through %v; the manifests list %v", f, found, manifests)
		}
		var modules []string
		for _, m := range b.plan.Modules {
			modules = append(modules, m.ID)
		}
		fmt.Fprintf(&text, "%s: %d system calls of %d\n  calls    %s\n  modules  %s\n", filepath.Base(filepath.Dir(f)), len(found), len(names),
			strings.Join(found, " "), strings.Join(modules, " "))
	}
	t.Logf("system calls that the images of the examples can reach:\n%s", &text)
	if *update {
		if err := os.WriteFile(reachable, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(reachable); err != nil || string(want) != text.String() {
		t.Errorf("%s says otherwise (%v); -update rewrites it:\n%s", reachable, err, want)
	}
}

// reached returns the names of the calls that the seal of an image lets through
// with some arguments.
func reached(t *testing.T, b *built, names map[uint64]string) (list []string) {
	t.Helper()
	filter, err := seccomp.Seal(b.plan.Syscalls(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint32(1 << 16) {
		if mayAllow(t, filter, n) {
			if names[uint64(n)] == "" {
				t.Errorf("the filter lets number %d through, which has no name", n)
			}
			list = append(list, names[uint64(n)])
		}
	}
	slices.Sort(list)
	return list
}

// mayAllow follows a filter for one number of x86-64, through both branches
// wherever an argument decides, and reports whether it can end in anything but
// death.
func mayAllow(t *testing.T, filter []seal.Instruction, number uint32) bool {
	const load, and, jump, equal, atLeast, ret, offNumber, offArch = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06, 0, 4
	type state struct {
		at    int
		acc   uint32
		known bool
	}
	seen := map[state]bool{}
	var follow func(state) bool
	follow = func(s state) bool {
		for ; !seen[s]; s.at++ {
			seen[s] = true
			in := filter[s.at]
			switch in.Code {
			case load:
				s.acc, s.known = map[uint32]uint32{offNumber: number, offArch: 0xc000003e}[in.K], in.K == offNumber || in.K == offArch
			case and:
				s.acc &= in.K
			case jump:
				s.at += int(in.K)
			case equal, atLeast:
				yes, no := s, s
				yes.at += int(in.JT) + 1
				no.at += int(in.JF) + 1
				if !s.known {
					return follow(yes) || follow(no)
				}
				holds := in.Code == equal && s.acc == in.K || in.Code == atLeast && s.acc >= in.K
				return holds && follow(yes) || !holds && follow(no)
			case ret:
				return in.K != uint32(seccomp.Kill)
			default:
				t.Fatalf("instruction %d has code %#x", s.at, in.Code)
			}
		}
		return false
	}
	return follow(state{})
}
