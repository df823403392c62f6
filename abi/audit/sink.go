package audit

import (
	"errors"
	"fmt"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/wire"
)

// Sections of the sinks, where records are kept. A program has at least one of them.
const (
	ChannelName = "audit-channel"
	SyslogName  = "audit-syslog"
	OTLPName    = "audit-otlp"
)

// A Channel says that records go to the tender, and where that is written.
type Channel struct{ Rule abi.Rule }

// Encode returns the section's bytes.
func (c *Channel) Encode() []byte {
	var w wire.Writer
	w.String(c.Rule.ID)
	w.String(c.Rule.Line)
	return w.Bytes()
}

// DecodeChannel reads a section.
func DecodeChannel(b []byte) (Channel, error) {
	if len(b) == 0 {
		return Channel{}, errors.New("audit: no section for the channel")
	}
	r := wire.NewReader(b)
	c := Channel{abi.Rule{ID: r.String(), Line: r.String()}}
	if err := r.Close(); err != nil {
		return Channel{}, fmt.Errorf("audit: %w", err)
	}
	return c, nil
}

// Bounds of what waits in an image for a collector.
const (
	MinQueueBytes   = 64 << 10
	MaxQueueBytes   = 256 << 20
	MaxQueueRecords = 1 << 20
)

// A Collector says where records go over the network, always with TLS, and what follows
// when they cannot. The zero Collector is refused.
type Collector struct {
	Rule     abi.Rule // names the connection, and denials for want of a place
	Tenant   string   // of the workload that the records are of
	Workload string

	Host       string // a name or an IP address
	Port       uint16
	ServerName string // in the certificate of the collector
	Path       string // of the URL; empty where the protocol has none

	// Names of secrets. The collector is verified with Trust; the others may be empty.
	Trust, Certificate, Key, Token string

	Deny       bool   // what cannot be recorded is denied; else it goes on, and is counted
	Records    uint32 // that may wait
	Bytes      uint64 // of them, in memory
	Enterprise uint32 // number by which structured data is named (IANA, private enterprise numbers)
}

// Encode returns the section's bytes.
func (c *Collector) Encode() []byte {
	var w wire.Writer
	for _, s := range c.texts() {
		w.String(*s)
	}
	w.U16(c.Port)
	w.Bool(c.Deny)
	w.U32(c.Records)
	w.U64(c.Bytes)
	w.U32(c.Enterprise)
	return w.Bytes()
}

func (c *Collector) texts() []*string {
	return []*string{&c.Rule.ID, &c.Rule.Line, &c.Tenant, &c.Workload, &c.Host, &c.ServerName, &c.Path,
		&c.Trust, &c.Certificate, &c.Key, &c.Token}
}

// DecodeCollector reads a section. What it returns without an error is complete.
func DecodeCollector(b []byte) (Collector, error) {
	if len(b) == 0 {
		return Collector{}, errors.New("audit: no section for the collector")
	}
	r := wire.NewReader(b)
	var c Collector
	for _, s := range c.texts() {
		*s = r.String()
	}
	c.Port, c.Deny, c.Records, c.Bytes, c.Enterprise = r.U16(), r.Bool(), r.U32(), r.U64(), r.U32()
	if err := c.check(); r.Err() == nil && err != nil {
		r.Fail(err)
	}
	if err := r.Close(); err != nil {
		return Collector{}, fmt.Errorf("audit: %w", err)
	}
	return c, nil
}

func (c *Collector) check() error {
	_, err := egress.ParseTarget(c.Host, c.Port)
	switch {
	case err != nil:
		return err
	case c.ServerName == "" || c.Trust == "":
		return errors.New("a collector that would not be verified")
	case (c.Certificate == "") != (c.Key == ""):
		return errors.New("a certificate and its key go together")
	case c.Path != "" && !ValidPath(c.Path):
		return errors.New("not the path of a URL")
	case c.Records == 0 || c.Records > MaxQueueRecords || c.Bytes < MinQueueBytes || c.Bytes > MaxQueueBytes:
		return fmt.Errorf("a queue of %d records and %d bytes", c.Records, c.Bytes)
	}
	return nil
}

// ValidPath reports whether s can stand in the first line of a request as it is: a slash
// and what a path may have without an escape, or with one.
func ValidPath(s string) bool {
	if s == "" || s[0] != '/' || len(s) > MaxPath {
		return false
	}
	for _, b := range []byte(s) {
		if b <= ' ' || b >= 0x7f || b == '?' || b == '#' || b == '"' || b == '\\' || b == '<' || b == '>' {
			return false
		}
	}
	return true
}

// MaxToken bounds a bearer token, in bytes.
const MaxToken = 4096

// ParseToken reads a bearer token (RFC 6750, section 2.1) from the file of a secret, which
// may end with a line end.
func ParseToken(b []byte) (string, error) {
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || len(s) > MaxToken {
		return "", fmt.Errorf("a token has 1 to %d characters, not %d", MaxToken, len(s))
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~+/=", c) >= 0:
		default:
			return "", fmt.Errorf("character %d cannot be part of a token", i+1)
		}
	}
	return s, nil
}
