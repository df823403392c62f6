// Package pep is the contract of enforcement modules: what they are given, what
// they answer, and how a change of policy reaches all of them at once.
//
// A module is a constructor that returns a Gate or a Guard. For each program the
// lifecycle calls Prepare of every module; when all succeed, one pointer is
// swapped and the new states, a generation, decide. A request is judged by the
// generation that was in force at its first byte, until its audit record is
// written. What outlives a generation (attempt counters, verified credentials)
// lives in the module; what depends on the program lives in the state.
//
// The zero Decision denies, and every error inside a module is a denial.
package pep

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/route"
)

// Headers of the contract with applications and clients. The first two are
// stripped from what clients send and set for the application; the third is in
// every response.
const (
	HeaderPrincipal = "Lorica-Principal"
	HeaderGroups    = "Lorica-Groups" // comma separated
	HeaderDecision  = "Lorica-Decision"
)

// An Input is what a module prepares a program from. Section aliases sealed
// memory that stays mapped and unchanged until the state is released.
type Input struct {
	Level    string   // the level the program is for
	Levels   []string // from the lowest up to Level
	Revision uint64
	Program  [32]byte
	Section  []byte            // nil: the program has none, so deny
	Secrets  map[string][]byte // by name
	DryRun   *abi.Rule         // of what is tried, and not enforced: what lets through whom it denies; nil: it is enforced
}

// A Decision is a verdict with what one needs to explain it. The zero Decision
// denies with status 403.
type Decision struct {
	Verdict abi.Verdict
	Stage   string
	Rule    abi.Rule
	Reason  string // in words, for the audit record; never sent to the client
	Status  int    // of a denial; 0 means 403
	Record  bool   // record although allowed (a rule with audit: true)

	Would *Decision // what it would be if what is tried were enforced; nil: the same
}

// A Gate judges connections before their first byte.
type Gate interface {
	Prepare(*Input) (GateState, error)
}

// A GateState is one generation of a Gate, safe for concurrent use.
type GateState interface {
	Admit(flow.Flow) Decision
}

// A PacketGate is a Gate that judges packets as well, where the image has a network of
// its own. Its states are PacketStates.
type PacketGate interface {
	Gate
	// Packets returns the filter that the network asks, once, before the first program
	// is in force: until then it drops everything.
	Packets(PacketPlace) PacketFilter
}

// A PacketPlace is what a PacketFilter has to know of the network it stands in.
type PacketPlace struct {
	Own     []netip.Addr      // addresses of the image; more may come, see PacketFilter.Own
	Hosts   []netip.Addr      // of the tender
	Ports   map[uint16]uint16 // TCP ports that the image serves: to the numbers that rules know them by
	Outward []netip.AddrPort  // TCP services of the tender that the image may connect to
	SLAAC   bool              // routers may announce prefixes
	DHCP    bool              // a DHCP server may be asked and answer
	Shared  bool              // others are on the link, too: nobody there has an address of loopback, and any of them may be a neighbour
}

// An Action is what becomes of a packet. The zero Action drops it.
type Action uint8

const (
	Drop Action = iota
	Pass
	Refuse // drop it, and tell the sender that an administrator prohibits it (ICMP)
)

// A PacketFilter judges IP packets, without their link headers. It neither keeps nor
// changes what it is given, does not allocate, and is safe for concurrent use.
type PacketFilter interface {
	In(packet []byte) Action  // arrived, not seen by the stack yet; its memory changes no more
	Out(packet []byte) Action // about to leave; Pass or Drop. At least all headers, else it may be cut short
	Own([]netip.Addr)         // the image has these addresses from now on
}

// A PacketState is a GateState that decides about packets from Enforce on. Flows that
// earlier states let in are decided again.
type PacketState interface {
	GateState
	Enforce()
}

// A PacketReporter is a PacketFilter that counts. Reports are taken by one goroutine.
type PacketReporter interface {
	// Report returns what was denied since the last time, as a fair sample: few enough to
	// be recorded however many packets came. Counted are all.
	Report() []PacketDenial
	Counters() control.Packets
}

// A PacketDenial is a packet that was denied, or one that stands for several.
type PacketDenial struct {
	Flow     flow.Flow
	Decision Decision
	Count    uint64 // how many this one stands for, itself included
	Opens    bool   // it asked for a connection, as all that it stands for
}

