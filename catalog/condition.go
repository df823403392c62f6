package catalog

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// arguments is the number of arguments that a system call has.
const arguments = 6

var (
	compareForm = regexp.MustCompile(`^arg([0-9])(?: & (0x[0-9a-f]+|0|[1-9][0-9]*))? == (self|0x[0-9a-f]+|0|[1-9][0-9]*)$`)
	outsideForm = regexp.MustCompile(`^arg([0-9])\+arg([0-9]) outside program$`)
)

// ParseCondition reads a condition in one of its four forms:
//
//	arg0 == 0xd0f00
//	arg2 & 0x4 == 0
//	arg0 == self
//	arg0+arg1 outside program
//
// Values are unsigned 64-bit numbers, decimal or hexadecimal in lower case.
// Comparisons that hold always or never are refused: they hide a mistake.
func ParseCondition(s string) (Condition, error) {
	if m := outsideForm.FindStringSubmatch(s); m != nil {
		c := Condition{Kind: Outside, Arg: int(m[1][0] - '0'), Length: int(m[2][0] - '0')}
		return c, c.check(s)
	}
	m := compareForm.FindStringSubmatch(s)
	if m == nil {
		return Condition{}, fmt.Errorf("condition %q: want \"argN == VALUE\", \"argN & MASK == VALUE\", \"argN == self\" or \"argN+argM outside program\"", s)
	}
	c := Condition{Kind: Equal, Arg: int(m[1][0] - '0')}
	if m[3] == "self" {
		if m[2] != "" {
			return Condition{}, fmt.Errorf("condition %q: the process id is compared whole", s)
		}
		c.Kind = Self
		return c, c.check(s)
	}
	var err error
	if m[2] != "" {
		c.Kind = Masked
		if c.Mask, err = strconv.ParseUint(m[2], 0, 64); err != nil {
			return Condition{}, fmt.Errorf("condition %q: the mask %s is not a 64-bit number", s, m[2])
		}
	}
	if c.Value, err = strconv.ParseUint(m[3], 0, 64); err != nil {
		return Condition{}, fmt.Errorf("condition %q: the value %s is not a 64-bit number", s, m[3])
	}
	return c, c.check(s)
}

func (c Condition) check(s string) error {
	switch {
	case c.Arg >= arguments || c.Length >= arguments:
		return fmt.Errorf("condition %q: arguments are arg0 to arg%d", s, arguments-1)
	case c.Kind == Outside && c.Arg == c.Length:
		return fmt.Errorf("condition %q: the address and the length are the same argument", s)
	case c.Kind == Masked && c.Mask == 0:
		return fmt.Errorf("condition %q: an empty mask compares nothing", s)
	case c.Kind == Masked && c.Value&^c.Mask != 0:
		return fmt.Errorf("condition %q: never true, the value has bits outside the mask", s)
	}
	return nil
}

// String returns the form that ParseCondition reads.
func (c Condition) String() string {
	switch c.Kind {
	case Equal:
		return fmt.Sprintf("arg%d == %#x", c.Arg, c.Value)
	case Masked:
		return fmt.Sprintf("arg%d & %#x == %#x", c.Arg, c.Mask, c.Value)
	case Self:
		return fmt.Sprintf("arg%d == self", c.Arg)
	case Outside:
		return fmt.Sprintf("arg%d+arg%d outside program", c.Arg, c.Length)
	}
	return "never"
}

// MarshalText returns the form that ParseCondition reads.
func (c Condition) MarshalText() ([]byte, error) {
	if _, err := ParseCondition(c.String()); err != nil {
		return nil, err
	}
	return []byte(c.String()), nil
}

// UnmarshalText is ParseCondition.
func (c *Condition) UnmarshalText(b []byte) error {
	p, err := ParseCondition(string(b))
	if err != nil {
		return err
	}
	*c = p
	return nil
}

// String returns the call and its conditions: "mmap (arg2 & 0x4 == 0)".
func (s Syscall) String() string {
	if len(s.When) == 0 {
		return s.Name
	}
	parts := make([]string, len(s.When))
	for i, c := range s.When {
		parts[i] = c.String()
	}
	return s.Name + " (" + strings.Join(parts, ", ") + ")"
}

// Equal reports whether s and t are the same call under the same conditions.
func (s Syscall) Equal(t Syscall) bool {
	return s.Name == t.Name && s.With == t.With && slices.Equal(s.When, t.When)
}

// Syscalls returns what modules need together, sorted and each entry once: of a call
// that is needed with a capability alone, only where one of them provides it. A
// call that one module needs without conditions is listed without any.
func Syscalls(modules []*Module) []Syscall {
	var all []Syscall
	free := map[string]bool{}
	has := map[string]bool{"": true}
	for _, m := range modules {
		has[m.ID] = true
		for _, c := range m.Provides {
			has[c] = true
		}
	}
	for _, m := range modules {
		for _, s := range m.Syscalls {
			if !has[s.With] {
				continue
			}
			s.With = ""
			free[s.Name] = free[s.Name] || len(s.When) == 0
			all = append(all, s)
		}
	}
	all = slices.DeleteFunc(all, func(s Syscall) bool { return free[s.Name] && len(s.When) > 0 })
	slices.SortFunc(all, func(a, b Syscall) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(all, Syscall.Equal)
}
