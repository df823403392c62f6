// Package transport is the TLS section of a program: how connections are
// secured, and which secrets hold the certificates. The certificates themselves
// travel beside the program and rotate without it.
package transport

import (
	"errors"
	"fmt"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = abi.StageTLS

// A Mode says what is asked of the two sides. The zero Mode is none that a
// section may have: plain connections have no section.
type Mode uint8

const (
	None           Mode = iota // no TLS
	Simple                     // the server has a certificate
	OptionalMutual             // a client may show one, which must then be good
	Mutual                     // a client must show one
)

var modeNames = [...]string{"NONE", "SIMPLE", "OPTIONAL_MUTUAL", "MUTUAL"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "unknown"
}

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, bool) {
	for i, n := range modeNames {
		if n == s {
			return Mode(i), true
		}
	}
	return None, false
}

// Clients reports whether client certificates are asked for.
func (m Mode) Clients() bool { return m == OptionalMutual || m == Mutual }

// A Version is a version of TLS. The zero Version is 1.3.
type Version uint8

const (
	TLS13 Version = iota
	TLS12
)

func (v Version) String() string {
	if v == TLS12 {
		return "1.2"
	}
	return "1.3"
}

// A Section configures TLS. The zero Section is refused.
type Section struct {
	Rule        abi.Rule // names refusals
	Mode        Mode
	MinVersion  Version
	HTTP2       bool   // offered to clients
	Certificate string // name of the secret that holds the chain, PEM
	Key         string // name of the secret that holds its private key, PEM
	ClientTrust string // name of the secret that clients are verified with, PEM; empty unless Mode.Clients
}

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.String(s.Rule.ID)
	w.String(s.Rule.Line)
	w.U8(uint8(s.Mode))
	w.U8(uint8(s.MinVersion))
	w.Bool(s.HTTP2)
	w.String(s.Certificate)
	w.String(s.Key)
	w.String(s.ClientTrust)
	return w.Bytes()
}

// Decode reads a section. What it returns without an error is complete.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("transport: no section")
	}
	r := wire.NewReader(b)
	s := Section{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Mode: Mode(r.U8()), MinVersion: Version(r.U8()),
		HTTP2: r.Bool(), Certificate: r.String(), Key: r.String(), ClientTrust: r.String()}
	if err := s.check(); r.Err() == nil && err != nil {
		r.Fail(err)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("transport: %w", err)
	}
	return s, nil
}

func (s *Section) check() error {
	switch {
	case s.Mode < Simple || s.Mode > Mutual:
		return fmt.Errorf("mode %d", s.Mode)
	case s.MinVersion > TLS12:
		return fmt.Errorf("version %d", s.MinVersion)
	case s.Certificate == "" || s.Key == "":
		return errors.New("no certificate")
	case s.Mode.Clients() != (s.ClientTrust != ""):
		return errors.New("clients are verified with a trust bundle, and only they")
	}
	return nil
}
