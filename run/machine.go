package run

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"lorica.dev/lorica"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/run/keys"
	"lorica.dev/lorica/tender"
)

// A Machine is this machine, for one user.
type Machine struct {
	paths       Paths
	store       *builder.Store
	planner     builder.Planner
	catalog     *catalog.Catalog
	digest      string // of the catalog
	key         ed25519.PrivateKey
	development *keys.Development
	exe         string // this program: it acts as the tender, too
}

// Open makes the folders and the signing key where they are missing.
func Open(paths Paths) (*Machine, error) {
	if err := paths.make(); err != nil {
		return nil, err
	}
	store, err := builder.OpenStore(paths.Data)
	if err != nil {
		return nil, err
	}
	modules, err := catalog.Load(lorica.Source())
	if err != nil {
		return nil, err
	}
	digest, err := catalog.Digest(lorica.Source())
	if err != nil {
		return nil, err
	}
	key, err := keys.Signing(paths.Data)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &Machine{paths: paths, store: store, catalog: modules, digest: digest, key: key, development: keys.NewDevelopment(paths.Data), exe: exe}, nil
}

// Store returns where images are kept.
func (m *Machine) Store() *builder.Store { return m.store }

// Catalog returns the modules that images are made of.
func (m *Machine) Catalog() *catalog.Catalog { return m.catalog }

// Trust returns the key that programs signed here are verified with.
func (m *Machine) Trust() ed25519.PublicKey { return m.key.Public().(ed25519.PublicKey) }

// An Instance is one that runs, with the client of its tender.
type Instance struct {
	*tender.Client
	Status tender.Status
	Dir    string
	killed bool // known before its folder went, which told so
}

// Deployment returns "tenant/workload".
func (i *Instance) Deployment() string { return i.Status.Tenant + "/" + i.Status.Workload }

// Kept returns an error where the decisions of the instance are not kept on this machine.
func (i *Instance) Kept() error {
	if r := i.Status.Records; len(r) == 0 || slices.Contains(r, tender.RecordsChannel) {
		return nil
	}
	return fmt.Errorf("%s keeps no decisions here: spec.audit.sinks of its policy %s sends them to %s. Ask there, or add channel: true to have them here as well",
		i.Status.Instance, i.Status.Policy, strings.Join(i.Status.Records, " and "))
}

// Instances connects to every tender of this user, ordered by deployment and
// start.
func (m *Machine) Instances(ctx context.Context) ([]*Instance, error) {
	entries, err := os.ReadDir(m.paths.Runtime)
	if err != nil {
		return nil, err
	}
	var list []*Instance
	for _, e := range entries {
		dir := filepath.Join(m.paths.Runtime, e.Name())
		client, err := tender.Dial(dir)
		if err != nil {
			continue
		}
		status, err := client.Status(ctx)
		if errors.Is(err, tender.ErrNotReady) {
			return nil, err // it may serve: nobody is to take its place
		}
		if err != nil {
			continue
		}
		list = append(list, &Instance{Client: client, Status: status, Dir: dir})
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if a.Deployment() != b.Deployment() {
			return a.Deployment() < b.Deployment()
		}
		return a.Status.Started.Before(b.Status.Started)
	})
	return list, nil
}

// ErrNone says that nothing matches a name.
var ErrNone = errors.New("no such instance runs")

// Find returns the instance with the given name, or the newest of the
// deployment with it; "" stands for the only one.
func (m *Machine) Find(ctx context.Context, name string) (*Instance, error) {
	all, err := m.Instances(ctx)
	if err != nil {
		return nil, err
	}
	var found *Instance
	names := map[string]bool{}
	for _, i := range all {
		names[i.Deployment()] = true
		if name == "" || i.Status.Instance == name || i.Status.Workload == name || i.Deployment() == name {
			found = i
		}
	}
	switch {
	case found == nil && name == "":
		return nil, errors.New("nothing runs")
	case found == nil:
		return nil, fmt.Errorf("%w: %q (lorica ps lists what runs)", ErrNone, name)
	case name == "" && len(names) > 1:
		return nil, errors.New("several workloads run: name one of them (lorica ps lists them)")
	}
	return found, nil
}

// FindAwake does what Find does, and waits while the image of what it finds is starting.
func (m *Machine) FindAwake(ctx context.Context, name string) (*Instance, error) {
	i, err := m.Find(ctx, name)
	if err != nil {
		return nil, err
	}
	now, err := awake(ctx, i)
	if err == nil && now == nil {
		err = fmt.Errorf("%w any more: the tender of %q has ended", ErrNone, i.Status.Instance)
	}
	return now, err
}

// of returns the instances of one deployment, oldest first.
func (m *Machine) of(ctx context.Context, deployment string) ([]*Instance, error) {
	all, err := m.Instances(ctx)
	if err != nil {
		return nil, err
	}
	var list []*Instance
	for _, i := range all {
		if i.Deployment() == deployment {
			list = append(list, i)
		}
	}
	return list, nil
}

// sweep removes what a tender that was killed left of a deployment. last, where it
// is given, is called with each folder before it goes: there lie decisions that
// nobody may have read.
func (m *Machine) sweep(ctx context.Context, deployment string, last func(dir string)) error {
	live, err := m.of(ctx, deployment)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, i := range live {
		keep[i.Dir] = true
	}
	entries, err := os.ReadDir(m.paths.Runtime)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(m.paths.Runtime, e.Name())
		if !keep[dir] && strings.HasPrefix(e.Name(), folderPrefix(deployment)) {
			if last != nil {
				last(dir)
			}
			if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// ledgerName is a deployment's name as a file name: tenants and workloads are
// DNS labels, without dots.
func ledgerName(deployment string) string { return strings.ReplaceAll(deployment, "/", ".") }

// folderPrefix starts the names of a deployment's runtime folders.
func folderPrefix(deployment string) string { return ledgerName(deployment) + "." }
