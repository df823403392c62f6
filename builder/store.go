package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/catalog"
)

// A Store keeps images and programs by their digests, in a folder that only its
// owner may enter:
//
//	images/<sha256>/image          the ELF, stripped
//	images/<sha256>/manifest.json  what it is made of
//	debug/<sha256 of the image>    the same code with symbols
//	plans/<plan id>                the digests of the image of a plan and of its manifest
//	programs/<sha256>              signed programs
//	tmp/                           the build under way
//	lock                           held by whoever builds
//
// What is in it was renamed into place whole, after it reached the disk. Any
// number of processes may use a store at the same time; one of them builds.
type Store struct{ dir string }

// An Image is one in the store. Its JSON form is the manifest; it holds nothing
// that differs between two builds of a plan.
type Image struct {
	Digest    string            `json:"digest"` // "sha256:..." of the ELF
	Plan      string            `json:"plan"`   // "plan:..."
	Target    string            `json:"target"`
	Modules   []Module          `json:"modules"`            // in chain order
	Syscalls  []catalog.Syscall `json:"syscalls,omitempty"` // of a process: allowed once it is sealed
	Devices   []string          `json:"devices,omitempty"`  // of a microVM
	Packages  []string          `json:"packages"`           // linked, each after what it imports
	Size      int64             `json:"size"`               // bytes
	GoVersion string            `json:"goVersion"`
	Catalog   string            `json:"catalog"` // digest of the manifests of Lorica's own modules

	Created time.Time `json:"-"` // when it came into this store
	Path    string    `json:"-"` // of the ELF
	Debug   string    `json:"-"` // of its twin with symbols

	sum string // of the manifest, as the image's digest is written
}

// A Module of an image.
type Module struct {
	ID      string `json:"id"`
	Version string `json:"version"`
	Source  string `json:"source,omitempty"` // of the user's own: as the workload or the configuration names it
	Digest  string `json:"digest,omitempty"` // of the user's own: of its files
}

// String returns the id and the version, and the digest of one of the user's own.
func (m Module) String() string {
	s := m.ID + "@" + m.Version
	if m.Digest != "" {
		s += " (" + m.Digest + ")"
	}
	return s
}

// DefaultStore returns $XDG_DATA_HOME/lorica, or ~/.local/share/lorica.
func DefaultStore() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lorica"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for the store: set HOME or XDG_DATA_HOME: %w", err)
	}
	return filepath.Join(home, ".local", "share", "lorica"), nil
}

// OpenStore opens the store in dir and makes it where there is none. The empty
// string stands for DefaultStore.
func OpenStore(dir string) (*Store, error) {
	var err error
	if dir == "" {
		if dir, err = DefaultStore(); err != nil {
			return nil, err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	s := &Store{dir: dir}
	for _, sub := range []string{"", "images", "debug", "plans", "programs", "tmp"} {
		if err := os.MkdirAll(s.path(sub), 0o700); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	lock, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	lock.Close()
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("store: others may enter %s (mode %#o): chmod 700 it", dir, perm)
	}
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// Find returns the image of a plan, verified, or nil where none was built.
func (s *Store) Find(plan program.PlanID) (*Image, error) {
	data, err := os.ReadFile(s.path("plans", hex.EncodeToString(plan[:])))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	digest, manifest, whole := strings.Cut(strings.TrimSpace(string(data)), " ")
	if !whole {
		return nil, nil // of an earlier version, without the manifest's digest
	}
	img, err := s.Open(digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the image was deleted: build it again
	}
	if err == nil && img.Plan != plan.String() {
		return nil, fmt.Errorf("store: %s is indexed for %s and says %s", img.Digest, plan, img.Plan)
	}
	if err == nil && img.sum != manifest {
		return nil, fmt.Errorf("store: the manifest beside %s was altered: delete its folder and build again", img.Path)
	}
	return img, err
}

// Open returns the image with the given digest after it has hashed it.
func (s *Store) Open(digest string) (*Image, error) {
	img, err := s.describe(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(img.Path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != img.Digest {
		return nil, fmt.Errorf("store: %s was altered: it is %s; delete its folder and build again", img.Path, got)
	}
	return img, nil
}

// describe reads a manifest, without the image.
func (s *Store) describe(digest string) (*Image, error) {
	name, err := digestName(digest)
	if err != nil {
		return nil, err
	}
	path := s.path("images", name, "manifest.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	img, err := readManifest(data)
	if err != nil {
		return nil, fmt.Errorf("store: %s: %w", path, err)
	}
	if img.Digest != "sha256:"+name {
		return nil, fmt.Errorf("store: %s is about %s", path, img.Digest)
	}
	img.sum = digestOf(data)
	img.Created, img.Path, img.Debug = info.ModTime(), s.path("images", name, "image"), s.path("debug", name)
	return img, nil
}

func readManifest(data []byte) (*Image, error) {
	img := &Image{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(img); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the manifest")
	}
	return img, nil
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// digestName returns the hexadecimal part of "sha256:...".
func digestName(digest string) (string, error) {
	name, ok := strings.CutPrefix(digest, "sha256:")
	if b, err := hex.DecodeString(name); !ok || err != nil || len(b) != sha256.Size || strings.ToLower(name) != name {
		return "", fmt.Errorf("store: %q is not a digest: want sha256: and 64 hexadecimal digits", digest)
	}
	return name, nil
}

// Images lists what is in the store, the newest first. It does not hash them.
func (s *Store) Images() ([]*Image, error) {
	entries, err := os.ReadDir(s.path("images"))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var list []*Image
	for _, e := range entries {
		img, err := s.describe("sha256:" + e.Name())
		if err != nil {
			return nil, err
		}
		list = append(list, img)
	}
	slices.SortFunc(list, func(a, b *Image) int { return b.Created.Compare(a.Created) })
	return list, nil
}

// PutProgram keeps a signed program.
func (s *Store) PutProgram(signed []byte) (program.Digest, error) {
	d := program.Sum(signed)
	name := hex.EncodeToString(d[:])
	if err := write(s.path("programs", name), signed, 0o600); err != nil {
		return d, fmt.Errorf("store: %w", err)
	}
	return d, nil
}

// Program returns a signed program by its digest.
func (s *Store) Program(d program.Digest) ([]byte, error) {
	data, err := os.ReadFile(s.path("programs", hex.EncodeToString(d[:])))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if program.Sum(data) != d {
		return nil, fmt.Errorf("store: program %s was altered", d)
	}
	return data, nil
}

// write puts a whole file in place: it is there with all its bytes or not at all.
func write(name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lock waits until no other process builds in the store, or ctx ends. waiting is
// called once where it has to wait.
func (s *Store) lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(s.path("lock"), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("store: lock: %w", err)
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
