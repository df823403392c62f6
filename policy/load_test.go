package policy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/policy"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	halves := strings.SplitN(base, "---\n", 2)
	cases := []struct {
		name  string
		files map[string]string
		path  string // below the folder
		want  string // part of the error; empty: accepted
	}{
		{"one file", map[string]string{"all.yaml": base}, "all.yaml", ""},
		{"a folder of two", map[string]string{"policy.yaml": halves[0], "workload.yaml": halves[1]}, "", ""},
		{"a neighbour that is not ours", map[string]string{"all.yaml": base, "requests.yaml": "requests: []\n"}, "", ""},
		{"the neighbour alone", map[string]string{"requests.yaml": "requests: []\n"}, "requests.yaml", "requests.yaml:1:1: apiVersion is missing"},
		{"a folder of neighbours", map[string]string{"requests.yaml": "requests: []\n"}, "", "none of requests.yaml has apiVersion and kind"},
		{"a resource with a misspelt kind is ours", map[string]string{"all.yaml": base, "more.yaml": "knid: SecurityPolicy\nspec: {}\n"}, "", `did you mean "kind"?`},
		{"the policy alone", map[string]string{"policy.yaml": halves[0]}, "", "policy.yaml:5:13: the selector matches no workload"},
		{"the workload alone", map[string]string{"workload.yaml": halves[1]}, "", "workload.yaml:3:11: no policy selects the workload shop"},
		{"an empty folder", nil, "", "the folder has no YAML files"},
		{"a missing file", nil, "none.yaml", "cannot be read: no such file or directory"},
		{"an empty file", map[string]string{"all.yaml": ""}, "all.yaml", "all.yaml:1:1: the file is empty"},
		{"comments only", map[string]string{"all.yaml": "# soon\n"}, "all.yaml", "the file is empty"},
		{"an empty document", map[string]string{"all.yaml": "---\n---\n"}, "all.yaml", "a resource must be a mapping, not nothing"},
		{"not UTF-8", map[string]string{"all.yaml": "a: \xff\n"}, "all.yaml", "all.yaml:1:4: a byte that is not UTF-8"},
		{"a lone carriage return", map[string]string{"all.yaml": "a: b\rc: d\n"}, "all.yaml", "all.yaml:1:5: a carriage return"},
		{"a NUL", map[string]string{"all.yaml": "a: b\x00\n"}, "all.yaml", "a control character"},
		{"Windows line ends", map[string]string{"all.yaml": strings.ReplaceAll(base, "\n", "\r\n")}, "all.yaml", ""},
		{"two policies for one workload", map[string]string{"all.yaml": base, "more.yaml": strings.Replace(halves[0], "name: shop", "name: other", 1)}, "", "two policies select the workload shop: shop at all.yaml:5 and other at more.yaml:5"},
		{"the same name twice", map[string]string{"all.yaml": base, "more.yaml": halves[0]}, "", "policy acme/shop exists already"},
		{"deep nesting", map[string]string{"all.yaml": "a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40)}, "all.yaml", "nested more than 24 deep"},
		{"absurd nesting", map[string]string{"all.yaml": strings.Repeat("[", 500_000)}, "all.yaml", "this is not YAML"},
		{"billion laughs", map[string]string{"all.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"}, "all.yaml", "anchors are not allowed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t)
			for name, text := range c.files {
				write(t, dir, name, text)
			}
			b, err := policy.Load(filepath.Join(dir, c.path))
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "":
				if len(b.Deployments) != 1 || b.Deployments[0].Name() != "acme/shop" {
					t.Fatalf("deployments: %v", b.Deployments)
				}
			case err == nil:
				t.Fatal("accepted")
			case b != nil:
				t.Fatal("an error and a bundle")
			case !strings.Contains(err.Error(), c.want):
				t.Fatalf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestLargeFileIsRefusedUnread(t *testing.T) {
	path := write(t, t.TempDir(), "big.yaml", "")
	if err := os.Truncate(path, 10<<20); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := policy.Load(path)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "big.yaml:1:1: the file has 10485760 bytes; the limit is 1048576") {
		t.Fatalf("got %v", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 256<<10 {
		t.Errorf("%d bytes were allocated for a file that is not read", grown)
	}
}

func TestReportIsBounded(t *testing.T) {
	text := "apiVersion: lorica.dev/v1alpha1\nkind: Workload\nmetadata: {name: x}\nspec:\n"
	for i := range 5000 {
		text += fmt.Sprintf("  field%d: 1\n", i)
	}
	_, err := parse("", text)
	var es policy.Errors
	if !errors.As(err, &es) || len(es) > 501 || !strings.Contains(err.Error(), "more errors are not shown") {
		t.Fatalf("%d errors", len(es))
	}
}

func TestErrorsAreSorted(t *testing.T) {
	_, err := parse("", strings.NewReplacer("port: 8080}\n", "prot: 8080}\n", "initial: normal", "initial: calm", "GET", "get").Replace(base))
	var es policy.Errors
	if !errors.As(err, &es) || len(es) < 4 {
		t.Fatalf("got %v", err)
	}
	for i := 1; i < len(es); i++ {
		if es[i].Pos.Line < es[i-1].Pos.Line {
			t.Errorf("%v after %v", es[i], es[i-1])
		}
	}
}

// Where the parts of a policy are written, as programs and records cite it.
func TestPositions(t *testing.T) {
	cases := []struct{ name, cedar, want string }{
		{"literal block", "cedar: |\n      @id(\"may-read\")\n      permit (principal, action, resource);\n", "shop.yaml:30:7"},
		{"literal block with an empty line first", "cedar: |\n\n      @id(\"may-read\")\n      permit (principal, action, resource);\n", "shop.yaml:31:7"},
		{"literal block with an indentation indicator", "cedar: |2\n        @id(\"may-read\")\n        permit (principal, action, resource);\n", "shop.yaml:30:9"},
		{"after another on one line", "cedar: |\n      // é\n      permit (principal, action, resource); @id(\"may-read\") permit (principal, action, resource);\n", "shop.yaml:31:45"},
		{"plain scalar", "cedar: permit (principal, action, resource);\n", "shop.yaml:29:12"},
		{"quoted scalar points at the scalar", `cedar: "permit (principal, action, resource);\n@id(\"may-read\") permit (principal, action, resource);"` + "\n", "shop.yaml:29:12"},
		{"folded scalar points at the scalar", "cedar: >\n      permit (principal,\n      action, resource);\n\n      @id(\"may-read\")\n      permit (principal, action, resource);\n", "shop.yaml:29:12"},
	}
	from, to := strings.Index(base, "cedar: |"), strings.Index(base, "  tests:")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rest := base[to:]
			text := base[:from] + c.cedar + rest[strings.Index(rest, "---"):]
			b, err := parse("", strings.NewReplacer("\n    count: \"body.json:/count\"", "", `, "count"?: Long`, "", "\n    level: level", "", `"level": String`, "").Replace(text))
			if err != nil {
				t.Fatal(err)
			}
			rules := b.Deployments[0].Authorization.Rules
			if got := rules[len(rules)-1].Pos.String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestClosedPortIsAWarning(t *testing.T) {
	b, err := parse("", strings.Replace(base, "name: web, port: 8080", "name: web, port: 8081", 1))
	if err != nil {
		t.Fatal(err)
	}
	const want = "shop.yaml:47:7: no network rule of policy shop allows connections to port 8081 (add a rule that allows it)"
	if b.Warnings.Error() != want {
		t.Errorf("got %v, want %s", b.Warnings, want)
	}
}

// What reads as protection and is none is not passed over in silence.
func TestWhatChangesNothingIsAWarning(t *testing.T) {
	for name, x := range map[string]struct{ old, new, want string }{
		"permits under Allow": {"  levels:", "  default: {authorization: Allow}\n  levels:", "shop.yaml:26:5: no policy forbids anything"},
		"a forbid under Allow": {`@id("may-buy")
      permit (`, `@id("may-buy")
      forbid (`, ""},
		"streams without TLS":   {"  tests:", "  requestFilter: {maxStreams: 5}\n  tests:", "shop.yaml:37:18: requestFilter: handshakeTimeout and maxStreams"},
		"handshake without TLS": {"  tests:", "  requestFilter: {handshakeTimeout: 5s}\n  tests:", "shop.yaml:37:18: requestFilter: handshakeTimeout and maxStreams"},
		"handshake with TLS":    {"  tests:", "  tls: {mode: SIMPLE}\n  requestFilter: {handshakeTimeout: 5s}\n  tests:", ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(base, x.old, x.new, 1)
			if strings.Contains(name, "forbid") {
				text = strings.Replace(text, "  levels:", "  default: {authorization: Allow}\n  levels:", 1)
			}
			b, err := parse(folder(t), text)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.Warnings.Error(); !strings.HasPrefix(got, x.want) || (x.want == "") != (got == "") {
				t.Errorf("got %q, want %q", got, x.want)
			}
		})
	}
}

// The schemes of a user list are noted, for the modules that verify them, and what is
// weak in it is said once for each reason, with its first line.
func TestSchemesOfUsers(t *testing.T) {
	const (
		argon    = "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbiBieXRlcyBvaw$aGFzaGhhc2hoYXNoaGFzaA"
		blowfish = "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
		rounds   = "$pbkdf2-sha256$i=600000$c2l4dGVlbiBieXRlcyBvaw$aGFzaGhhc2hoYXNoaGFzaA"
	)
	for name, x := range map[string]struct {
		users    string
		schemes  []string
		warnings []string
	}{
		"nobody yet":   {"# nobody\n", nil, nil},
		"one scheme":   {"ada::" + blowfish + "\nbob::" + blowfish + "\n", []string{"bcrypt"}, nil},
		"every scheme": {"ada::" + rounds + "\nbob::" + blowfish + "\neve::" + argon + "\n", []string{"argon2id", "bcrypt", "pbkdf2"}, nil},
		"weak in 2 ways": {"ada::" + argon + "\nbob::" + strings.Replace(blowfish, "12", "05", 1) + "\neve::" + strings.Replace(blowfish, "12", "05", 1) + "\ndan::" + strings.Replace(argon, "t=2", "t=1", 1) + "\n",
			[]string{"argon2id", "bcrypt"}, []string{"users.txt:2:1: secret \"users\": this verifier costs little to guess at: bcrypt of cost 5", "users.txt:4:1: secret \"users\": this verifier costs little to guess at: argon2id of m=19456,t=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			if err := os.WriteFile(filepath.Join(dir, "users.txt"), []byte(x.users), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := parse(dir, base)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.Deployments[0].Policy.Authentication.Basic.Schemes; !slices.Equal(got, x.schemes) {
				t.Errorf("schemes %v, want %v", got, x.schemes)
			}
			if len(b.Warnings) != len(x.warnings) {
				t.Fatalf("warnings %v, want %v", b.Warnings, x.warnings)
			}
			for i, want := range x.warnings {
				if got := b.Warnings[i].Error(); !strings.HasPrefix(got, want) || strings.Contains(got, "CCCC") || b.Warnings[i].Text != "" {
					t.Errorf("warning %q, want %q", got, want)
				}
			}
		})
	}
}

// A megabyte made to be expensive costs a bounded amount of memory, and the
// stack of no parser.
func TestHostileFilesAreBounded(t *testing.T) {
	fill := func(s string, n int) string { return strings.Repeat(s, n/len(s)) }
	condition := func(c string) string {
		return strings.Replace(base, "  tests:", "      permit (principal, action, resource) when { "+c+" };\n  tests:", 1)
	}
	room := policy.MaxFileSize - len(base) - 100
	for name, text := range map[string]string{
		"flow list":     "a: [" + fill("a,", policy.MaxFileSize-10) + "]",
		"open brackets": fill("{a: [", policy.MaxFileSize),
		"documents":     fill("---\na: b\n", policy.MaxFileSize),
		"comments":      fill("#\n", policy.MaxFileSize),
		"one string":    condition(`"` + fill("a", room) + `" == ""`),
		"parentheses":   condition(fill("(", room/2) + "true" + fill(")", room/2)),
		"else branches": condition(fill("if true then true else ", 64<<10) + "true"),
		"negations":     condition(fill("!", room) + "true"),
		"policies":      strings.Replace(base, "  tests:", "      "+fill("permit(principal,action,resource);", room)+"\n  tests:", 1),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := parse("", text)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("accepted")
			}
			if grown := (after.TotalAlloc - before.TotalAlloc) >> 20; grown > 400 {
				t.Errorf("%d MiB were allocated", grown)
			}
		})
	}
}
