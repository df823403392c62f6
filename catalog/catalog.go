// Package catalog reads module manifests: what each module provides, requires
// and conflicts with, and which system calls it makes. A manifest lies beside
// its module's code, in module.yaml.
package catalog

import (
	"slices"
	"strings"

	"lorica.dev/lorica/api"
)

// A Class is the place of a module in the image. The chain runs in the order of
// the constants; the generated main lists constructors in it.
type Class string

const (
	ClassMachine  Class = "machine"  // what a platform or a network is made of; linked through it, called by it alone
	ClassCore     Class = "core"     // lifecycle; always linked
	ClassPlatform Class = "platform" // what the image runs on: its channel, its program memory, its seal
	ClassNet      Class = "net"      // listening, accepting, connecting
	ClassPart     Class = "part"     // what not every network has, as a part of it: IPv6, a lease of its address
	ClassGate     Class = "gate"     // judges connections
	ClassTLS      Class = "tls"      // secures connections
	ClassGuard    Class = "guard"    // judges requests
	ClassVerifier Class = "verifier" // verifies passwords, as a part of a guard
	ClassAudit    Class = "audit"    // records decisions
	ClassSink     Class = "sink"     // takes records to where they are kept
	ClassEgress   Class = "egress"   // makes connections out of the image
	ClassApp      Class = "app"      // the application
)

// A Module is one manifest.
type Module struct {
	ID        string   // the folder: "pep/firewall"
	Version   string   // changes when behaviour does
	Summary   string   // one line, for plan
	Class     Class    //
	Order     int      // place among modules of the same class
	Code      int      // machine code it adds to an image, in KiB, as `lorica catalog weigh` measures it
	Surface   int      // attack surface in points, for the choice of the minimal set: the total of Breakdown
	Provides  []string // capabilities besides its own id, which every module provides: "firewall", "authn/basic"
	Requires  []Clause // every one of them
	Conflicts []string // module ids or capabilities
	Targets   []string // "process", "microvm": in a manifest, available; empty: every target
	Section   string   // program section it takes; empty: none
	Syscalls  []Syscall
	Devices   []string // of a microVM: "virtio-net"
	Inputs    []string // what it parses that clients or peers send: "http/1.1", "jwt"
	Config    []Option // what a workload may set
	File      string   // its manifest, for messages; empty where it was not read from one
}

// Offers reports whether m provides a capability.
func (m *Module) Offers(capability string) bool {
	return capability == m.ID || slices.Contains(m.Provides, capability)
}

// Name is the id and the version, for where there may be others: "pep/filter@2".
func (m *Module) Name() string { return m.ID + "@" + m.Version }

// A Clause is a list of capabilities of which any one is enough. An empty clause cannot
// be met.
type Clause []string

// String returns the form that ParseClause reads: "net/socket | net/direct".
func (c Clause) String() string { return strings.Join(c, " | ") }

// MetBy reports whether m provides one of the capabilities.
func (c Clause) MetBy(m *Module) bool { return slices.ContainsFunc(c, m.Offers) }

// An OptionKind is what a value of an option looks like.
type OptionKind string

const (
	Text    OptionKind = "text"
	Number  OptionKind = "number" // a whole one, not negative
	Switch  OptionKind = "switch" // true or false
	Texts   OptionKind = "texts"  // a list
	Seconds OptionKind = "duration"
)

// An Option is a value that a workload may set for a module.
type Option struct {
	Name     string     `json:"name"`
	Kind     OptionKind `json:"kind"`
	Summary  string     `json:"summary"`
	Required bool       `json:"required,omitempty"`
	Default  string     `json:"default,omitempty"` // as it would be written; empty where there is none

	Least *int64   `json:"least,omitempty"` // of a number; of text, its bytes; of texts, how many; of a duration, seconds
	Most  *int64   `json:"most,omitempty"`
	OneOf []string `json:"oneOf,omitempty"` // what text, or each of texts, may be; empty: anything
}

// Devices returns what modules need together, sorted and each once.
func Devices(modules []*Module) []string {
	var all []string
	for _, m := range modules {
		all = append(all, m.Devices...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// A Syscall is a call that a module needs after the seal; every condition must
// hold. Several entries for one name are alternatives.
type Syscall struct {
	// With is the capability that makes the module need the call, where that depends on
	// another: "net/socket". Empty in what Syscalls returns.
	With string      `json:"with,omitempty"`
	Name string      `json:"name"`
	When []Condition `json:"when,omitempty"`
}

// A ConditionKind is a form that a condition on arguments takes in a manifest.
type ConditionKind string

const (
	Equal   ConditionKind = "equal"   // "arg0 == 0xd0f00"
	Masked  ConditionKind = "masked"  // "arg2 & 0x4 == 0"
	Self    ConditionKind = "self"    // "arg0 == self": the process id of the image
	Outside ConditionKind = "outside" // "arg0+arg1 outside program": a range that cannot reach the sealed memory
)

// A Condition compares one argument (or, for Outside, an address and a length).
type Condition struct {
	Kind   ConditionKind
	Arg    int
	Length int    // index of the length argument, for Outside
	Mask   uint64 // for Masked
	Value  uint64 // for Equal and Masked
}

// A Requirement is what a policy or a workload asks for, and why: any one of some
// capabilities.
type Requirement struct {
	Any Clause
	Why string // in words: "authorization decides with Cedar"
	Pos api.Pos
}
