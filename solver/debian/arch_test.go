package debian

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/internal/notrun"
)

func TestWildcards(t *testing.T) {
	for _, c := range []struct {
		list string
		on   []string
		off  []string
	}{
		{"[amd64 i386]", []string{"amd64", "i386"}, []string{"arm64", "hurd-i386", "all"}},
		{"[!amd64]", []string{"i386", "all"}, []string{"amd64"}},
		{"[any]", []string{"amd64", "hurd-i386", "all"}, nil},
		{"[linux-any]", []string{"amd64", "armhf", "x32", "riscv64", "musl-linux-amd64"}, []string{"hurd-i386", "kfreebsd-amd64", "all"}},
		{"[!linux-any]", []string{"hurd-i386", "kfreebsd-amd64", "all"}, []string{"amd64", "armel"}},
		{"[any-amd64]", []string{"amd64", "x32", "kfreebsd-amd64", "musl-linux-amd64"}, []string{"i386", "arm64"}},
		{"[any-arm hurd-any]", []string{"armhf", "armel", "hurd-amd64"}, []string{"arm64", "amd64"}},
		{"[musl-any-any]", []string{"musl-linux-armhf"}, []string{"amd64"}},
		{"[eabihf-any-any-any]", []string{"armhf", "kfreebsd-armhf"}, []string{"armel"}},
		{"[linux]", nil, []string{"amd64"}},
	} {
		r, err := parseRelation("libc6 " + c.list)
		if err != nil {
			t.Fatal(err)
		}
		for _, arch := range c.on {
			if !r.On(arch) {
				t.Errorf("%s is not on %s", c.list, arch)
			}
		}
		for _, arch := range c.off {
			if r.On(arch) {
				t.Errorf("%s is on %s", c.list, arch)
			}
		}
	}
}

// dpkg knows some hundred architectures.
func TestWildcardsAreThoseOfDpkg(t *testing.T) {
	tool, err := exec.LookPath("dpkg-architecture")
	if err != nil {
		notrun.Say(t, "wildcards of architectures as dpkg reads them", err.Error())
		return
	}
	ask := func(args ...string) []string {
		out, err := exec.Command(tool, append(args, "--list-known")...).Output()
		if ended := new(exec.ExitError); err != nil && !(errors.As(err, &ended) && len(out) == 0) {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	known, said := ask(), 0
	for _, word := range []string{"any", "linux-any", "hurd-any", "kfreebsd-any", "any-amd64", "any-i386", "any-arm", "any-mips64", "any-powerpc", "gnu-any-any", "musl-any-any",
		"uclibc-linux-any", "any-linux-arm64", "bsd-any-any", "eabi-any-any-any", "any-gnu-linux-any", "x32-gnu-linux-any", "any-any-any-s390x", "amd64", "toaster-any"} {
		want := ask("--match-wildcard", word)
		said += len(want)
		for _, arch := range known {
			if got := means(word, arch); got != slices.Contains(want, arch) {
				t.Errorf("%s means %s: %v", word, arch, got)
			}
		}
	}
	if len(known) < 100 || said < len(known) {
		t.Errorf("%d architectures, %d that wildcards mean: dpkg said too little", len(known), said)
	}
}
