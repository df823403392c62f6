package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/policy"
)

var update = flag.Bool("update", false, "rewrite the expected output in the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"lorica": func() {
			os.Exit(execute(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// Every script is a session of a user; what commands print is part of it.
func TestScripts(t *testing.T) {
	example, err := filepath.Abs(filepath.Join("..", "..", "examples", "accounts"))
	if err != nil {
		t.Fatal(err)
	}
	signed, trust := signedExample(t, example)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ACCOUNTS", example)
			e.Setenv("EXAMPLES", filepath.Dir(example))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("KEY", hex.EncodeToString(trust))
			return os.WriteFile(filepath.Join(e.WorkDir, "signed"), signed, 0o600)
		},
	})
}

// signedExample is the program of an example at its first level, and the key for it.
func signedExample(t *testing.T, folder string) ([]byte, ed25519.PublicKey) {
	t.Helper()
	b, err := policy.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	out, err := compiler.Compile(b.Deployments[0])
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signed, err := program.Sign(out.Levels[0].Program(b.Deployments[0], program.PlanID{1}, 9), key)
	if err != nil {
		t.Fatal(err)
	}
	return signed, key.Public().(ed25519.PublicKey)
}
