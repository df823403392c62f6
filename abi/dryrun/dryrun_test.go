package dryrun_test

import (
	"bytes"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/dryrun"
)

func TestOnlyOneSectionSaysSo(t *testing.T) {
	good := dryrun.Encode("policy.yaml:4")
	if r, err := dryrun.Decode(good); err != nil || r == nil || *r != (abi.Rule{ID: "default:dry-run", Line: "policy.yaml:4"}) {
		t.Fatalf("%v, %v", r, err)
	}
	if r, err := dryrun.Decode(nil); r != nil || err != nil {
		t.Errorf("no section: %v, %v", r, err)
	}
	wrong := map[string][]byte{"empty": {}, "zero bytes": make([]byte, len(good)), "more": append(bytes.Clone(good), 0), "true": {1}}
	for n := range good {
		wrong["the first "+string(rune('a'+n))] = good[:n]
	}
	for at := range 8 {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[at] ^= 1 << bit
			wrong[string(rune('a'+at))+" altered "+string(rune('0'+bit))] = b
		}
	}
	for name, b := range wrong {
		if r, err := dryrun.Decode(b); r != nil || err == nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func TestWhatMayBeTried(t *testing.T) {
	for name, want := range map[string]bool{
		"firewall.dryrun": true, "authz.dryrun": true, "obligations.dryrun": true, "limit-source.dryrun": true, "limit-principal.dryrun": true,
		"dryrun": false, ".dryrun": false, "firewall": false, "tls.dryrun": false, "filter.dryrun": false, "authn.dryrun": false, "egress.dryrun": false,
		"audit.dryrun": false, "firewall.dryrun.dryrun": false, "firewall.Dryrun": false,
	} {
		if _, ok := dryrun.Beside(name); ok != want {
			t.Errorf("%s: %v", name, ok)
		}
	}
	if s, _ := dryrun.Beside(dryrun.Of("authz")); s != "authz" {
		t.Errorf("%q", s)
	}
}
