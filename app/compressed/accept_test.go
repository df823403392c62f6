package compressed

import (
	"strings"
	"testing"
)

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		fields string // lines
		want   coding
	}{
		{"gzip", gzip}, {"GZIP", gzip}, {"x-gzip", gzip}, {" gzip ; q=1.000", gzip}, {"gzip;Q=0.001", gzip}, {"br, gzip, deflate", gzip}, {"br\ngzip", gzip},
		{"*", gzip}, {"*;q=0.5", gzip}, {"gzip;q=0.5, identity;q=0.5", gzip}, {"identity;q=0, gzip;q=0.001", gzip}, {"*;q=0, gzip", gzip}, {"identity;q=0, *", gzip},
		{"", identity}, {",", identity}, {"br", identity}, {"identity", identity}, {"gzip;q=0", identity}, {"gzip;q=0.000", identity}, {"gzip;q=0, *", identity},
		{"gzip;q=0.4, identity;q=0.5", identity}, {"*;q=0.4, identity;q=0.5", identity}, {"*;q=0, identity", identity},
		{"gzip, gzip;q=0", identity}, {"gzip;q=0, gzip", identity}, {"gzip\nx-gzip;q=0", identity}, // who contradicts itself gets less
		// What cannot be read asks for nothing.
		{"gzip;q=2", identity}, {"gzip;q=1.001", identity}, {"gzip;q=0.1234", identity}, {"gzip;q=1,5", gzip}, {"gzip;q=-1", identity}, {"gzip;q=", identity}, {"gzip;q", identity}, {"gzip;level=9", identity},
		{"gzip;q=.5", identity}, {"gzip q=1", identity}, {"gzip;q=0x1", identity}, {"gzip;q=0.5;x", identity}, {"\"gzip\"", identity}, {"gzipped", identity},
		{"identity;q=0", neither}, {"*;q=0", neither}, {"gzip;q=0, identity;q=0", neither}, {"br, identity;q=0.0", neither}, {"identity, identity;q=0", neither},
	} {
		if got := wanted(strings.Split(c.fields, "\n")); got != c.want {
			t.Errorf("%q: %d, want %d", c.fields, got, c.want)
		}
	}
	if got := wanted(nil); got != identity {
		t.Errorf("no field: %d", got)
	}
}

// Nobody gets a coding that was not asked for, and the order of members says nothing.
func FuzzWanted(f *testing.F) {
	for _, s := range []string{"gzip", "gzip;q=0, *", "identity;q=0", "br;q=1.0, gzip;q=0.8, *;q=0.1", "x-gzip;q=0.001,,", "gzip;q=1.0000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := wanted([]string{s})
		lower := strings.ToLower(s)
		if got == gzip && !strings.Contains(lower, "gzip") && !strings.Contains(lower, "*") {
			t.Fatal("gzip, and nobody spoke of it")
		}
		if got == neither && !strings.Contains(lower, "identity") && !strings.Contains(lower, "*") {
			t.Fatal("refused, and nothing was excluded")
		}
		members := strings.Split(s, ",")
		var reversed []string
		for i := len(members) - 1; i >= 0; i-- {
			reversed = append(reversed, members[i])
		}
		if wanted(reversed) != got {
			t.Fatal("another order, another answer")
		}
	})
}
