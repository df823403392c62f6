package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stageDeadline bounds the time from the start of the stage to the execution of
// the image.
const stageDeadline = 20 * time.Second

// A Launcher starts stages from one thread that it keeps: the kernel kills an
// image when the thread that started it ends, which is then when the tender
// does. Safe for concurrent use.
type Launcher struct {
	work chan func()
	base int // seccomp filters that this process is itself under
}

// NewLauncher returns a Launcher whose thread lives until the process ends.
func NewLauncher() (*Launcher, error) {
	own, err := readStatus("/proc/self/status")
	if err != nil {
		return nil, err
	}
	l := &Launcher{work: make(chan func()), base: own.filters}
	go func() {
		runtime.LockOSThread()
		for f := range l.work {
			f()
		}
	}()
	return l, nil
}

// A Process is a running image, or a tool.
type Process struct {
	cmd     *exec.Cmd
	self    int
	filters int   // system call filters that Verify expects
	groups  []int // supplementary groups that it may be in
	done    chan struct{}

	group *Group // nil: RLIMIT_DATA alone
	kills uint64 // of the group, before this process
	lost  error
}

// Limits says what bounds the memory of the process.
func (p *Process) Limits() string {
	if p.group != nil {
		return "cgroup " + p.group.path
	}
	return "RLIMIT_DATA"
}

// NotInGroup says why the process is not in the group that it was to start in;
// nil where it is, or there was none.
func (p *Process) NotInGroup() error { return p.lost }

// PID returns the process id as the host sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Self returns the process id as the image sees it.
func (p *Process) Self() int { return p.self }

// Kill ends the process. It is safe at any time: the process is held by a pidfd
// where the kernel has them.
func (p *Process) Kill() { p.cmd.Process.Kill() }

// Done is closed when the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Starved reports that the kernel killed the process because its group had no
// memory left; valid once Done is closed.
func (p *Process) Starved() bool {
	return p.Signal() == syscall.SIGKILL && p.group != nil && p.group.kills() > p.kills
}

// Killed reports that Kill ended the process, or somebody else's SIGKILL that its
// group does not explain; valid once Done is closed.
func (p *Process) Killed() bool { return p.Signal() == syscall.SIGKILL && !p.Starved() }

// Death says how the process ended; valid once Done is closed.
func (p *Process) Death() string {
	s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case p.Starved():
		return fmt.Sprintf("killed by SIGKILL: it used more than the %d MiB of its cgroup", p.group.limit>>20)
	case ok && s.Signaled() && s.Signal() == syscall.SIGSYS:
		return "killed by SIGSYS: it made a system call that its modules do not list"
	case ok && s.Signaled():
		return fmt.Sprintf("killed by %s", unix.SignalName(s.Signal()))
	}
	return p.cmd.ProcessState.String()
}

// Signal returns the signal that ended the process, or 0; valid once Done is
// closed.
func (p *Process) Signal() syscall.Signal {
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return s.Signal()
	}
	return 0
}

// ExitCode returns the code that the process exited with, or -1 where a signal
// ended it; valid once Done is closed.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Launch starts an image and returns once the stage has become it. The image
// runs under the launch filter until it seals itself.
func (l *Launcher) Launch(s Spec) (*Process, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	files := []*os.File{s.Control, s.Program}
	if s.Dial != nil {
		files = append(files, s.Dial)
	}
	files = append(files, s.Listeners...)
	if s.Net != nil {
		files = append(files, s.Net)
	}
	return l.launch(&launching{order: order{Confinement: s.Confinement, Syscalls: s.Syscalls, ImageFD: 3 + len(files), Data: dataLimit(s.Memory)},
		files: append(files, s.Image), output: s.Output, errors: s.Output, group: s.Group, filters: 2})
}

// launching is what the launches of images and of tools differ in.
type launching struct {
	order          order
	files          []*os.File // from descriptor 3 on
	output, errors *os.File
	group          *Group
	filters        int // in force once it runs, beside those of the tender
}

func (l *Launcher) launch(w *launching) (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	defer null.Close()
	report, words, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	defer report.Close()
	defer words.Close()

	o := &w.order
	o.DropUser = os.Geteuid() == 0
	o.NullFD = 3 + len(w.files)
	o.ReportFD = o.NullFD + 1
	if o.Confinement.Namespaces {
		o.Threads = threadLimit()
	}
	p := &Process{filters: max(l.base, 0) + w.filters, groups: o.Groups, done: make(chan struct{})}
	start := func() (*exec.Cmd, error) {
		cmd := stageCommand(o.Confinement.Namespaces, o.Groups)
		cmd.ExtraFiles = append(slices.Clone(w.files), null, words)
		cmd.Stdout, cmd.Stderr = w.output, w.errors
		if p.group != nil { // it is born there, and never outside (Linux 5.7)
			p.kills = p.group.kills()
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(p.group.dir.Fd())
		}
		return cmd, l.start(cmd, o)
	}
	p.group = w.group
	cmd, err := start()
	if err != nil && p.group != nil {
		p.group, p.lost = nil, err
		cmd, err = start()
	}
	if err != nil {
		return nil, err
	}
	words.Close()
	p.cmd, p.self = cmd, cmd.Process.Pid
	if o.Confinement.Namespaces {
		p.self = 1
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	report.SetReadDeadline(time.Now().Add(stageDeadline))
	said, err := io.ReadAll(io.LimitReader(report, 4096))
	if err == nil && len(said) == 0 {
		// A tool may be done already, and so may an image that would not start: what it
		// said is still to be read, and that its channel is closed says the rest.
		return p, nil
	}
	p.Kill()
	<-p.done
	if len(said) > 0 {
		return nil, fmt.Errorf("process: %s", said)
	}
	return nil, fmt.Errorf("process: the stage: %w", err)
}

// start runs cmd on the launcher's thread with o as its standard input.
func (l *Launcher) start(cmd *exec.Cmd, o *order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("process: %w", err)
	}
	cmd.Stdin = bytes.NewReader(b)
	done := make(chan error, 1)
	l.work <- func() { done <- cmd.Start() }
	if err := <-done; err != nil {
		return fmt.Errorf("process: starting the stage: %w", err)
	}
	return nil
}

// stageCommand runs this same program as the stage. The environment is empty:
// nothing of the tender's reaches it. Groups are mapped for the stage to enter.
func stageCommand(namespaces bool, groups []int) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", StageCommand)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !namespaces {
		return cmd
	}
	a := cmd.SysProcAttr
	a.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
		syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	if os.Geteuid() == 0 { // a second identity to change to
		other := syscall.SysProcIDMap{ContainerID: unprivileged, HostID: unprivileged, Size: 1}
		a.UidMappings = append(a.UidMappings, other)
		a.GidMappings = append(a.GidMappings, other)
		for _, g := range groups {
			a.GidMappings = append(a.GidMappings, syscall.SysProcIDMap{ContainerID: g, HostID: g, Size: 1})
		}
		a.GidMappingsEnableSetgroups = true
	}
	return cmd
}

// threadLimit is 0, no limit, before Linux 5.14: there RLIMIT_NPROC counts the
// user's processes everywhere, not those of the namespace.
func threadLimit() uint64 {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return 0
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return 0
	}
	if major < 5 || major == 5 && minor < 14 {
		return 0
	}
	return maxThreads
}
