package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/api"
)

// A row is what one run showed.
type row struct {
	run
	kernel string
	doctor struct {
		Tier     string `json:"tier"`
		Findings []struct {
			Name   string `json:"name"`
			OK     bool   `json:"ok"`
			Detail string `json:"detail"`
		} `json:"findings"`
	}
	suites []result
}

// A result is what became of the tests of a suite; of a test with parts, the parts
// count.
type result struct {
	suite          string
	passed, failed []string
	notRun         []string
	ended          string // "ok", or how else
	lines          []string
}

// listen reads what a guest says until it has no more to say.
func listen(in io.Reader) (rows []*row, err error) {
	kernel, done := "", false
	var at *row
	var began time.Time
	for lines := bufio.NewScanner(in); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		said, ok := strings.CutPrefix(line, mark)
		if !ok {
			if at != nil && len(at.suites) > 0 {
				s := &at.suites[len(at.suites)-1]
				s.lines = append(s.lines, line)
			}
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(said), &e); err != nil {
			return rows, fmt.Errorf("the guest says %q: %w", line, err)
		}
		switch {
		case e.Failed != "":
			return rows, fmt.Errorf("the guest: %s", e.Failed)
		case e.Done:
			done = true
		case e.Kernel != "":
			kernel = e.Kernel
			fmt.Println("  ", kernel)
		case e.Run != nil:
			at = &row{run: *e.Run, kernel: kernel}
			rows = append(rows, at)
		case at == nil:
			return rows, fmt.Errorf("the guest says %q before any run", line)
		case e.Doctor != nil:
			if err := json.Unmarshal(e.Doctor, &at.doctor); err != nil {
				return rows, fmt.Errorf("lorica doctor: %w", err)
			}
			fmt.Printf("   %s: tier %s\n", at.run, at.doctor.Tier)
		case e.Suite != "":
			at.suites = append(at.suites, result{suite: e.Suite})
			began = time.Now()
		case len(at.suites) == 0:
			return rows, fmt.Errorf("the guest says %q before any suite", line)
		default:
			s := &at.suites[len(at.suites)-1]
			if e.NotRun != "" {
				s.notRun = append(s.notRun, e.NotRun)
				continue
			}
			s.ended = e.Ended
			s.count()
			fmt.Printf("      %-8s %s (%.0f s)\n", s.suite, s, time.Since(began).Seconds())
		}
	}
	if !done {
		return rows, fmt.Errorf("the machine went off before all was run")
	}
	return rows, nil
}

// count reads the lines that a test binary ends tests with.
func (s *result) count() {
	end := regexp.MustCompile(`^\s*--- (PASS|FAIL): (.+) \(`)
	var names []string
	passed := map[string]bool{}
	for _, l := range s.lines {
		if m := end.FindStringSubmatch(l); m != nil {
			names = append(names, m[2])
			passed[m[2]] = m[1] == "PASS"
		}
	}
	for _, n := range names {
		parts, bad := 0, 0
		for _, other := range names {
			if strings.HasPrefix(other, n+"/") {
				parts++
				if !passed[other] {
					bad++
				}
			}
		}
		switch {
		case !passed[n] && bad == 0:
			s.failed = append(s.failed, n)
		case passed[n] && parts == 0:
			s.passed = append(s.passed, n)
		}
	}
}

// String is how the result stands in the table.
func (s *result) String() string {
	return fmt.Sprintf("%d / %d / %d", len(s.passed), len(s.failed), len(s.notRun))
}

// wrong says what is not as it should be.
func (r *row) wrong(want release) (list []string) {
	tier := api.TierFull
	switch {
	case want.landlock == 0:
		tier = api.TierNoLandlock
	case !r.Userns:
		tier = api.TierNoUserns
	}
	if r.doctor.Tier != tier.String() {
		list = append(list, fmt.Sprintf("lorica doctor finds tier %q, want %q", r.doctor.Tier, tier))
	}
	for name, ok := range map[string]bool{"seccomp": true, "namespaces": r.Userns, "landlock": want.landlock > 0, "mseal": want.mseal, "cgroup": true} {
		if found, detail := r.finding(name); found != ok {
			list = append(list, fmt.Sprintf("lorica doctor finds %s %v, want %v: %s", name, found, ok, detail))
		}
	}
	if _, abi := r.finding("landlock"); want.landlock > 0 && abi != fmt.Sprintf("ABI %d", want.landlock) {
		list = append(list, fmt.Sprintf("lorica doctor finds Landlock %s, want ABI %d", abi, want.landlock))
	}
	if len(r.suites) != len(suites()) {
		list = append(list, fmt.Sprintf("%d suites were run, want %d", len(r.suites), len(suites())))
	}
	for _, s := range r.suites {
		if len(s.failed) == 0 && s.ended == "ok" && len(s.passed) > 0 {
			continue
		}
		list = append(list, fmt.Sprintf("%s ended with %q; %d passed, failed: %q\n%s", s.suite, s.ended, len(s.passed), s.failed, strings.Join(s.told(), "\n")))
	}
	return list
}

// told is what the suite wrote, without the tests that went well.
func (s *result) told() []string {
	return slices.DeleteFunc(slices.Clone(s.lines), func(l string) bool {
		l = strings.TrimSpace(l)
		return strings.HasPrefix(l, "=== ") || strings.HasPrefix(l, "--- PASS")
	})
}

func (r *row) finding(name string) (ok bool, detail string) {
	for _, f := range r.doctor.Findings {
		if f.Name == name {
			return f.OK, f.Detail
		}
	}
	return false, "nothing"
}

func (r run) String() string {
	s := "root"
	if r.UID != 0 {
		s = "ordinary user"
	}
	if !r.Userns {
		return s + " without user namespaces"
	}
	return s + " with user namespaces"
}

const heading = `# Kernels

Written by ` + "`make kernels`" + `, which boots the kernels of other releases of Debian under QEMU and runs there the tests of ` + "`tender/process`, `tender`" + ` and
` + "`test/redteam`" + ` (the kill tests), each as root and as an ordinary user, with and without user namespaces, with Landlock and without, and with a cgroup that is
delegated to the tender. Whatever is not as a row says fails it. Tests are counted as passed / failed / not run; of a test with parts, the parts count.

`

// write writes the table, and what was not run.
func write(w io.Writer, rows []*row) {
	fmt.Fprintln(w, "| kernel | Landlock | mseal | user | user namespaces | tier reached | tests of confinement | kill tests |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	yes := map[bool]string{true: "yes", false: "no"}
	notRun := map[string][]string{} // by reason
	for _, r := range rows {
		user := "root"
		if r.UID != 0 {
			user = "ordinary"
		}
		landlock := "off"
		if ok, abi := r.finding("landlock"); ok {
			landlock = abi
		}
		mseal, _ := r.finding("mseal")
		var kill, rest result
		for _, s := range r.suites {
			to := &rest
			if s.suite == "redteam" {
				to = &kill
			}
			to.passed, to.failed, to.notRun = append(to.passed, s.passed...), append(to.failed, s.failed...), append(to.notRun, s.notRun...)
			for _, n := range s.notRun {
				if !slices.Contains(notRun[n], r.doctor.Tier) {
					notRun[n] = append(notRun[n], r.doctor.Tier)
				}
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.kernel, landlock, yes[mseal], user, yes[r.Userns], r.doctor.Tier, &rest, &kill)
	}
	fmt.Fprint(w, "\nNot run there:\n\n")
	for _, n := range slices.Sorted(maps.Keys(notRun)) {
		fmt.Fprintf(w, "- %s (tier %s)\n", n, strings.Join(notRun[n], ", "))
	}
}
