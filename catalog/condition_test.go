package catalog

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
)

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		text string
		want Condition
	}{
		{"arg0 == 0xd0f00", Condition{Kind: Equal, Value: 0xd0f00}},
		{"arg5 == 0x0", Condition{Kind: Equal, Arg: 5}},
		{"arg1 == 0xffffffffffffffff", Condition{Kind: Equal, Arg: 1, Value: math.MaxUint64}},
		{"arg2 & 0x4 == 0x0", Condition{Kind: Masked, Arg: 2, Mask: 4}},
		{"arg3 & 0x22 == 0x20", Condition{Kind: Masked, Arg: 3, Mask: 0x22, Value: 0x20}},
		{"arg0 == self", Condition{Kind: Self}},
		{"arg0+arg1 outside program", Condition{Kind: Outside, Length: 1}},
		{"arg1+arg0 outside program", Condition{Kind: Outside, Arg: 1}},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := ParseCondition(c.text)
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
			if got.String() != c.text {
				t.Errorf("rendered as %q", got)
			}
		})
	}
}

func TestConditionsOfNoMeaningAreRefused(t *testing.T) {
	for _, c := range []struct{ name, text string }{
		{"nothing", ""},
		{"a seventh argument", "arg6 == 1"},
		{"a tenth argument", "arg10 == 1"},
		{"a length that is no argument", "arg0+arg9 outside program"},
		{"an address that is its own length", "arg0+arg0 outside program"},
		{"an inequality", "arg0 != 1"},
		{"one equals sign", "arg0 = 1"},
		{"no spaces", "arg0==1"},
		{"something behind", "arg0 == 1 "},
		{"another line", "arg0 == 1\n"},
		{"a negative value", "arg0 == -1"},
		{"more than 64 bits", "arg0 == 0x10000000000000000"},
		{"a mask of more than 64 bits", "arg0 & 0x10000000000000000 == 0"},
		{"an empty mask", "arg0 & 0 == 0"},
		{"a value outside the mask", "arg0 & 0x4 == 0x8"},
		{"a masked process id", "arg0 & 0x4 == self"},
		{"octal by accident", "arg0 == 010"},
		{"outside something else", "arg0+arg1 outside heap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := ParseCondition(c.text); err == nil {
				t.Errorf("read as %v", got)
			}
		})
	}
}

func TestSyscallsTravelAsText(t *testing.T) {
	in := []Syscall{{Name: "futex"}, {Name: "mmap", When: []Condition{{Kind: Masked, Arg: 2, Mask: 4}, {Kind: Outside, Length: 1}}}}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `[{"name":"futex"},{"name":"mmap","when":["arg2 \u0026 0x4 == 0x0","arg0+arg1 outside program"]}]`; string(data) != want {
		t.Errorf("got %s", data)
	}
	var out []Syscall
	if err := json.Unmarshal(data, &out); err != nil || !slices.EqualFunc(in, out, Syscall.Equal) {
		t.Errorf("came back as %v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`[{"name":"mmap","when":["always"]}]`), &out); err == nil {
		t.Error("an unknown condition was read")
	}
	if _, err := json.Marshal(Syscall{Name: "mmap", When: []Condition{{}}}); err == nil {
		t.Error("the zero condition was written")
	}
}

func TestASyscallIsRenderedForPeople(t *testing.T) {
	s := Syscall{Name: "mmap", When: []Condition{{Kind: Masked, Arg: 2, Mask: 4}, {Kind: Outside, Length: 1}}}
	if got := s.String(); got != "mmap (arg2 & 0x4 == 0x0, arg0+arg1 outside program)" {
		t.Errorf("got %q", got)
	}
	if got := (Syscall{Name: "futex"}).String(); got != "futex" {
		t.Errorf("got %q", got)
	}
}

func TestTheUnionOfSyscalls(t *testing.T) {
	self := Syscall{Name: "tgkill", When: []Condition{{Kind: Self}}}
	other := Syscall{Name: "tgkill", When: []Condition{{Kind: Equal, Value: 7}}}
	free := Syscall{Name: "tgkill"}
	for _, c := range []struct {
		name       string
		a, b, want []Syscall
	}{
		{"an entry that both list is there once", []Syscall{self}, []Syscall{self}, []Syscall{self}},
		{"alternatives stay apart", []Syscall{self}, []Syscall{other}, []Syscall{other, self}},
		{"a free call covers a conditional one", []Syscall{self}, []Syscall{free}, []Syscall{free}},
		{"the order of modules does not matter", []Syscall{free}, []Syscall{self}, []Syscall{free}},
		{"a call for what is not there", []Syscall{{Name: "accept4", With: "net/socket"}}, []Syscall{self}, []Syscall{self}},
		{"a call for what is there", []Syscall{{Name: "accept4", With: "net/direct"}}, []Syscall{self}, []Syscall{{Name: "accept4"}, self}},
		{"nothing needs nothing", nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Syscalls([]*Module{{Syscalls: c.a}, {Syscalls: c.b, Provides: []string{"net", "net/direct"}}})
			if !slices.EqualFunc(got, c.want, Syscall.Equal) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func FuzzParseCondition(f *testing.F) {
	for _, s := range []string{"arg0 == 0xd0f00", "arg2 & 0x4 == 0", "arg0 == self", "arg0+arg1 outside program", "arg9 == 18446744073709551616"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCondition(s)
		if err != nil {
			return
		}
		if again, err := ParseCondition(c.String()); err != nil || again != c {
			t.Errorf("%q is %+v, rendered %q, which is %+v, %v", s, c, c, again, err)
		}
		if c.Arg < 0 || c.Arg >= arguments || c.Length < 0 || c.Length >= arguments {
			t.Errorf("%q names no argument", s)
		}
	})
}
