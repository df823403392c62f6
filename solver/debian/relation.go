package debian

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// A syntax is what is wrong at a byte of a value.
type syntax struct {
	at       int
	fix, msg string
}

func (e *syntax) Error() string { return e.msg }

func wrong(at int, fix, format string, args ...any) error {
	return &syntax{at, fix, fmt.Sprintf(format, args...)}
}

// clauses cuts a field at its commas and calls f with each clause, trimmed, and where
// it begins. A comma at the end is passed over, as all readers do.
func clauses(v []byte, f func(at int, text []byte) error) error {
	for at := 0; at < len(v); {
		end := bytes.IndexByte(v[at:], ',')
		if end < 0 {
			end = len(v)
		} else {
			end += at
		}
		text := bytes.TrimLeft(v[at:end], blanks)
		begin := end - len(text)
		text = bytes.TrimRight(text, blanks)
		switch {
		case len(text) > 0:
			if err := f(begin, text); err != nil {
				return err
			}
		case end < len(v) || at == 0:
			return wrong(at, "", "a package is missing before a comma")
		}
		at = end + 1
	}
	return nil
}

const blanks = " \t\n"

// parseClause reads the relations of a clause, which all may be any.
func parseClause(text string) (Clause, error) {
	c := Clause{Text: text}
	for at := 0; ; {
		end := strings.IndexByte(text[at:], '|')
		if end < 0 {
			end = len(text)
		} else {
			end += at
		}
		r, err := parseRelation(text[at:end])
		if err != nil {
			var s *syntax
			if errors.As(err, &s) {
				s.at += at
			}
			return c, err
		}
		c.Any = append(c.Any, r)
		if end == len(text) {
			return c, nil
		}
		at = end + 1
	}
}

// parseRelation reads "name:arch (op version) [arch ...]".
func parseRelation(text string) (Relation, error) {
	var r Relation
	at := span(text, blank)
	n := span(text[at:], nameByte)
	r.Name = text[at : at+n]
	if err := checkName(r.Name); err != nil {
		if n == 0 && at < len(text) {
			err = fmt.Errorf("%q where the name of a package is expected", text[at])
		}
		return r, wrong(at, "", "%v", err)
	}
	at += n
	if at < len(text) && text[at] == ':' {
		at++
		n := span(text[at:], archByte)
		if r.Arch = text[at : at+n]; n == 0 {
			return r, wrong(at, "write any, native, or an architecture such as amd64", "an architecture is missing after the colon")
		}
		at += n
	}
	at += span(text[at:], blank)
	var err error
	if at < len(text) && text[at] == '(' {
		if at, err = r.parseVersion(text, at); err != nil {
			return r, err
		}
		at += span(text[at:], blank)
	}
	if at < len(text) && text[at] == '[' {
		if at, err = r.parseArchs(text, at); err != nil {
			return r, err
		}
		at += span(text[at:], blank)
	}
	switch {
	case at == len(text):
		return r, nil
	case text[at] == '<':
		return r, wrong(at, "", "build profiles are of source packages: they cannot be in a Packages file")
	}
	return r, wrong(at, "a relation is NAME, or NAME (>= VERSION); commas and | set relations apart", "%q is not expected here", text[at])
}

// operators are those of relations. The two that dpkg warns of mean what they always
// meant.
var operators = map[string]string{"<<": "<<", "<=": "<=", "=": "=", ">=": ">=", ">>": ">>", "<": "<=", ">": ">="}

// parseVersion reads "(op version)" at a byte, and returns where it ends.
func (r *Relation) parseVersion(text string, at int) (int, error) {
	end := strings.IndexByte(text[at:], ')')
	if end < 0 {
		return 0, wrong(at, "", "the parenthesis is not closed")
	}
	end += at
	at++
	at += span(text[at:end], blank)
	n := span(text[at:end], func(c byte) bool { return c == '<' || c == '=' || c == '>' })
	op, ok := operators[text[at:at+n]]
	if !ok {
		return 0, wrong(at, "write <<, <=, =, >= or >>", "%q is no way to compare versions", text[at:at+n])
	}
	at += n
	at += span(text[at:end], blank)
	r.Op, r.Version = op, strings.TrimRight(text[at:end], blanks)
	if err := CheckVersion(r.Version); err != nil {
		return 0, wrong(at, "", "%v", err)
	}
	return end + 1, nil
}

// parseArchs reads "[arch ...]" at a byte, and returns where it ends.
func (r *Relation) parseArchs(text string, at int) (int, error) {
	end := strings.IndexByte(text[at:], ']')
	if end < 0 {
		return 0, wrong(at, "", "the bracket is not closed")
	}
	end += at
	r.Archs = strings.Fields(text[at+1 : end])
	for _, a := range r.Archs {
		name := strings.TrimPrefix(a, "!")
		switch {
		case name == "" || span(name, archByte) != len(name):
			return 0, wrong(at, "", "%q is no architecture", a)
		case (a[0] == '!') != (r.Archs[0][0] == '!'):
			return 0, wrong(at, "write all of them with !, or none", "architectures that are meant, and that are not, in one list")
		}
	}
	if len(r.Archs) == 0 {
		return 0, wrong(at, "", "the list of architectures is empty")
	}
	return end + 1, nil
}

// On reports whether the relation is there on an architecture.
func (r *Relation) On(arch string) bool {
	if len(r.Archs) == 0 {
		return true
	}
	not := r.Archs[0][0] == '!'
	for _, a := range r.Archs {
		if means(strings.TrimPrefix(a, "!"), arch) {
			return !not
		}
	}
	return not
}

// checkName says what is wrong with the name of a package, or nil.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name of a package is missing")
	case !digit(name[0]) && !letter(name[0]):
		return fmt.Errorf("%q is no name of a package: it begins with a letter or a digit", name)
	}
	if i := span(name, nameByte); i < len(name) {
		return fmt.Errorf("%q is no name of a package: %q cannot be in one", name, name[i])
	}
	return nil
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }
func nameByte(c byte) bool {
	return digit(c) || letter(c) || c == '+' || c == '-' || c == '.' || c == '_'
}
func archByte(c byte) bool { return digit(c) || letter(c) || c == '-' }
