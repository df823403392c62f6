package main

import (
	"strings"
	"testing"

	"lorica.dev/lorica/catalog/check"
)

// What the budget left open about one target is said beside what was found.
func TestOpenPairsHideNothing(t *testing.T) {
	var said strings.Builder
	printCatalogReport(&said, &check.Report{Undecided: []string{"process"},
		Strong: []check.Strong{{Module: "sun", Target: "process", On: []string{"day"}}}}, true, 7)
	for _, want := range []string{"always together (1)\n", "sun ", "which modules can never be together for process was not decided within 7 conflicts: raise --budget\n"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not in\n%s", want, said.String())
		}
	}
}
