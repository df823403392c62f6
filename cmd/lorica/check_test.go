package main

import (
	"errors"
	"testing"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/solver"
)

// What is wrong with one deployment is told whether or not another is undecided, and only
// where nothing is wrong is the answer that it is open.
func TestAnUndecidedDeploymentHidesNoErrors(t *testing.T) {
	wrong, open := policy.Errors{{Message: "wrong", Text: "x"}}, &solver.Undecided{Request: &solver.Request{}}
	for name, c := range map[string]struct {
		found []error // of each deployment
		code  int
		count int // of errors
	}{
		"open last":  {[]error{wrong, open}, exitFailure, 1},
		"open first": {[]error{open, wrong, wrong}, exitFailure, 2},
		"open alone": {[]error{nil, open}, exitUndecided, 0},
		"all right":  {[]error{nil, nil}, exitOK, 0},
	} {
		b := &policy.Bundle{}
		of := map[*policy.Deployment]error{}
		for _, err := range c.found {
			d := &policy.Deployment{}
			b.Deployments = append(b.Deployments, d)
			of[d] = err
		}
		err := unplannable(b, func(d *policy.Deployment) (bool, error) { return true, of[d] })
		var list policy.Errors
		errors.As(err, &list)
		if exitCode(err) != c.code || len(list) != c.count {
			t.Errorf("%s: %v, exit code %d", name, err, exitCode(err))
		}
	}
}
