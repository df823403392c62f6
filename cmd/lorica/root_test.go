package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// Whoever interrupts a command is told that, and not what it cut off.
func TestInterrupted(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs bytes.Buffer
	code := execute(ctx, []string{"plan", "-f", "starter"}, strings.NewReader(""), &bytes.Buffer{}, &errs)
	if code != exitFailure || errs.String() != "lorica: interrupted\n" {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
