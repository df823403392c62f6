package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
)

// A figure is one promise of speed and what was measured of it.
type figure struct {
	Name   string
	Unit   string // "" for ratios
	Values []float64
	Target float64
	AtMost bool // the target is an upper bound
	None   bool // there is no target: reported only
}

// median returns the middle of the values.
func (f *figure) median() float64 {
	v := slices.Sorted(slices.Values(f.Values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (f *figure) met() bool {
	if f.AtMost {
		return f.median() <= f.Target
	}
	return f.median() >= f.Target
}

// verdict is "met" or "short"; "-" where nothing was promised.
func (f *figure) verdict() string {
	switch {
	case f.None:
		return "-"
	case f.met():
		return "met"
	}
	return "short"
}

func (f *figure) target() string {
	switch {
	case f.None:
		return "-"
	case f.AtMost:
		return "<=" + number(f.Target) + f.Unit
	}
	return ">=" + number(f.Target) + f.Unit
}

func (f *figure) value() string { return number(f.median()) + f.Unit }

// spread is the least and the greatest value.
func (f *figure) spread() string {
	return number(slices.Min(f.Values)) + " to " + number(slices.Max(f.Values))
}

// line is what machines read: figure NAME VALUE TARGET met|short.
func (f *figure) line(w io.Writer) {
	fmt.Fprintf(w, "figure %s %s %s %s\n", f.Name, f.value(), f.target(), f.verdict())
}

// number writes three significant digits, and whole numbers whole.
func number(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
