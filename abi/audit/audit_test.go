package audit_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/wire"
)

func sample() audit.Record {
	return audit.Record{
		Time: 1, ID: "id", Verdict: abi.Allow, Stage: "authz", Rule: abi.Rule{ID: "rule", Line: "p.yaml:1"}, Reason: "reason", Status: 403,
		Principal: "ada", Source: "10.0.0.1", Method: "GET", Route: "list", Path: "/accounts", Level: "normal", Revision: 7, Program: [32]byte{1},
		Protocol: 6, Port: 8443, Groups: []string{"staff", "tellers"}, Partial: audit.PartialPath,
		Facts:  []audit.Fact{{Name: "amount", Value: "500"}, {Name: "note", State: audit.FactAbsent}, {Name: "tags", Value: `["a`, State: audit.FactCut}},
		DryRun: &audit.Would{Stage: "authz", Rule: abi.Rule{ID: "tried", Line: "p.yaml:7"}, Reason: "forbidden by tried"},
	}
}

func encode(r audit.Record) []byte {
	var w wire.Writer
	r.Append(&w)
	return w.Bytes()
}

func TestSectionRoundTrip(t *testing.T) {
	s := audit.Section{AllowedPerMillion: 10, Redact: []string{audit.FieldPath, audit.FieldSource}}
	if got, err := audit.Decode(s.Encode()); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestSectionDecodeRefuses(t *testing.T) {
	s := audit.Section{AllowedPerMillion: audit.Million + 1}
	for name, b := range map[string][]byte{"no section": nil, "no bytes": {}, "sampling above one": s.Encode(), "short": {0}} {
		if _, err := audit.Decode(b); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	r := wire.NewReader(encode(sample()))
	if got := audit.Read(r); r.Close() != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("%v, %+v", r.Err(), got)
	}
}

// Every field of a record reaches the other side: a new one that Append forgets
// fails here.
func TestEveryFieldIsEncoded(t *testing.T) {
	seen := map[string]string{}
	v := reflect.ValueOf(sample())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("the sample leaves %s empty", v.Type().Field(i).Name)
		}
		x := sample()
		reflect.ValueOf(&x).Elem().Field(i).SetZero()
		b := string(encode(x))
		if other, twice := seen[b]; twice || b == string(encode(sample())) {
			t.Errorf("%s does not change the encoding (or like %q)", v.Type().Field(i).Name, other)
		}
		seen[b] = v.Type().Field(i).Name
	}
}

func TestLongFieldsAreCutAndFit(t *testing.T) {
	long := strings.Repeat("\u00e9", 3000)
	r := audit.Record{ID: long, Stage: long, Rule: abi.Rule{ID: long, Line: long}, Reason: long, Principal: long, Source: long, Method: long, Route: long, Path: long, Level: long,
		DryRun: &audit.Would{Stage: long, Rule: abi.Rule{ID: long, Line: long}, Reason: long}}
	for range 1000 {
		r.Groups = append(r.Groups, "g")
		r.Facts = append(r.Facts, audit.Fact{Name: "n", Value: "v"})
	}
	b := encode(r)
	if len(b) > r.Size() || r.Size() > audit.MaxRecord {
		t.Errorf("%d bytes, at most %d", len(b), r.Size())
	}
	rd := wire.NewReader(b)
	got := audit.Read(rd)
	if rd.Close() != nil || !strings.HasSuffix(got.Path, "...") || len(got.Path) > audit.MaxPath || !utf8.ValidString(got.Path) {
		t.Errorf("%v, path %q", rd.Err(), got.Path)
	}
	if want := audit.PartialPrincipal | audit.PartialSource | audit.PartialPath | audit.PartialGroups | audit.PartialAttributes; got.Partial != want {
		t.Errorf("partial is %#x, want %#x", got.Partial, want)
	}
	if len(got.Groups) != audit.MaxGroupBytes/5 || len(got.Facts) != audit.MaxFacts {
		t.Errorf("%d groups, %d facts", len(got.Groups), len(got.Facts))
	}
}

