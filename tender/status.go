package tender

import (
	"context"
	"net/netip"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
)

// A State is where an instance is in its life.
type State string

const (
	Starting State = "starting" // or starting again
	Ready    State = "ready"
	Draining State = "draining"
	Stopped  State = "stopped"
)

// Stats are what the image counts, since it last started.
type Stats struct {
	Requests    uint64 `json:"requests"`
	Allowed     uint64 `json:"allowed"`
	Denied      uint64 `json:"denied"`
	Connections uint64 `json:"connections"` // open now
	Refused     uint64 `json:"refused"`     // connections that the firewall refused
	HeapBytes   uint64 `json:"heapBytes"`
	Goroutines  uint32 `json:"goroutines"`

	Packets Packets `json:"packets,omitzero"` // of an image that sees them

	Addresses []string `json:"addresses,omitempty"` // that an image on an interface says it has

	Sinks []Sink `json:"sinks,omitempty"` // collectors that records go to
}

// A Sink counts the records that an image sends to a collector.
type Sink struct {
	Sink      string `json:"sink"` // "syslog", "otlp"
	Connected bool   `json:"connected"`
	Waiting   uint64 `json:"waiting"`           // in the memory of the image
	Delivered uint64 `json:"delivered"`         // sent; of OTLP, confirmed
	Repeated  uint64 `json:"repeated"`          // sent again, under the numbers that they had
	Lost      uint64 `json:"lost"`              // that there was no place for, or that the collector refused
	Trouble   string `json:"trouble,omitempty"` // why it is not connected
}

// Packets are what the firewall of an image with a stack of its own counts.
type Packets struct {
	In           uint64      `json:"in"`  // that passed
	Out          uint64      `json:"out"` // that passed
	Denied       uint64      `json:"denied"`
	Malformed    uint64      `json:"malformed"` // dropped before any rule
	Flows        uint32      `json:"flows"`     // known now
	FlowsDropped uint64      `json:"flowsDropped"`
	Rules        []RuleCount `json:"rules,omitempty"`
}

// A RuleCount counts the packets that a rule decided about, since its program is in
// force.
type RuleCount struct {
	Rule    string `json:"rule"`
	Packets uint64 `json:"packets"`
}

// statsOf returns what an image counts. Names come from the image.
func statsOf(s control.Stats) Stats {
	p := s.Packets
	x := Stats{s.Requests, s.Allowed, s.Denied, s.Connections, s.Refused, s.HeapBytes, s.Goroutines,
		Packets{In: p.In, Out: p.Out, Denied: p.Denied, Malformed: p.Malformed, Flows: p.Flows, FlowsDropped: p.FlowsDropped}, nil, nil}
	for _, k := range s.Sinks[:min(len(s.Sinks), maxSinks)] {
		x.Sinks = append(x.Sinks, Sink{printable(k.Name), k.Connected, k.Waiting, k.Delivered, k.Repeated, k.Lost, printable(k.Trouble)})
	}
	for _, r := range p.Rules {
		x.Packets.Rules = append(x.Packets.Rules, RuleCount{printable(r.ID), r.Packets})
	}
	for _, a := range s.Addresses[:min(len(s.Addresses), maxAddresses)] {
		if p, err := netip.ParsePrefix(a); err == nil {
			x.Addresses = append(x.Addresses, p.String())
		}
	}
	return x
}

// Values of Status.DryRun.
const (
	DryRunPolicy = "policy" // all of it
	DryRunRules  = "rules"  // some rules
)

// dryRunOf says what a program has tried.
func dryRunOf(p *program.Program) (what string) {
	for _, s := range p.Sections {
		if s.Name == dryrun.Name {
			return DryRunPolicy
		}
		if _, ok := dryrun.Beside(s.Name); ok {
			what = DryRunRules
		}
	}
	return what
}

// maxSinks bounds what an image can say of collectors.
const maxSinks = 8

// Where records are kept, in Status.Records.
const (
	RecordsChannel = "channel" // here, with the tender
	RecordsSyslog  = "syslog"
	RecordsOTLP    = "otlp"
)

// recordsOf says where the records of a program are kept.
func recordsOf(p *program.Program) (list []string) {
	for _, s := range []struct{ section, name string }{{audit.ChannelName, RecordsChannel}, {audit.SyslogName, RecordsSyslog}, {audit.OTLPName, RecordsOTLP}} {
		if p.Section(s.section) != nil {
			list = append(list, s.name)
		}
	}
	return list
}

// A Status is an instance as its tender knows it.
type Status struct {
	Instance    string         `json:"instance"`
	Tenant      string         `json:"tenant"`
	Workload    string         `json:"workload"`
	State       State          `json:"state"`
	Target      string         `json:"target"`
	Net         string         `json:"net,omitempty"`       // as it was asked for: api.NetDirect, or empty
	Interface   *api.Interface `json:"interface,omitempty"` // that the image is on, where it is
	Way         string         `json:"way,omitempty"`       // that clients' packets come by, where the image sees them
	PID         int            `json:"pid"`                 // of the image; 0 while there is none
	TenderPID   int            `json:"tenderPid"`
	Tier        string         `json:"tier"`
	Accel       string         `json:"accel,omitempty"` // what runs a microVM: "kvm" or "tcg"
	ImageDigest string         `json:"imageDigest"`
	Plan        string         `json:"plan"`
	Program     string         `json:"program"` // digest of the signed bytes in force
	Content     string         `json:"content"` // the same for what it enforces
	Batch       string         `json:"batch"`   // the same for the programs of all levels
	Policy      string         `json:"policy"`
	DryRun      string         `json:"dryRun,omitempty"` // what is tried and not enforced: DryRunPolicy, DryRunRules or nothing
	Records     []string       `json:"records"`          // where they are kept: RecordsChannel, and others
	Level       string         `json:"level"`
	Standing    Standing       `json:"standing"` // why that level
	Revision    uint64         `json:"revision"`
	Listen      []Listener     `json:"listen"`
	Memory      uint64         `json:"memory"`     // bytes that the workload asked for
	Limits      string         `json:"limits"`     // what bounds it: "cgroup DIR" or "RLIMIT_DATA"; empty before the first launch
	Started     time.Time      `json:"started"`    // of the tender
	BootMillis  float64        `json:"bootMillis"` // from the start of the newest launch until its image was ready
	Restarts    int            `json:"restarts"`
	LastError   string         `json:"lastError,omitempty"`
	Decisions   uint64         `json:"decisions"` // number of the newest one that is kept
	Stats       Stats          `json:"stats"`
}

// report returns the status with fresh statistics where the image gives them.
func (t *tender) report(ctx context.Context) Status {
	t.mu.Lock()
	s, inst := t.status, t.inst
	t.mu.Unlock()
	s.Decisions = t.decisions.last()
	if inst != nil && s.State != Starting {
		s.Stats = statsOf(inst.statistics(ctx))
		if s.Interface == nil { // between the two of them
			s.Stats.Addresses = nil
		}
	}
	return s
}
