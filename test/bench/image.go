package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A bench is one run of the benchmarks: where it works, with which command.
type bench struct {
	dir      string // temporary
	root     string // of the repository
	lorica   string // the command
	engines  string // what measures us beside others, where it is a module of its own
	packages string // a Packages file of Debian
	rounds   int
	seconds  int
	missing  []string // what could not be measured, and why
	figures  []*figure
	plots    []named

	document *document
	others   []string // folders of other users, temporary
	user     uint32   // that has images up; 0: this one

	// Of microVMs.
	machines    string // folder of their images; empty: they are not measured
	userNetwork bool   // QEMU forwards, and there are no interfaces
	soak        time.Duration
	qemu, accel string
	why         string // the accelerator is what it is
	guests      []*guest
	networks    int
}

func (b *bench) add(f *figure) {
	b.figures = append(b.figures, f)
	fmt.Printf("  %-28s %s (%s), target %s: %s\n", f.Name, f.value(), f.spread(), f.target(), f.verdict())
}

func (b *bench) cannot(what string, err error) {
	b.missing = append(b.missing, fmt.Sprintf("%s: %v", what, err))
	fmt.Printf("  %s could not be measured: %v\n", what, err)
}

func (b *bench) home() string { return filepath.Join(b.dir, "home") }

// command is lorica with a home of its own and the caches of this machine.
func (b *bench) command(args ...string) *exec.Cmd {
	cmd := exec.Command(b.lorica, args...)
	cmd.Dir = b.dir
	cmd.Env = []string{"HOME=" + b.home(), "PATH=" + os.Getenv("PATH")}
	for _, key := range []string{"GOCACHE", "GOMODCACHE"} {
		if out, err := exec.Command("go", "env", key).Output(); err == nil {
			cmd.Env = append(cmd.Env, key+"="+strings.TrimSpace(string(out)))
		}
	}
	return cmd
}

// project writes a workload and a policy, and returns their folder.
func (b *bench) project(name, workload, policy string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for file, text := range map[string]string{"workload.yaml": workload, "policy.yaml": policy} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// An event is a line of `lorica up -o json`, as far as the benchmarks read it.
type event struct {
	Event      string  `json:"event"`
	Change     string  `json:"change"`
	TookMillis float64 `json:"tookMillis"`
	Text       string  `json:"text"`
	Status     struct {
		PID         int     `json:"pid"`
		TenderPID   int     `json:"tenderPid"`
		Way         string  `json:"way"`
		ImageDigest string  `json:"imageDigest"`
		BootMillis  float64 `json:"bootMillis"`
	} `json:"status"`
}

// An image is a running `lorica up`.
type image struct {
	cmd    *exec.Cmd
	events chan event
	ready  event
}

// up starts it and waits until it serves. Decisions are read and dropped.
func (b *bench) up(dir string, more ...string) (*image, error) {
	x := &image{cmd: b.command(append([]string{"up", "-f", dir, "-o", "json"}, more...)...), events: make(chan event, 100)}
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	if b.user != 0 {
		x.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: b.user, Gid: b.user}
		x.cmd.Env = []string{"HOME=" + b.home(), "PATH=" + os.Getenv("PATH")} // caches of root are root's
	}
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr strings.Builder
	x.cmd.Stderr = &stderr
	if err := x.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(x.events)
		in := bufio.NewScanner(out)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var e event
			if json.Unmarshal(in.Bytes(), &e) == nil && e.Event != "decision" && e.Event != "step" {
				x.events <- e
			}
		}
	}()
	if x.ready, err = x.wait("ready"); err != nil {
		x.stop()
		return nil, fmt.Errorf("%s: %w: %s", dir, err, stderr.String())
	}
	if _, err := x.wait("up"); err != nil {
		x.stop()
		return nil, err
	}
	return x, nil
}

// wait returns the next event of a kind.
func (x *image) wait(kind string) (event, error) {
	late := time.After(3 * time.Minute)
	for {
		select {
		case e, ok := <-x.events:
			switch {
			case !ok:
				return event{}, fmt.Errorf("up ended before it was %s", kind)
			case e.Event == kind:
				return e, nil
			case e.Event == "refused":
				return event{}, fmt.Errorf("refused: %s", e.Text)
			}
		case <-late:
			return event{}, fmt.Errorf("nothing was %s within three minutes", kind)
		}
	}
}

func (x *image) stop() {
	x.cmd.Process.Signal(syscall.SIGINT)
	for range x.events {
	}
	x.cmd.Wait()
}

// answers waits until something listens on a port of loopback.
func answers(port int) error {
	for range 200 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("nothing listens on port %d", port)
}
