package tender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/way"
)

// maxConfig bounds the configuration that a tender reads, in bytes.
const maxConfig = 96 << 20

// verdict is the one line that a tender writes to its standard output: nothing
// but Error where it failed, an empty value once the instance serves.
type verdict struct {
	Error string `json:"error,omitempty"`
	Image bool   `json:"image,omitempty"` // it is an ImageError
}

// An ImageError says how an image ended, or what it was ended for, before it served: it was
// not that the tender could not launch it.
type ImageError struct{ Text string }

func (e *ImageError) Error() string { return e.Text }

// Start runs a tender for cfg as a process of its own, which outlives this one,
// and returns when the instance serves, or with the tender's last words. exe is
// the command that ends in Main, for example the running program and "tender".
// Listeners, where given, are handed over in the order of cfg.Listen, nil for one
// that the tender opens; they stay the caller's.
func Start(ctx context.Context, exe []string, cfg Config, listeners []*os.File) (*Client, error) {
	cfg.Inherit = nil
	var files []*os.File
	for _, f := range listeners {
		cfg.Inherit = append(cfg.Inherit, f != nil)
		if f != nil {
			files = append(files, f)
		}
	}
	for _, p := range []*string{&cfg.Dir, &cfg.Image} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, fmt.Errorf("tender: %w", err)
		}
		*p = abs
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	in, err := inMemory(b)
	clear(b)
	if err != nil {
		return nil, fmt.Errorf("tender: the configuration: %w", err)
	}
	defer in.Close()
	errs, err := os.OpenFile(filepath.Join(cfg.Dir, "stderr"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	defer errs.Close()
	out, words, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	defer out.Close()
	defer words.Close()
	cmd := exec.Command(exe[0], exe[1:]...)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, words, errs
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("tender: starting %s: %w", exe[0], err)
	}
	words.Close()
	go cmd.Wait()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	line, err := io.ReadAll(io.LimitReader(out, 64<<10))
	var v verdict
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("tender: %w", err)
	case json.Unmarshal(line, &v) != nil:
		return nil, fmt.Errorf("tender: the tender died before the instance was ready: %s", lastWords(errs))
	case v.Image:
		return nil, &ImageError{v.Error}
	case v.Error != "":
		return nil, errors.New(v.Error)
	}
	return Dial(cfg.Dir)
}

// inMemory returns a file that is nowhere but in memory, to be read from its start. All
// that the tender needs is in it before the tender is: it depends on no one who might be
// stopped or killed while writing to a pipe.
func inMemory(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("configuration", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "configuration")
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lastWords returns the beginning of what a dying tender wrote: a panic says
// first what it is.
func lastWords(f *os.File) string {
	b := make([]byte, 2048)
	n, _ := f.ReadAt(b, 0)
	if s := strings.TrimSpace(string(b[:n])); s != "" {
		return s
	}
	return "it said nothing"
}

// Main is the body of the command that Start runs: the configuration comes on
// standard input, listeners from descriptor 3 on, and one line goes to standard
// output. SIGTERM and SIGINT drain.
func Main() error {
	// Where nobody reads any more, a write is to fail, and not to end the tender.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	out := os.Stdout
	tell := func(v verdict) error {
		b, err := json.Marshal(v)
		if err == nil {
			_, err = out.Write(append(b, '\n'))
		}
		out.Close()
		return err
	}
	err := run(func() error { return tell(verdict{}) })
	if err != nil {
		_, image := errors.AsType[*ImageError](err)
		tell(verdict{err.Error(), image}) // lost, as it should be, after the first
	}
	return err
}

func run(ready func() error) error {
	if err := noCore(); err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(os.Stdin, maxConfig))
	if err != nil {
		return fmt.Errorf("tender: the configuration: %w", err)
	}
	unix.Ftruncate(0, 0) // it is read, and holds secrets
	cfg, err := decodeConfig(b)
	clear(b)
	if err != nil {
		return err
	}
	var listeners []*os.File
	if len(cfg.Inherit) > launch.MaxListener {
		return errors.New("tender: the configuration: too many listeners")
	}
	fd := 3
	for _, handed := range cfg.Inherit {
		var f *os.File
		if handed {
			unix.CloseOnExec(fd)
			f = os.NewFile(uintptr(fd), "listener")
			fd++
		}
		listeners = append(listeners, f)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return Run(ctx, cfg, listeners, func() {
		if ready() != nil { // whoever started it died meanwhile, and nobody knows of it
			stop()
		}
	})
}

// Stage is the body of the command named process.StageCommand, which a tender
// runs by itself.
func Stage() error { return process.Stage() }

// WayHelper is the body of the command named way.HelperCommand, which a tender runs by
// itself.
func WayHelper() error { return way.Helper() }
