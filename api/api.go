// Package api holds the resource types that users write, as Go values with the
// positions they were written at. It is data only: package policy reads and
// checks it, package compiler turns it into programs.
package api

import (
	"fmt"
	"net/netip"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/limit"
)

// Version is the apiVersion of every resource of this package.
const Version = "lorica.dev/v1alpha1"

// Kinds of resources.
const (
	KindWorkload       = "Workload"
	KindSecurityPolicy = "SecurityPolicy"
)

// A Pos is a place in a file. Line and Column count from one; zero is unknown.
type Pos struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String returns "file:line:column".
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Short returns "file:line", the form that programs and audit records carry.
func (p Pos) Short() string {
	if p.Line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// A Text is a block of another language inside a document. Pos is the place of
// its first character, so that positions inside it can be mapped back; every
// line of a block scalar starts at the same column.
type Text struct {
	Pos   Pos
	Value string
}

// Metadata names a resource.
type Metadata struct {
	Pos    Pos
	Name   string
	Tenant string // "default" where none is written
	Labels map[string]string
}

// A Workload says what runs.
type Workload struct {
	Metadata Metadata
	Dir      string // folder of the file; relative paths start here
	App      App
	Listen   []Listen
	Target   string // "process"
	Memory   uint64 // bytes
	Minimum  Tier   // weakest confinement that is acceptable
}

// A Tier is how much of the confinement a machine could give. Tiers are ordered:
// a lower value is stronger.
type Tier uint8

const (
	TierFull       Tier = iota // namespaces, Landlock, seccomp
	TierNoUserns               // no namespaces of its own
	TierNoLandlock             // namespaces or not, but no Landlock
)

var tierNames = [...]string{"full", "no-userns", "no-landlock"}

func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return "unknown"
}

// ParseTier is the inverse of String.
func ParseTier(s string) (Tier, bool) {
	for i, n := range tierNames {
		if n == s {
			return Tier(i), true
		}
	}
	return 0, false
}

// An App is the protected application; exactly one field is set.
type App struct {
	Pos     Pos
	Static  *StaticApp
	Handler *HandlerApp
}

// A StaticApp serves the files of a folder, which become part of the image.
type StaticApp struct {
	Pos Pos
	Dir string // as written
}

// A HandlerApp is a Go package with a constructor: func New() (http.Handler, error).
type HandlerApp struct {
	Pos     Pos
	Module  string // folder of the Go module, as written
	Package string // relative to the module: "." or "./sub"
	Func    string
}

// A Listen is a port that the workload serves HTTP on.
type Listen struct {
	Pos     Pos
	Name    string
	Address netip.Addr // 127.0.0.1 where none is written
	Port    uint16
}

// A SecurityPolicy says what is allowed. Lists keep file order.
type SecurityPolicy struct {
	Metadata       Metadata
	Dir            string
	Selector       map[string]string // every label must match
	SelectorPos    Pos
	Default        Default
	Levels         Levels
	Endpoints      []Endpoint
	Network        *Network
	Authentication *Authentication
	Routes         []Route
	RoutesPos      Pos
	Authorization  *Authorization
	Attributes     []Attribute
	Secrets        []Secret
	RateLimits     []RateLimit
	RequestFilter  *RequestFilter
	Audit          *Audit
	Tests          []Test
}

// Default says what happens where no rule matches. The zero Default denies.
type Default struct {
	Pos           Pos
	Network       abi.Verdict
	Authorization abi.Verdict
}

// Levels are ordered from the most permissive; Initial is one of Names. A
// document without levels has the single level "normal".
type Levels struct {
	Pos     Pos
	Names   []string
	Initial string
}

// An Endpoint is a named set of sources.
type Endpoint struct {
	Pos   Pos
	Name  string
	CIDRs []netip.Prefix
}

// AnyEndpoint is the name that stands for every source.
const AnyEndpoint = "any"

// Network holds the ordered ingress rules: the first match wins.
type Network struct {
	Pos     Pos
	Ingress []IngressRule
}

// An IngressRule allows or denies connections. It exists at the levels from
// MinLevel to MaxLevel (empty: no bound).
type IngressRule struct {
	Pos      Pos
	Name     string
	Action   abi.Verdict
	From     []string // endpoint names
	Ports    []Port
	Audit    bool
	MinLevel string
	MaxLevel string
}

// A Port is a protocol ("TCP", "UDP" or "any") and an inclusive range.
type Port struct {
	Pos      Pos
	Protocol string
	Lo, Hi   uint16
}

// Authentication says who may be whom.
type Authentication struct {
	Pos   Pos
	Basic *Basic
}

// Basic is HTTP Basic against a user list with argon2id verifiers.
type Basic struct {
	Pos      Pos
	Name     string // of the rule that refusals cite
	Realm    string
	Users    string // name of a secret
	Require  bool
	Attempts uint32        // failures per source and Window; 10 where none is written
	Window   time.Duration // one minute where none is written
}

// A Route is a method and a path pattern that exist.
type Route struct {
	Pos    Pos
	Name   string
	Group  string
	Method string
	Path   string
}

// Authorization is a Cedar schema and Cedar policies.
type Authorization struct {
	Pos    Pos
	Schema Text
	Cedar  Text
}

// An Attribute maps an attribute of the Cedar context (or the principal's
// groups) to a source, as written, for example "body.json:/amount".
type Attribute struct {
	Pos    Pos
	Name   string
	Source string
}

// A Secret is read from File (relative to the policy's folder) when a program is
// prepared, and is never part of a program or an image.
type Secret struct {
	Pos  Pos
	Name string
	File string
}

// A RateLimit is Requests per time Per, of one instance, for each Key. It exists
// from MinLevel up (empty: at every level).
type RateLimit struct {
	Pos      Pos
	Name     string
	Key      limit.Key
	Routes   []string // names; empty: every request
	Requests uint32
	Per      time.Duration
	MinLevel string
}

// A RequestFilter bounds what a client may send. Zero bounds take the defaults
// of WithDefaults.
type RequestFilter struct {
	Pos                Pos
	MaxHeaderBytes     uint32
	MaxBodyBytes       uint64
	MaxPathBytes       uint32
	MaxConnections     uint32
	HeaderTimeout      time.Duration
	BodyTimeout        time.Duration
	WriteTimeout       time.Duration
	IdleTimeout        time.Duration
	RejectEncodedSlash bool
}

// An Audit says which allowed decisions are recorded; denials always are.
type Audit struct {
	Pos           Pos
	SampleAllowed float64 // 0 to 1; 1 where none is written
	Redact        []string
}

// A Test is an expectation that travels with the policy.
type Test struct {
	Pos    Pos
	Name   string
	Level  string // the initial level where none is written
	User   string
	Groups []string
	Call   string // route name; empty for a packet test
	Set    map[string]string
	Packet *Packet
	Expect abi.Verdict
	By     string // rule name; empty: any
}

// A Packet is a flow to classify.
type Packet struct {
	From     netip.Addr
	Protocol string
	Port     uint16
}
