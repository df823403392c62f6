package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
)

// docs/cli.md is the help of every command, and nothing else.
func TestReference(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# Command reference\n\nWritten by `go test ./cmd/lorica -update` from the help of each command.\n")
	root := (&cli{out: &b, err: &b}).root()
	root.SetOut(&b)
	var all []*cobra.Command
	var collect func(cmd *cobra.Command)
	collect = func(cmd *cobra.Command) {
		if !cmd.Hidden {
			all = append(all, cmd)
			for _, sub := range cmd.Commands() {
				collect(sub)
			}
		}
	}
	collect(root)
	for _, cmd := range all {
		fmt.Fprintf(&b, "\n## %s\n\n```\n", cmd.CommandPath())
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		b.WriteString("```\n")
	}
	path := filepath.Join("..", "..", "docs", "cli.md")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, b.Bytes()) {
		t.Errorf("%s is not what the commands say: go test ./cmd/lorica -update", path)
	}
}
