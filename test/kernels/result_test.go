package main

import (
	"fmt"
	"strings"
	"testing"
)

// transcript is what a machine says whose only run goes well.
func transcript() string {
	var b strings.Builder
	say := func(s string) { b.WriteString(mark + s + "\r\n") }
	say(`{"kernel":"6.1.0 (6.1.192-2)"}`)
	say(`{"run":{"uid":64321,"userns":true}}`)
	say(`{"doctor":{"tier":"full","findings":[{"name":"seccomp","ok":true},{"name":"namespaces","ok":true},{"name":"landlock","ok":true,"detail":"ABI 2"},{"name":"mseal","ok":false},{"name":"cgroup","ok":true}]}}`)
	for _, s := range suites() {
		say(fmt.Sprintf(`{"suite":%q}`, s.name))
		b.WriteString("=== RUN   TestA\r\n    --- PASS: TestA/one (0.00s)\r\n    --- PASS: TestA/two (0.00s)\r\n--- PASS: TestA (0.00s)\r\n--- PASS: TestB (0.00s)\r\nPASS\r\n")
		say(`{"notRun":"Landlock: none"}`)
		say(`{"ended":"ok"}`)
	}
	say(`{"done":true}`)
	return b.String()
}

// judged is the number of things that are wrong with what a machine says.
func judged(said string) (rows []*row, wrong int) {
	rows, err := listen(strings.NewReader(said))
	if err != nil {
		wrong++
	}
	for _, r := range rows {
		wrong += len(r.wrong(release{landlock: 2}))
	}
	return rows, wrong
}

func TestWhatIsWrongIsFound(t *testing.T) {
	good := transcript()
	rows, wrong := judged(good)
	if wrong != 0 || len(rows) != 1 || rows[0].suites[2].String() != "3 / 0 / 1" {
		t.Fatalf("%d wrong in %+v", wrong, rows)
	}
	for name, c := range map[string][2]string{
		"a part that failed":          {"    --- PASS: TestA/two", "    --- FAIL: TestA/two"},
		"a test that failed":          {"--- PASS: TestB", "--- FAIL: TestB"},
		"a binary that crashed":       {`"ended":"ok"`, `"ended":"exit status 2"`},
		"a binary that ran nothing":   {"--- PASS", "--- ????"},
		"a suite that is missing":     {mark + `{"suite":"tender"}`, ""},
		"another tier":                {`"tier":"full"`, `"tier":"no-userns"`},
		"another ABI of Landlock":     {"ABI 2", "ABI 1"},
		"a call that is not there":    {`"mseal","ok":false`, `"mseal","ok":true`},
		"no namespaces where allowed": {`"namespaces","ok":true`, `"namespaces","ok":false`},
		"no group":                    {`"cgroup","ok":true`, `"cgroup","ok":false`},
		"a guest that gave up":        {`{"done":true}`, `{"failed":"no memory"}`},
		"a machine that went off":     {mark + `{"done":true}`, ""},
		"nothing":                     {good, ""},
		"half an event":               {`{"kernel":`, `{"kern`},
		"a result before any run":     {mark + `{"run":{"uid":64321,"userns":true}}`, ""},
	} {
		if _, wrong := judged(strings.ReplaceAll(good, c[0], c[1])); wrong == 0 {
			t.Errorf("%s: not found", name)
		}
	}
	if rows, _ := judged(strings.Replace(good, "    --- PASS: TestA/two", "    --- FAIL: TestA/two", 1)); rows[0].suites[0].String() != "2 / 1 / 1" {
		t.Errorf("one part that failed counts as %s", &rows[0].suites[0])
	}
}
