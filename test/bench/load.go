package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A target is a server under load.
type target struct {
	name string
	url  string
	pids func() []int // whose processor time counts

	connections int    // 0: 64
	within      string // network namespace of the clients; empty: this one
}

// A measure is one run of a load against one target.
type measure struct {
	rate   float64 // requests per second
	micros float64 // processor time of the server for a request
	failed int
}

var (
	rateLine   = regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)`)
	countLine  = regexp.MustCompile(`(?m)^\s*([0-9]+) requests in`)
	badLine    = regexp.MustCompile(`(?m)^\s*Non-2xx or 3xx responses: ([0-9]+)`)
	socketLine = regexp.MustCompile(`(?m)^\s*Socket errors: connect ([0-9]+), read ([0-9]+), write ([0-9]+), timeout ([0-9]+)`)
)

// wrk runs one thread with connections against t; script is a Lua file or
// empty.
func wrk(t *target, seconds int, script string) (measure, error) {
	connections := t.connections
	if connections == 0 {
		connections = 64
	}
	args := []string{"-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", seconds)}
	if script != "" {
		args = append(args, "-s", script)
	}
	line := append([]string{"wrk"}, append(args, t.url)...)
	if t.within != "" {
		line = append([]string{"ip", "netns", "exec", t.within}, line...)
	}
	before := cpu(t.pids())
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err != nil {
		return measure{}, fmt.Errorf("wrk against %s: %w: %s", t.name, err, out)
	}
	used := cpu(t.pids()) - before
	rate, count := rateLine.FindSubmatch(out), countLine.FindSubmatch(out)
	if rate == nil || count == nil {
		return measure{}, fmt.Errorf("wrk against %s: %s", t.name, out)
	}
	m := measure{}
	m.rate, _ = strconv.ParseFloat(string(rate[1]), 64)
	n, _ := strconv.Atoi(string(count[1]))
	m.micros = float64(used.Microseconds()) / float64(max(n, 1))
	for _, line := range [][][]byte{badLine.FindSubmatch(out), socketLine.FindSubmatch(out)} {
		for _, b := range line[min(1, len(line)):] {
			bad, _ := strconv.Atoi(string(b))
			m.failed += bad
		}
	}
	return m, nil
}

// A series is what one target gave, round by round.
type series struct {
	target   *target
	measures []measure
}

// rounds loads the targets in turn, so that what disturbs the machine disturbs
// all of them, and begins with a round that does not count.
func rounds(n, seconds int, script string, targets ...*target) ([]series, error) {
	list := make([]series, len(targets))
	for i, t := range targets {
		list[i].target = t
	}
	for round := range n + 1 {
		for i, t := range targets {
			length := seconds
			if round == 0 {
				length = 1
			}
			m, err := wrk(t, length, script)
			if err != nil {
				return nil, err
			}
			if m.failed > 0 {
				return nil, fmt.Errorf("%d requests to %s failed", m.failed, t.name)
			}
			if round > 0 {
				list[i].measures = append(list[i].measures, m)
			}
		}
	}
	return list, nil
}

// over returns the ratio of the rates of each round.
func over(a, b series) []float64 {
	var list []float64
	for i := range a.measures {
		list = append(list, a.measures[i].rate/b.measures[i].rate)
	}
	return list
}

func (s series) rates() []float64 {
	var list []float64
	for _, m := range s.measures {
		list = append(list, m.rate)
	}
	return list
}

// cpu returns the processor time that processes and their threads have used.
func cpu(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest) // from field 3 on: proc(5)
		if len(f) < 13 {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+system) * (time.Second / 100) // USER_HZ
	}
	return sum
}

// residents returns the resident memory of a process in bytes.
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^VmRSS:\s+([0-9]+) kB`).FindSubmatch(b)
	if m == nil {
		return 0, fmt.Errorf("process %d has no resident memory", pid)
	}
	kb, err := strconv.ParseFloat(string(m[1]), 64)
	return kb * 1024, err
}

// A server is a process that the benchmark started.
type server struct {
	cmd *exec.Cmd
}

// start runs a server in the foreground, its output in a file of dir.
func start(dir, name string, args ...string) (*server, error) {
	log, err := os.Create(filepath.Join(dir, filepath.Base(name)+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &server{cmd}, nil
}

// pids returns the process and its children: nginx has workers.
func (s *server) pids() []int {
	list := []int{s.cmd.Process.Pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.cmd.Process.Pid))
	if err != nil {
		return list
	}
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

func (s *server) stop() {
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { s.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}
}
