// Package api holds the resource types that users write, as Go values with the
// positions they were written at. It is data only: package policy reads and
// checks it, package compiler turns it into programs.
package api

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/abi/transport"
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
	Target   string // TargetProcess or TargetMicroVM
	Network  string // NetSocket or NetDirect; empty where none is written
	Memory   uint64 // bytes
	Minimum  Tier   // weakest confinement, of a process or of QEMU, that is acceptable

	Interface *Interface // with NetDirect, where one is written
	Modules   []Module   // of the user's own, in file order

	TargetPos  Pos // where Target is written
	NetworkPos Pos // where Network is written
}

// A Module is a module of the user's own, as a workload or a configuration names it:
// the folder of a Go module, or a Go module with its version, from the module cache.
type Module struct {
	Pos      Pos
	Path     string // folder, as written; empty where Module is not
	Dir      string // folder that Path is relative to
	Module   string // "example.com/guard"
	Version  string // "v1.2.3"
	Optional bool   // in images only where something requires what it provides
	Settings []Setting
}

// Source is where a module comes from, as it is written: "./guard", or
// "example.com/guard@v1.2.3".
func (m *Module) Source() string {
	if m.Path != "" {
		return m.Path
	}
	return m.Module + "@" + m.Version
}

// A Setting is one value that a module is given.
type Setting struct {
	Pos Pos // of the value
	settings.Value
}

// An Interface is a TAP device of the machine that the image has for itself, instead of
// a link to its tender: it is on that network with addresses of its own.
type Interface struct {
	Name     string         `json:"name"`
	DHCP     bool           `json:"dhcp,omitempty"`
	SLAAC    bool           `json:"slaac,omitempty"`
	Static   []netip.Prefix `json:"static,omitempty"`   // at most one of each family
	Gateways []netip.Addr   `json:"gateways,omitempty"` // each in one of Static
}

func (i *Interface) String() string {
	var list []string
	if i.DHCP {
		list = append(list, AddressDHCP)
	}
	if i.SLAAC {
		list = append(list, AddressSLAAC)
	}
	for _, p := range i.Static {
		list = append(list, p.String())
	}
	for _, g := range i.Gateways {
		list = append(list, "by "+g.String())
	}
	return i.Name + ": " + strings.Join(list, ", ")
}

// How an image on an interface gets an address that is not written.
const (
	AddressDHCP  = "dhcp"
	AddressSLAAC = "slaac"
)

// MaxInterface bounds the name of an interface (Linux: IFNAMSIZ), in bytes.
const MaxInterface = 15

// OwnStack reports whether the image has a TCP/IP stack of its own, and so sees
// packets. That of a microVM always has.
func (w *Workload) OwnStack() bool { return w.Target == TargetMicroVM || w.Network == NetDirect }

// Targets are what an image can be made for.
const (
	TargetProcess = "process" // a confined process
	TargetMicroVM = "microvm" // a virtual machine with no operating system in it
)

// Targets returns all of them.
func Targets() []string { return []string{TargetProcess, TargetMicroVM} }

// Networks are the ways in which an image has one. Where none is written, a process has
// NetSocket, and a microVM the stack that it always has; NetDirect asks for clients'
// packets to be routed to the image as well, where the tender may.
const (
	NetSocket = "socket" // sockets of the host, handed in by the tender
	NetDirect = "direct" // a stack of its own, on a link to the tender
)

// Networks returns all of them.
func Networks() []string { return []string{NetSocket, NetDirect} }

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
	Proxy   *ProxyApp
}

// A StaticApp serves the files of a folder, which become part of the image.
type StaticApp struct {
	Pos         Pos
	Dir         string // as written
	Compression Compression
}

// A Compression says whether files are served in a compressed form, too.
type Compression string

const (
	CompressionOptional Compression = "Optional" // the zero value means it as well
	CompressionRequired Compression = "Required"
	CompressionNone     Compression = "None"
)

// Compressions lists the values, the default first.
func Compressions() []string {
	return []string{string(CompressionOptional), string(CompressionRequired), string(CompressionNone)}
}

// A HandlerApp is a Go package with a constructor: func New() (http.Handler, error).
type HandlerApp struct {
	Pos     Pos
	Module  string // folder of the Go module, as written
	Package string // relative to the module: "." or "./sub"
	Func    string
}

