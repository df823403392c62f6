// Package tender owns one instance: it launches the image confined, feeds it
// its program and secrets, keeps its evidence, watches it, and ends it.
//
// One process runs Run for one instance, started by Start and reached through
// Client; it outlives the process that started it. What comes from the image is
// never trusted: a frame out of place, a lie or silence ends the image, text is
// made printable and bounded, and nothing the image does can block or grow the
// tender.
package tender

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// A Listener is a TCP address that the instance serves.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"` // an IP address
	Port    uint16 `json:"port"`    // 0: any free port
}

// A Config is one instance. It holds secrets: it travels over a pipe and is
// never written anywhere.
type Config struct {
	Instance string
	Tenant   string
	Workload string
	Dir      string // runtime folder of the instance, 0700: socket, decisions, log

	Image       string            // path of the ELF
	ImageDigest string            // "sha256:" and 64 digits; compared before every launch
	Plan        string            // 64 digits; the image must say the same
	Target      string            // api.TargetProcess where it is empty
	Net         string            // api.NetDirect, or empty
	IPv4        bool              // the image has a stack of its own, and that IPv4 alone: its link has no more
	Interface   *api.Interface    // with api.NetDirect: what the image has instead of a link; nothing is listened on then
	Syscalls    []catalog.Syscall // of a process
	Devices     []string          // of a microVM

	Trust       []byte // Ed25519 public key, 32 bytes
	MinRevision uint64
	Program     []byte   // signed, of the level to begin with
	Others      []Signed // of the other levels
	Stance      *Stance  // which levels are asked for; nil: that of Program
	Secrets     []control.Secret

	Listen   []Listener
	Inherit  []bool // which of Listen are handed over; the others are opened
	Memory   uint64
	MaxProcs int

	Minimum api.Tier // of a process or of QEMU: refuse to run weaker than this
	Weaken  api.Tier // use no more than this tier gives; Minimum still holds

	// Patience bounds each wait for the image: for its first word, for being
	// ready, for an answer, for it to take what it is told, and for its exit
	// after a drain. An image that takes longer is killed. 0: 30 seconds.
	Patience time.Duration

	// LeaseGrace is how long the instance waits for another lease when the last
	// one ended without a release. 0: 30 seconds, for a person to start again
	// what died.
	LeaseGrace time.Duration

	// Leased makes the instance drain when nobody takes a lease soon after it
	// became ready, so that a starter that died leaves nothing behind.
	Leased bool
}

const defaultMemory = 64 << 20

// maxName bounds names; they become parts of paths and of every record.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func (c *Config) validate() error {
	for _, n := range []struct{ what, value string }{{"instance", c.Instance}, {"tenant", c.Tenant}, {"workload", c.Workload}} {
		if !namePattern.MatchString(n.value) {
			return fmt.Errorf("tender: %s name %q: use letters, digits, '.', '_' and '-', at most 128", n.what, n.value)
		}
	}
	if c.Target == "" {
		c.Target = api.TargetProcess
	}
	c.Plan = strings.TrimPrefix(c.Plan, "plan:")
	if _, err := program.ParsePlanID(c.Plan); err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	switch {
	case !filepath.IsAbs(c.Dir) || !filepath.IsAbs(c.Image):
		return errors.New("tender: the runtime folder and the image need absolute paths")
	case !slices.Contains(api.Targets(), c.Target):
		return fmt.Errorf("tender: target %q is unknown", c.Target)
	case c.Net != "" && c.Net != api.NetDirect:
		return fmt.Errorf("tender: network %q is unknown", c.Net)
	case c.Interface != nil && (c.Net != api.NetDirect || len(c.Inherit) > 0):
		return errors.New("tender: an interface is for the network direct, and for no sockets")
	case len(c.Trust) != ed25519.PublicKeySize:
		return fmt.Errorf("tender: the trust root has %d bytes, expected %d", len(c.Trust), ed25519.PublicKeySize)
	case len(c.Listen) == 0 || len(c.Listen) > launch.MaxListener:
		return fmt.Errorf("tender: %d listeners; an image takes 1 to %d", len(c.Listen), launch.MaxListener)
	}
	for _, l := range c.Listen {
		if _, err := netip.ParseAddr(l.Address); err != nil {
			return fmt.Errorf("tender: listener %q: %w", l.Name, err)
		}
	}
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.Patience <= 0 {
		c.Patience = defaultPatience
	}
	if c.LeaseGrace <= 0 {
		c.LeaseGrace = defaultLeaseGrace
	}
	if c.MaxProcs <= 0 {
		c.MaxProcs = runtime.NumCPU()
	}
	if err := checkPrograms(c.Program, c.Others); err != nil {
		return err
	}
	return checkSecrets(c.Secrets)
}

// checkSecrets leaves room for the rest of the frame that secrets travel in.
func checkSecrets(secrets []control.Secret) error {
	size := 0
	for _, s := range secrets {
		size += len(s.Name) + len(s.Value) + 8
	}
	if limit := control.MaxFromTender - 256<<10; size > limit {
		return fmt.Errorf("tender: %d bytes of secrets; the limit is %d", size, limit)
	}
	return nil
}
