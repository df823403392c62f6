package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"lorica.dev/lorica/abi/strictjson"
)

// A claim is what was written, and none that the command says by itself; groups lie
// where the policy reads them.
func FuzzClaims(f *testing.F) {
	f.Add("mfa=true", "amr=[\"mfa\"]", "/realm_access/roles")
	f.Add("iss=x", "a=", "/a/b")
	f.Add("a={", "=", "")
	f.Add("a=\"x\"", "a=1e9", "/~1/~0")
	f.Add("realm_access={\"roles\":[1]}", "x==", "/realm_access/roles")
	f.Fuzz(func(t *testing.T, one, other, pointer string) {
		claims, err := parseClaims([]string{one, other})
		if err != nil {
			if claims != nil {
				t.Fatalf("%v and %v", claims, err)
			}
			return
		}
		for _, s := range []string{one, other} {
			name, _, _ := strings.Cut(s, "=")
			if _, there := claims[name]; !there || len(claims) > 2 {
				t.Fatalf("%q gives %v", s, claims)
			}
		}
		for _, name := range []string{"iss", "aud", "sub", "exp", "iat", ""} {
			if _, there := claims[name]; there {
				t.Fatalf("%q is claimed: %v", name, claims)
			}
		}
		if put(claims, pointer, []string{"staff"}) != nil {
			return
		}
		p, err := strictjson.ParsePointer(pointer)
		if err != nil {
			t.Fatalf("put at %q: %v", pointer, err)
		}
		doc, err := json.Marshal(claims)
		if err != nil || !utf8.ValidString(one+other+pointer) {
			return
		}
		var out [1]strictjson.Value
		if err := strictjson.Find(doc, []strictjson.Pointer{p}, out[:]); err == nil && string(out[0].Text) != `["staff"]` {
			t.Fatalf("%s has %s at %q", doc, out[0].Text, pointer)
		}
	})
}

// What is shown of images and clients a terminal only shows.
func FuzzPlain(f *testing.F) {
	for _, s := range []string{"", "plain, \u00fcn\u00efcode", "\x1b[2J", "a\r\nb\tc", "\u202egnp", "\xff", "\u00a0", "\U000e0001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := plain(s)
		if strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsPrint(r) }) || len(out) > 10*len(s) || plain(out) != out {
			t.Fatalf("%q is shown as %q", s, out)
		}
		if short(s) != s && !strings.HasPrefix(s, short(s)) {
			t.Fatalf("%q is cut to %q", s, short(s))
		}
	})
}
