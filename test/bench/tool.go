package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lorica.dev/lorica/test/freeport"
)

// legendOfTool says what is measured, and against what.
const legendOfTool = `
Times are by the clock, from the start of the command to its end, with its documents in the cache of the file system. The large policy has 1,000 Cedar policies and 10,000 network rules.

| figure | what is measured |
|---|---|
| check-example | ` + "`lorica check`" + ` of examples/payments, what it warns of included |
| check-large | the same of the large policy |
| test-1000 | ` + "`lorica test`" + ` of examples/payments with 1,000 tests |
| diff-large | ` + "`lorica diff`" + ` of the large policy and one in which a Cedar policy and a network rule are others |
| level-program | from the request that fires a trigger to its level being in force, where the image stays |
| level-pool | the same where the level has an image of its own, built ahead: until that has taken over. From level-bridge on, what the image before it cannot enforce is denied |
`

// tool are the groups of what is measured of the commands about policies.
func (b *bench) tool() []group {
	return []group{{"check", b.checks}, {"test", b.tests}, {"diff", b.diffs}, {"levels", b.levels}}
}

// clocked runs a command rounds times, after one for warm-up, and returns what each took,
// in milliseconds.
func (b *bench) clocked(accept func(code int) bool, args ...string) ([]float64, error) {
	var took []float64
	for i := range b.rounds + 1 {
		cmd := b.command(args...)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		passed := time.Since(start)
		if cmd.ProcessState == nil || !accept(cmd.ProcessState.ExitCode()) {
			return nil, fmt.Errorf("lorica %s: %v: %s", strings.Join(args, " "), err, tail(out))
		}
		if i > 0 {
			took = append(took, float64(passed.Microseconds())/1000)
		}
	}
	return took, nil
}

func done(code int) bool { return code == 0 }

func tail(b []byte) []byte { return b[max(0, len(b)-500):] }

func (b *bench) example() string { return filepath.Join(b.root, "examples", "payments") }

func (b *bench) checks() error {
	large, err := b.large()
	if err != nil {
		return err
	}
	for _, x := range []struct {
		name, dir string
		millis    float64
	}{{"check-example", b.example(), 150}, {"check-large", large, 3000}} {
		took, err := b.clocked(done, "check", "-f", x.dir)
		if err != nil {
			return err
		}
		b.add(&figure{Name: x.name, Unit: "ms", Values: took, Target: x.millis, AtMost: true})
	}
	return nil
}

// tests puts a thousand tests into the example.
func (b *bench) tests() error {
	read := func(name string) (string, error) {
		text, err := os.ReadFile(filepath.Join(b.example(), name))
		return string(text), err
	}
	w, err := read("workload.yaml")
	if err != nil {
		return err
	}
	p, err := read("policy.yaml")
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(p, "\n  tests:\n")
	if !ok {
		return fmt.Errorf("the policy of %s has no tests", b.example())
	}
	line := "    - {name: teller pays %d, as: {user: teller-%d, groups: [tellers]}, call: transfer, context: {amount: %d, hour: 12}, expect: Allow, by: teller-transfer}\n"
	var all strings.Builder
	all.WriteString(head + "\n  tests:\n" + rest)
	for i := strings.Count(rest, "- {name:"); i < 1000; i++ {
		fmt.Fprintf(&all, line, i, i, i%1000+1)
	}
	dir, err := b.project("tests", w, all.String())
	if err != nil {
		return err
	}
	took, err := b.clocked(done, "test", "-f", dir)
	if err != nil {
		return err
	}
	b.add(&figure{Name: "test-1000", Unit: "ms", Values: took, Target: 300, AtMost: true})
	return nil
}

// diffs changes what one Cedar policy and one network rule say.
func (b *bench) diffs() error {
	old, err := b.large()
	if err != nil {
		return err
	}
	text := fullPolicy(8080, size{10_000, 1000})
	for _, x := range [][2]string{{"context.amount > 100500 ", "context.amount > 90000 "}, {"{name: r5000, action: Deny", "{name: r5000, action: Allow"}} {
		if !strings.Contains(text, x[0]) {
			return fmt.Errorf("the large policy does not say %q", x[0])
		}
		text = strings.Replace(text, x[0], x[1], 1)
	}
	changed, err := b.project("changed", workload("large", b.app(), 8080), text)
	if err != nil {
		return err
	}
	took, err := b.clocked(done, "diff", old, changed)
	if err != nil {
		return err
	}
	b.add(&figure{Name: "diff-large", Unit: "ms", Values: took, Target: 5000, AtMost: true})
	return nil
}

// levels has a trigger fire, again and again, with one image for all levels and with one for
// each.
func (b *bench) levels() error {
	for _, x := range []struct {
		name, levels, more string
		takesOver          bool
	}{
		{"program", "", "", false},
		{"pool", ", pool: proactive", "  rateLimits:\n    - {name: careful, key: source, requests: 1000000, per: 1s, minLevel: elevated}\n", true},
	} {
		port, err := freeport.Find()
		if err != nil {
			return err
		}
		text := policyHead + `  default: {network: Allow, authorization: Allow}
  audit: {decisions: denied}
  routes: [{name: open, match: {method: GET, path: /}}]
  levels: {names: [normal, elevated], initial: normal, triggers: [{name: prying, on: request.deny, count: 3, window: 1s, to: elevated, hold: manual}]` + x.levels + "}\n" + x.more
		dir, err := b.project("levels-"+x.name, workload("levels-"+x.name, b.app(), port), text)
		if err != nil {
			return err
		}
		if err := b.raised(x.name, dir, fmt.Sprintf("http://127.0.0.1:%d/elsewhere", port), x.takesOver); err != nil {
			return err
		}
	}
	return nil
}

// raised makes the figures of one of them.
func (b *bench) raised(name, dir, denied string, takesOver bool) error {
	i, err := b.up(dir)
	if err != nil {
		return err
	}
	defer i.stop()
	var bridge, own []float64
	for round := range b.rounds + 1 { // the first is warm-up
		for range 4 {
			resp, err := http.Get(denied)
			if err != nil {
				return err
			}
			resp.Body.Close()
		}
		for n := 0; ; n++ {
			e, err := i.wait("level")
			if err != nil {
				return err
			}
			switch {
			case round == 0:
			case n == 0:
				bridge = append(bridge, e.TookMillis)
			default:
				own = append(own, e.TookMillis)
			}
			if !takesOver || n == 1 {
				break
			}
		}
		time.Sleep(1500 * time.Millisecond) // the window of the trigger
		if out, err := b.command("level", "release", "--instance", filepath.Base(dir)).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, tail(out))
		}
		for n := 0; n == 0 || takesOver && n == 1; n++ {
			if _, err := i.wait("level"); err != nil {
				return err
			}
		}
	}
	if !takesOver {
		b.add(&figure{Name: "level-" + name, Unit: "ms", Values: bridge, Target: 20, AtMost: true})
		return nil
	}
	b.add(&figure{Name: "level-" + name, Unit: "ms", Values: own, Target: 100, AtMost: true})
	b.add(&figure{Name: "level-bridge", Unit: "ms", Values: bridge, None: true})
	return nil
}
