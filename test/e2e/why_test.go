package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// An explained is what 'why --live -o json' answers.
type explained struct {
	Record   decision `json:"record"`
	Workload string   `json:"workload"`
	Running  bool     `json:"running"`
	Same     bool     `json:"same"`
	Agrees   bool     `json:"agrees"`
	Note     string   `json:"note"`
	Why      *struct {
		Decision, Rule, Line string
		Nearest              []struct{ Rule string }
	} `json:"why"`
}

// Every decision about the requests of the examples can be asked about: with what was
// recorded of it, the policy decides as the image did, by the same rule; after the death
// of the instance, too.
func TestWhyLive(t *testing.T) {
	for _, c := range []struct {
		example, port string
		replayed      int    // at least, decisions
		near          string // the permit that comes near a request that is denied by default
	}{{"payments", "8443", 5, ""}, {"clinic", "8446", 11, "doctors-prescribe"}} {
		t.Run(c.example, func(t *testing.T) {
			u := newUser(t)
			port, upstream := freePort(t), freePort(t)
			dir := u.copied(c.example, c.port, port, "8444", port, ":9000", ":"+upstream, "port: 9000", "port: "+upstream)
			if c.example == "payments" {
				legacyAPI(t, "127.0.0.1:"+upstream)
			}
			x, s := u.up(dir, "--try", filepath.Join(dir, "requests.yaml"))
			x.wait("tried")
			why := func(args ...string) (e explained) {
				t.Helper()
				out := u.run(append([]string{"why", "--live", "-o", "json"}, args...)...)
				if err := json.Unmarshal([]byte(out), &e); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return e
			}
			replayed, nearest, last := 0, "", decision{}
			for line := range strings.Lines(u.run("logs", s.Instance, "--decisions", "-o", "json")) {
				var d decision
				if err := json.Unmarshal([]byte(line), &d); err != nil {
					t.Fatal(err)
				}
				e := why(d.ID[:12], "-f", dir)
				if e.Record != d || !e.Same || !e.Running || !strings.HasSuffix(e.Workload, "/"+strings.Split(s.Instance, "-")[0]) {
					t.Fatalf("%+v of %+v", e, d)
				}
				switch {
				case e.Why == nil && !strings.HasPrefix(e.Note, "not explained: "):
					t.Errorf("%+v: %q", d, e.Note)
				case e.Why == nil:
					t.Logf("%s %s by %s: %s", d.Method, d.Path, d.Rule, e.Note)
				case !e.Agrees || e.Note != "" || e.Why.Rule != d.Rule || e.Why.Line != d.Line || e.Why.Decision != d.Decision:
					t.Errorf("%+v: %+v, %q", d, e.Why, e.Note)
				default:
					replayed++
					if last = d; len(e.Why.Nearest) > 0 && nearest == "" {
						nearest = e.Why.Nearest[0].Rule
					}
				}
			}
			if replayed < c.replayed || c.near != "" && nearest != c.near {
				t.Errorf("%d decisions were replayed; near was %q", replayed, nearest)
			}
			for args, want := range map[string]string{
				"0123456789abcdef":     "no decision has the id 0123456789abcdef",
				last.ID[:7]:            "is too short: write at least 8 characters",
				"elsewhere " + last.ID: `and none of this name that died has left decisions: "elsewhere"`,
				last.ID + " -f " + filepath.Join(dir, "workload.yaml"): "",
			} {
				out, err := u.command(append([]string{"why", "--live"}, strings.Fields(args)...)...).CombinedOutput()
				if err == nil || !strings.Contains(string(out), want) {
					t.Errorf("why --live %s: %v, %s", args, err, out)
				}
			}
			x.kill()
			kill(t, s.TenderPID)
			e := why(s.Instance, last.ID)
			if e.Record != last || e.Running || e.Why != nil || !strings.HasPrefix(e.Note, "name its documents with -f") {
				t.Errorf("of a dead instance: %+v", e)
			}
			if e := why(last.ID, "-f", dir); !e.Same || !e.Agrees {
				t.Errorf("of a dead instance, with its documents: %+v", e)
			}
			edit(t, filepath.Join(dir, "policy.yaml"), "metadata: {", "metadata: {labels: {x: y}, ")
			edit(t, filepath.Join(dir, "policy.yaml"), "rateLimits:\n", "rateLimits:\n    - {name: more, key: source, requests: 6000, per: 2m}\n")
			if e := why(last.ID, "-f", dir); e.Same || e.Why == nil || !strings.Contains(e.Note, "are not those that the program then was compiled from") {
				t.Errorf("with other documents: %+v", e)
			}
		})
	}
}
