package run

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// A Trial is an image that runs for a moment beside whatever else does, to be looked at:
// no command lists it, it listens on addresses of loopback taken by chance, which other
// users of the machine could find, whatever it asks to be connected to is denied, since it
// may let in what should be kept from there, and its program is signed by a key that nobody
// has afterwards.
type Trial struct {
	*Instance
	Program string // digest of what it enforces
	lease   *tender.Lease
}

// ErrInterface says that an image would take a network interface of the machine.
var ErrInterface = errors.New("it would take the network interface of the workload")

// trialAddresses returns addresses of loopback by chance, behind those that people choose.
func trialAddresses(n int) (list []string) {
	a := netip.AddrFrom4([4]byte{127, byte(64 + rand.N(64)), byte(rand.N(256)), byte(1 + rand.N(200))})
	for range n {
		list = append(list, a.String())
		a = a.Next()
	}
	return list
}

// Try starts an image with the program of a level, less the section of a module where one
// is named. dir is a new folder of the caller's. The error tells why it does not start.
func (m *Machine) Try(ctx context.Context, d *policy.Deployment, l *Level, img *builder.Image, section, dir string) (*Trial, error) {
	w := d.Workload
	if w.Interface != nil {
		return nil, ErrInterface
	}
	id, err := program.ParsePlanID(img.Plan[len("plan:"):])
	if err != nil {
		return nil, err
	}
	trust, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	signed, err := program.Sign(trialProgram(d, l, id, section), key)
	if err != nil {
		return nil, err
	}
	secrets, err := m.secrets(d)
	if err != nil {
		return nil, err
	}
	cfg := tender.Config{
		Instance: w.Metadata.Name, Tenant: w.Metadata.Tenant, Workload: w.Metadata.Name, Dir: filepath.Join(dir, "run"),
		Image: img.Path, ImageDigest: img.Digest, Plan: planText(id), Target: w.Target, Net: network(w), IPv4: ipv4Alone(l, w),
		Syscalls: img.Syscalls, Devices: img.Devices, Trust: trust, MinRevision: 1, Program: signed, Secrets: secrets,
		Memory: w.Memory, Minimum: w.Minimum, Leased: true, Listen: listeners(w),
	}
	for i, a := range trialAddresses(len(cfg.Listen)) {
		cfg.Listen[i].Address = a
	}
	client, err := tender.Start(ctx, []string{m.exe, "tender"}, cfg, nil)
	if err != nil {
		return nil, err
	}
	t := &Trial{Instance: &Instance{Client: client, Dir: cfg.Dir}, Program: program.Sum(signed).String()}
	if t.Status, err = client.Status(ctx); err == nil {
		t.lease, err = client.Lease(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, t.End(ctx))
	}
	return t, nil
}

// trialProgram is what a level enforces, without a section, and with connections to nowhere.
func trialProgram(d *policy.Deployment, l *Level, id program.PlanID, section string) *program.Program {
	p := l.ProgramIn(d, l.Level, id, 1)
	p.Levels = []string{l.Name}
	p.Sections = slices.DeleteFunc(slices.Clone(p.Sections), func(s program.Section) bool {
		beside, tried := dryrun.Beside(s.Name)
		return section != "" && (s.Name == section || tried && beside == section)
	})
	for i, s := range p.Sections {
		if s.Name == egress.Name {
			nowhere := egress.Section{Lists: []egress.List{{Rule: abi.Rule{ID: abi.RuleEgress}}}}
			p.Sections[i].Data = nowhere.Encode()
		}
	}
	return p
}

// End stops the trial, whether ctx is over or not, and removes what it left.
func (t *Trial) End(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if t.lease != nil {
		defer t.lease.Close()
	}
	_ = t.Stop(ctx)
	if err := t.Wait(ctx); err != nil {
		return fmt.Errorf("the tender of a trial does not end: %w", err)
	}
	return os.RemoveAll(t.Dir)
}
