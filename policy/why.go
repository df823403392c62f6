package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// A Query asks what a policy does with a request or a connection.
type Query struct {
	Request string // "GET /accounts/7?verbose=1"; the method may be left out
	Packet  string // "tcp 10.20.1.1 -> :8443"; then Request is empty
	User    string // empty: no credentials
	Groups  []string
	Level   string            // empty: the initial level
	Set     map[string]string // attributes that nothing else here shows
	Body    []byte            // JSON; nil: nothing is said of it
	At      time.Time         // zero: nothing is said of the clock
	From    netip.Addr        // of the client; zero: nothing is said of it
}

// An Answer is a decision with its reasons.
type Answer struct {
	Verdict    abi.Verdict `json:"verdict"`
	Stage      string      `json:"stage"` // the module that decides
	Rule       abi.Rule    `json:"rule"`
	Level      string      `json:"level"` // whose rules decided
	Route      string      `json:"route,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	Missing    []string    `json:"missing,omitempty"`    // for a denial: what would have to be otherwise
	Nearest    []Near      `json:"nearest,omitempty"`    // for a denial that no rule decided: the permits that came nearest
	Considered []Outcome   `json:"considered,omitempty"` // rules in file order
	DryRun     *Would      `json:"dryRun,omitempty"`     // what it would be if what is tried were enforced; nil: the same
	Call       *Call       `json:"-"`                    // what authorization was asked; nil: nothing
}

// A Near is a permit that does not hold.
type Near struct {
	Rule   abi.Rule `json:"rule"`
	Failed []string `json:"failed"` // its clauses that do not hold, in its order
}

// An Outcome is what one rule said.
type Outcome struct {
	Rule abi.Rule `json:"rule"`
	Text string   `json:"outcome"`
}

// Why walks the chain of the image: routes, authentication, authorization; or
// the network rules alone for a packet. Its error is about the query.
func (d *Deployment) Why(q Query) (Answer, error) {
	levels := LevelsTo(d.Policy, q.Level)
	if len(levels) == 0 {
		return Answer{}, fmt.Errorf("there is no level %q: %s", clip(q.Level), didYouMean(q.Level, d.Policy.Levels.Names))
	}
	q.Level = levels[len(levels)-1]
	switch {
	case (q.Request == "") == (q.Packet == ""):
		return Answer{}, errors.New("ask about a request, such as 'GET /accounts/7', or about a packet, such as 'tcp 10.20.1.1 -> :8443'")
	case q.Packet != "":
		k, err := ParsePacket(q.Packet)
		if err != nil {
			return Answer{}, err
		}
		a := d.whyPacket(q.Level, k)
		d.whyObliged(&a, q.Level)
		d.release(&a)
		return a, nil
	}
	e := d.Reference()
	x := exchange{Query: q}
	a, err := e.request(&x)
	if err == nil {
		if a.Call != nil {
			e.explain(&a, *a.Call)
		}
		d.whyTyped(&a, &x)
		d.whyLimited(&a, &x)
		d.whyObliged(&a, q.Level)
		d.release(&a)
	}
	return a, err
}

// ParsePacket reads "tcp 10.20.1.1 -> :8443", or "icmp 10.20.1.1".
func ParsePacket(s string) (api.Packet, error) {
	bad := fmt.Errorf("%q is not a packet: write 'tcp 10.20.1.1 -> :8443', or 'icmp 10.20.1.1'", clip(s))
	from, to, ok := strings.Cut(s, "->")
	words := strings.Fields(from)
	if len(words) != 2 {
		return api.Packet{}, bad
	}
	protocol := strings.ToUpper(words[0])
	addr, err := netip.ParseAddr(words[1])
	if protocol == api.ICMP && !ok && err == nil {
		return api.Packet{From: addr.Unmap(), Protocol: protocol}, nil
	}
	to = strings.TrimSpace(to)
	port, err2 := strconv.ParseUint(to[strings.LastIndexByte(to, ':')+1:], 10, 16)
	if !ok || err != nil || err2 != nil || port == 0 || protocol != "TCP" && protocol != "UDP" {
		return api.Packet{}, bad
	}
	return api.Packet{From: addr.Unmap(), Protocol: protocol, Port: uint16(port)}, nil
}
