package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// tried is what 'dryrun report -o json' answers.
type tried struct {
	Decisions, Same, Otherwise int
	Rules                      []struct {
		Decision, Stage, Rule, Line string
		Count                       int
		Who, Routes                 []struct{ Name string }
		Example                     struct{ ID string }
	}
}

func (u *user) report(t *testing.T, args ...string) (r tried) {
	t.Helper()
	out := u.run(append([]string{"dryrun", "report", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

// A policy is tried, and denies nobody; then a rule of it is; then all is enforced. Each is a
// change of program, and what would have been otherwise is reported.
func TestDryRun(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir, addr := u.example(port), "127.0.0.1:"+port
	policy := filepath.Join(dir, "policy.yaml")
	x, first := u.up(dir)
	if s := u.run("ps"); strings.Contains(s, "DRY RUN") {
		t.Errorf("ps of what is enforced: %s", s)
	}
	change := func(old, new string) event {
		t.Helper()
		edit(t, policy, old, new)
		e := x.wait("applied")
		if e.Change != "program" || e.Status.Instance != first.Instance || e.Status.PID != first.PID {
			t.Fatalf("%s instead of %s: %s, %+v", new, old, e.Change, e.Status)
		}
		return e
	}
	if a := get(t, addr, "/accounts/7", teller); a.status != 403 {
		t.Fatalf("enforced: %d", a.status)
	}
	if r := u.report(t); r.Otherwise != 0 || r.Decisions == 0 || r.Same != r.Decisions {
		t.Errorf("with nothing tried: %+v", r)
	}
	if s := u.run("dryrun", "report"); !strings.Contains(s, "Nothing would have been otherwise") {
		t.Errorf("with nothing tried: %s", s)
	}

	change("  levels:", "  enforcement: DryRun\n  levels:")
	var ids []string
	for _, c := range []struct{ path, who string }{{"/accounts/7", teller}, {"/accounts", ""}, {"/accounts", "staff-3:wrong"}, {"/accounts", staff}} {
		a := get(t, addr, c.path, c.who)
		if a.status != 200 {
			t.Errorf("tried, %s as %q: %d", c.path, c.who, a.status)
		}
		ids = append(ids, a.decision)
	}
	if a := get(t, addr, "/nowhere", staff); x.find(a.decision).Decision != "Allow" {
		t.Errorf("tried, a path without a route: %+v", x.find(a.decision))
	}
	if d := x.find(ids[0]); d.Decision != "Allow" || d.Rule != "default:dry-run" || !strings.HasPrefix(d.Line, "policy.yaml:") || d.Principal != "teller-7" {
		t.Errorf("%+v", d)
	}
	if d := x.find(ids[2]); d.Principal != "anonymous" || d.Rule != "default:dry-run" {
		t.Errorf("%+v", d)
	}
	if d := x.find(ids[3]); d.Rule != "staff-read" {
		t.Errorf("what is allowed is allowed by %+v", d)
	}
	for _, args := range [][]string{{"ps"}, {"inspect", first.Instance}, {"plan", "-f", dir}, {"check", "-f", dir}, {"logs", "--decisions"}, {"dryrun", "report"}} {
		want := "DRY RUN"
		if args[0] == "logs" {
			want = "(dry run: Deny by default:authorization at policy.yaml:"
		} else if args[0] == "dryrun" {
			want = "Deny by default:authorization at policy.yaml:"
		}
		if s := u.run(args...); !strings.Contains(s, want) {
			t.Errorf("%v does not say %q: %s", args, want, s)
		}
	}
	r := u.report(t)
	stages := map[string]int{}
	for _, c := range r.Rules {
		if c.Decision != "Deny" || c.Example.ID == "" || c.Count == 0 {
			t.Errorf("%+v", c)
		}
		stages[c.Stage] += c.Count
	}
	if r.Otherwise != 4 || stages["authz"] != 1 || stages["authn"] != 2 || stages["filter"] != 1 {
		t.Errorf("%+v", r)
	}
	if s := u.run("why", "--live", ids[0], "-f", dir); !strings.Contains(s, "dry run: Deny by default:authorization") || strings.Contains(s, "a defect of Lorica") {
		t.Errorf("why --live: %s", s)
	}

	change("  enforcement: DryRun\n", "")
	change(`      @id("staff-read")`, "      @id(\"closed\") @enforcement(\"DryRun\")\n      forbid (principal, action, resource == Route::\"listAccounts\");\n\n      @id(\"staff-read\")")
	if a := get(t, addr, "/accounts/7", teller); a.status != 403 {
		t.Errorf("what is enforced beside a rule that is tried: %d", a.status)
	}
	if a := get(t, addr, "/accounts", staff); a.status != 200 || x.find(a.decision).Rule != "staff-read" {
		t.Errorf("a rule that is tried: %d", a.status)
	}
	if s := u.run("ps"); strings.Contains(s, "DRY RUN") {
		t.Errorf("ps: %s", s)
	}
	found := false
	for _, c := range u.report(t, first.Instance).Rules {
		found = found || c.Rule == "closed" && c.Count == 1 && c.Who[0].Name == "staff-3" && c.Routes[0].Name == "listAccounts"
	}
	if !found {
		t.Errorf("the rule is not in the report: %+v", u.report(t))
	}
	change(`@id("closed") @enforcement("DryRun")`, `@id("closed")`)
	if a := get(t, addr, "/accounts", staff); a.status != 403 || x.find(a.decision).Rule != "closed" {
		t.Errorf("enforced at last: %d", a.status)
	}
}