// A ProxyApp forwards requests to one HTTP/1.1 service over connections that the
// tender makes where egress allows.
type ProxyApp struct {
	Pos             Pos
	TLS             bool   // https
	Host            string // name or IP address, without brackets
	Port            uint16
	Trust           string        // file of PEM certificates that https is verified with, as written
	ServerName      string        // that https is verified for; Host where none is written
	ConnectTimeout  time.Duration // to a connection, TLS included; 5s where none is written
	ResponseTimeout time.Duration // from the request's end to the response's head; 30s
	IdleTimeout     time.Duration // of kept connections; 30s
	MaxConnections  uint32        // 64 where none is written
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
	DryRun         bool // nothing of it is enforced that can be let through
	EnforcementPos Pos  // where that is written
	Default        Default
	Levels         Levels
	Endpoints      []Endpoint
	Network        *Network
	TLS            *TLS
	Authentication *Authentication
	Routes         []Route
	RoutesPos      Pos
	Authorization  *Authorization
	Attributes     []Attribute
	Secrets        []Secret
	RateLimits     []RateLimit
	RequestFilter  *RequestFilter
	Obligations    []Obligation
	Audit          *Audit
	Modules        *Modules
	Tests          []Test

	CoverageRequired bool // every rule that a test can reach must decide one
}

// Modules says what must be in an image, what must not, and how much there may be, by ids
// of modules or by capabilities.
type Modules struct {
	Pos     Pos
	Require []ModuleName
	Forbid  []ModuleName

	MaxAttackSurface    int // in points; 0: no limit
	MaxAttackSurfacePos Pos
}

// A ModuleName is a module or a capability, and where it is named.
type ModuleName struct {
	Pos  Pos
	Name string
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

	Triggers []Trigger
	Pool     string // empty: one image has the modules of all levels
	PoolPos  Pos
}

// Values of Levels.Pool: the image of each level has only the modules that this level
// needs. They are built ahead, and instances of them stand by, or when they are needed.
const (
	PoolProactive = "proactive"
	PoolReactive  = "reactive"
)

// A Trigger raises the level to To when Count denials of one Key come within Window, for
// Hold after the last time that it fires (0: until it is released).
type Trigger struct {
	Pos    Pos
	Name   string
	On     string // "authentication.deny", "authorization.deny", "request.deny", "network.deny" or "any.deny"
	Key    string // "all", "source", "principal" or "route"
	Count  uint32
	Window time.Duration
	To     string
	Hold   time.Duration
}

// An Endpoint is a named set of sources.
type Endpoint struct {
	Pos   Pos
	Name  string
	CIDRs []netip.Prefix
}

// AnyEndpoint is the name that stands for every source.
const AnyEndpoint = "any"

// Network holds the ordered rules of each direction: the first match wins.
type Network struct {
	Pos     Pos
	Ingress []IngressRule
	Egress  []EgressRule
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
	DryRun   bool // it is tried, and decides nothing
	MinLevel string
	MaxLevel string
}

// An EgressRule allows or denies connections that the image asks its tender for.
// It exists at the levels from MinLevel to MaxLevel (empty: no bound).
type EgressRule struct {
	Pos      Pos
	Name     string
	Action   abi.Verdict
	To       []Destination // any of them
	Ports    []Port        // empty: every port
	MinLevel string
	MaxLevel string
}

// A Destination is networks, or names that the tender resolves.
type Destination struct {
	Pos   Pos
	CIDRs []netip.Prefix
	Names []string // lower case, without a final dot
}

// ICMP is a protocol without ports. It is that of both families.
const ICMP = "ICMP"

// A Port is a protocol ("TCP", "UDP", ICMP or "any") and an inclusive range; that of ICMP
// is the whole one.
type Port struct {
	Pos      Pos
	Protocol string
	Lo, Hi   uint16
}

// TLS says how connections are secured.
type TLS struct {
	Pos         Pos
	Mode        transport.Mode
	MinVersion  transport.Version // 1.3 where none is written
	HTTP2       bool              // offered to clients; true where nothing is written
	Certificate string            // name of a secret: PEM chain; empty: a development certificate
	Key         string            // name of a secret: PEM private key
	ClientTrust string            // name of a secret: PEM certificates that clients are verified with
}

// Authentication says who may be whom. Methods are asked in the order of the
// fields; the first that finds its kind of credential decides.
type Authentication struct {
	Pos     Pos
	Require bool // without credentials: refuse (true) or go on as the anonymous principal
	JWT     []JWT
	Basic   *Basic
	MTLS    *MTLS
}

// A JWT is an issuer of bearer tokens (RFC 7519) and what its tokens must say.
type JWT struct {
	Pos        Pos
	Name       string // of the rule that decisions cite
	Issuer     string
	Audiences  []string      // one of them must be in the token
	Keys       string        // name of a secret: a JWK set (RFC 7517)
	Algorithms []string      // ES256, EdDSA, RS256; all of them where none is written
	Principal  string        // the claim that names the principal; "sub" where none is written
	Leeway     time.Duration // that clocks may differ; 30s where none is written
}

// An MTLS takes the principal from the client's certificate.
type MTLS struct {
	Pos         Pos
	Name        string
	Principal   string // "spiffe", "dns" or "subject"
	TrustDomain string // of SPIFFE IDs; empty: any that the trust bundle vouches for
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
	Schemes  []string      // of password hashing, by name, that the user list holds; none where it was not read
	Memory   uint64        // bytes that the costliest verifier of the list takes for a while
}

