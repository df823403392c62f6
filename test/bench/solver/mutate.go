package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// A stanza is a package as text: what a check needs of it.
type stanza struct {
	name, version string
	essential     bool
	fields        []string // in their order
	depends       []string // clauses
}

// mutate writes repositories in which much is broken: with packages dropped, with
// conflicts that nobody declared, and with second versions that others ask for.
func (m *run) mutate() error {
	text, err := os.ReadFile(m.packages)
	if err != nil {
		return err
	}
	all := stanzas(string(text))
	if len(all) < 1000 {
		return fmt.Errorf("%s: only %d packages", m.packages, len(all))
	}
	for i, change := range []struct {
		name string
		to   func(*rand.Rand, []stanza) []stanza
	}{{"dropped", dropped}, {"conflicts", conflicting}, {"versions", versioned}} {
		var b strings.Builder
		for _, s := range change.to(rand.New(rand.NewPCG(1, uint64(i))), all) {
			b.WriteString(s.text())
		}
		if err := os.WriteFile(filepath.Join(m.out, change.name), []byte(b.String()), 0o600); err != nil {
			return err
		}
		measured("mutate/"+change.name, float64(b.Len()))
	}
	return nil
}

func stanzas(text string) []stanza {
	asked := map[string]bool{"Package": true, "Version": true, "Architecture": true, "Multi-Arch": true,
		"Pre-Depends": true, "Conflicts": true, "Breaks": true, "Provides": true}
	var all []stanza
	for part := range strings.SplitSeq(text, "\n\n") {
		var s stanza
		for line := range strings.SplitSeq(part, "\n") {
			name, value, ok := strings.Cut(line, ": ")
			switch {
			case !ok || strings.HasPrefix(line, " "):
			case name == "Depends":
				s.depends = strings.Split(value, ", ")
			case name == "Essential":
				s.essential = true
				s.fields = append(s.fields, line)
			case asked[name]:
				s.fields = append(s.fields, line)
				switch name {
				case "Package":
					s.name = value
				case "Version":
					s.version = value
				}
			}
		}
		if s.name != "" {
			all = append(all, s)
		}
	}
	return all
}

func (s *stanza) text() string {
	text := strings.Join(s.fields, "\n") + "\n"
	if len(s.depends) > 0 {
		text += "Depends: " + strings.Join(s.depends, ", ") + "\n"
	}
	return text + "\n"
}

// with returns the package with a line of a field more, or another line in place of
// that which the field has.
func (s *stanza) with(field, value string, join bool) stanza {
	t := *s
	t.fields = append([]string(nil), s.fields...)
	for i, f := range t.fields {
		if old, ok := strings.CutPrefix(f, field+": "); ok {
			if join {
				value = old + ", " + value
			}
			t.fields[i] = field + ": " + value
			return t
		}
	}
	t.fields = append(t.fields, field+": "+value)
	return t
}

// first returns the name with which a clause begins.
func first(clause string) string {
	return strings.FieldsFunc(clause, func(c rune) bool { return c == ' ' || c == ':' })[0]
}

// used returns the name of a package that others depend on, the likelier the more do.
func used(r *rand.Rand, all []stanza) string {
	for {
		if d := all[r.IntN(len(all))].depends; len(d) > 0 {
			return first(d[r.IntN(len(d))])
		}
	}
}

// dropped leaves out one package of three hundred.
func dropped(r *rand.Rand, all []stanza) (left []stanza) {
	for _, s := range all {
		if r.IntN(300) != 0 || s.essential {
			left = append(left, s)
		}
	}
	return left
}

// conflicting has packages that are used be at odds with others that are: not those that
// every machine has.
func conflicting(r *rand.Rand, all []stanza) []stanza {
	changed := append([]stanza(nil), all...)
	at := map[string]int{}
	everywhere := map[string]bool{}
	var open []string
	for i, s := range all {
		at[s.name] = i
		if s.essential {
			open = append(open, s.name)
		}
	}
	for len(open) > 0 {
		name := open[0]
		open = open[1:]
		i, ok := at[name]
		if !ok || everywhere[name] {
			continue
		}
		everywhere[name] = true
		for _, d := range all[i].depends {
			open = append(open, first(d))
		}
		for _, f := range all[i].fields {
			if list, ok := strings.CutPrefix(f, "Pre-Depends: "); ok {
				for d := range strings.SplitSeq(list, ", ") {
					open = append(open, first(d))
				}
			}
		}
	}
	for n := 0; n < 20; {
		i, ok := at[used(r, all)]
		other := used(r, all)
		if ok && !everywhere[all[i].name] && !everywhere[other] {
			changed[i] = changed[i].with("Conflicts", other, true)
			n++
		}
	}
	return changed
}

// versioned has a later version of one package of forty, and asks for it, or for one that
// there is not, in one of four hundred.
func versioned(r *rand.Rand, all []stanza) (changed []stanza) {
	version := map[string]string{}
	for _, s := range all {
		version[s.name] = s.version
	}
	later := func(s stanza) stanza {
		for i, d := range s.depends {
			name, _, _ := strings.Cut(d, " ")
			if v := version[name]; v != "" && r.IntN(3) == 0 {
				s.depends = append([]string(nil), s.depends...)
				s.depends[i] = fmt.Sprintf("%s (>> %s)", name, v)
				break
			}
		}
		return s
	}
	for _, s := range all {
		if r.IntN(400) == 0 {
			changed = append(changed, later(s))
		} else {
			changed = append(changed, s)
		}
		if r.IntN(40) == 0 {
			second := s.with("Version", s.version+"+later1", false)
			changed = append(changed, later(second))
		}
	}
	return changed
}
