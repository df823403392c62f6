package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func pointer(t testing.TB, s string) Pointer {
	t.Helper()
	p, err := ParsePointer(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func find(t testing.TB, doc, at string) (Value, error) {
	out := make([]Value, 1)
	err := Find([]byte(doc), []Pointer{pointer(t, at)}, out)
	return out[0], err
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		doc, at string
		kind    Kind
		text    string
	}{
		{`{"amount": 500}`, "/amount", Number, "500"},
		{`{"amount": -0.5e+7}`, "/amount", Number, "-0.5e+7"},
		{` [ 1 , [ 2 , {"a": "x"} ] ] `, "/1/1/a", String, "x"},
		{`{"a": {"a": {"a": true}}}`, "/a/a/a", True, "true"},
		{`{"a": {"b": false}, "b": true}`, "/b", True, "true"},
		{`{"b": {"a": 1}, "c": {"a": 2}}`, "/c/a", Number, "2"},
		{`{"a": null}`, "/a", Null, "null"},
		{`{"a": [ 1 ]}`, "/a", Array, "[ 1 ]"},
		{`{"a": {}}`, "/a", Object, "{}"},
		{`{"a": {}}`, "/b", Missing, ""},
		{`{"a": 1}`, "/a/b", Missing, ""},
		{`[1, 2]`, "/2", Missing, ""},
		{`[1, 2]`, "/01", Missing, ""},
		{`[1, 2]`, "/-", Missing, ""},
		{`{"0": "name"}`, "/0", String, "name"},
		{`7`, "", Number, "7"},
		{`{"a/b": {"m~n": "both"}}`, "/a~1b/m~0n", String, "both"},
		{`{"": {"": 1}}`, "//", Number, "1"},
		{`{"\u0061mount": 5}`, "/amount", Number, "5"},
		{`{"a": "\"\\\/\b\f\n\r\té\ud83d\ude00!"}`, "/a", String, "\"\\/\b\f\n\r\té\U0001F600!"},
		{`{"a": "é😀"}`, "/a", String, "é😀"},
		{`{"x": {"Amount": 1}, "amount": 2}`, "/amount", Number, "2"},
	} {
		v, err := find(t, c.doc, c.at)
		if err != nil || v.Kind != c.kind || string(v.Text) != c.text {
			t.Errorf("%s at %q: kind %d, %q, %v", c.doc, c.at, v.Kind, v.Text, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, doc := range map[string]string{
		"nothing":                       ``,
		"only space":                    ` `,
		"a member twice":                `{"amount": 1, "amount": 2}`,
		"a member twice, once escaped":  `{"amount": 1, "\u0061mount": 2}`,
		"a member twice elsewhere":      `{"amount": 1, "x": [{"y": 1, "z": 2, "y": 1}]}`,
		"another case":                  `{"Amount": 2}`,
		"two cases":                     `{"amount": 1, "AMOUNT": 2}`,
		"a letter that folds":           `{"\u212a": 1}`, // KELVIN SIGN, for k
		"something after":               `{"amount": 1} {}`,
		"a mark before":                 "\ufeff{}",
		"a comment":                     `{"amount": 1 /* 2 */}`,
		"a comma too many":              `{"amount": 1,}`,
		"a comma too many in a list":    `[1,]`,
		"no comma":                      `[1 2]`,
		"no colon":                      `{"amount" 1}`,
		"a name without quotes":         `{amount: 1}`,
		"single quotes":                 `{'amount': 1}`,
		"a leading zero":                `{"amount": 01}`,
		"a plus sign":                   `{"amount": +1}`,
		"a bare point":                  `{"amount": 1.}`,
		"a bare exponent":               `{"amount": 1e}`,
		"hexadecimal":                   `{"amount": 0x10}`,
		"infinity":                      `{"amount": Infinity}`,
		"a word":                        `{"amount": True}`,
		"a control character":           "{\"a\": \"\n\"}",
		"a zero byte":                   "{\"a\": 1}\x00",
		"an unknown escape":             `{"a": "\x41"}`,
		"an unpaired surrogate":         `{"a": "\ud83d"}`,
		"a surrogate with another":      `{"a": "\ud83d\ud83d"}`,
		"a low surrogate first":         `{"a": "\ude00\ud83d"}`,
		"a short escape":                `{"a": "\u00`,
		"an escape at the end":          `{"a": "\`,
		"invalid UTF-8":                 "{\"a\": \"\xff\"}",
		"an overlong encoding":          "{\"a\": \"\xc0\xaf\"}",
		"an encoded surrogate":          "{\"a\": \"\xed\xa0\x80\"}",
		"an object that does not end":   `{"amount": 1`,
		"a string that does not end":    `"abc`,
		"nesting without end":           strings.Repeat("[", 100_000),
		"nesting":                       strings.Repeat("[", MaxDepth+2) + strings.Repeat("]", MaxDepth+2),
		"more members than are allowed": members(MaxNames + 1),
	} {
		t.Run(name, func(t *testing.T) {
			at := "/amount"
			if name == "a letter that folds" {
				at = "/k"
			}
			if v, err := find(t, doc, at); err == nil {
				t.Errorf("accepted; %q is %+v", at, v)
			}
		})
	}
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"` + strconv.Itoa(i) + `":0`)
	}
	return "{" + b.String()[1:] + "}"
}

func TestBoundsLeaveRoom(t *testing.T) {
	for name, doc := range map[string]string{
		"nesting":                  strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth),
		"members":                  members(MaxNames),
		"members, in many":         "[" + members(3000) + "," + members(3000) + "]",
		"names that differ wildly": `{"a": 1, "A": 2, "ä": 3}`,
	} {
		if _, err := find(t, doc, "/amount"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSeveralPointersShareAPath(t *testing.T) {
	want := []Pointer{pointer(t, "/a/b"), pointer(t, "/a"), pointer(t, "/a/c/0"), pointer(t, "/z"), pointer(t, "")}
	out := make([]Value, len(want))
	out[3] = Value{Kind: Number, Text: []byte("stale")}
	if err := Find([]byte(`{"q": [0], "a": {"c": [5, 6], "b": 7}}`), want, out); err != nil {
		t.Fatal(err)
	}
	if string(out[0].Text) != "7" || out[1].Kind != Object || string(out[2].Text) != "5" || out[3].Kind != Missing || out[3].Text != nil || out[4].Kind != Object {
		t.Errorf("%+v", out)
	}
}

func TestParsePointerRefuses(t *testing.T) {
	for _, s := range []string{"a", "a/b", "/~", "/~2", "/a~", strings.Repeat("/a", MaxDepth+1)} {
		if p, err := ParsePointer(s); err == nil {
			t.Errorf("%q gives %q", s, p)
		}
	}
}

// FuzzFind compares with encoding/json: what is accepted here is accepted there
// with the same value, and what is refused here only has a reason of ours.
func FuzzFind(f *testing.F) {
	for _, s := range []string{`{"a": {"b": 1}}`, `{"a": {"b": "x\u00e9"}, "c": [1, 2.5e3, null, true]}`, `{"a": 1, "a": 2}`, `[]`, "\xff", `{"a": {"b": "\ud800"}}`, `{"a":{"B":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		v, err := find(t, string(doc), "/a/b")
		if err != nil {
			if v.Kind != Missing {
				t.Fatal("refused, and yet something was found")
			}
			if json.Valid(doc) && utf8.Valid(doc) && !bytes.Contains(doc, []byte(`\u`)) && plainNames(t, doc) && depth(doc) <= MaxDepth {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		if !json.Valid(doc) {
			t.Fatal("accepted, and encoding/json refuses it")
		}
		var ref struct {
			A json.RawMessage `json:"a"`
		}
		var inner struct {
			B *json.RawMessage `json:"b"`
		}
		if json.Unmarshal(doc, &ref) != nil || json.Unmarshal(ref.A, &inner) != nil || inner.B == nil {
			return // other shapes: there is nothing at the pointer, or null
		}
		var s string
		switch raw := bytes.TrimSpace(*inner.B); v.Kind {
		case String:
			if json.Unmarshal(raw, &s) != nil || s != string(v.Text) {
				t.Fatalf("%q is not %s", v.Text, raw)
			}
		case Number, True, False:
			if string(raw) != string(v.Text) {
				t.Fatalf("%q is not %s", v.Text, raw)
			}
		case Missing:
			t.Fatalf("missed %s", raw)
		}
	})
}

// plainNames reports whether no object has two members that are equal when case
// is ignored, nor one that could be taken for a wanted one.
func plainNames(t *testing.T, doc []byte) bool {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var open []*object
	count := 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		var top *object
		if len(open) > 0 {
			top = open[len(open)-1]
		}
		switch x := tok.(type) {
		case json.Delim:
			switch x {
			case '{':
				flip(top)
				open = append(open, &object{map[string]bool{}, true})
			case '[':
				flip(top)
				open = append(open, &object{nil, false})
			default:
				open = open[:len(open)-1]
			}
			continue
		case string:
			if top != nil && top.name {
				low := strings.ToLower(x)
				if top.names[low] || low != x || count > MaxNames {
					return false
				}
				count++
				top.names[low] = true
			}
		}
		flip(top)
	}
}

type object struct {
	names map[string]bool // nil: an array
	name  bool            // a name comes next
}

func flip(o *object) {
	if o != nil && o.names != nil {
		o.name = !o.name
	}
}

func depth(doc []byte) (most int) {
	n := 0
	for _, c := range doc {
		switch c {
		case '{', '[':
			n++
			most = max(most, n)
		case '}', ']':
			n--
		}
	}
	return most
}

func TestElements(t *testing.T) {
	const doc = `{"x": [ 1, "t\u0077o" ,[3, {"a": [4]}],{"b": 5},null ] }`
	array, err := find(t, doc, "/x")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = Elements(array, func(v Value) error {
		if v.Kind != String && !strings.HasPrefix(doc[v.At:], string(v.Text)) || v.Kind == String && doc[v.At] != '"' {
			t.Errorf("%q is said to be at %d", v.Text, v.At)
		}
		got = append(got, string(v.Text))
		return nil
	})
	if want := []string{"1", "two", `[3, {"a": [4]}]`, `{"b": 5}`, "null"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for name, v := range map[string]Value{"an object": {Kind: Object, Text: []byte("{}")}, "nothing": {}, "an array without its source": {Kind: Array}} {
		if err := Elements(v, func(Value) error { t.Errorf("%s has an element", name); return nil }); err == nil {
			t.Errorf("%s is taken for an array", name)
		}
	}
	stop := io.EOF
	if err := Elements(array, func(Value) error { return stop }); err != stop {
		t.Errorf("got %v", err)
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for doc, at := range map[string]int{`{"a": 1,}`: 8, `{"a": 1, "A": 2}`: 12, `[1] 2`: 4} {
		_, err := find(t, doc, "/a")
		var e *Error
		if !errors.As(err, &e) || e.At != at {
			t.Errorf("%s: %v, want byte %d", doc, err, at)
		}
	}
}

// A pointer that is read can be written again, and leads where it says.
func FuzzPointer(f *testing.F) {
	for _, s := range []string{"", "/", "/a/b~1c/0", "/~01", "/~", "a", "//", "/\u00e9/~1~0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePointer(s)
		if err != nil {
			if p != nil {
				t.Fatalf("%q gives %q and %v", s, p, err)
			}
			return
		}
		again, doc := "", []byte("7")
		for i := len(p) - 1; i >= 0; i-- {
			again = "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(p[i]) + again
			name, err := json.Marshal(p[i])
			if err != nil {
				t.Fatal(err)
			}
			doc = slices.Concat([]byte("{"), name, []byte(":"), doc, []byte("}"))
		}
		if again != s {
			t.Fatalf("%q is written %q", s, again)
		}
		var out [1]Value
		if !utf8.ValidString(s) || len(doc) > 10_000 { // JSON cannot name it, or it is too long for a name
			return
		}
		if err := Find(doc, []Pointer{p}, out[:]); err != nil || string(out[0].Text) != "7" {
			t.Fatalf("%q leads to %+v in %s (%v)", s, out[0], doc, err)
		}
	})
}
