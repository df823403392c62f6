// Package debian reads Packages files of Debian, and says of their packages what can
// be installed: the yardstick by which the solver can be compared with others.
//
// What packages mean is what dose-debcheck takes them to mean. Versions of a package
// exclude each other; a package does not conflict with itself, nor with what it
// provides itself; what is provided without a version satisfies no relation that asks
// for one; essential packages are there with everything that is checked.
package debian

import (
	"slices"

	"lorica.dev/lorica/api"
)

// Limits of what is read: far above what Debian has, far below what a machine has.
const (
	maxLine     = 1 << 20 // bytes
	maxField    = 1 << 22
	maxPackages = 1 << 20
	maxText     = 1 << 28 // of all clauses, each once, with what their relations take, and of names and versions
	maxEdges    = 1 << 23 // clauses over all packages, and packages that they are compared with
)

// A Repository is what the packages of one or more files are and ask for.
type Repository struct {
	Packages []Package // in the order of the files

	clauses []Clause // each once, however many packages say it
	read    map[string]int32
	names   map[string]int32 // into named
	named   []named
	archs   map[string]string // each once
	kept    int               // bytes of text, and of relations
	said    int               // clauses, as often as they are said, and packages that were compared
}

// Grow makes room for what files of so many bytes have, unpacked, as Debian's are.
func (r *Repository) Grow(bytes int64) {
	packages := int(min(bytes, 1<<27) / 790)
	r.Packages = slices.Grow(r.Packages, packages)
	r.clauses = slices.Grow(r.clauses, packages*8/5)
	r.named = slices.Grow(r.named, packages*3/2)
	if r.read == nil {
		r.read, r.names, r.archs = make(map[string]int32, packages*8/5), make(map[string]int32, packages*3/2), map[string]string{}
	}
}

// named is all that goes by one name.
type named struct {
	name    string
	real    []int32 // in the end, the newest first
	virtual []provision
}

// A provision is a package that provides a name, and its version or "".
type provision struct {
	by      int32
	version string
}

// name returns the number of a name.
func (r *Repository) name(text []byte) int32 {
	id, ok := r.names[string(text)]
	if !ok {
		id = int32(len(r.named))
		name := string(text)
		r.named = append(r.named, named{name: name})
		r.names[name] = id
	}
	return id
}

// A Package is one stanza: one version of a package.
type Package struct {
	Name, Version, Arch string
	MultiArch           MultiArch
	Essential           bool
	Installed           int64 // KiB, as Installed-Size says
	Size                int64 // bytes to fetch
	Pos                 api.Pos

	name                int32   // into Repository.named
	preDepends, depends []int32 // into Repository.clauses
	conflicts, breaks   []int32 // of one relation each
	provides            []int32
}

// String is "name (= version)", the form of a relation that means it alone.
func (p *Package) String() string { return p.Name + " (= " + p.Version + ")" }

// MultiArch says how packages of several architectures meet.
type MultiArch uint8

// The values of the field Multi-Arch.
const (
	MultiArchNo MultiArch = iota
	MultiArchSame
	MultiArchForeign
	MultiArchAllowed
)

// A Relation is "name:arch (op version) [arch ...]".
type Relation struct {
	Name    string
	Arch    string // "", "any", "native", or an architecture
	Op      string // "", "<<", "<=", "=", ">=" or ">>"
	Version string
	Archs   []string // it is there on these alone; "!arch": on all but these

	id int32 // of the name, from 1; 0: not looked for yet
}

// Satisfies reports whether a version is one that the relation asks for.
func (r *Relation) Satisfies(version string) bool {
	if r.Op == "" {
		return true
	}
	c := Compare(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

// A Clause is what one comma of a field sets apart: any one of its relations will do.
type Clause struct {
	Text string // as it is written, without what surrounds it
	Any  []Relation
}

// A SyntaxError is what is wrong with a file, and where.
type SyntaxError struct {
	Pos     api.Pos
	Text    string // the line, cut where it is long
	Message string
	Fix     string
}

func (e *SyntaxError) Error() string {
	s := e.Pos.String() + ": " + e.Message
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	return s
}
