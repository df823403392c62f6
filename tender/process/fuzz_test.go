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
// line of their status, and a kernel may have lines that are not known here. Whatever
// they hold, the rest of the status counts.
func FuzzStatus(f *testing.F) {
	f.Add("image", 2, 2, none, "x")
	f.Add("Seccomp:\\n2", 0, 0, none, "x")
	f.Add("Seccomp_filters:\t2", 2, 1, none, "x")
	f.Add("x", 2, 2, "000001ffffffffff", "x")
	f.Add(strings.Repeat("x", 70_000), 2, 9, none, "x")
	f.Add("x", 2, 9, none, strings.Repeat("x", 70_000))
	f.Fuzz(func(t *testing.T, name string, mode, filters int, caps, other string) {
		if strings.ContainsAny(name+caps+other, "\n\r") { // the kernel escapes them
			return
		}
		status := fmt.Sprintf("Name:\t%s\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\t \nCapInh:\t%[2]s\nCapPrm:\t%[2]s\nCapEff:\t%[2]s\nCapBnd:\t%[2]s\nCapAmb:\t%[2]s\n"+
			"NoNewPrivs:\t1\nSeccomp:\t%[3]d\nOther:\t%[4]s\nSeccomp_filters:\t%[5]d\n", name, caps, mode, other, filters)
		s, err := parseStatus(strings.NewReader(status))
		p := &Process{filters: 2}
		sealed := err == nil && p.confined(s) == nil
		if want := mode == 2 && (filters == 2 || filters < 0) && strings.TrimSpace(caps) == none; sealed && !want || !sealed && want && len(name)+len(other) < 60_000 {
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
