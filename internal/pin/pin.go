// Package pin keeps dependencies listed while the first packages are written.
package pin

import (
	_ "github.com/cedar-policy/cedar-go"
	_ "github.com/cedar-policy/cedar-go/x/exp/ast"
	_ "github.com/cedar-policy/cedar-go/x/exp/eval"
	_ "github.com/cedar-policy/cedar-go/x/exp/schema"
	_ "github.com/cedar-policy/cedar-go/x/exp/schema/validate"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "go.yaml.in/yaml/v3"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
)
