package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/catalog/weigh"
)

// weighed is what weigh answers in JSON.
type weighed struct {
	Toolchain string          `json:"toolchain"`
	Modules   []*weigh.Weight `json:"modules"`
	Off       []string        `json:"off"` // whose manifests say something else
}

func (c *cli) catalogWeighCommand(dir *string) *cobra.Command {
	var check bool
	var tree string
	cmd := &cobra.Command{
		Use:   "weigh [MODULE...]",
		Short: "Measure how much code modules add to an image, and their attack surface",
		Long: `Builds, for each module, the smallest image that holds it and the same image without it,
and compares the machine code of both. That, in KiB, is what the field "code" of a
manifest says; the attack surface follows from it, from the system calls, the devices
and the inputs by the formula of docs/catalog.md.

The source is the one that images are built from, and so is the toolchain: the Go in
PATH, or the one that GOTOOLCHAIN names. What differs by up to a twentieth, or 2 KiB, is
what releases of Go differ by, and counts as the same.

--check exits with 1 where a manifest says something else. --write DIR writes what was
measured into the manifests of a source tree where they differ by more than that.`,
		Example: `  lorica catalog weigh pep/tls pep/authn/jwt
  lorica catalog weigh --check
  lorica catalog weigh --write .`,
		Args:              args(cobra.ArbitraryArgs),
		ValidArgsFunction: c.completeModules(dir),
		RunE: func(cmd *cobra.Command, words []string) error {
			if *dir != "" {
				return usageError{errors.New("--catalog: only modules whose source this command has can be weighed")}
			}
			all, err := c.modules(cmd.Context(), "")
			if err != nil {
				return err
			}
			chosen := all.Modules
			if len(words) > 0 {
				chosen = nil
				for _, word := range words {
					m, err := module(all, word)
					if err != nil {
						return err
					}
					chosen = append(chosen, m)
				}
			}
			tmp, err := os.MkdirTemp("", "lorica-weigh-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(tmp)
			show := c.progress("weigh")
			defer show.end()
			show.text("source")
			scale, err := weigh.New(cmd.Context(), all, tmp)
			if err != nil {
				return err
			}
			out := weighed{Toolchain: scale.Toolchain(), Off: []string{}}
			for i, m := range chosen {
				show.text(fmt.Sprintf("%d of %d: %s", i+1, len(chosen), m.ID))
				w, err := scale.Weigh(cmd.Context(), m.ID)
				if err != nil {
					return err
				}
				out.Modules = append(out.Modules, w)
				if w.Off() {
					out.Off = append(out.Off, m.ID)
				}
			}
			show.end()
			if err := c.print(out, func(w io.Writer) { printWeighed(w, &out) }); err != nil {
				return err
			}
			if tree != "" {
				return c.writeWeights(tree, &out)
			}
			if check && len(out.Off) > 0 {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit code 1 where a manifest says something else than what was measured")
	cmd.Flags().StringVar(&tree, "write", "", "write what was measured into the manifests of this source tree")
	_ = cmd.MarkFlagDirname("write")
	cmd.MarkFlagsMutuallyExclusive("check", "write")
	return cmd
}

// writeWeights writes the numbers of what is off into a source tree.
func (c *cli) writeWeights(tree string, out *weighed) error {
	for _, w := range out.Modules {
		if !w.Off() {
			continue
		}
		name := filepath.Join(tree, filepath.FromSlash(w.Module), "module.yaml")
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("--write %s: not the source of these modules: %w", tree, err)
		}
		if data, err = catalog.SetCode(name, data, w.Code); err != nil {
			return err
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	if c.format != "json" {
		fmt.Fprintf(c.out, "%s written\n", count(len(out.Off), "manifest"))
	}
	return nil
}

func printWeighed(w io.Writer, out *weighed) {
	var rows [][]string
	for _, m := range out.Modules {
		note := ""
		if slices.Contains(out.Off, m.Module) {
			note = "off"
		}
		rows = append(rows, []string{m.Module, fmt.Sprint(m.Bytes), fmt.Sprint(m.Code), fmt.Sprint(m.Recorded), fmt.Sprint(m.Surface), note})
	}
	table(w, "MODULE|BYTES|KIB|RECORDED|SURFACE|", rows)
	if len(out.Off) == 0 {
		fmt.Fprintf(w, "with %s: every manifest says what was measured\n", out.Toolchain)
		return
	}
	fmt.Fprintf(w, "with %s: %s off: %s\n", out.Toolchain, count(len(out.Off), "manifest"), strings.Join(out.Off, ", "))
}
