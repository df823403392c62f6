package debian

import (
	"fmt"
	"strings"

	"lorica.dev/lorica/solver/repo"
)

// Title says of a package which it is: its name, the architecture where that is not the
// machine's, and its version.
func (u *Universe) Title(p repo.Package) string {
	return u.Name(p) + " " + u.Packages[p].Version
}

// Name is Title without the version.
func (u *Universe) Name(p repo.Package) string { return u.id(&u.Packages[p]) }

// Sentences tells facts that contradict each other, in their order: what is asked for,
// then what that needs, then what stands against it.
func (u *Universe) Sentences(facts []repo.Fact, asked []Clause) []string {
	var list []string
	for i := range facts {
		if s := u.sentence(&facts[i], asked); s != "" {
			list = append(list, s)
		}
	}
	return list
}

func (u *Universe) sentence(f *repo.Fact, asked []Clause) string {
	switch f.Kind {
	case repo.Wanted:
		return u.wanted(f, asked)
	case repo.Needs:
		c, pre := u.said(f.Label)
		verb := "depends"
		if pre {
			verb = "pre-depends"
		}
		return fmt.Sprintf("%s %s on %s%s", u.Title(f.Package), verb, c.Text, u.candidates(f, c))
	case repo.Excludes:
		if f.Label == labelApart {
			return fmt.Sprintf("%s and %s exclude each other: they are of two architectures", u.Title(f.Package), u.Title(f.Other))
		}
		c, breaks := u.said(f.Label)
		verb := "conflicts with"
		if breaks {
			verb = "breaks"
		}
		s := fmt.Sprintf("%s %s %s", u.Title(f.Package), verb, c.Text)
		if c.Any[0].Name != u.Packages[f.Other].Name {
			return s + ", which " + u.Title(f.Other) + " provides"
		}
		return s + ", and so " + u.Title(f.Other)
	case repo.Versions:
		return u.list(versionsOf(f), "and") + " are versions of one package: they exclude each other"
	}
	return ""
}

func versionsOf(f *repo.Fact) []repo.Package {
	if len(f.Any) > 0 {
		return f.Any
	}
	return []repo.Package{f.Package, f.Other}
}

// wanted tells a wish. That a package is to be installed of which it is asked why that
// cannot be goes without saying.
func (u *Universe) wanted(f *repo.Fact, asked []Clause) string {
	if f.Label < labelAsked {
		return u.list(f.Any, "or") + " is essential: it is always installed"
	}
	i := f.Label - labelAsked
	if i >= len(asked) {
		return ""
	}
	return "you asked for " + asked[i].Text + u.candidates(f, &asked[i])
}

// said is the clause of a label, and whether it is of the first field of two, as
// Pre-Depends, or the second, as Breaks.
func (u *Universe) said(label int) (c *Clause, second bool) {
	return &u.clauses[label>>1], label&1 == 1
}

// maxNamed bounds the packages that a sentence names.
const maxNamed = 4

// candidates says who satisfies a clause, where it does not say so itself.
func (u *Universe) candidates(f *repo.Fact, c *Clause) string {
	switch len(f.Any) {
	case 0:
		if there := u.others(c); there != "" {
			return ", which nothing satisfies: there is " + there
		}
		return ", which nothing provides"
	case 1:
		if u.Name(f.Any[0]) == c.Text && len(u.named[u.Packages[f.Any[0]].name].real) == 1 {
			return ""
		}
		return "; the only candidate is " + u.Title(f.Any[0])
	}
	return "; candidates are " + u.list(f.Any, "and")
}

// others lists what has the names in a clause and still does not satisfy it.
func (u *Universe) others(c *Clause) string {
	var list []string
	for i := range c.Any {
		n := u.lookup(&c.Any[i])
		if n == nil {
			continue
		}
		for _, k := range n.real {
			list = append(list, u.Title(repo.Package(k)))
		}
		for _, v := range n.virtual {
			version := " without a version"
			if v.version != "" {
				version = " " + v.version
			}
			list = append(list, fmt.Sprintf("%s%s (%s)", c.Any[i].Name, version, u.Title(repo.Package(v.by))))
		}
	}
	return enumerate(list, "and")
}

func (u *Universe) list(packages []repo.Package, word string) string {
	var titles []string
	for _, p := range packages {
		titles = append(titles, u.Title(p))
	}
	return enumerate(titles, word)
}

// enumerate joins words as one says them; of many, the first.
func enumerate(list []string, word string) string {
	if n := len(list); n > maxNamed {
		list = append(list[:maxNamed-1:maxNamed-1], fmt.Sprintf("%d more", n-maxNamed+1))
	}
	switch n := len(list); n {
	case 0:
		return ""
	case 1:
		return list[0]
	default:
		return strings.Join(list[:n-1], ", ") + " " + word + " " + list[n-1]
	}
}