// A Guard judges requests.
type Guard interface {
	Prepare(*Input) (GuardState, error)
}

// A GuardState is one generation of a Guard, safe for concurrent use. Judge may
// fill the fields of the exchange that later guards read. A state that is also a
// GateState judges connections too, after the gates.
type GuardState interface {
	Judge(*Exchange) Decision
}

// A Limiter is a GuardState that also bounds the server in front of it.
type Limiter interface {
	Limits() route.Limits
}

// A Transport secures connections that the gates admitted, before the first
// request on them.
type Transport interface {
	Prepare(*Input) (TransportState, error)
}

// A TransportState is one generation of a Transport, safe for concurrent use.
type TransportState interface {
	// Secure makes the handshake on c, as long as ctx allows. After a denial
	// the caller closes c.
	Secure(ctx context.Context, c net.Conn) (Secured, Decision)
	// Remain judges a connection that another generation secured, or whose
	// client certificate (nil: none) may have expired at the time.
	Remain(p *Peer, at time.Time) Decision
}

// Secured is a connection after its handshake.
type Secured struct {
	Conn  net.Conn // plain text
	State *tls.ConnectionState
	Peer  *Peer // nil: no client certificate
	HTTP2 bool  // negotiated
}

// A Peer is a verified client certificate.
type Peer struct {
	SPIFFE   string   // the URI subject alternative name "spiffe://..."; may be empty
	DNS      []string // DNS subject alternative names, in the order of the certificate
	Subject  string   // the common name; may be empty
	NotAfter time.Time
	Chain    []*x509.Certificate // from the leaf to what the trust bundle holds
}

// An Outbound makes connections out of the image, and judges them.
type Outbound interface {
	Prepare(*Input) (OutboundState, error)
}

// A Connector asks the tender for a connection to a host, a name or an IP address.
// Its error is an egress.Refused where the tender refused, or the one of ctx.
type Connector interface {
	Connect(ctx context.Context, host string, port uint16) (net.Conn, error)
}

// An OutboundState is one generation of an Outbound. Enforce puts it in force:
// connections that it does not allow are closed.
type OutboundState interface {
	Enforce()
}

// An Observer is a GuardState that is told of every decision about a connection
// or a request, its own included. What it returns is recorded as a decision of
// its own, if ok.
type Observer interface {
	Observe(x *Exchange, d Decision) (alert Decision, ok bool)
}

// A Raiser is a GuardState that is told of every decision as an Observer is, of n alike at
// once where one stands for others, and has the security level raised.
type Raiser interface {
	Raise(x *Exchange, d Decision, n uint64) []Firing
}

// A Firing is a trigger that fired, by its name, and its record.
type Firing struct {
	Trigger string
	Alert   Decision
}

// An Auditor turns decisions into records.
type Auditor interface {
	Prepare(*Input) (AuditState, error)
}

// An AuditState is one generation of an Auditor, safe for concurrent use.
// Record returns the record of d and whether it is to be kept: denials always
// are. The request of x is nil where d is about a connection.
type AuditState interface {
	Record(x *Exchange, d Decision) (audit.Record, bool)
}

// ErrNoRoom says that a record has no place where it must have one: what it is of must not
// pass.
var ErrNoRoom = errors.New("pep: there is no room for the record")

// A Sink takes records to where they are kept. What waits in it outlives generations.
type Sink interface {
	Prepare(*Input) (SinkState, error)
	// Start is called once, before the first record.
	Start(Keeper)
	// Drain returns when everything is where it is to be, or says what is not at the end of
	// ctx. Nothing is recorded meanwhile.
	Drain(ctx context.Context) error
}

// A SinkState is one generation of a Sink, safe for concurrent use.
type SinkState interface {
	// Keep takes a record. With wait it returns when the record is as
	// safe as this sink makes it before a request is answered. An ErrNoRoom ends the request;
	// any other error the image.
	Keep(r audit.Record, wait bool) error
	// Demands reports whether Keep may return ErrNoRoom.
	Demands() bool
	// Enforce puts the state in force.
	Enforce()
}

// A Keeper is the tender at the other end of the control channel.
type Keeper interface {
	// Keep returns with wait when the tender has the record.
	Keep(r audit.Record, wait bool) error
	Log(line string)
}

// A SinkReporter is a Sink that counts.
type SinkReporter interface {
	Report() control.Sink
}

