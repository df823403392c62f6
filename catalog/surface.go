package catalog

import "slices"

// The attack surface of a module is a number of points, after Manadhata and Wing, "An
// Attack Surface Metric" (IEEE Transactions on Software Engineering 37, 2011): what an
// attacker can use is methods, channels and data, and each counts by the damage it can do
// divided by the effort of reaching it. Here methods are the module's machine code,
// channels the system calls and devices it needs, data the inputs it parses. They measure
// three sums and keep them apart; modules are chosen by one number, so these are added, in
// the unit of one KiB of code. docs/catalog.md has the reasons for each number.

// A Breakdown is what an attack surface consists of, in points.
type Breakdown struct {
	Code     int `json:"code"`
	Syscalls int `json:"syscalls"`
	Devices  int `json:"devices"`
	Inputs   int `json:"inputs"`
}

// Total is the attack surface.
func (b Breakdown) Total() int { return b.Code + b.Syscalls + b.Devices + b.Inputs }

// Breakdown computes the attack surface of m from what its manifest says.
func (m *Module) Breakdown() Breakdown {
	b := Breakdown{Code: m.Code, Devices: devicePoints * len(m.Devices)}
	called := map[string]int{}
	for _, s := range m.Syscalls {
		called[s.Name] = max(called[s.Name], s.Points()) // alternatives: the widest of them
	}
	for _, p := range called {
		b.Syscalls += p
	}
	for _, name := range m.Inputs {
		if in := FindInput(name); in != nil {
			b.Inputs += in.Points()
		}
	}
	return b
}

// A device is one more queue that the host shares with the image.
const devicePoints = 16

// Points of a system call by what it is about. A call that is in none of the lists opens
// something that no image has otherwise.
const (
	ownPoints   = 1  // the image's own time, threads and memory
	heldPoints  = 4  // descriptors that it holds already
	newPoints   = 16 // descriptors that it does not hold yet, options of sockets
	otherPoints = 64
)

var syscallPoints = map[string]int{
	"futex": ownPoints, "nanosleep": ownPoints, "clock_nanosleep": ownPoints, "clock_gettime": ownPoints, "sched_yield": ownPoints,
	"getrandom": ownPoints, "rt_sigreturn": ownPoints, "rt_sigprocmask": ownPoints, "sigaltstack": ownPoints, "gettid": ownPoints,
	"getpid": ownPoints, "tgkill": ownPoints, "clone": ownPoints, "mmap": ownPoints, "munmap": ownPoints, "madvise": ownPoints,
	"exit": ownPoints, "exit_group": ownPoints,
	"read": heldPoints, "write": heldPoints, "readv": heldPoints, "writev": heldPoints, "close": heldPoints, "shutdown": heldPoints,
	"getsockname": heldPoints, "getpeername": heldPoints, "epoll_ctl": heldPoints, "epoll_wait": heldPoints, "epoll_pwait": heldPoints,
	"fcntl":   heldPoints,
	"accept4": newPoints, "accept": newPoints, "recvmsg": newPoints, "setsockopt": newPoints, "getsockopt": newPoints,
}

// Points is what the call counts: half where conditions bind its arguments.
func (s Syscall) Points() int {
	p, ok := syscallPoints[s.Name]
	if !ok {
		p = otherPoints
	}
	if len(s.When) > 0 {
		p = (p + 1) / 2
	}
	return p
}

// An Input is something that modules parse and others send.
type Input struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
	Form    Form   `json:"form"`
	From    Sender `json:"from"`
}

// A Form is how much can go wrong in reading an input: the damage.
type Form string

const (
	Fixed   Form = "fixed"   // fields at their places, a word of a short list
	Grammar Form = "grammar" // text or messages with lengths, quotes, escapes
	State   Form = "state"   // nested, or read over many messages, or with cryptography inside
)

// A Sender is who can send an input: the effort.
type Sender string

const (
	Anyone Sender = "anyone" // who reaches the port, without credentials
	Known  Sender = "known"  // who has proved who they are, or whom the policy chose
	Host   Sender = "host"   // the machine that the image runs on, and whoever may sign programs
)

// inputPoints is what a fixed form that anyone can send counts.
const inputPoints = 32

// Points is damage divided by effort.
func (in *Input) Points() int {
	damage := map[Form]int{Fixed: 1, Grammar: 2, State: 4}[in.Form]
	effort := map[Sender]int{Anyone: 1, Known: 2, Host: 4}[in.From]
	return inputPoints * damage / effort
}

// inputs are all that a manifest may name, by name. What reads something else needs an
// entry, so that somebody has thought about who sends it.
var inputs = []Input{
	{"basic", "HTTP Basic credentials", Fixed, Anyone},
	{"body", "bodies of requests, in a form of the application's", Grammar, Anyone},
	{"certificate", "names in a client certificate that was verified", Fixed, Known},
	{"claims", "claims of a token whose signature was verified", Grammar, Known},
	{"control", "messages of the tender: programs, levels, shutdown", State, Host},
	{"dhcp", "DHCP messages", Grammar, Anyone},
	{"encodings", "lists of encodings that a client takes", Fixed, Anyone},
	{"handed", "sockets and connections that the tender hands in", Fixed, Host},
	{"http/1.1", "HTTP/1.1 requests", Grammar, Anyone},
	{"http/2", "HTTP/2 connections", State, Anyone},
	{"jwt", "signed tokens", State, Anyone},
	{"packets", "Ethernet, ARP, IPv4, IPv6, ICMP, UDP and TCP", State, Anyone},
	{"path", "paths, queries and headers, for their canonical form", Grammar, Anyone},
	{"ranges", "ranges and conditions of requests for files", Grammar, Anyone},
	{"response", "HTTP responses of an upstream or a collector", Grammar, Known},
	{"tls/client", "TLS with an upstream or a collector, its certificates included", State, Known},
	{"tls/server", "TLS with clients, their certificates included", State, Anyone},
	{"virtio", "queues that are shared with the host", Fixed, Host},
}

// Inputs returns all that a manifest may name, by name.
func Inputs() []Input { return slices.Clone(inputs) }

// FindInput returns the input of a name, or nil.
func FindInput(name string) *Input {
	i := slices.IndexFunc(inputs, func(in Input) bool { return in.Name == name })
	if i < 0 {
		return nil
	}
	return &inputs[i]
}
