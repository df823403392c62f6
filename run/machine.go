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
	"sync"
	"time"

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

// answersWithin is for how long a tender that runs and cannot be asked, as where too many
// ask at once, is asked again.
const answersWithin = 10 * time.Second

// An unasked is the error of a tender that runs and does not answer: it may serve, and
// nobody is to take its place.
type unasked struct {
	folder string
	error
}

func (u unasked) Error() string {
	if errors.Is(u.error, context.DeadlineExceeded) {
		return u.error.Error() // names it, and says what to do
	}
	return fmt.Sprintf("the tender in %s runs, and cannot be asked: %v", u.folder, u.error)
}

func (u unasked) Is(target error) bool { return target == tender.ErrNotReady }
func (u unasked) Unwrap() error        { return u.error }

// Instances connects to every tender of this user. It returns those that answer, ordered by
// deployment and start, and an error that tells of each that runs and does not.
func (m *Machine) Instances(ctx context.Context) ([]*Instance, error) {
	return m.instances(ctx, func(string, string) bool { return true })
}

// instances asks the tenders alone whose deployment and name are wanted, all at once: what is
// wrong with another is nothing to these.
func (m *Machine) instances(ctx context.Context, wanted func(deployment, instance string) bool) ([]*Instance, error) {
	entries, err := os.ReadDir(m.paths.Runtime)
	if err != nil {
		return nil, err
	}
	list, faults := make([]*Instance, len(entries)), make([]error, len(entries))
	var asked sync.WaitGroup
	for n, e := range entries {
		if e.IsDir() && wanted(ownerOf(e.Name())) {
			asked.Go(func() { list[n], faults[n] = reach(ctx, filepath.Join(m.paths.Runtime, e.Name())) })
		}
	}
	asked.Wait()
	list = slices.DeleteFunc(list, func(i *Instance) bool { return i == nil })
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if a.Deployment() != b.Deployment() {
			return a.Deployment() < b.Deployment()
		}
		return a.Status.Started.Before(b.Status.Started)
	})
	return list, errors.Join(faults...)
}

// reach asks the tender of a folder; nil where it has ended.
func reach(ctx context.Context, dir string) (*Instance, error) {
	late := time.Now().Add(answersWithin)
	for {
		client, err := tender.Dial(dir)
		if err == nil {
			var status tender.Status
			if status, err = client.Status(ctx); err == nil {
				return &Instance{Client: client, Status: status, Dir: dir}, nil
			}
		}
		switch {
		case tender.Ended(dir):
			return nil, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case time.Now().After(late):
			return nil, unasked{dir, err}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ErrNone says that nothing matches a name.
var ErrNone = errors.New("no such instance runs")

// Find returns the instance with the given name, or the newest of the
// deployment with it; "" stands for the only one.
func (m *Machine) Find(ctx context.Context, name string) (*Instance, error) {
	all, err := m.instances(ctx, called(name))
	if err != nil {
		return nil, err
	}
	var found *Instance
	names := map[string]bool{}
	for _, i := range all {
		names[i.Deployment()] = true
		found = i
	}
	if err := single(name, len(names)); err != nil {
		return nil, err
	}
	return found, nil
}

// single returns an error unless a name stands for one of so many deployments.
func single(name string, found int) error {
	switch {
	case found == 0 && name == "":
		return errors.New("nothing runs")
	case found == 0:
		return fmt.Errorf("%w: %q (lorica ps lists what runs)", ErrNone, name)
	case name == "" && found > 1:
		return errors.New("several workloads run: name one of them (lorica ps lists them)")
	}
	return nil
}

// Owner returns the deployment of what Find finds, also where its tenders do not answer.
func (m *Machine) Owner(name string) (string, error) {
	entries, err := os.ReadDir(m.paths.Runtime)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		deployment, instance := ownerOf(e.Name())
		if deployment != "" && called(name)(deployment, instance) && !tender.Ended(filepath.Join(m.paths.Runtime, e.Name())) {
			found = append(found, deployment)
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if err := single(name, len(found)); err != nil {
		return "", err
	}
	return found[len(found)-1], nil
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

// of returns the instances of one deployment, oldest first, as Instances does.
func (m *Machine) of(ctx context.Context, deployment string) ([]*Instance, error) {
	return m.instances(ctx, func(d, _ string) bool { return d == deployment })
}

// called returns what is wanted by a name: an instance, a workload, or "tenant/workload"; ""
// is everything.
func called(name string) func(deployment, instance string) bool {
	return func(deployment, instance string) bool {
		_, workload, _ := strings.Cut(deployment, "/")
		return name == "" || deployment == name || instance == name || workload == name
	}
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

// ownerOf returns the deployment and the name of the instance that have a runtime folder.
func ownerOf(folder string) (deployment, instance string) {
	part := strings.Split(folder, ".") // tenant, workload and what tells instances apart
	if len(part) != 3 {
		return "", ""
	}
	return part[0] + "/" + part[1], part[1] + "-" + part[2]
}
