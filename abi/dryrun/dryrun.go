// Package dryrun is how a program says what of a policy is tried and not enforced.
//
// Section Name says that nothing of the policy is enforced which can be let through. A
// section NAME.dryrun is section NAME as it would be with the rules that are tried; the
// image enforces NAME, asks the other too, and records where it would have decided
// otherwise. A program that is silent about it is enforced.
package dryrun

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section that has the whole policy tried.
const Name = "dryrun"

// suffix of the name of a section that is tried.
const suffix = ".dryrun"

// can are the sections that may be tried beside what is enforced.
var can = []string{abi.StageFirewall, abi.StageObligations, abi.StageSourceLimit, abi.StagePrincipalLimit, abi.StageAuthz}

// Of returns the name of the section that is tried beside another.
func Of(section string) string { return section + suffix }

// Beside returns the section that the named one is tried beside; ok is false where the
// name is not one of a section that may be tried.
func Beside(name string) (section string, ok bool) {
	section, ok = strings.CutSuffix(name, suffix)
	return section, ok && slices.Contains(can, section)
}

// mark is how a section begins that has the whole policy tried. No other bytes do.
const mark = "DRYRUN01"

// Encode returns the bytes of section Name; line is where the policy says so.
func Encode(line string) []byte {
	var w wire.Writer
	w.Fixed([]byte(mark))
	w.String(line)
	return w.Bytes()
}

// Decode reads section Name of a program, nil where there is none: then, and with an
// error, everything is enforced, and the rule is nil. The rule is what lets through what
// the policy denies.
func Decode(b []byte) (*abi.Rule, error) {
	if b == nil {
		return nil, nil
	}
	r := wire.NewReader(b)
	if string(r.Fixed(len(mark))) != mark {
		r.Fail(errors.New("it does not say that the policy is a dry run"))
	}
	rule := &abi.Rule{ID: abi.RuleDryRun, Line: r.String()}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("dryrun: %w", err)
	}
	return rule, nil
}
