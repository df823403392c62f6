package main

import (
	"fmt"
	"io"
	"strconv"

	"lorica.dev/lorica/solver/debian"
	"lorica.dev/lorica/solver/repo"
)

// solvePackage is a package as solve shows it in JSON.
type solvePackage struct {
	Package      string `json:"package"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Line         string `json:"line"`
	Installed    int64  `json:"installedKiB,omitempty"`
	Size         int64  `json:"downloadBytes,omitempty"`
}

func packageOf(u *debian.Universe, p repo.Package) solvePackage {
	q := &u.Packages[p]
	return solvePackage{Package: q.Name, Version: q.Version, Architecture: q.Arch, Line: q.Pos.Short()}
}

// solveChecked is what solve answers in JSON of a check.
type solveChecked struct {
	Packages  int            `json:"packages"` // that were checked
	Broken    []solveBroken  `json:"broken"`
	Undecided []solvePackage `json:"undecided,omitempty"`
	Budget    int            `json:"budget,omitempty"` // conflicts, which were not enough for those
}

type solveBroken struct {
	solvePackage
	Because []string `json:"because,omitempty"`
	Minimal bool     `json:"minimal,omitempty"` // none of the reasons could be left out
}

func printSolveChecked(w io.Writer, a *solveChecked) {
	unexplained := 0
	for _, b := range a.Broken {
		fmt.Fprintf(w, "%s %s cannot be installed\n", plain(b.Package), plain(b.Version))
		printBecause(w, b.Because)
		if b.Because == nil {
			unexplained++
		}
	}
	for _, p := range a.Undecided {
		fmt.Fprintf(w, "%s %s: not decided within the budget\n", plain(p.Package), plain(p.Version))
	}
	if unexplained > 0 {
		fmt.Fprintf(w, "(--explain -1 says why of %d more)\n", unexplained)
	}
	fmt.Fprintf(w, "%s checked: %d broken", count(a.Packages, "package"), len(a.Broken))
	if len(a.Undecided) > 0 {
		fmt.Fprintf(w, ", %d not decided within %s: raise --budget", len(a.Undecided), count(a.Budget, "conflict"))
	}
	fmt.Fprintln(w)
}

func printBecause(w io.Writer, because []string) {
	for _, s := range because {
		fmt.Fprintf(w, "  %s\n", plain(s))
	}
}

// solveInstalled is what solve answers in JSON of what is to be installed.
type solveInstalled struct {
	OK        bool           `json:"ok"`
	Packages  []solvePackage `json:"packages,omitempty"`
	Installed int64          `json:"installedKiB,omitempty"`
	Size      int64          `json:"downloadBytes,omitempty"`
	Proven    bool           `json:"proven,omitempty"` // that no set is better
	Cost      int64          `json:"cost,omitempty"`   // packages or KiB, as asked
	Bound     int64          `json:"bound,omitempty"`  // what no set costs less than
	Because   []string       `json:"because,omitempty"`
	Minimal   bool           `json:"minimal,omitempty"`
}

func printSolveInstalled(w io.Writer, a *solveInstalled, minimise string) {
	if !a.OK {
		fmt.Fprintln(w, "cannot be installed:")
		printBecause(w, a.Because)
		return
	}
	var rows [][]string
	for _, p := range a.Packages {
		rows = append(rows, []string{p.Package, p.Version, p.Architecture, strconv.FormatInt(p.Installed, 10)})
	}
	table(w, "PACKAGE|VERSION|ARCHITECTURE|KIB", rows)
	fmt.Fprintf(w, "%s, %d KiB installed, %d bytes to download; ", count(len(a.Packages), "package"), a.Installed, a.Size)
	unit := map[string]string{string(debian.Count): "packages", string(debian.Size): "KiB"}[minimise]
	if a.Proven {
		fmt.Fprintf(w, "no set has fewer %s\n", unit)
	} else {
		fmt.Fprintf(w, "not proven minimal (bound %d %s): raise --budget\n", a.Bound, unit)
	}
}
