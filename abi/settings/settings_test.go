package settings_test

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/settings"
)

func good() settings.Section {
	return settings.Section{Line: "w.yaml:9", Values: []settings.Value{
		{Name: "header", Kind: settings.Text, Text: "X-Debug"},
		{Name: "limit", Kind: settings.Number, Number: math.MinInt64},
		{Name: "names", Kind: settings.List, List: []string{"a", ""}},
		{Name: "strict", Kind: settings.Flag, Flag: true},
	}}
}

func TestSectionRoundTrip(t *testing.T) {
	for _, s := range []settings.Section{good(), {}} {
		if got, err := settings.Decode(s.Encode()); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%v, %+v", err, got)
		}
	}
}

func TestTheOrderOfSettingsSaysNothing(t *testing.T) {
	s, turned := good(), good()
	turned.Values[0], turned.Values[3] = turned.Values[3], turned.Values[0]
	if !bytes.Equal(s.Encode(), turned.Encode()) {
		t.Error("equal settings have two encodings")
	}
	if turned.Values[0].Name != "strict" {
		t.Error("Encode has put the settings of its caller in order")
	}
}

func TestWhatIsSet(t *testing.T) {
	s := good()
	if s.Text("header") != "X-Debug" || s.Number("limit") != math.MinInt64 || !s.Flag("strict") || !reflect.DeepEqual(s.List("names"), []string{"a", ""}) || !s.Has("limit") {
		t.Errorf("got %+v", s)
	}
	if s.Text("limit") != "" || s.Number("none") != 0 || s.Flag("header") || s.List("strict") != nil || s.Has("none") {
		t.Error("what is not set has a value")
	}
}

func TestDecodeRefuses(t *testing.T) {
	with := func(change func(*settings.Value)) []byte {
		s := good()
		change(&s.Values[0])
		return s.Encode()
	}
	whole := good()
	full := whole.Encode()
	many := settings.Section{}
	for i := range settings.MaxValues + 1 {
		many.Values = append(many.Values, settings.Value{Name: strings.Repeat("a", i+1), Kind: settings.Flag})
	}
	long := strings.Repeat("x", settings.MaxText+1)
	for name, b := range map[string][]byte{
		"no section": nil, "zero bytes": make([]byte, 5), "more zero bytes": make([]byte, 200),
		"another form": append([]byte{2}, full[1:]...),
		"a byte more":  append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
		"no name":          with(func(v *settings.Value) { v.Name = "" }),
		"a name twice":     with(func(v *settings.Value) { v.Name = "limit" }),
		"unknown kind":     with(func(v *settings.Value) { v.Kind = 9 }),
		"long text":        with(func(v *settings.Value) { v.Text = long }),
		"a long element":   with(func(v *settings.Value) { v.Kind, v.List = settings.List, []string{long} }),
		"many elements":    with(func(v *settings.Value) { v.Kind, v.List = settings.List, make([]string, settings.MaxList+1) }),
		"many settings":    many.Encode(),
		"another order":    bytes.Replace(full, []byte("header"), []byte("zeader"), 1),
		"no truth value":   append(bytes.Clone(full[:len(full)-1]), 2),
		"a count too high": append([]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, full[9:]...),
	} {
		if got, err := settings.Decode(b); err == nil || got.Values != nil {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func TestOfUser(t *testing.T) {
	for name, want := range map[string]bool{"example.com/guard": true, "a.b/c/d": true, "authz": false, "firewall.dryrun": false, "authn-basic": false,
		"": false, "example.com": false, "example.com/": false, "pep/firewall.x": false} {
		if settings.OfUser(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s := good()
	f.Add(s.Encode())
	f.Add((&settings.Section{}).Encode())
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := settings.Decode(b)
		if err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
	})
}
