// Package corpus holds requests that servers are known to read differently, each as it
// goes over the wire, and what becomes of it. Tests and `lorica verify` send the same.
package corpus

import (
	"bytes"
	_ "embed" // the requests
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

//go:embed requests.txt
var requests string

// An Entry is what one client sends on a connection of its own. The policy that its
// expectations are about has the routes /app/... and /seen.
type Entry struct {
	Name   string
	Raw    []byte
	Status string   // of the answers, in order, as in "200 400", or "none"
	Sees   []string // METHOD PATH BODY of the requests that the application sees
}

var sends = regexp.MustCompile(`^> (?:(\d+)\*)?(".*")$`)

// Entries returns all of them. Anything that is not understood, and an entry without a
// name, a request or an expectation, is an error.
func Entries() ([]Entry, error) { return parse(requests) }

func parse(text string) (list []Entry, err error) {
	for i, line := range strings.Split(text, "\n") {
		kind, rest, _ := strings.Cut(line, " ")
		m := sends.FindStringSubmatch(line)
		switch {
		case line == "" || kind == "#":
			continue
		case kind == "==":
			list = append(list, Entry{Name: rest})
			continue
		case len(list) == 0:
		case m != nil:
			e := &list[len(list)-1]
			times := 1
			if m[1] != "" {
				times, err = strconv.Atoi(m[1])
			}
			s, err2 := strconv.Unquote(m[2])
			if err == nil && err2 == nil {
				e.Raw = append(e.Raw, bytes.Repeat([]byte(s), times)...)
				continue
			}
		case kind == "<":
			list[len(list)-1].Status = rest
			continue
		case kind == "=":
			e := &list[len(list)-1]
			e.Sees = append(e.Sees, rest)
			continue
		}
		return nil, fmt.Errorf("requests.txt:%d: not understood: %s", i+1, line)
	}
	names := map[string]bool{}
	for _, e := range list {
		if names[e.Name] || e.Name == "" || len(e.Raw) == 0 || e.Status == "" {
			return nil, fmt.Errorf("requests.txt: entry %q has no request, no expectation, or the name of another", e.Name)
		}
		names[e.Name] = true
	}
	return list, nil
}

var statusLine = regexp.MustCompile(`(?m)^HTTP/1\.[01] (\d{3})`)

// Statuses reads those of what came back, as Entry.Status has them.
func Statuses(answer []byte) string {
	var list []string
	for _, m := range statusLine.FindAllSubmatch(answer, -1) {
		list = append(list, string(m[1]))
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}