// What a record does not hold as it was, it says: a value that was cut could be taken
// for another, and a fact that was left out for one that nobody asked for.
// What is kept of a request is what is said of it. That nothing lies around it, package
// pep/delivery tests.
func TestARecordOfItsOwn(t *testing.T) {
	head := strings.Repeat("h", 100_000)
	long, at := sample(), 0
	word := func() string { at += 5000; return head[at : at+3000] }
	long.ID, long.Reason, long.Principal, long.Method, long.Path, long.Groups = word(), word(), word(), word(), word(), []string{head[:10], word()}
	long.Facts = []audit.Fact{{Name: "a", Value: word()}, {Name: "b", Value: head[1:9]}}
	long.DryRun = &audit.Would{Stage: word(), Reason: head[2:8]}
	for name, r := range map[string]audit.Record{"whole": sample(), "cut": long, "bare": {}} {
		own := r.Own()
		if !bytes.Equal(encode(own), encode(r)) {
			t.Errorf("%s: %+v", name, own)
		}
		kept := 0
		var look func(v reflect.Value)
		look = func(v reflect.Value) {
			switch v.Kind() {
			case reflect.String:
				kept += v.Len()
			case reflect.Struct:
				for i := range v.NumField() {
					look(v.Field(i))
				}
			case reflect.Slice:
				for i := range v.Len() {
					look(v.Index(i))
				}
			case reflect.Pointer:
				if !v.IsNil() {
					look(v.Elem())
				}
			}
		}
		look(reflect.ValueOf(own))
		if kept > own.Size() {
			t.Errorf("%s: %d bytes of text in a record of %d", name, kept, own.Size())
		}
	}
}

func TestFactsThatDoNotFit(t *testing.T) {
	long := strings.Repeat("x", audit.MaxField+1)
	r := audit.Record{Facts: []audit.Fact{{Name: "long", Value: long}, {Name: "hidden", Value: long, State: audit.FactHidden}, {Name: long, Value: "1"}, {Name: "short", Value: "1"}}}
	got := audit.Read(wire.NewReader(encode(r)))
	cut := long[:audit.MaxField-3] + "..."
	want := []audit.Fact{{Name: "long", Value: cut, State: audit.FactCut}, {Name: "hidden", Value: cut, State: audit.FactHidden}, {Name: "short", Value: "1"}}
	if !reflect.DeepEqual(got.Facts, want) || got.Partial != audit.PartialAttributes {
		t.Errorf("%+v, partial %#x", got.Facts, got.Partial)
	}
	if r.Facts[0].Value != long {
		t.Error("the record itself was changed")
	}
	for i := range r.Facts {
		r.Facts[i] = audit.Fact{Name: string(rune('a' + i)), Value: long[1:]}
	}
	r.Facts = append(r.Facts, r.Facts...)
	if got := audit.Read(wire.NewReader(encode(r))); len(got.Facts) != 7 || got.Partial != audit.PartialAttributes {
		t.Errorf("%d facts of %d, partial %#x", len(got.Facts), len(r.Facts), got.Partial)
	}
}

func TestTheSizeOfARecord(t *testing.T) {
	r := sample()
	if n := len(encode(r)); n != r.Size() {
		t.Errorf("%d bytes, not %d", n, r.Size())
	}
}

