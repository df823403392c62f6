package abi

import (
	"path"
	"strings"
)

// Hidden reports whether a file or folder of a site, by its path in the site's folder, is
// no part of it: its name begins with a dot, as those of .git and .env do. The builder
// leaves it out of the image, and the image would not serve it.
func Hidden(name string) bool { return name != "." && strings.HasPrefix(path.Base(name), ".") }
