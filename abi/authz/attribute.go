// Package authz is the authorization section of a program: Cedar policies
// compiled to a form that an image evaluates without parsing, and the
// attributes that they read.
package authz

import "lorica.dev/lorica/abi"

// Name of the section.
const Name = abi.StageAuthz

// A Type is the Cedar type of an attribute, or of the elements of one that is a set.
type Type uint8

const (
	TypeString Type = 1 + iota
	TypeLong
	TypeBool
	TypeIP
	TypeDecimal
	TypeDatetime
	TypeDuration
)

// A SourceKind says where an attribute's value comes from.
type SourceKind uint8

const (
	SourceLevel    SourceKind = 1 + iota // the security level in force
	SourceHour                           // clock.hour, 0 to 23, UTC
	SourceMinute                         // clock.minute of the day, 0 to 1439, UTC
	SourceWeekday                        // clock.weekday, 1 (Monday) to 7 (Sunday), UTC
	SourcePeer                           // peer.address
	SourceMethod                         // request.method
	SourceRoute                          // route.NAME, a path parameter
	SourceQuery                          // query.NAME; given twice is an error
	SourceHeader                         // header.NAME; given twice is an error
	SourceBody                           // body.json:POINTER (RFC 6901)
	SourceClaim                          // jwt.NAME or jwt:POINTER, of the verified token
	SourceClaimHas                       // jwt.NAME has "TEXT": the claim is the text, or an array that holds it
	SourceSPIFFE                         // tls.spiffe, of the client's certificate
	SourceDNS                            // tls.dns, the first one
	SourceSubject                        // tls.subject, the common name
	SourceGroups                         // basic.groups, the parents of the principal
)

// A Source is a kind and its argument: the parameter's name, the query key, the
// header (canonical form) or the JSON pointer.
type Source struct {
	Kind SourceKind
	Arg  string
	Has  string // for SourceClaimHas: the text
}

// An Attribute of the Cedar context.
type Attribute struct {
	Name     string
	Type     Type
	Set      bool // of values of Type
	Optional bool // absent is not an error
	Source   Source
}