func TestTheSmallestRecord(t *testing.T) {
	if n := len(encode(audit.Record{})); n != audit.MinRecord {
		t.Errorf("%d bytes, MinRecord is %d", n, audit.MinRecord)
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 3, ""}, {"abc", 3, "abc"}, {"abcd", 3, "..."}, {"abcdefg", 6, "abc..."},
		{"ab\u00e9defg", 6, "ab..."}, {"a\U0001f600bcd", 7, "a..."}, {"\x80\x80\x80\x80\x80", 4, "..."},
	} {
		if got := audit.Cut(c.in, c.limit); got != c.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	verdict := encode(sample())
	verdict[8] = 2
	var w wire.Writer
	r := audit.Record{}
	r.Append(&w)
	big := bytes.Clone(w.Bytes())
	copy(big[56:], []byte{1, 2, 0, 0}) // the ID has 513 bytes
	big = append(big, make([]byte, 600)...)
	partial := encode(sample())
	partial[54] = 32
	would := encode(sample())
	would[55] = 3
	raw := func(groups []string, facts ...audit.Fact) []byte {
		w := wire.Writer{}
		w.Fixed(encode(audit.Record{})[:audit.MinRecord-8])
		w.Strings(groups)
		w.U32(uint32(len(facts)))
		for _, f := range facts {
			w.U8(uint8(f.State))
			w.String(f.Name)
			w.String(f.Value)
		}
		return w.Bytes()
	}
	if rd := wire.NewReader(raw([]string{"g"}, audit.Fact{Name: "a"})); len(audit.Read(rd).Facts) != 1 || rd.Close() != nil {
		t.Error("what is right is refused")
	}
	for name, b := range map[string][]byte{"an unknown verdict": verdict, "an unknown part": partial, "an unknown dry run": would,
		"too many groups": raw(slices.Repeat([]string{"g"}, 205)), "too many facts": raw(nil, slices.Repeat([]audit.Fact{{Name: "a"}}, 65)...),
		"facts of too many bytes":    raw(nil, slices.Repeat([]audit.Fact{{Name: "a", Value: strings.Repeat("x", 256)}}, 8)...),
		"a fact in an unknown state": raw(nil, audit.Fact{State: 5}), "a value that is absent": raw(nil, audit.Fact{Value: "1", State: audit.FactAbsent}),
		"a long name": raw(nil, audit.Fact{Name: strings.Repeat("x", 257)}), "a field beyond its bound": big, "nothing": nil, "zeros": make([]byte, 40)} {
		rd := wire.NewReader(b)
		if got := audit.Read(rd); rd.Err() == nil || !reflect.DeepEqual(got, audit.Record{}) {
			t.Errorf("%s: %v, %+v", name, rd.Err(), got)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(encode(sample()))
	f.Add(encode(audit.Record{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rd := wire.NewReader(b)
		r := audit.Read(rd)
		if rd.Close() == nil && !bytes.Equal(encode(r), b) {
			t.Fatal("two encodings of one record")
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add((&audit.Section{AllowedPerMillion: 5, Redact: []string{"path"}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := audit.Decode(b)
		if err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
	})
}

func collector() audit.Collector {
	return audit.Collector{Rule: abi.Rule{ID: "audit:syslog", Line: "p.yaml:9"}, Tenant: "acme", Workload: "shop", Host: "logs.example", Port: 6514, ServerName: "logs.example",
		Path: "/v1/logs", Trust: "t", Certificate: "c", Key: "k", Token: "o", Deny: true, Records: 5, Bytes: 1 << 20, Enterprise: 7}
}

func TestSinkSections(t *testing.T) {
	c := collector()
	if got, err := audit.DecodeCollector(c.Encode()); err != nil || got != c {
		t.Errorf("%v, %+v", err, got)
	}
	ch := audit.Channel{Rule: abi.Rule{ID: "audit:channel", Line: "p.yaml:8"}}
	if got, err := audit.DecodeChannel(ch.Encode()); err != nil || got != ch {
		t.Errorf("%v, %+v", err, got)
	}
	if _, err := audit.DecodeChannel(nil); err == nil {
		t.Error("no section is a channel")
	}
	seen := map[string]string{}
	v := reflect.ValueOf(collector())
	for i := range v.NumField() {
		x := collector()
		reflect.ValueOf(&x).Elem().Field(i).SetZero()
		b := string(x.Encode())
		if other, twice := seen[b]; twice || b == string(c.Encode()) {
			t.Errorf("%s does not change the encoding (or like %q)", v.Type().Field(i).Name, other)
		}
		seen[b] = v.Type().Field(i).Name
	}
}

func TestCollectorsThatAreRefused(t *testing.T) {
	for name, edit := range map[string]func(*audit.Collector){
		"no host": func(c *audit.Collector) { c.Host = "" }, "an odd host": func(c *audit.Collector) { c.Host = "a b" }, "no port": func(c *audit.Collector) { c.Port = 0 },
		"nobody to trust": func(c *audit.Collector) { c.Trust = "" }, "no name": func(c *audit.Collector) { c.ServerName = "" },
		"a key alone": func(c *audit.Collector) { c.Certificate = "" }, "a certificate alone": func(c *audit.Collector) { c.Key = "" },
		"a path that ends the line": func(c *audit.Collector) { c.Path = "/a\r\nb" }, "a path that is none": func(c *audit.Collector) { c.Path = "a" }, "a query": func(c *audit.Collector) { c.Path = "/a?b" },
		"no queue": func(c *audit.Collector) { c.Records = 0 }, "a queue of any length": func(c *audit.Collector) { c.Records = audit.MaxQueueRecords + 1 },
		"a queue without memory": func(c *audit.Collector) { c.Bytes = audit.MinQueueBytes - 1 }, "a queue of all memory": func(c *audit.Collector) { c.Bytes = audit.MaxQueueBytes + 1 },
	} {
		c := collector()
		edit(&c)
		if _, err := audit.DecodeCollector(c.Encode()); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestParseToken(t *testing.T) {
	if s, err := audit.ParseToken([]byte("aZ0-._~+/=\r\n")); err != nil || s != "aZ0-._~+/=" {
		t.Errorf("%q, %v", s, err)
	}
	for _, s := range []string{"", "\n", "a b", "a\nb", "a\r\nX: y", "\u00e9", strings.Repeat("a", audit.MaxToken+1)} {
		if _, err := audit.ParseToken([]byte(s)); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func FuzzDecodeCollector(f *testing.F) {
	c := collector()
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := audit.DecodeCollector(b)
		if err == nil && !bytes.Equal(c.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
	})
}
