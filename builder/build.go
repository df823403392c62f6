package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder/pvh"
)

// A Step of a build, for whoever shows progress.
type Step struct {
	Name   StepName
	Detail string // in words; may be empty
}

// A StepName says what a build does now.
type StepName string

const (
	StepWait     StepName = "wait"     // another build uses the store
	StepGenerate StepName = "generate" // the build folder is written
	StepDownload StepName = "download" // modules come over the network
	StepCompile  StepName = "compile"
	StepSymbols  StepName = "symbols" // the twin for debuggers is linked
	StepStore    StepName = "store"
)

// Build returns the image of a plan: from the store where it is there already,
// else by compiling it. progress may be nil. A failed or cancelled build leaves
// the store as it was. An error about the application is a *SourceError.
func (s *Store) Build(ctx context.Context, p *Plan, progress func(Step)) (*Image, error) {
	if progress == nil {
		progress = func(Step) {}
	}
	if img, err := s.Find(p.ID); img != nil || err != nil {
		return img, err
	}
	unlock, err := s.lock(ctx, func() { progress(Step{StepWait, "another build is under way"}) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	if img, err := s.Find(p.ID); img != nil || err != nil {
		return img, err
	}
	// Whatever lies in tmp belongs to a build that was killed: we hold the lock.
	if err := s.clean(); err != nil {
		return nil, err
	}
	defer s.clean()
	b := &build{plan: p, dir: s.path("tmp", "build"), tmp: s.path("tmp", "go"), progress: progress}
	img, err := b.run(ctx)
	if err != nil {
		return nil, err
	}
	progress(Step{StepStore, img.Digest})
	return s.commit(b, img)
}

func (s *Store) clean() error {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(s.path("tmp", e.Name())); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	return nil
}

// A build is one run of the toolchain, in a folder of its own.
type build struct {
	plan     *Plan
	dir      string // sources
	tmp      string // of the go command
	progress func(Step)
}

func (b *build) image() string { return filepath.Join(b.tmp, "image") }
func (b *build) debug() string { return filepath.Join(b.tmp, "debug") }

func (b *build) run(ctx context.Context) (*Image, error) {
	b.progress(Step{StepGenerate, b.plan.ID.String()})
	if err := b.write(); err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	packages, err := b.resolve(ctx)
	if err != nil {
		return nil, err
	}
	b.progress(Step{StepCompile, fmt.Sprintf("%d packages with %s", len(packages), b.plan.Toolchain)})
	if err := b.compile(ctx, imageFlags, b.image()); err != nil {
		return nil, err
	}
	if !b.plan.bare || b.plan.Target == api.TargetMicroVM { // symbols say where the kernel is
		b.progress(Step{StepSymbols, ""})
		if err := b.compile(ctx, debugFlags, b.debug()); err != nil {
			return nil, err
		}
		if err := sameCode(b.image(), b.debug()); err != nil {
			return nil, err
		}
	}
	if b.plan.Target == api.TargetMicroVM {
		if err := bootable(b.image(), b.debug()); err != nil {
			return nil, fmt.Errorf("builder: %w", err)
		}
	}
	elf, err := os.ReadFile(b.image())
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	sum := sha256.Sum256(elf)
	img := &Image{
		Digest:    "sha256:" + hex.EncodeToString(sum[:]),
		Plan:      b.plan.ID.String(),
		Target:    b.plan.Target,
		Syscalls:  b.plan.Syscalls(),
		Devices:   b.plan.Devices(),
		Packages:  packages,
		Size:      int64(len(elf)),
		GoVersion: b.plan.Toolchain,
		Catalog:   b.plan.Catalog,
	}
	for _, m := range b.plan.Modules {
		x := Module{ID: m.ID, Version: m.Version}
		if i := slices.IndexFunc(b.plan.own, func(o *Own) bool { return o.Module == m }); i >= 0 {
			x.Source, x.Digest = b.plan.own[i].Named.Source(), b.plan.own[i].Digest
		}
		img.Modules = append(img.Modules, x)
	}
	return img, nil
}

// write lays out the build folder.
func (b *build) write() error {
	return b.lay(append(b.plan.files[:len(b.plan.files):len(b.plan.files)], file{"main.go", []byte(b.plan.Main)}))
}

func (b *build) lay(files []file) error {
	for _, f := range files {
		name := filepath.Join(b.dir, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.data, 0o600); err != nil {
			return err
		}
	}
	return os.MkdirAll(b.tmp, 0o700)
}

// resolve returns the packages of the image. Modules come from the cache; only
// where some are missing, or where the image's pins raise what the application
// requires, the go command is let onto the network with the user's settings.
func (b *build) resolve(ctx context.Context) ([]string, error) {
	var failed *goError
	packages, err := b.list(ctx, b.plan.tools.environment(b.tmp))
	for _, mode := range []string{"readonly", "mod"} {
		if !errors.As(err, &failed) || needs(failed) != mode {
			continue
		}
		b.progress(Step{StepDownload, "Go modules that are not in the module cache, with the proxy settings of go env"})
		if _, err = b.list(ctx, b.plan.tools.online(b.tmp, mode)); err == nil {
			packages, err = b.list(ctx, b.plan.tools.environment(b.tmp))
		}
	}
	switch {
	case err == nil:
		if b.plan.bare { // the image that lacks nothing has been built from the same
			return packages, nil
		}
		return packages, errors.Join(b.checkPins(ctx), b.verify(ctx))
	case !errors.As(err, &failed):
		return nil, err
	case strings.Contains(failed.output, "missing go.sum entry"):
		line, _, _ := strings.Cut(b.translate(firstLine(failed.output)), "; to add")
		p := b.blame(failed.output)
		return nil, &SourceError{Pos: p.pos, Output: b.translate(failed.output),
			Message: fmt.Sprintf("go.sum lacks checksums of what the module needs: run \"go mod tidy\" in %s (%s)", p.dir, line)}
	case needs(failed) != "" || strings.Contains(failed.output, "go: downloading ") || strings.Contains(failed.output, "checksum mismatch"):
		return nil, fmt.Errorf("modules are missing and cannot be downloaded: %s", b.translate(firstLine(failed.output)))
	}
	return nil, b.explained(failed)
}

func (b *build) list(ctx context.Context, env []string) ([]string, error) {
	out, err := b.plan.tools.run(ctx, b.dir, env, "list", "-deps", "-f", "{{.ImportPath}}", ".")
	return strings.Fields(string(out)), err
}

// needs returns the -mod flag with which the network could mend a failure, or "".
// Without the modules in the cache, nothing is written; "mod" lets the go command
// raise versions in the go.mod of the build folder, with their checksums.
func needs(failed *goError) string {
	switch {
	case strings.Contains(failed.output, "missing go.sum entry"):
		return ""
	case strings.Contains(failed.output, "updates to go.mod needed"):
		return "mod"
	case strings.Contains(failed.output, "disabled by GOPROXY=off"):
		return "readonly"
	}
	return ""
}

// checkPins refuses an application whose dependencies raise what the image pins.
// The go command has accepted the go.mod, so its lines are what is selected.
func (b *build) checkPins(ctx context.Context) error {
	_, pinned, err := pins(lorica.Source(), b.plan.Modules)
	if err != nil {
		return err
	}
	out, err := b.plan.tools.run(ctx, b.dir, b.plan.tools.environment(b.tmp), "mod", "edit", "-json")
	if err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	var mod goModule
	if err := json.Unmarshal(out, &mod); err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	for _, p := range pinned {
		i := slices.IndexFunc(mod.Require, func(r moduleVersion) bool { return r.Path == p.Path })
		switch {
		case i < 0:
			return fmt.Errorf("builder: %s is not in the go.mod of the image any more", p.Path)
		case mod.Require[i].Version != p.Version:
			by := b.blame("")
			return &SourceError{Pos: by.pos, Message: by.raises(mod.Require[i], p)}
		}
	}
	return nil
}

func (b *build) compile(ctx context.Context, flags []string, out string) error {
	args := append([]string{"build"}, flags...)
	_, err := b.plan.tools.run(ctx, b.dir, b.plan.tools.environment(b.tmp), append(args, "-o", out, ".")...)
	var failed *goError
	if errors.As(err, &failed) {
		return b.explained(failed)
	}
	return err
}

// sameCode reports an error unless two ELF files have equal code, so that what a
// debugger shows is what runs.
func sameCode(image, debug string) error {
	var text [2][]byte
	for i, name := range []string{image, debug} {
		f, err := elf.Open(name)
		if err != nil {
			return fmt.Errorf("builder: %w", err)
		}
		defer f.Close()
		section := f.Section(".text")
		if section == nil {
			return fmt.Errorf("builder: %s has no code", name)
		}
		if text[i], err = section.Data(); err != nil {
			return fmt.Errorf("builder: %w", err)
		}
	}
	if !bytes.Equal(text[0], text[1]) {
		return errors.New("builder: the image and its debug twin have different code")
	}
	return nil
}

// bootable turns the image, whose twin has the symbols, into one that a machine boots.
func bootable(image, debug string) error {
	program, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	symbols, err := os.ReadFile(debug)
	if err != nil {
		return err
	}
	if program, err = pvh.Link(program, symbols); err != nil {
		return err
	}
	return os.WriteFile(image, program, 0o600)
}

// commit moves a finished build into place: first what the index leads to, then
// the index, so that an entry always leads to a whole image.
func (s *Store) commit(b *build, img *Image) (*Image, error) {
	name := strings.TrimPrefix(img.Digest, "sha256:")
	manifest, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	manifest = append(manifest, '\n')
	next, place := s.path("tmp", "next"), s.path("images", name)
	for _, step := range []func() error{
		func() error { return os.Mkdir(next, 0o700) },
		func() error { return settle(b.image(), filepath.Join(next, "image"), 0o555) },
		func() error { return write(filepath.Join(next, "manifest.json"), manifest, 0o444) },
		func() error { return settle(b.debug(), s.path("debug", name), 0o444) },
		func() error {
			// A folder in its place was not found by its plan, so it is damaged.
			if err := os.Rename(place, s.path("tmp", "damaged")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return os.Rename(next, place)
		},
		func() error { return syncFolder(s.path("images")) },
		func() error {
			return write(s.path("plans", strings.TrimPrefix(img.Plan, "plan:")), []byte(img.Digest+" "+digestOf(manifest)+"\n"), 0o600)
		},
	} {
		if err := step(); err != nil {
			if _, lost := os.Stat(place); lost != nil {
				os.Remove(s.path("debug", name))
			}
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	return s.Open(img.Digest)
}

// settle brings a file to the disk and renames it into place.
func settle(from, to string, mode fs.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(to))
}
