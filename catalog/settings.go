package catalog

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/api"
)

// Settings checks what a workload sets for m, where it is written, against the options
// of its manifest, and returns the section that m is given: what is set, and the
// defaults of what is not. Its error, if any, is an *Error; one about what is missing is
// at the place where the module is named.
func (m *Module) Settings(named api.Pos, given []api.Setting) (settings.Section, error) {
	s := settings.Section{Line: named.Short()}
	for _, g := range given {
		o := m.option(g.Name)
		if o == nil {
			return s, &Error{g.Pos, fmt.Sprintf("module %s has no setting %q: %s", m.ID, g.Name, m.optionNames())}
		}
		v, err := o.take(g.Value)
		if err != nil {
			return s, &Error{g.Pos, fmt.Sprintf("setting %s of module %s: %s", g.Name, m.ID, err)}
		}
		s.Values = append(s.Values, v)
	}
	for i := range m.Config {
		o := &m.Config[i]
		switch {
		case s.Has(o.Name):
		case o.Required:
			return s, &Error{named, fmt.Sprintf("module %s needs the setting %s (%s): %s", m.ID, o.Name, o.Kind, o.Summary)}
		case o.Default != "":
			v, err := o.parse(o.Default)
			if err != nil {
				return s, &Error{named, fmt.Sprintf("module %s: the default of %s: %s", m.ID, o.Name, err)}
			}
			s.Values = append(s.Values, v)
		}
	}
	return s, nil
}

func (m *Module) option(name string) *Option {
	i := slices.IndexFunc(m.Config, func(o Option) bool { return o.Name == name })
	if i < 0 {
		return nil
	}
	return &m.Config[i]
}

func (m *Module) optionNames() string {
	if len(m.Config) == 0 {
		return "it has none"
	}
	var names []string
	for _, o := range m.Config {
		names = append(names, o.Name)
	}
	return "it has " + strings.Join(names, ", ")
}

// kinds are what values of an option are written as.
func (k OptionKind) written() settings.Kind {
	switch k {
	case Number:
		return settings.Number
	case Switch:
		return settings.Flag
	case Texts:
		return settings.List
	}
	return settings.Text
}

// take checks a value and returns it as the module gets it: durations as nanoseconds.
func (o *Option) take(v settings.Value) (settings.Value, error) {
	if v.Kind != o.Kind.written() {
		return v, fmt.Errorf("want %s", o.wanted())
	}
	measure := v.Number
	switch o.Kind {
	case Text:
		measure = int64(len(v.Text))
		if len(o.OneOf) > 0 && !slices.Contains(o.OneOf, v.Text) {
			return v, fmt.Errorf("%q is none of %s", v.Text, strings.Join(o.OneOf, ", "))
		}
	case Texts:
		measure = int64(len(v.List))
		for _, e := range v.List {
			if len(o.OneOf) > 0 && !slices.Contains(o.OneOf, e) {
				return v, fmt.Errorf("%q is none of %s", e, strings.Join(o.OneOf, ", "))
			}
		}
	case Seconds:
		d, err := time.ParseDuration(v.Text)
		if err != nil || d < 0 {
			return v, fmt.Errorf("%q is not a duration, such as 30s or 5m", v.Text)
		}
		v = settings.Value{Name: v.Name, Kind: settings.Number, Number: int64(d)}
		if measure = int64(d / time.Second); d%time.Second > 0 && o.Most != nil && measure == *o.Most {
			measure++ // a part of a second more
		}
	}
	if least, most := o.bounds(); measure < least || measure > most {
		return v, fmt.Errorf("want %s", o.wanted())
	}
	return v, v.Check()
}

// bounds are the least and the most of what is measured: where nothing is said, no
// number is negative.
func (o *Option) bounds() (least, most int64) {
	most = math.MaxInt64
	if o.Least != nil {
		least = *o.Least
	}
	if o.Most != nil {
		most = *o.Most
	}
	return least, most
}

// check says what of an option can never be.
func (o *Option) check() error {
	least, most := o.bounds()
	switch {
	case o.Kind == Switch && (o.Least != nil || o.Most != nil):
		return errors.New("a switch has no bounds")
	case least > most:
		return fmt.Errorf("least is %d, and most is %d", least, most)
	case len(o.OneOf) > 0 && o.Kind != Text && o.Kind != Texts:
		return fmt.Errorf("oneOf is not for the kind %s", o.Kind)
	case o.Default != "":
		if _, err := o.parse(o.Default); err != nil {
			return fmt.Errorf("its default: %w", err)
		}
	}
	return nil
}

// parse reads a default, which stands in a manifest as text.
func (o *Option) parse(text string) (v settings.Value, err error) {
	v = settings.Value{Name: o.Name, Kind: o.Kind.written()}
	switch v.Kind {
	case settings.Number:
		v.Number, err = strconv.ParseInt(text, 10, 64)
	case settings.Flag:
		v.Flag, err = text == "true", nil
		if text != "true" && text != "false" {
			err = fmt.Errorf("%q is neither true nor false", text)
		}
	case settings.List:
		for e := range strings.SplitSeq(text, ",") {
			v.List = append(v.List, strings.TrimSpace(e))
		}
	default:
		v.Text = text
	}
	if err != nil {
		return v, err
	}
	return o.take(v)
}

// wanted says what values of the option are.
func (o *Option) wanted() string {
	x := map[OptionKind]struct{ what, unit string }{Text: {"text", " bytes"}, Number: {"a whole number", ""}, Switch: {"true or false", ""},
		Texts: {"a list of text", " elements"}, Seconds: {"a duration, such as 30s", " seconds"}}[o.Kind]
	least, most := o.bounds()
	switch {
	case o.Kind == Switch || o.Least == nil && o.Most == nil && o.Kind != Number:
		return x.what
	case o.Most == nil:
		return fmt.Sprintf("%s, at least %d%s", x.what, least, x.unit)
	}
	return fmt.Sprintf("%s, from %d to %d%s", x.what, least, most, x.unit)
}
