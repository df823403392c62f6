package redteam

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender"
)

var update = flag.Bool("update", false, "rewrite the golden files, and the section of docs/threat-model.md")

// A probe is one abuse of a system call that the manifests list, by the
// application of a real image. Gives says what it is good for where it is
// answered; empty, it must not be.
type probe struct {
	tried  string
	calls  string // "name argument ...", several with ";": the last one counts
	attack string // instead: one of testdata/hostile/app/attacks.go, which makes the call
	gives  string
	ends   string            // part of why the image ends otherwise than by the filter
	after  func(*life) error // what must hold after an answer
	full   bool              // what ends it takes full confinement
	wait   time.Duration     // how long the tender waits for the image; 0: as always
}

// What a tender says of an image that ended by itself, and of any: where a channel
// is closed, either side may be the first to notice.
const ended, either = "the image ended", "the image "

// outcome carries out a probe against an image of its own.
func (p probe) outcome(numbers map[string]uint64, change ...func(*tender.Config)) (text string, err error) {
	l, err := live(append(change, func(c *tender.Config) {
		if p.wait > 0 {
			c.Patience = p.wait
		}
	})...)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	return p.against(l, numbers)
}

// against carries it out against an image that others have attacked before.
func (p probe) against(l *life, numbers map[string]uint64) (text string, err error) {
	o := order{Attack: p.attack}
	for c := range strings.SplitSeq(p.calls, ";") {
		if p.attack != "" {
			break
		}
		if words := strings.Fields(c); len(words) > 0 {
			nr, ok := numbers[words[0]]
			if !ok {
				return "", fmt.Errorf("there is no system call %q", words[0])
			}
			o.Calls = append(o.Calls, systemCall{Nr: nr, Args: words[1:]})
		}
	}
	answers, err := l.tell(o)
	if errors.Is(err, errDied) || err == nil && p.ends != "" {
		death, late := l.death()
		if late != nil {
			return "", errors.Join(err, late)
		}
		return p.ended(death)
	}
	if err != nil {
		return "", err
	}
	last := answers[len(answers)-1]
	if last.Errno != 0 {
		return "refused: " + unix.ErrnoName(last.Errno), nil
	}
	if strings.HasPrefix(last.Text, "refused: ") {
		return last.Text, nil
	}
	if p.after != nil {
		if err := p.after(l); err != nil {
			return "", err
		}
	}
	if p.gives == "" {
		return "", fmt.Errorf("it was answered: %+v", answers)
	}
	return p.gives, err
}

func (p probe) ended(death string) (string, error) {
	switch {
	case strings.Contains(death, sigsys):
		return "**killed**", nil
	case p.ends == "":
		return "", fmt.Errorf("the image ended otherwise: %s", death)
	case !strings.Contains(death, p.ends) && !strings.Contains(death, "of its cgroup"):
		return "", fmt.Errorf("the image ended by %q, not by %q", death, p.ends)
	}
	if p.ends == ended || p.ends == either {
		return "ends the image", nil
	}
	return "ends the image: " + p.ends, nil
}

// subject is the call that a probe is about.
func (p probe) subject() string {
	calls := strings.Split(p.calls, ";")
	name, _, _ := strings.Cut(strings.TrimSpace(calls[len(calls)-1]), " ")
	return name
}

// What an application that has been taken over can do with the calls that it has
// is published in docs/threat-model.md, from what it could do here.
func TestWhatACompromisedApplicationCanDo(t *testing.T) {
	names, may := numbered(t), listed(t, hostile.built)
	numbers := map[string]uint64{}
	for n, name := range names {
		numbers[name] = n
	}
	neighbour, err := live()
	if err != nil {
		t.Fatal(err)
	}
	defer neighbour.end()

	rows := make([]string, len(probes))
	died := make([]bool, len(probes))
	each(len(probes), func(i int) {
		p := probes[i]
		var out string
		var err error
		if p.full && attacker.tier != api.TierFull {
			notrun.Say(t, p.subject()+": "+p.tried, "this machine gives tier "+attacker.tier.String())
			out, err = p.ended(p.ends)
		} else {
			out, err = p.outcome(numbers)
		}
		if err != nil {
			t.Errorf("%s %s: %v", p.subject(), p.tried, err)
		}
		call := "`" + p.subject() + "`"
		if p.subject() == "" {
			call = ""
		}
		died[i] = out == "**killed**"
		rows[i] = fmt.Sprintf("| %s | %s | %s |", call, p.tried, out)
	})
	if a, err := neighbour.tell(order{Attack: "none"}); err != nil || a[0].Text != "served" {
		t.Errorf("the neighbour answers %+v, %v", a, err)
	}
	if s := status(t, neighbour.Client); s.Restarts != 0 {
		t.Errorf("the neighbour has died: %s", s.LastError)
	}

	for name := range may {
		tried, open := false, false
		for i, p := range probes {
			if p.subject() == name {
				tried, open = true, open || !died[i]
			}
		}
		if !tried {
			t.Errorf("%s is listed in a manifest, and no abuse of it was tried", name)
		} else if !open {
			t.Errorf("%s is listed in a manifest, and the filter lets nothing of it through", name)
		}
	}
	for i, p := range probes {
		if s := p.subject(); s != "" && !may[s] && !died[i] {
			t.Errorf("%s is in no manifest, and was not killed: %s", s, rows[i])
		}
	}
	if t.Failed() {
		return
	}
	slices.SortStableFunc(rows, func(a, b string) int { return strings.Compare(column(a), column(b)) })
	publish(t, "redteam", "| call | tried | outcome |\n|---|---|---|\n"+strings.Join(rows, "\n")+"\n")
}

func column(row string) string { return strings.Trim(strings.Split(row, "|")[1], " `") }

const document = "../../docs/threat-model.md"

// publish compares what was found with what the document says in a section, or
// writes it there.
func publish(t *testing.T, section, table string) {
	t.Helper()
	beginTable := "<!-- " + section + ":begin, written by go test ./test/redteam -update -->\n"
	endTable := "<!-- " + section + ":end -->\n"
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), beginTable)
	said, tail, closed := strings.Cut(rest, endTable)
	if !ok || !closed {
		t.Fatalf("%s has no section between %q and %q", document, beginTable, endTable)
	}
	t.Logf("what a compromised application can still do:\n%s", table)
	if said == table {
		return
	}
	if *update {
		if err := os.WriteFile(document, []byte(head+beginTable+table+endTable+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	was, is := strings.Split(said, "\n"), strings.Split(table, "\n")
	var diff bytes.Buffer
	for _, line := range was {
		if !slices.Contains(is, line) {
			fmt.Fprintln(&diff, "-", line)
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			fmt.Fprintln(&diff, "+", line)
		}
	}
	t.Errorf("%s says otherwise (-update rewrites it):\n%s", document, &diff)
}
