package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// minimumGo is the language version of the image-side source.
const minimumGo = "go1.26"

// pinned is the environment that decides what the toolchain generates.
var pinned = []string{
	"CGO_ENABLED=0",
	"GOOS=linux",
	"GOARCH=amd64",
	"GOAMD64=v1",
	"GOEXPERIMENT=",
	"GOFIPS140=off",
	"GODEBUG=",
	"GO111MODULE=on",
	"GOENV=off",
	"GOWORK=off",
	"GOTOOLCHAIN=local",
}

// imageFlags are the flags of the image's link, debugFlags those of its twin
// with symbols.
var (
	buildFlags = []string{"-trimpath", "-buildvcs=false"}
	imageFlags = append(buildFlags[:2:2], "-ldflags=-s -w -buildid=")
	debugFlags = append(buildFlags[:2:2], "-ldflags=-buildid=")
)

// A toolchain is the Go installation of the user, run in an environment of ours.
type toolchain struct {
	goroot  string
	version string   // "go1.26.8", with the experiments that were built into it
	folders []string // the Go caches
}

// wanted is the toolchain that the user's GOTOOLCHAIN names, which the go command
// fetches where it is not there yet; the go in PATH where that names none.
func wanted() string {
	if name := os.Getenv("GOTOOLCHAIN"); version.IsValid(name) {
		return name
	}
	return "local"
}

// findToolchain asks the go in PATH who and where it is.
func findToolchain(ctx context.Context) (*toolchain, error) {
	bin, err := exec.LookPath("go")
	if err != nil {
		return nil, fmt.Errorf("the Go toolchain is not in PATH: install Go %s or later (https://go.dev/dl) and try again", strings.TrimPrefix(minimumGo, "go"))
	}
	keys := []string{"GOROOT", "GOVERSION", "GOPATH", "GOMODCACHE", "GOCACHE"}
	cmd := exec.CommandContext(ctx, bin, append([]string{"env", "-json"}, keys...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN="+wanted(), "GOWORK=off", "GOFLAGS=", "GOEXPERIMENT=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s env: %w: %s", bin, err, strings.TrimSpace(stderr.String()))
	}
	var env map[string]string
	if err := json.Unmarshal(out, &env); err != nil {
		return nil, fmt.Errorf("%s env: %w", bin, err)
	}
	t := &toolchain{goroot: env["GOROOT"], version: env["GOVERSION"]}
	if v := strings.Fields(t.version); len(v) == 0 || version.Compare(v[0], minimumGo) < 0 && version.IsValid(v[0]) {
		return nil, fmt.Errorf("%s is %s: images need Go %s or later (https://go.dev/dl)", bin, t.version, strings.TrimPrefix(minimumGo, "go"))
	}
	for _, key := range []string{"GOPATH", "GOMODCACHE", "GOCACHE"} {
		if !filepath.IsAbs(env[key]) {
			return nil, fmt.Errorf("go env %s is %q: set HOME or %s to a folder that can be written", key, env[key], key)
		}
		t.folders = append(t.folders, key+"="+env[key])
	}
	// What the toolchain turns on by itself, whatever the user's environment says.
	out, err = t.run(ctx, "/", t.environment(os.TempDir()), "env", "GOEXPERIMENT")
	if err != nil {
		return nil, err
	}
	if x := strings.TrimSpace(string(out)); x != "" {
		t.version += " X:" + x
	}
	return t, nil
}

// environment is all that the go command sees. Modules come from the cache and
// must have their checksums; temporary files stay in tmp; without a HOME nothing
// is written to one.
func (t *toolchain) environment(tmp string) []string {
	env := append(pinned[:len(pinned):len(pinned)], t.folders...)
	return append(env, "PATH="+filepath.Join(t.goroot, "bin"), "LC_ALL=C", "GOROOT="+t.goroot,
		"GOFLAGS=-mod=readonly", "GOPROXY=off", "GOTMPDIR="+tmp, "TMPDIR="+tmp)
}

// online is the user's own environment, for a download through their proxy. The
// checksum database stays in force as they have set it.
func (t *toolchain) online(tmp, mode string) []string {
	env := append(os.Environ(), t.folders...)
	return append(env, "GOFLAGS=-mod="+mode, "GOWORK=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0",
		"GOOS=linux", "GOARCH=amd64", "GOTMPDIR="+tmp, "TMPDIR="+tmp)
}

// A goError is a go command that failed, with all that it said.
type goError struct {
	err    error
	output string
}

func (e *goError) Error() string { return fmt.Sprintf("go: %v\n%s", e.err, e.output) }
func (e *goError) Unwrap() error { return e.err }

// run runs the go command in dir and returns what it printed. The end of ctx
// kills it with all its children. Its error is a *goError, or that of ctx.
func (t *toolchain) run(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(t.goroot, "bin", "go"), args...)
	cmd.Dir, cmd.Env = dir, append(env, "PWD="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound) || err != nil && cmd.ProcessState == nil:
		return nil, fmt.Errorf("cannot run the Go toolchain: %w", err)
	case err != nil:
		return nil, &goError{err: err, output: stderr.String() + stdout.String()}
	}
	return stdout.Bytes(), nil
}
