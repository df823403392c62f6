package qemu

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// What an image ends with by isa-debug-exit, beside codes of its own.
const (
	codeMore    = 63 // or more
	codeFault   = 64
	codeMemory  = 65
	codeEntropy = 66
	codeBoot    = 67
)

// Code returns what the guest exited with; ok is false where it did not exit.
// Valid once Done is closed.
func (v *VM) Code() (code int, ok bool) {
	return exited(v.began, v.ExitCode(), v.said.errors())
}

// exited decodes the status of QEMU, which exits with 1 as well when it fails
// itself, and says why then.
func exited(began bool, status int, said string) (code int, ok bool) {
	if !began || status < 0 || status%2 == 0 || status == 1 && said != "" {
		return 0, false
	}
	return status / 2, true
}

// Death says how the machine ended; valid once Done is closed.
func (v *VM) Death() string {
	if code, ok := v.Code(); ok {
		return "the image " + codeWords(code)
	}
	if own := v.said.errors(); own != "" {
		return "QEMU " + v.end() + ": " + own
	}
	return "QEMU " + v.end()
}

func codeWords(code int) string {
	switch code {
	case 0:
		return "exited"
	case codeMore:
		return "exited with code 63 or more"
	case codeFault:
		return "stopped at a fault of its kernel"
	case codeMemory:
		return "ran out of memory"
	case codeEntropy:
		return "found no source of entropy"
	case codeBoot:
		return "was started with wrong boot information or too little memory"
	}
	return fmt.Sprintf("exited with code %d", code)
}

// end says how the process of QEMU ended.
func (v *VM) end() string {
	switch {
	case v.Signal() == unix.SIGSYS:
		return "was killed by SIGSYS: it made a system call that its sandbox forbids"
	case v.Signal() != 0:
		return "was " + v.Process.Death()
	case v.ExitCode() != 0:
		return "failed with " + v.Process.Death()
	}
	reason := ""
	if v.monitor != nil {
		reason = v.monitor.reason()
	}
	switch reason {
	case "guest-reset":
		return "ended because the image reset the machine (a triple fault)"
	case "host-qmp-quit":
		return "ended as it was told"
	case "":
		return "ended without a reason"
	}
	return "ended: " + reason
}