// A Witness can say what a request was judged by.
type Witness interface {
	// Facts returns the attributes that the policies of the route read, as they were
	// judged: for a record that is kept, before the application has the request.
	Facts(x *Exchange) []audit.Fact
}

// A Param is a path parameter of the matched route.
type Param struct{ Name, Value string }

// An Exchange is a request on its way through the guards. It belongs to one
// goroutine.
type Exchange struct {
	ID      string // random; what the client sees
	Request *http.Request
	Header  http.Header // response header: WWW-Authenticate, Allow, Retry-After
	Flow    flow.Flow
	Now     time.Time // when the request arrived; every guard uses this clock

	Path      string       // canonical; set by the filter
	Route     *route.Route // set by the filter; nil where routes are open
	Params    []Param      // set by the filter
	MaxBody   int64        // set by the filter
	Principal string       // set by authentication; empty: nobody asked
	Groups    []string     // set by authentication, sorted
	Claims    []byte       // set by authentication: of a verified token, a JSON object; nil: no token; read only
	Expires   time.Time    // set by authentication: when the credential ends; zero: never
	Peer      *Peer        // the client's verified certificate; nil: none; read only
	Witness   Witness      // set by authorization; nil: it was not asked

	source  netip.Prefix // of from; see Source
	from    netip.Addr
	body    []byte
	bodyErr error
	read    bool
}

// Source is Flow.Source, which several guards ask for.
func (x *Exchange) Source() netip.Prefix {
	if x.from != x.Flow.Src {
		x.source, x.from = x.Flow.Source(), x.Flow.Src
	}
	return x.source
}

// Limit bounds the body of the request by MaxBody.
func (x *Exchange) Limit() {
	if r := x.Request; r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(nil, r.Body, x.MaxBody)
	}
}

// ErrBody reports a body that could not be read within its bounds.
var ErrBody = errors.New("pep: the body is too large or did not arrive in time")

// Body reads the whole body, at most MaxBody bytes, once; the application then
// gets exactly the bytes that were judged, and no trailers, which were not.
func (x *Exchange) Body() ([]byte, error) {
	if x.read {
		return x.body, x.bodyErr
	}
	x.read = true
	if x.Request.Body == nil {
		return nil, nil
	}
	b, err := x.readBody()
	switch {
	case err != nil:
		x.bodyErr = errors.Join(ErrBody, err)
	case int64(len(b)) > x.MaxBody:
		x.bodyErr = ErrBody
	}
	if x.bodyErr != nil { // whoever lets it go on has it meet the same end, at the same place
		b = b[:min(int64(len(b)), max(x.MaxBody, 0))]
		x.Request.Body = &judged{data: b, src: x.Request.Body, end: x.bodyErr}
		return nil, x.bodyErr
	}
	x.body = b
	x.Request.Body = &judged{data: b, src: x.Request.Body, end: io.EOF}
	x.Request.ContentLength, x.Request.TransferEncoding = int64(len(b)), nil
	x.Request.Trailer = nil
	return b, nil
}

// readBody reads the body, and one byte more than there may be where there is so
// much. A length that is known is not grown into.
func (x *Exchange) readBody() ([]byte, error) {
	const modest = 64 << 10 // what a client may have us hold at its word
	if n := x.Request.ContentLength; n > 0 && n <= min(x.MaxBody, modest) {
		b := make([]byte, n+1)
		have, err := io.ReadFull(x.Request.Body, b)
		if err == io.ErrUnexpectedEOF && int64(have) == n {
			err = nil
		}
		return b[:have], err
	}
	return io.ReadAll(io.LimitReader(x.Request.Body, min(x.MaxBody, math.MaxInt64-1)+1))
}

// judged replays a body that was read.
type judged struct {
	data []byte
	src  io.Closer
	end  error
}

func (j *judged) Read(p []byte) (int, error) {
	if len(j.data) == 0 {
		return 0, j.end
	}
	n := copy(p, j.data)
	j.data = j.data[n:]
	return n, nil
}

func (j *judged) Close() error { return j.src.Close() }

// RetryAfter tells the client, in whole seconds, when to come again (RFC 9110,
// section 10.2.3).
func (x *Exchange) RetryAfter(wait time.Duration) {
	x.Header.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
}

// Param returns the named path parameter.
func (x *Exchange) Param(name string) (string, bool) {
	for _, p := range x.Params {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}
