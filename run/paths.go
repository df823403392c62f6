// Package run brings one machine to what its documents ask for: it plans, has
// images built, signs programs, starts tenders, and replaces a program or an
// image where the policy changed.
//
// A Machine may be used from several goroutines and by several processes of the
// same user at once; a lock file per deployment keeps their changes apart.
package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Paths are the folders of a user.
type Paths struct {
	Data    string // images, programs, keys, revisions
	Runtime string // sockets, audit spools, logs of what runs
	Config  string // file of the user's configuration, which need not be there; empty: none
}

// DefaultPaths follows the XDG Base Directory Specification: $XDG_DATA_HOME (or
// ~/.local/share), $XDG_RUNTIME_DIR (or a folder below Data) and $XDG_CONFIG_HOME (or
// ~/.config).
func DefaultPaths() (Paths, error) {
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		home, err := os.UserHomeDir()
		if err != nil {
			return Paths{}, errors.New("neither HOME nor XDG_DATA_HOME is set: there is no place for images")
		}
		data = filepath.Join(home, ".local", "share")
	}
	p := Paths{Data: filepath.Join(data, "lorica")}
	p.Runtime = filepath.Join(p.Data, "run")
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		p.Runtime = filepath.Join(dir, "lorica")
	}
	config := os.Getenv("XDG_CONFIG_HOME")
	if home, err := os.UserHomeDir(); !filepath.IsAbs(config) && err == nil {
		config = filepath.Join(home, ".config")
	}
	if filepath.IsAbs(config) {
		p.Config = filepath.Join(config, "lorica", "config.yaml")
	}
	return p, nil
}

func (p Paths) make() error {
	for _, dir := range []string{p.Data, p.Runtime} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("no place for images, keys and what runs: %w (HOME, XDG_DATA_HOME and XDG_RUNTIME_DIR say where)", err)
		}
	}
	return nil
}
