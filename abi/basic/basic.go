// Package basic is the section of a program for HTTP Basic, and the form of the
// user list that passwords are checked against. The list itself is a secret: it
// travels beside the program and rotates without it.
package basic

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = "authn-basic"

// A Section configures HTTP Basic. The zero Section has no secret and lets
// nobody in.
type Section struct {
	Rule     abi.Rule // names refusals
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
	w.String(s.Realm)
	w.String(s.Secret)
	w.U32(s.Attempts)
	w.I64(int64(s.Window))
	return w.Bytes()
}

// Challenge is what asks a client for a password (RFC 7617, section 2).
func (s *Section) Challenge() string { return authn.Challenge("Basic", s.Realm, `charset="UTF-8"`) }

// Decode reads a section.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("basic: no section")
	}
	r := wire.NewReader(b)
	s := Section{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Realm: r.String(),
		Secret: r.String(), Attempts: r.U32(), Window: time.Duration(r.I64())}
	if s.Window < 0 {
		r.Fail(errors.New("negative window"))
	}
	if !authn.ValidRealm(s.Realm) {
		r.Fail(errors.New("a realm that no header can hold"))
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("basic: %w", err)
	}
	return s, nil
}
