package catalog

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/api"
)

const options = `id: example.com/guard
version: "1"
summary: refuses what it is told to
class: guard
config:
  - {name: header, kind: text, summary: which header, required: true, least: 1, most: 10}
  - {name: mode, kind: text, summary: how, default: strict, oneOf: [strict, lax]}
  - {name: limit, kind: number, summary: how many, default: "10", least: 1, most: 100}
  - {name: count, kind: number, summary: how many}
  - {name: shift, kind: number, summary: how far, least: -10}
  - {name: deny, kind: switch, summary: whether, default: "true"}
  - {name: names, kind: texts, summary: whom, default: "a, b", oneOf: [a, b, c], most: 2}
  - {name: window, kind: duration, summary: how long, default: 30s, least: 1, most: 60}
`

var (
	named = api.Pos{File: "w.yaml", Line: 9, Column: 7}
	place = api.Pos{File: "w.yaml", Line: 10, Column: 20}
)

func text(name, v string) settings.Value {
	return settings.Value{Name: name, Kind: settings.Text, Text: v}
}
func number(name string, v int64) settings.Value {
	return settings.Value{Name: name, Kind: settings.Number, Number: v}
}
func list(name string, v ...string) settings.Value {
	return settings.Value{Name: name, Kind: settings.List, List: v}
}
func flag(name string, v bool) settings.Value {
	return settings.Value{Name: name, Kind: settings.Flag, Flag: v}
}

func settingsOf(t *testing.T, values ...settings.Value) (settings.Section, error) {
	t.Helper()
	m, err := ParseOwn("m.yaml", []byte(options), "example.com/guard")
	if err != nil {
		t.Fatal(err)
	}
	var list []api.Setting
	for _, v := range values {
		list = append(list, api.Setting{Pos: place, Value: v})
	}
	return m.Settings(named, list)
}

func TestSettingsAndDefaults(t *testing.T) {
	defaults := []settings.Value{text("mode", "strict"), number("limit", 10), flag("deny", true), list("names", "a", "b"), number("window", 30e9)}
	for _, c := range []struct {
		name  string
		given []settings.Value
		want  []settings.Value
	}{
		{"what is needed", []settings.Value{text("header", "X")}, append([]settings.Value{text("header", "X")}, defaults...)},
		{"everything", []settings.Value{text("header", "X"), text("mode", "lax"), number("limit", 100), number("count", math.MaxInt64), number("shift", -10), flag("deny", false), list("names"), text("window", "1m")},
			[]settings.Value{text("header", "X"), text("mode", "lax"), number("limit", 100), number("count", math.MaxInt64), number("shift", -10), flag("deny", false), list("names"), number("window", 60e9)}},
	} {
		s, err := settingsOf(t, c.given...)
		if err != nil || s.Line != "w.yaml:9" {
			t.Errorf("%s: %+v, %v", c.name, s, err)
			continue
		}
		want := settings.Section{Line: "w.yaml:9", Values: c.want}
		if got, err := settings.Decode(s.Encode()); err != nil || !reflect.DeepEqual(got.Encode(), want.Encode()) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestSettingsThatAModuleDoesNotTake(t *testing.T) {
	header := text("header", "X")
	for _, c := range []struct {
		name  string
		given []settings.Value
		want  string
	}{
		{"nothing", nil, "w.yaml:9:7: module example.com/guard needs the setting header (text): which header"},
		{"one that there is not", []settings.Value{text("heder", "X")}, `w.yaml:10:20: module example.com/guard has no setting "heder": it has header, mode, limit`},
		{"a number for text", []settings.Value{number("header", 1)}, "w.yaml:10:20: setting header of module example.com/guard: want text, from 1 to 10 bytes"},
		{"text for a number", []settings.Value{header, text("limit", "5")}, "w.yaml:10:20: setting limit of module example.com/guard: want a whole number, from 1 to 100"},
		{"text for a list", []settings.Value{header, text("names", "a")}, "want a list of text, from 0 to 2 elements"},
		{"text for a switch", []settings.Value{header, text("deny", "true")}, "want true or false"},
		{"a number for a duration", []settings.Value{header, number("window", 5)}, "want a duration, such as 30s"},
		{"too little text", []settings.Value{text("header", "")}, "want text, from 1 to 10 bytes"},
		{"too much text", []settings.Value{text("header", "12345678901")}, "want text, from 1 to 10 bytes"},
		{"too low", []settings.Value{header, number("limit", 0)}, "from 1 to 100"},
		{"too high", []settings.Value{header, number("limit", 101)}, "from 1 to 100"},
		{"negative without being asked", []settings.Value{header, number("count", -1)}, "want a whole number, at least 0"},
		{"too far", []settings.Value{header, number("shift", -11)}, "want a whole number, at least -10"},
		{"another word", []settings.Value{header, text("mode", "Strict")}, `"Strict" is none of strict, lax`},
		{"another word in a list", []settings.Value{header, list("names", "a", "x")}, `"x" is none of a, b, c`},
		{"a long list", []settings.Value{header, list("names", "a", "b", "c")}, "from 0 to 2 elements"},
		{"no duration", []settings.Value{header, text("window", "soon")}, `"soon" is not a duration`},
		{"a negative duration", []settings.Value{header, text("window", "-5s")}, `"-5s" is not a duration`},
		{"too short", []settings.Value{header, text("window", "10ms")}, "from 1 to 60 seconds"},
		{"too long", []settings.Value{header, text("window", "61s")}, "from 1 to 60 seconds"},
		{"a little too long", []settings.Value{header, text("window", "60.001s")}, "from 1 to 60 seconds"},
	} {
		s, err := settingsOf(t, c.given...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v\nwant %s", c.name, s, err, c.want)
		}
	}
	none, err := ParseOwn("m.yaml", []byte(options[:strings.Index(options, "config:")]), "example.com/guard")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Settings(named, []api.Setting{{Pos: place, Value: header}}); err == nil || !strings.Contains(err.Error(), "it has none") {
		t.Errorf("a module without settings: %v", err)
	}
}
