package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
)

// maxOrder bounds what the stage reads from its standard input.
const maxOrder = 1 << 20

// Stage is the body of the stage. It returns only on failure or after a probe;
// the failure has been reported to the launcher then.
//
// Credentials, Landlock and seccomp belong to a thread, and execveat carries
// those of the calling thread into the image: everything runs on one locked
// thread, and nothing depends on the others.
func Stage() error {
	runtime.LockOSThread()
	b, err := io.ReadAll(io.LimitReader(os.Stdin, maxOrder))
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("process: %s is started by a tender, not by hand: %w", StageCommand, err)
	}
	err = o.run()
	if err != nil && !o.Probe {
		unix.Write(o.ReportFD, []byte(err.Error()))
	}
	return err
}

func (o *order) run() error {
	if o.Probe {
		return leaveFileSystem()
	}
	if err := o.descriptors(); err != nil {
		return err
	}
	if o.Confinement.Namespaces {
		if err := leaveFileSystem(o.Tool.keeps()...); err != nil {
			return err
		}
	}
	// All that needs memory or the Go runtime comes before the filter.
	become := execution{dir: o.ImageFD, flags: unix.AT_EMPTY_PATH, args: []string{"lorica-image"}}
	if o.Tool != nil { // its filter is its own affair
		become = execution{dir: unix.AT_FDCWD, path: o.Tool.Path, args: append([]string{o.Tool.Path}, o.Tool.Args...)}
	} else {
		filter, err := launchFilter(o.Syscalls, o.ImageFD, os.Getpid())
		if err != nil {
			return err
		}
		become.filter = filter
	}
	if err := o.limits(); err != nil {
		return err
	}
	if err := o.dropPrivileges(); err != nil {
		return err
	}
	if err := o.dieWithTender(); err != nil {
		return err
	}
	if err := restrict(o.Confinement.Landlock, o.Tool.rights()...); err != nil {
		return err
	}
	data, err := within(unix.RLIMIT_DATA, o.Data)
	if err != nil {
		return fmt.Errorf("stage: RLIMIT_DATA: %w", err)
	}
	return become.execute(data)
}

// descriptors puts /dev/null in place of the order and marks everything but the
// image's own descriptors to be closed by exec.
func (o *order) descriptors() error {
	if err := unix.Dup2(o.NullFD, 0); err != nil {
		return fmt.Errorf("stage: dup2: %w", err)
	}
	first := uint(o.ImageFD) // the image's descriptors end just below its file
	if err := unix.CloseRange(first, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("stage: close_range: %w", err)
		}
		for fd := o.ImageFD; fd < maxFiles; fd++ { // before Linux 5.11
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func (o *order) limits() error {
	files := uint64(maxFiles)
	if o.Tool != nil {
		files = toolFiles
	}
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"RLIMIT_CORE", unix.RLIMIT_CORE, 0},
		{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE, 0},
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, files},
		{"RLIMIT_NPROC", unix.RLIMIT_NPROC, o.Threads},
		{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, 0},
	} {
		if l.resource == unix.RLIMIT_NPROC && l.value == 0 {
			continue
		}
		v, err := within(l.resource, l.value)
		if err != nil {
			return fmt.Errorf("stage: %s: %w", l.name, err)
		}
		if err := unix.Prlimit(0, l.resource, v, nil); err != nil {
			return fmt.Errorf("stage: %s: %w", l.name, err)
		}
	}
	return nil
}

// within returns value as a limit, or the one in force where that is lower.
func within(resource int, value uint64) (*unix.Rlimit, error) {
	var now unix.Rlimit
	if err := unix.Getrlimit(resource, &now); err != nil {
		return nil, err
	}
	value = min(value, now.Max)
	return &unix.Rlimit{Cur: value, Max: value}, nil
}

// dieWithTender asks for SIGKILL when the thread that started the stage ends.
// The launcher keeps that thread for as long as it lives; the setting is
// cleared by a change of user, so this comes after it.
func (o *order) dieWithTender() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("stage: PR_SET_PDEATHSIG: %w", err)
	}
	// A tender that was gone before has closed its end of the channel.
	poll := []unix.PollFd{{Fd: launch.ControlFD, Events: unix.POLLRDHUP}}
	if _, err := unix.Poll(poll, 0); err != nil {
		return fmt.Errorf("stage: poll: %w", err)
	}
	if poll[0].Revents&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
		return errors.New("stage: the tender is gone")
	}
	return nil
}

// An execution is what the stage becomes: a file by its descriptor or its path.
type execution struct {
	dir, flags int
	path       string
	args       []string
	filter     []launch.Instruction // nil: none
}

// execute installs the launch filter and becomes the image. Nothing but the
// three raw calls may run in between. RLIMIT_DATA is for the image: the stage may
// have more already (the race detector maps terabytes), and a runtime that is
// refused memory ends the process.
func (x *execution) execute(data *unix.Rlimit) error {
	prog := struct {
		length uint16
		_      [6]byte
		filter *launch.Instruction // laid out as struct sock_filter
	}{length: uint16(len(x.filter)), filter: unsafe.SliceData(x.filter)}
	path, err := unix.BytePtrFromString(x.path)
	if err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	argv, err := syscall.SlicePtrFromStrings(x.args)
	if err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	envp := [1]*byte{nil}
	if _, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_DATA, uintptr(unsafe.Pointer(data)), 0, 0, 0); e != 0 {
		return fmt.Errorf("stage: RLIMIT_DATA: %w", e)
	}
	if x.filter != nil {
		if _, _, e := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
			return fmt.Errorf("stage: seccomp: %w", e)
		}
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(x.dir), uintptr(unsafe.Pointer(path)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])), uintptr(x.flags), 0)
	runtime.KeepAlive(x)
	return fmt.Errorf("stage: execveat: %s: %w", x.args[0], e)
}
