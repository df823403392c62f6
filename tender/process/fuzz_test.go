package process

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An image chooses the name of its threads, which the kernel writes on the first
// line of their status. Whatever it is, the rest of the status counts.
func FuzzStatus(f *testing.F) {
	const rest = "Uid:\t65534\t65534\t65534\t65534\nNoNewPrivs:\t1\nSeccomp:\t%d\nSeccomp_filters:\t%d\nCapInh:\t%s\nCapPrm:\t%s\nCapEff:\t%s\nCapBnd:\t%s\nCapAmb:\t%s\n"
	f.Add("image", 2, 2, none)
	f.Add("Seccomp:\\n2", 0, 0, none)
	f.Add("Seccomp_filters:\t2", 2, 1, none)
	f.Add("x", 2, 2, "000001ffffffffff")
	f.Add(strings.Repeat("x", 70_000), 2, 9, none)
	f.Fuzz(func(t *testing.T, name string, mode, filters int, caps string) {
		if strings.ContainsAny(name+caps, "\n\r") { // the kernel escapes them
			return
		}
		status := fmt.Sprintf("Name:\t"+strings.ReplaceAll(name, "%", "%%")+"\n"+rest, mode, filters, caps, caps, caps, caps, caps)
		s, err := parseStatus(strings.NewReader(status))
		p := &Process{}
		sealed := err == nil && p.confined(s) == nil
		if want := mode == 2 && (filters == 2 || filters < 0) && strings.TrimSpace(caps) == none; sealed && !want || !sealed && want && len(name) < 60_000 {
			t.Fatalf("sealed %v, want %v (%v): %q", sealed, want, err, status)
		}
	})
}

// The group that a tender makes groups in lies where its hierarchy is mounted.
func FuzzOwnGroup(f *testing.F) {
	f.Add("0::/user.slice/a.scope\n", "30 23 0:29 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
	f.Add("4:memory:/x\n0::/a\n", "30 23 0:29 /a /mnt/x rw - cgroup2 cgroup rw\n")
	f.Add("0::/../a\n", "1 2 3 / / - cgroup2 x\n")
	f.Add("0::/a/../..\n", "1 2 3 /a .. x - cgroup2 x\n")
	f.Fuzz(func(t *testing.T, own, mounts string) {
		dir, top, err := ownGroup(own, mounts)
		if err != nil {
			if dir != "" || top != "" {
				t.Fatalf("%q, %q and %v", dir, top, err)
			}
			return
		}
		rel, err := filepath.Rel(filepath.Clean(top), dir)
		if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(os.PathSeparator)) {
			t.Fatalf("%q is not below %q", dir, top)
		}
		if !slices.Contains(strings.Fields(mounts), top) {
			t.Fatalf("%q is not mounted", top)
		}
	})
}
