// Command lorica generates protected images from policies and runs them. Run
// "lorica help" for its commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"lorica.dev/lorica/solver"
)

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends this process at once
	os.Exit(execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes. Scripts may rely on them.
const (
	exitOK      = 0
	exitFailure = 1 // what was asked for failed, or what the user wrote is wrong
	exitUsage   = 2 // the command line is wrong
	// What was asked could be neither shown nor refuted, for a budget that ended or a machine
	// that cannot try it.
	exitUndecided = 3
)

// usageError marks an error in the command line itself.
type usageError struct{ error }

// undecided marks an error that leaves open what was asked.
type undecided struct{ error }

func (u undecided) Unwrap() error { return u.error }

// errSilent ends a command whose output already says what is wrong, or open.
var errSilent = errors.New("failed")

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, new(undecided)) || errors.As(err, new(*solver.Undecided)):
		return exitUndecided
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailure
}

func (c *cli) report(err error) {
	if err == nil || errors.Is(err, errSilent) {
		return
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(c.err, "lorica: %v\nRun 'lorica help' for usage.\n", err)
		return
	}
	fmt.Fprintf(c.err, "lorica: %v\n", err)
}
