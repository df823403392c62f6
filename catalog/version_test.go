package catalog

import "testing"

func TestVersionsAreOrdered(t *testing.T) {
	order := []string{"", "v1.2.0-0.2026", "v1.2.0", "v1.10.0", "v18446744073709551616.0", "v18446744073709551617.0",
		"1-rc1", "1-rc2", "1", "1.0-rc.2", "1.0-rc.10", "1.0", "1.0+b", "1.0.1", "1.9", "1.10", "2", "007", "7"}
	for i, a := range order {
		for j, b := range order {
			if got := CompareVersions(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%q against %q: %d", a, b, got)
			}
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1", "1.0", "1-0")
	f.Add("07", "7", "a")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := CompareVersions(a, b), CompareVersions(b, a)
		if ab != -ba || (ab == 0) != (a == b) {
			t.Errorf("%q, %q: %d and %d", a, b, ab, ba)
		}
		if ab <= 0 && CompareVersions(b, c) <= 0 && CompareVersions(a, c) > 0 {
			t.Errorf("%q <= %q <= %q, and not %q <= %q", a, b, c, a, c)
		}
	})
}
