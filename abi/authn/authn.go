// Package authn is the authentication section of a program, and the form of
// the user list that HTTP Basic checks against. The list itself is a secret:
// it travels beside the program and rotates without it.
package authn

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = abi.StageAuthn

// Anonymous is the principal of a request without credentials where the policy
// does not require any. No user may have this name.
const Anonymous = "anonymous"

// A Section configures HTTP Basic. The zero Section has no secret and lets
// nobody in.
type Section struct {
	Rule     abi.Rule // names refusals
	Require  bool     // no credentials: refuse (true) or go on as Anonymous
	Realm    string
	Secret   string // name of the secret that holds the user list
	Attempts uint32 // failures a source may make in Window before it must wait
	Window   time.Duration
}

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.String(s.Rule.ID)
	w.String(s.Rule.Line)
	w.Bool(s.Require)
	w.String(s.Realm)
	w.String(s.Secret)
	w.U32(s.Attempts)
	w.I64(int64(s.Window))
	return w.Bytes()
}

// Decode reads a section.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("authn: no section")
	}
	r := wire.NewReader(b)
	s := Section{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Require: r.Bool(), Realm: r.String(),
		Secret: r.String(), Attempts: r.U32(), Window: time.Duration(r.I64())}
	if s.Window < 0 {
		r.Fail(errors.New("negative window"))
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("authn: %w", err)
	}
	return s, nil
}
