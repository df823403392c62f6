package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"
)

// What CI systems read: the JUnit form, as Jenkins and GitLab have it in common.
type junitReport struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Cases    []junitCase `xml:"testcase"`
	Said     string      `xml:"system-out,omitempty"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	File    string        `xml:"file,attr,omitempty"`
	Line    int           `xml:"line,attr,omitempty"`
	Failure *junitProblem `xml:"failure"`
	Error   *junitProblem `xml:"error"`
}

type junitProblem struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// writeJUnit writes what came of all policies. Documents that cannot be read are written as
// errors: a report of an earlier run would say that all is well.
func writeJUnit(path string, r *tested) error {
	var out junitReport
	add := func(s junitSuite) {
		s.Tests = len(s.Cases)
		for _, c := range s.Cases {
			if c.Failure != nil {
				s.Failures++
			}
			if c.Error != nil {
				s.Errors++
			}
		}
		out.Tests, out.Failures, out.Errors = out.Tests+s.Tests, out.Failures+s.Failures, out.Errors+s.Errors
		out.Suites = append(out.Suites, s)
	}
	for _, p := range r.Policies {
		s := junitSuite{Name: p.Policy}
		for _, x := range p.Tests {
			c := junitCase{Class: p.Policy, Name: x.Name, File: x.Position.File, Line: x.Position.Line}
			if !x.OK {
				c.Failure = &junitProblem{x.Problem, strings.Join(x.Missing, "\n")}
			}
			s.Cases = append(s.Cases, c)
		}
		if p.CoverageRequired {
			for _, u := range p.Coverage.Uncovered {
				s.Cases = append(s.Cases, junitCase{Class: p.Policy + " coverage", Name: u.Rule, Failure: &junitProblem{"decides no test", u.Line}})
			}
		}
		var said strings.Builder
		printNotAsked(&said, p.NotAsked)
		s.Said = said.String()
		add(s)
	}
	if len(r.Errors) > 0 {
		s := junitSuite{Name: "documents"}
		for _, e := range r.Errors {
			s.Cases = append(s.Cases, junitCase{Class: "documents", Name: fmt.Sprintf("%s: %s", e.Pos.Short(), e.Message), File: e.Pos.File, Line: e.Pos.Line, Error: &junitProblem{e.Message, e.Fix}})
		}
		add(s)
	}
	b, err := xml.MarshalIndent(out, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append([]byte(xml.Header), append(b, '\n')...), 0o666)
	}
	if err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	return nil
}
