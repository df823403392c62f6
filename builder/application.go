package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// Bounds of what an application may bring into an image; a plan holds it in
// memory.
const (
	maxFiles = 10_000
	maxBytes = 64 << 20
)

// An application is the user's part of an image, read into memory.
type application struct {
	static bool
	pos    api.Pos
	dir    string // as the user names it, for messages
	files  []file // under content/, packed/ or app/
	packed bool   // some are under packed/

	proxy string // of a proxy: its configuration, a Go literal

	// Of a handler.
	pkg      string // import path
	function string
	module   goModule
	sum      []byte // its go.sum
}

func (a *application) kind() string {
	switch {
	case a.static:
		return "static"
	case a.proxy != "":
		return "proxy"
	}
	return "handler"
}

func readApplication(tools *toolchain, w *api.Workload) (*application, error) {
	switch {
	case w.App.Static != nil:
		return readStatic(w.Dir, w.App.Static)
	case w.App.Handler != nil:
		return readHandler(context.Background(), tools, w.Dir, w.App.Handler)
	case w.App.Proxy != nil:
		return readProxy(w.Dir, w.App.Proxy)
	}
	return nil, errNoApp
}

// A reader reads files below one folder, within bounds. Links that leave the
// folder, devices, sockets and pipes are refused.
type reader struct {
	root  *os.Root
	files int
	bytes int64
}

// openFolder opens the folder an application lies in.
func openFolder(dir string) (*reader, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the folder %s does not exist", dir)
	case err != nil:
		return nil, fmt.Errorf("the folder %s cannot be read: %w", dir, err)
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a folder", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("the folder %s cannot be read: %w", dir, err)
	}
	return &reader{root: root}, nil
}

func (r *reader) close() { r.root.Close() }

// read returns a file by its name below the folder.
func (r *reader) read(name string) ([]byte, error) {
	info, err := r.root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s does not exist: %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("%s leaves the folder or cannot be read: %w", name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file (%s)", name, info.Mode().Type())
	}
	f, err := r.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", name, err)
	}
	defer f.Close()
	// The size is checked on what is read: the file may grow meanwhile.
	data, err := io.ReadAll(io.LimitReader(f, maxBytes-r.bytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", name, err)
	}
	r.files++
	r.bytes += int64(len(data))
	if r.files > maxFiles || r.bytes > maxBytes {
		return nil, fmt.Errorf("at %s the application exceeds %d files or %d MiB", name, maxFiles, maxBytes>>20)
	}
	return data, nil
}

// readStatic reads the folder of a static application. Hidden files are left
// out: they are never served.
func readStatic(base string, app *api.StaticApp) (*application, error) {
	a := &application{static: true, pos: app.Pos, dir: resolve(base, app.Dir)}
	if err := a.readContent(); err != nil {
		return nil, &SourceError{Pos: app.Pos, Message: fmt.Sprintf("app.static %s: %s", app.Dir, err)}
	}
	return a, nil
}

func (a *application) readContent() error {
	r, err := openFolder(a.dir)
	if err != nil {
		return err
	}
	defer r.close()
	err = fs.WalkDir(r.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case abi.Hidden(name):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		data, err := r.read(name)
		a.files = append(a.files, file{path.Join(contentFolder, name), data})
		return err
	})
	if err == nil && len(a.files) == 0 {
		return errors.New("the folder has no files to serve")
	}
	return err
}

// resolve returns the folder that a document in base names.
func resolve(base, name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(base, name)
}
