package run

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// Drain order of a replacement: see docs/architecture.md.
const (
	drainGrace = time.Second
	drainLimit = 30 * time.Second
)

// Applied is what Apply did.
type Applied struct {
	Change   Change
	Instance *Instance     // what runs now
	Took     time.Duration // from the decision to change until the change was in force
}

// Options of Apply.
type Options struct {
	Level    string // "": the policy's initial level
	Leased   bool   // the new instance ends when nobody holds a lease on it
	Refresh  bool   // replace the program even if it is the same: a secret changed
	Progress func(builder.Step)
}

// Apply brings what runs to the plan: it starts the instance, replaces its
// program, or has a new image take over, whichever the change needs. On an error
// what ran before still runs, unchanged.
func (m *Machine) Apply(ctx context.Context, d *policy.Deployment, o Options) (*Applied, error) {
	book, err := openLedger(ctx, m.paths.Data, ledgerName(d.Name()))
	if err != nil {
		return nil, err
	}
	defer book.close()

	plan, err := m.Plan(ctx, d)
	if err != nil {
		return nil, err
	}
	level, err := plan.Level(o.Level)
	if err != nil {
		return nil, err
	}
	old, err := m.newest(ctx, d.Name())
	if err != nil {
		return nil, err
	}
	change := plan.Change(level)
	if change == ChangeNone && o.Refresh {
		change = ChangeProgram
	}
	if change == ChangeNone {
		return &Applied{Change: change, Instance: old}, nil
	}
	if level.Image == nil && change != ChangeProgram {
		if level.Image, err = m.store.Build(ctx, level.Build, o.Progress); err != nil {
			return nil, err
		}
	}
	secrets, err := readSecrets(d)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	revision, err := book.next()
	if err != nil {
		return nil, err
	}
	signed, err := program.Sign(level.Program(d, level.Build.ID, revision), m.key)
	if err != nil {
		return nil, err
	}
	var took time.Duration
	if change == ChangeProgram {
		if _, err := old.Replace(ctx, signed, secrets); err != nil {
			return nil, err
		}
		took = time.Since(start)
	} else {
		next, err := m.launch(ctx, d, level, launchInput{signed, revision, secrets, o.Leased}, old)
		if err != nil {
			return nil, err
		}
		took = time.Since(start)
		if old != nil {
			if err := retire(ctx, old); err != nil {
				return nil, err
			}
		}
		old = next
	}
	if old.Status, err = old.Client.Status(ctx); err != nil {
		return nil, err
	}
	return &Applied{Change: change, Instance: old, Took: took}, nil
}

// newest returns the newest instance of a deployment, or nil.
func (m *Machine) newest(ctx context.Context, deployment string) (*Instance, error) {
	list, err := m.of(ctx, deployment)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[len(list)-1], nil
}

type launchInput struct {
	program  []byte
	revision uint64
	secrets  []control.Secret
	leased   bool
}

// launch starts a tender and waits until its image answers requests. Where an
// older instance runs, its listening sockets are handed over, so that no
// connection is refused in between.
func (m *Machine) launch(ctx context.Context, d *policy.Deployment, l *Level, in launchInput, old *Instance) (*Instance, error) {
	if old == nil {
		if err := m.sweep(ctx, d.Name()); err != nil {
			return nil, err
		}
	}
	var suffix [4]byte
	rand.Read(suffix[:])
	name := d.Workload.Metadata.Name + "-" + hex.EncodeToString(suffix[:])
	cfg := tender.Config{
		Instance: name, Tenant: d.Workload.Metadata.Tenant, Workload: d.Workload.Metadata.Name,
		Dir:   filepath.Join(m.paths.Runtime, folderPrefix(d.Name())+hex.EncodeToString(suffix[:])),
		Image: l.Image.Path, ImageDigest: l.Image.Digest, Plan: planText(l.Build.ID), Target: d.Workload.Target,
		Syscalls: l.Image.Syscalls, Trust: m.key.Public().(ed25519.PublicKey),
		MinRevision: in.revision, Program: in.program, Secrets: in.secrets,
		Memory: d.Workload.Memory, Minimum: d.Workload.Minimum, Leased: in.leased,
		Listen: listeners(d.Workload),
	}
	var files []*os.File
	if old != nil && slices.Equal(old.Status.Listen, cfg.Listen) {
		var err error
		if files, err = old.Listeners(ctx); err != nil {
			return nil, fmt.Errorf("handing over the listening sockets: %w", err)
		}
		defer func() {
			for _, f := range files {
				f.Close()
			}
		}()
	}
	client, err := tender.Start(ctx, []string{m.exe, "tender"}, cfg, files)
	if err != nil {
		return nil, err
	}
	return &Instance{Client: client, Dir: cfg.Dir}, nil
}

// retire drains an instance, waits for its end, and removes its folder.
func retire(ctx context.Context, old *Instance) error {
	if err := old.Drain(ctx, drainGrace, drainLimit); err != nil {
		return err
	}
	if err := old.Wait(ctx); err != nil {
		return err
	}
	return os.RemoveAll(old.Dir)
}

// readSecrets reads what a policy names. The values go nowhere but into the
// tender's pipe.
func readSecrets(d *policy.Deployment) ([]control.Secret, error) {
	var list []control.Secret
	for _, s := range d.Policy.Secrets {
		path := s.File
		if !filepath.IsAbs(path) {
			path = filepath.Join(d.Policy.Dir, path)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: secret %s: %w", s.Pos, s.Name, err)
		}
		list = append(list, control.Secret{Name: s.Name, Value: b})
	}
	return list, nil
}

// Down drains the instances of a deployment and removes what they left.
func (m *Machine) Down(ctx context.Context, deployment string) error {
	list, err := m.of(ctx, deployment)
	if err != nil {
		return err
	}
	for _, i := range list {
		if derr := retire(ctx, i); derr != nil && err == nil {
			err = derr
		}
	}
	if err != nil {
		return err
	}
	return m.sweep(ctx, deployment)
}