// A Route is a method and a path pattern that exist.
type Route struct {
	Pos    Pos
	Name   string
	Group  string
	Method string
	Path   string
	// Upgrade is the protocol that requests may change to: "websocket" or nothing.
	Upgrade string
}

// Authorization is a Cedar schema, Cedar policies, and entities that they look up.
type Authorization struct {
	Pos      Pos
	Schema   Text
	Entities Text // in Cedar's JSON form; may be empty
	Cedar    Text
}

// An Attribute maps an attribute of the Cedar context (or the principal's
// groups) to a source, as written, for example "body.json:/amount". Groups may
// have several sources, each an Attribute of its own, in file order.
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
	// Development, instead of File, names what `up` makes on this machine:
	// DevelopmentJWKS or DevelopmentClientCA.
	Development string
}

// Values of Secret.Development.
const (
	DevelopmentJWKS     = "jwks"      // the keys that `lorica dev token` signs with
	DevelopmentClientCA = "client-ca" // the authority that `lorica dev client` issues with
)

// Names of the secrets that stand for the development certificate of a TLS
// section without a certificate. No secret of a policy can have such a name.
const (
	DevelopmentCertificate = "development/certificate"
	DevelopmentKey         = "development/key"
)

// A RateLimit is Requests per time Per, of one instance, for each Key. It exists
// from MinLevel up (empty: at every level).
type RateLimit struct {
	Pos      Pos
	Name     string
	Key      limit.Key
	Routes   []string // names; empty: every request
	Requests uint32
	Per      time.Duration
	DryRun   bool // it counts, and refuses nobody
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
	MaxHeaders         uint32        // header fields of a request
	MaxStreams         uint32        // of one HTTP/2 connection
	ContentTypes       []string      // of bodies, lower case, without parameters; empty: any
	HandshakeTimeout   time.Duration // of TLS
	HeaderTimeout      time.Duration
	BodyTimeout        time.Duration
	WriteTimeout       time.Duration
	IdleTimeout        time.Duration
	RejectEncodedSlash bool
}

// An Obligation acts when Count denials of a kind come from one source within
// Window. It exists from MinLevel up (empty: at every level).
type Obligation struct {
	Pos    Pos
	Name   string
	On     string // "authentication.deny", "authorization.deny", "request.deny" or "any.deny"
	Count  uint32
	Window time.Duration
	Alert  bool          // a record of its own in the decision stream
	Block  time.Duration // refuse the source for this long; 0: do not
	DryRun bool          // what it would do is recorded only

	MinLevel string
}

// An Audit says which allowed decisions are recorded; denials always are.
type Audit struct {
	Pos           Pos
	SampleAllowed float64 // 0 to 1; 1 where none is written
	Redact        []Redaction
	Sinks         *Sinks // nil: the channel alone
}

// Sinks are where records are kept: at least one of them.
type Sinks struct {
	Pos     Pos
	Channel bool       // with the tender
	Syslog  *Collector // RFC 5424 over TLS
	OTLP    *Collector // OpenTelemetry logs over HTTP
}

// What follows where a record has no place.
const (
	LossCount = "Count" // what was decided goes on; losses are counted
	LossDeny  = "Deny"  // what was decided is denied
)

// A Collector takes records over the network, with TLS. Trust, Certificate, Key and Token
// name secrets; all but Trust may be empty.
type Collector struct {
	Pos        Pos
	Host       string // a name or an IP address
	Port       uint16
	Path       string // of OTLP
	ServerName string // in its certificate; empty: Host

	Trust, Certificate, Key, Token string

	Deny       bool   // LossDeny
	Records    uint32 // that may wait
	Memory     uint64 // for them, in bytes
	Enterprise uint32 // of syslog: names its structured data
}

// A Redaction is a field of records that is hidden: "principal", "source", "path",
// "groups", "attributes" or "attribute.NAME".
type Redaction struct {
	Pos   Pos
	Field string
}

// A Test is an expectation that travels with the policy. It is about a call of a route, a
// request, or a packet: exactly one of them.
type Test struct {
	Pos     Pos
	Name    string
	Level   string // the initial level where none is written
	User    string
	Groups  []string
	Call    string            // route name
	Request string            // as a client sends it: "POST /accounts/7/transfers"
	Set     map[string]string // attributes by name, as written
	Body    []byte            // of the request, in JSON; nil: nothing is said of it
	At      time.Time         // what the clock shows; zero: nothing is said of it
	From    netip.Addr        // of the client; zero: nothing is said of it
	Packet  *Packet
	Expect  abi.Verdict
	By      string // rule name; empty: any
	DryRun  string // "Allow" or "Deny": what it would be with the rules that are tried; empty: any
}

// A Packet is a flow to classify.
type Packet struct {
	From     netip.Addr
	Protocol string
	Port     uint16 // 0 of ICMP
}
