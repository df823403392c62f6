package unikernel

import (
	"bytes"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
)

// nobody is a firewall that lets nobody in.
var nobody = (&flow.Section{Lists: []flow.List{{Level: "normal", Rule: abi.Rule{ID: abi.RuleNetwork, Line: "p.yaml:3"}}}}).Encode()

func with(p *program.Program, name string, data []byte) *program.Program {
	for i := range p.Sections {
		if p.Sections[i].Name == name {
			p.Sections[i].Data = data
			return p
		}
	}
	p.Sections = append(p.Sections, program.Section{Name: name, Data: data})
	return p
}

func said(r audit.Record) string {
	s := r.Verdict.String() + " " + r.Rule.ID
	if w := r.DryRun; w != nil {
		s += ", would " + w.Verdict.String() + " " + w.Stage + " " + w.Rule.ID
	}
	return s
}

func expect(t *testing.T, what string, got []audit.Record, want ...string) {
	t.Helper()
	for i, r := range got {
		if said(r) != want[i] {
			t.Errorf("%s: record %d is %q (%s), want %q", what, i, said(r), r.Reason, want[i])
		}
	}
}

const getNowhere = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"

// A policy that is tried as a whole denies nobody, and records what it would have done, with
// what would have followed. Enforced, it does, and holds against nobody what came before.
func TestAPolicyThatIsTriedLetsThrough(t *testing.T) {
	r := obliged(t, scanning, text("ok"))
	p := with(with(obligedProgram(2, scanning), flow.Name, nobody), dryrun.Name, dryrun.Encode("p.yaml:2"))
	r.swap(1, 1, p)
	r.next()
	c := r.dial()
	for i := range 4 {
		c.Write([]byte(getNowhere))
		if resp, body, err := answer(c); err != nil || resp.StatusCode != 200 || body != "ok" || resp.Close || resp.Header.Get("Allow") != "" {
			t.Fatalf("request %d: %+v, %q, %v", i, resp, body, err)
		}
	}
	const let = "Allow default:dry-run, would Deny "
	records := r.kept(t, 6)
	expect(t, "tried", records, let+"firewall default:network", let+"filter default:route", let+"filter default:route", let+"filter default:route",
		let+"obligations scanning", let+"obligations scanning")
	if k := records[4]; !strings.Contains(k.DryRun.Reason, "3 denials (request)") || k.Method != "" {
		t.Errorf("the alert is %+v", k)
	}
	if k := records[1]; k.Path != "/nowhere" || k.Rule.Line != "p.yaml:2" || k.Status != 0 {
		t.Errorf("a request is %+v", k)
	}
	if resp, _ := r.ask("GET /app/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"); resp.StatusCode != 400 {
		t.Errorf("what is malformed: %d", resp.StatusCode)
	}

	r.swap(2, 2, obligedProgram(3, scanning))
	if resp, _ := r.ask(getNowhere); resp.StatusCode != 404 {
		t.Errorf("enforced: %d", resp.StatusCode)
	}
	if _, body := r.ask(getApp); body != "ok" {
		t.Errorf("a source is blocked for what it did before: %q", body)
	}
}

// What is tried beside what is enforced decides nothing, and is recorded where it differs.
func TestRulesThatAreTriedDecideNothing(t *testing.T) {
	r := obliged(t, scanning, text("ok"))
	tried := scanning
	tried.Rule.ID, tried.Count, tried.Alert = "strict", 1, false
	p := with(obligedProgram(2, scanning), dryrun.Of(flow.Name), nobody)
	r.swap(1, 1, with(p, dryrun.Of(obligation.Name), (&obligation.Section{Obligations: []obligation.Obligation{tried}}).Encode()))
	r.next()
	if resp, _ := r.ask(getNowhere); resp.StatusCode != 404 {
		t.Errorf("what is enforced: %d", resp.StatusCode)
	}
	if resp, body := r.ask(getApp); body != "ok" || resp.Close {
		t.Errorf("what is tried: %q", body)
	}
	expect(t, "tried", r.kept(t, 4), "Allow local, would Deny firewall default:network", "Deny default:route",
		"Allow local, would Deny firewall default:network", "Allow any, would Deny obligations strict")

	// Who is connected when rules begin to be tried is recorded once.
	c := r.dial()
	c.Write([]byte(getApp))
	answer(c)
	const tells = "Allow local, would Deny firewall default:network"
	n := len(r.kept(t, 6))
	r.swap(2, 2, with(obligedProgram(3, scanning), dryrun.Of(flow.Name), nobody))
	eventually(t, "each connection is recorded", func() bool { return len(r.all()) == n+3 })
	c.Write([]byte(getApp))
	answer(c)
	expect(t, "of an open connection", r.kept(t, n+4)[n:], tells, tells, tells, "Allow any")
}

func (r *rig) all() []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records
}

// Nothing but the one section, whole and signed, has a policy tried.
func TestWhatDoesNotSaySoIsEnforced(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	good := dryrun.Encode("p.yaml:2")
	flipped := bytes.Clone(good)
	flipped[7] ^= 1
	for name, p := range map[string]*program.Program{
		"an empty section":          with(testProgram(2, testLimits()), dryrun.Name, []byte{}),
		"zero bytes":                with(testProgram(2, testLimits()), dryrun.Name, make([]byte, len(good))),
		"an altered section":        with(testProgram(2, testLimits()), dryrun.Name, flipped),
		"a section with more in it": with(testProgram(2, testLimits()), dryrun.Name, append(bytes.Clone(good), 0)),
		"another name":              with(testProgram(2, testLimits()), "dryRun", good),
		"tried without a module":    with(testProgram(2, testLimits()), "authz.dryrun", nobody),
		"tried where it cannot be":  with(testProgram(2, testLimits()), "filter.dryrun", nobody),
		"tried and malformed":       with(testProgram(2, testLimits()), dryrun.Of(flow.Name), []byte{1}),
		"tried twice over":          with(with(testProgram(2, testLimits()), dryrun.Of(flow.Name), nobody), dryrun.Name, good),
		"tried and not enforced":    {Revision: 2, Tenant: "acme", Workload: "shop", Levels: []string{"normal"}, Sections: []program.Section{{Name: dryrun.Of(flow.Name), Data: nobody}}},
	} {
		before := r.life.server.current()
		r.send(control.Prepare{Txn: 1, Slot: 1, Length: r.put(1, p)}.Frame())
		if a, ok := r.next().(control.Prepared); !ok || a.Err == "" {
			t.Errorf("%s: %+v", name, a)
		}
		if r.life.server.current() != before {
			t.Errorf("%s: it is in force", name)
		}
	}
	// Each byte of what says so, in a program that was signed without it.
	p := with(testProgram(2, testLimits()), dryrun.Name, good)
	n := r.put(1, p)
	at := bytes.Index(r.window[testSlot:], good)
	for i := range good {
		r.window[testSlot+at+i] ^= 0x40
		r.send(control.Prepare{Txn: 1, Slot: 1, Length: n}.Frame())
		if a, ok := r.next().(control.Prepared); !ok || !strings.Contains(a.Err, "signature") {
			t.Errorf("byte %d altered: %+v", i, a)
		}
		r.window[testSlot+at+i] ^= 0x40
	}
	if resp, _ := r.ask(getNowhere); resp.StatusCode != 404 {
		t.Errorf("got %d", resp.StatusCode)
	}
}
