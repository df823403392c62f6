package main

import (
	"strings"
	"testing"

	"lorica.dev/lorica/tender/process"
)

// What doctor found is named once, and what mends it stands below.
func TestFindings(t *testing.T) {
	var b strings.Builder
	table(&b, "", finding(process.Finding{Name: "qemu", Detail: "qemu: there is none", Fix: "install it"}))
	if want := "--  qemu  there is none\n          fix: install it\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
