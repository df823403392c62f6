package main

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

//go:embed starter
var starter embed.FS

func (c *cli) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "init [DIR]",
		GroupID: "write",
		Short:   "Write a commented starter project",
		Long: `Writes a workload, a policy, a page and a few requests into DIR (this folder where
none is given). 'lorica up' runs it as it is. Files that exist are never
overwritten: then nothing is written at all.`,
		Example: "  lorica init shop && lorica up -f shop",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
			dir := "."
			if len(list) == 1 {
				dir = list[0]
			}
			written, err := writeStarter(dir)
			if err != nil {
				return err
			}
			return c.print(map[string]any{"dir": dir, "files": written}, func(w io.Writer) {
				for _, f := range written {
					fmt.Fprintln(w, "wrote", f)
				}
				fmt.Fprintf(w, "\nNext:\n  lorica plan -f %s\n  lorica up -f %s\n", dir, dir)
			})
		},
	}
}

func writeStarter(dir string) ([]string, error) {
	tree, err := fs.Sub(starter, "starter")
	if err != nil {
		return nil, err
	}
	var names []string
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is already there: choose an empty folder", filepath.Join(dir, name))
		}
	}
	var written []string
	for _, name := range names {
		data, err := fs.ReadFile(tree, name)
		if err != nil {
			return written, err
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return written, err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return written, err
		}
		written = append(written, path)
	}
	return written, nil
}
