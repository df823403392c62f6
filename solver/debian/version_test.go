package debian

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"lorica.dev/lorica/internal/notrun"
)

func sign(op string) int { return strings.Index("<=>", op) - 1 }

func TestOrderOfVersions(t *testing.T) {
	for _, c := range []struct{ why, a, op, b string }{
		{"equal", "1.2-3", "=", "1.2-3"},
		{"numbers, not digits", "1.9", "<", "1.10"},
		{"a longer number", "99999999999999999999998", "<", "99999999999999999999999"},
		{"zeros ahead mean nothing", "1.002", "=", "1.2"},
		{"no digits are zero", "1.a", "=", "1.a0"},
		{"an epoch comes first", "1:0.1", ">", "9.9"},
		{"no epoch is epoch 0", "0:1", "=", "1"},
		{"epochs are numbers", "2:1", "<", "10:1"},
		{"zeros ahead of an epoch", "01:1", "=", "1:1"},
		{"a tilde is before the end", "1.0~rc1", "<", "1.0"},
		{"two tildes are before one", "1.0~~", "<", "1.0~"},
		{"a tilde before a letter", "1.0~~a", "<", "1.0~"},
		{"the end is before a letter", "1.0", "<", "1.0a"},
		{"letters are before the rest", "1.0a", "<", "1.0+"},
		{"capitals are before small letters", "1.0Z", "<", "1.0a"},
		{"a plus is before a dot", "1.0+1", "<", "1.0.1"},
		{"the revision comes last", "1.0-2", "<", "1.0-10"},
		{"no revision is revision 0", "1.0", "=", "1.0-0"},
		{"the last hyphen begins the revision", "1.0-1-1", ">", "1.0-1"},
		{"a hyphen within upstream", "1.0-a-1", ">", "1.0+a-1"},
		{"a backport", "1.0-1~bpo12+1", "<", "1.0-1"},
		{"a security update", "1.0-1+deb12u1", ">", "1.0-1"},
		{"a binary rebuild", "1.0-1+b2", ">", "1.0-1+b1"},
		{"a later colon is upstream's", "1:2:3", "<", "1:2:4"},
	} {
		if got := Compare(c.a, c.b); got != sign(c.op) {
			t.Errorf("%s: Compare(%s, %s) = %d, want %s", c.why, c.a, c.b, got, c.op)
		}
		if got := Compare(c.b, c.a); got != -sign(c.op) {
			t.Errorf("%s: Compare(%s, %s) = %d", c.why, c.b, c.a, got)
		}
	}
}

func TestWhatIsNoVersion(t *testing.T) {
	for text, want := range map[string]string{
		"1":               "",
		"0:1.2-3+b1~x":    "",
		"a1":              "", // dpkg warns of it, and orders it
		"1_2":             "",
		"":                "empty",
		"1 2":             `' ' cannot be`,
		"1\x01":           `'\x01' cannot be`,
		"a:1":             "no number",
		":1":              "no number",
		"2147483648:1":    "too large",
		"99999999999:1":   "too large",
		"2147483647:1":    "",
		"00002147483647:": "nothing follows the epoch",
		"1-":              "nothing follows the last hyphen",
		"-1":              "nothing is before the revision",
		"1:-1":            "nothing is before the revision",
	} {
		err := CheckVersion(text)
		if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) && want != "" {
			t.Errorf("CheckVersion(%q) = %v, want %q", text, err, want)
		}
	}
}

// randomVersion is short and of few characters, so that two of them are often alike.
func randomVersion(r *rand.Rand) string {
	const all = "0012359.+~-aAz~.:"
	for {
		b := make([]byte, 1+r.IntN(7))
		for i := range b {
			b[i] = all[r.IntN(len(all))]
		}
		b[0] = "0123"[r.IntN(4)]
		if v := string(b); CheckVersion(v) == nil {
			return v
		}
	}
}

// dpkg is asked in one go: a process for each pair would take minutes.
func TestOrderIsThatOfDpkg(t *testing.T) {
	sh, err := exec.LookPath("dpkg")
	if err != nil {
		notrun.Say(t, "versions as dpkg orders them", err.Error())
		return
	}
	r := rand.New(rand.NewPCG(1, 2))
	type pair struct{ a, b string }
	var pairs []pair
	var script bytes.Buffer
	for range 1000 {
		p := pair{randomVersion(r), randomVersion(r)}
		pairs = append(pairs, p)
		fmt.Fprintf(&script, "if %s --compare-versions '%s' lt '%s'; then echo '<'; elif %[1]s --compare-versions '%[2]s' gt '%[3]s'; then echo '>'; else echo '='; fi\n", sh, p.a, p.b)
	}
	cmd := exec.Command("sh")
	cmd.Stdin = &script
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	if len(lines) != len(pairs) {
		t.Fatalf("dpkg said %d times how they are, of %d", len(lines), len(pairs))
	}
	count := map[string]int{}
	for i, p := range pairs {
		count[lines[i]]++
		if got := Compare(p.a, p.b); got != sign(lines[i]) {
			t.Errorf("Compare(%s, %s) = %d; dpkg: %s", p.a, p.b, got, lines[i])
		}
	}
	if count["<"] < 100 || count[">"] < 100 || count["="] < 5 {
		t.Errorf("the pairs say little: %v", count)
	}
}

// The order is total over all strings: a sort that it is given to always ends, and the
// same way.
func FuzzCompare(f *testing.F) {
	f.Add("1.0", "1.0~rc1", "1.0a")
	f.Add("1:1", "0:2-1", "a:1")
	f.Add("007", "7", "~")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, bc, ac := Compare(a, b), Compare(b, c), Compare(a, c)
		if Compare(a, a) != 0 || Compare(b, a) != -ab {
			t.Fatalf("%q and %q: %d, the other way %d", a, b, ab, Compare(b, a))
		}
		if ab <= 0 && bc <= 0 && ac > 0 || ab == 0 && bc != ac {
			t.Fatalf("%q, %q, %q: %d, %d, and %d", a, b, c, ab, bc, ac)
		}
		if CheckVersion(a) == nil && Compare(a+"~", a) >= 0 && !strings.Contains(a, ":") {
			t.Fatalf("%q is not before %q", a+"~", a)
		}
	})
}
