// Package lorica carries what images are made of: the source of the image side
// with its module manifests, and the go.mod and go.sum that pin its
// dependencies. So the lorica binary builds images from any directory, without
// this repository.
package lorica

import (
	"embed"
	"io/fs"
	"path"
	"strings"
)

// ModulePath is the module path of the image-side source.
const ModulePath = "lorica.dev/lorica"

// GoMod and GoSum pin what images depend on. They are not called go.mod and
// go.sum because a folder with a go.mod cannot be embedded.
const (
	GoMod = "image/go.mod.txt"
	GoSum = "image/go.sum.txt"
)

//go:embed abi pep netstack app unikernel kernel virtio image
var source embed.FS

// Source returns the embedded tree: GoMod, GoSum, and the image-side folders as
// they lie in the repository.
func Source() fs.FS { return source }

// InImage reports whether a file of Source is compiled into images: not its
// tests, their data, what tests the kernel from inside, or what describes it.
func InImage(name string) bool {
	for dir := range strings.SplitSeq(path.Dir(name), "/") {
		if dir == "testdata" || dir == "image" || dir == "selftest" {
			return false
		}
	}
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".s")
}
