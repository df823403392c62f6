package builder

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
)

// A disk is full where a line of its own says so, not where a line about the source does.
func TestAFullDiskIsToldFromItsWords(t *testing.T) {
	const full = "write $WORK/b001/_pkg_.a: no space left on device"
	for output, want := range map[string]string{
		"# example.com/shop\n" + full + "\n":                                                           full,
		"app/shop.go:5:13: declared and not used: n\n" + full:                                          full,
		"app/shop.go:5:13: cannot use \"no space left on device\" as int value\n":                      "",
		"./app/shop.go:5:13: wrong type\n\thave struct{A int \"no space left on device\"}\n\twant x\n": "",
		"": "",
	} {
		if got := fullDisk(output); got != want {
			t.Errorf("%q gives %q, want %q", output, got, want)
		}
	}
	b := &build{tmp: "/tmp/build"}
	if err := b.explained(&goError{output: full}); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), full) {
		t.Errorf("the error does not say which: %v", err)
	}
}

func TestAMistakeInTheApplicationIsShownWhereItIs(t *testing.T) {
	s := store(t)
	before := snapshot(t, s.dir)
	const head = "package shop\n\nimport \"net/http\"\n\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // of the error; DIR is the user's folder
	}{
		{"a type error", map[string]string{"shop/shop.go": head + "func New() (http.Handler, error) { return 7, nil }\n"},
			"DIR/shop/shop.go:5:43: cannot use 7 (constant of type int) as http.Handler value in return statement"},
		{"words of a full disk", map[string]string{"shop/shop.go": head + "var n int = \"no space left on device\"\n\nfunc New() (http.Handler, error) { return nil, nil }\n"},
			`DIR/shop/shop.go:5:13: cannot use "no space left on device" (untyped string constant) as int value in variable declaration`},
		{"in a package of the module", map[string]string{"shop/shop.go": head + "import \"example.com/shop/db\"\n\nfunc New() (http.Handler, error) { return nil, db.Open() }\n", "shop/db/db.go": "package db\n\nfunc Open() error { return missing }\n"},
			"DIR/shop/db/db.go:3:28: undefined: missing"},
		{"a syntax error", map[string]string{"shop/shop.go": head + "func New() (http.Handler, error) { return nil, nil \n"},
			"DIR/shop/shop.go:6:1: syntax error: unexpected EOF"},
		{"a syntax error in the imports", map[string]string{"shop/shop.go": "package shop\n\nimport net/http\n"},
			"DIR/shop/shop.go:3:11: missing import path"},
		{"an import of what is nowhere", map[string]string{"shop/shop.go": head + "import _ \"example.com/shop/nowhere\"\n"},
			"DIR/shop/shop.go:5:8: the module has no package example.com/shop/nowhere"},
		{"an import of a module that go.mod does not name", map[string]string{"shop/shop.go": head + "import _ \"example.com/other\"\n"},
			"DIR/shop/shop.go:5:8: no module of go.mod has package example.com/other: run \"go get example.com/other\" in DIR/shop"},
		{"a constructor that returns no error", map[string]string{"shop/shop.go": head + "func New() http.Handler { return nil }\n"},
			"workload.yaml:7:5: example.com/shop.New is func() http.Handler: want func New() (http.Handler, error)"},
		{"a constructor with parameters", map[string]string{"shop/shop.go": head + "func New(addr string) (http.Handler, error) { return nil, nil }\n"},
			"workload.yaml:7:5: example.com/shop.New is func(addr string) (http.Handler, error): want func New() (http.Handler, error)"},
		{"a constructor that is a variable", map[string]string{"shop/shop.go": "package shop\n\nvar New = 7\n"},
			"workload.yaml:7:5: example.com/shop.New is int: want func New() (http.Handler, error)"},
		{"a constructor that is a type", map[string]string{"shop/shop.go": "package shop\n\ntype New struct{}\n"},
			"workload.yaml:7:5: example.com/shop.New cannot construct the application: want func New() (http.Handler, error) (New (type) is not an expression)"},
		{"a generic constructor", map[string]string{"shop/shop.go": head + "func New[T any]() (http.Handler, error) { return nil, nil }\n"},
			"workload.yaml:7:5: example.com/shop.New cannot construct the application: want func New() (http.Handler, error)"},
		{"no constructor", map[string]string{"shop/shop.go": "package shop\n"},
			"workload.yaml:7:5: package example.com/shop has no function New: want func New() (http.Handler, error)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, shop(c.files))
			p, err := new(Planner).Plan(context.Background(), selection(t, smallNeeds), handlerIn(dir))
			if err == nil {
				_, err = s.Build(context.Background(), p, nil)
			}
			var source *SourceError
			if !errors.As(err, &source) {
				t.Fatalf("got %T: %v", err, err)
			}
			got := strings.ReplaceAll(err.Error(), dir, "DIR")
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if strings.Contains(err.Error()+source.Output, s.dir) {
				t.Errorf("the build folder shows: %s\n%s", err, source.Output)
			}
		})
	}
	if after := snapshot(t, s.dir); after != before {
		t.Errorf("the store changed from\n%sto\n%s", before, after)
	}
}
