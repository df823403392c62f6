package main

import (
	"errors"
	"fmt"
	"testing"

	"lorica.dev/lorica/solver"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errSilent, 1},
		{errors.New("x"), 1},
		{usageError{errors.New("x")}, 2},
		{undecided{errSilent}, 3},
		{undecided{errors.New("x")}, 3},
		{fmt.Errorf("x: %w", &solver.Undecided{Request: &solver.Request{}}), 3},
		{&solver.Unsatisfiable{}, 1},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
