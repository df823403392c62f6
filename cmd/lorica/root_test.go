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
	for _, args := range [][]string{{"plan", "-f", "starter"}, {"up", "-f", "starter", "-o", "json", "--try", "starter/requests.yaml", "--exit"}} {
		var errs bytes.Buffer
		code := execute(ctx, args, strings.NewReader(""), &bytes.Buffer{}, &errs)
		if code != exitFailure || errs.String() != "lorica: interrupted\n" {
			t.Errorf("lorica %v: exit code %d: %s", args, code, errs.String())
		}
	}
}
