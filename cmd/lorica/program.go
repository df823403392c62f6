package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/internal/verify"
	"lorica.dev/lorica/run"
)

// verified is what program check answers in JSON, for each program.
type verified struct {
	Program  string    `json:"program"` // as it was asked for
	OK       bool      `json:"ok"`
	Refused  string    `json:"refused,omitempty"` // why
	Offset   int       `json:"offset,omitempty"`  // of the byte that is wrong
	Signed   bool      `json:"signed"`            // the signature was checked
	Digest   string    `json:"digest,omitempty"`
	Plan     string    `json:"plan,omitempty"`
	Revision uint64    `json:"revision,omitempty"`
	Tenant   string    `json:"tenant,omitempty"`
	Workload string    `json:"workload,omitempty"`
	Policy   string    `json:"policy,omitempty"`
	Levels   []string  `json:"levels,omitempty"`
	Sections []section `json:"sections,omitempty"`
}

// section is one of a program; without parts where what is in it was not verified.
type section struct {
	Name   string         `json:"name"`
	Offset int            `json:"offset"`
	Size   int            `json:"size"`
	Parts  map[string]int `json:"parts,omitempty"`
}

func (c *cli) programCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "program",
		GroupID: "look",
		Short:   "Verify the programs of images",
		Long:    "A program is the policy as an image enforces it: data, signed (docs/program-format.md).",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.programCheckCommand())
	return cmd
}

func (c *cli) programCheckCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "check PROGRAM...",
		Short: "Verify programs with a reader that shares no code with compiler and images",
		Long: `PROGRAM is a digest that build showed, or a file. Verified are the signature and the
form of all of it, and what is in the sections firewall and authz: code that ends and
keeps its stack, indices that lose no key, a forest that loses no rule. What is in the
other sections is not. Exit code 1 where a program is refused.`,
		Example: "  lorica program check sha256:0a1b2c...\n  lorica program check --key none ./program -o json",
		Args:    args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
			m, err := machine()
			if err != nil {
				return err
			}
			trust := m.Trust()
			if key == "none" {
				trust = nil
			} else if key != "" {
				if trust, err = hex.DecodeString(key); err != nil || len(trust) != ed25519.PublicKeySize {
					return usageError{fmt.Errorf("--key %s: write a public key of Ed25519 as 64 hexadecimal digits, or none", key)}
				}
			}
			var all []verified
			ok := true
			for _, name := range list {
				b, err := readProgram(m, name)
				if err != nil {
					return err
				}
				v := verifyProgram(name, b, trust)
				all, ok = append(all, v), ok && v.OK
			}
			if err := c.print(all, func(w io.Writer) { printVerified(w, all) }); err != nil || ok {
				return err
			}
			return errSilent
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "the public key that signed, in hexadecimal, or none to check no signature (the key of this machine where none is given)")
	return cmd
}

// readProgram reads one of the store, or a file.
func readProgram(m *run.Machine, name string) ([]byte, error) {
	digits, isDigest := strings.CutPrefix(name, "sha256:")
	if !isDigest {
		return os.ReadFile(name)
	}
	var d program.Digest
	if b, err := hex.DecodeString(digits); err != nil || len(b) != len(d) {
		return nil, fmt.Errorf("%q is not a digest: want sha256: and 64 hexadecimal digits, or a file", name)
	} else {
		copy(d[:], b)
	}
	return m.Store().Program(d)
}

func verifyProgram(name string, b []byte, trust ed25519.PublicKey) verified {
	r, err := verify.Check(b, trust)
	if err != nil {
		v := verified{Program: name, Refused: err.Error(), Signed: trust != nil}
		var e *verify.Error
		if errors.As(err, &e) {
			v.Offset = e.Offset
		}
		return v
	}
	v := verified{Program: name, OK: true, Signed: r.Signed, Digest: r.Digest, Plan: r.Plan, Revision: r.Revision, Tenant: r.Tenant, Workload: r.Workload, Policy: r.Policy, Levels: r.Levels}
	for _, s := range r.Sections {
		v.Sections = append(v.Sections, section(s))
	}
	return v
}

func printVerified(w io.Writer, all []verified) {
	for i, v := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if !v.OK {
			fmt.Fprintf(w, "%s: refused: %s\n", plain(v.Program), plain(v.Refused))
			continue
		}
		signature := "verified"
		if !v.Signed {
			signature = "not checked"
		}
		table(w, "", [][]string{{"program", v.Digest}, {"signature", signature}, {"plan", v.Plan}, {"revision", fmt.Sprint(v.Revision)},
			{"workload", v.Tenant + "/" + v.Workload}, {"policy", v.Policy}, {"levels", strings.Join(v.Levels, ", ")}})
		var rows [][]string
		for _, s := range v.Sections {
			var parts []string
			for _, name := range slices.Sorted(maps.Keys(s.Parts)) {
				parts = append(parts, fmt.Sprintf("%s %d", name, s.Parts[name]))
			}
			if parts == nil {
				parts = []string{"not looked into"}
			}
			rows = append(rows, []string{s.Name, fmt.Sprint(s.Offset), fmt.Sprint(s.Size), strings.Join(parts, ", ")})
		}
		fmt.Fprintln(w)
		table(w, "SECTION|AT|BYTES|IN IT", rows)
	}
}
