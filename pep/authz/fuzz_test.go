package authz

import (
	"net/url"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/pep"
)

// FuzzJudge evaluates whatever opens: nothing may panic, and what is denied has
// a reason.
func FuzzJudge(f *testing.F) {
	attrs := []authz.Attribute{
		{Name: "level", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceLevel}},
		{Name: "n", Type: authz.TypeLong, Optional: true, Source: authz.Source{Kind: authz.SourceQuery, Arg: "n"}},
		{Name: "peer", Type: authz.TypeIP, Source: authz.Source{Kind: authz.SourcePeer}},
	}
	f.Add(section(attrs, nil, step{op: authz.OpAttr}, step{op: authz.OpLike, a: str("a*")}).Encode(), "n=7", "")
	for op := authz.OpFail; op <= authz.OpDurationSince; op++ {
		// Most operations over two operands: malformed for some, which is fine.
		f.Add(section(attrs, nil, step{op: authz.OpAttr, a: 1}, step{op: authz.OpAttr, a: 2}, step{op: op}).Encode(), "n=7", "{}")
		f.Add(section(attrs, nil, step{op: authz.OpSet}, step{op: authz.OpPrincipal}, step{op: op}).Encode(), "", "")
	}
	f.Fuzz(func(t *testing.T, b []byte, query, body string) {
		s, err := New().Prepare(&pep.Input{Levels: []string{"normal", "elevated"}, Section: b})
		if err != nil {
			return
		}
		x := ask("POST", "/", body, "Content-Type", "application/json")
		x.Request.URL.RawQuery = query
		for _, name := range []string{"r", "call", ""} {
			x.Route.Name = name
			first := s.Judge(x)
			if (first.Verdict == abi.Deny) != (first.Reason != "") {
				t.Fatalf("%+v", first)
			}
			for range 2 {
				if d := s.Judge(x); d != first {
					t.Fatalf("%+v, and then %+v", first, d)
				}
			}
		}
	})
}

// A parameter that is found has the value that net/url finds, once.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "n=7", "n=7&n=8", "%6e=%37", "a=1&&n=&b", "n;m=1", "n=%zz", "m=%zz&n=1", "n"} {
		f.Add(s, "n")
	}
	f.Fuzz(func(t *testing.T, raw, name string) {
		val, found, err := query(raw, name)
		all, failed := url.ParseQuery(raw)
		switch {
		case err != nil && (found || val != ""):
			t.Fatalf("%q: %q and %v", raw, val, err)
		case err == nil && found != (len(all[name]) == 1), err == nil && !found && len(all[name]) > 0:
			t.Fatalf("%q: found %v, net/url has %q (%v)", raw, found, all[name], failed)
		case err == nil && found && val != all[name][0]:
			t.Fatalf("%q: %q, net/url has %q", raw, val, all[name])
		}
	})
}
