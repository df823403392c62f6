package catalog

import (
	"fmt"
	"regexp"
)

var codeLine = regexp.MustCompile(`(?m)^code:[ \t]*[0-9]+`)

// SetCode returns a manifest with another number of KiB of code, and all else as it was
// written, comments included. The name stands in errors.
func SetCode(name string, data []byte, code int) ([]byte, error) {
	if _, err := Parse(name, data); err != nil {
		return nil, err
	}
	place := codeLine.FindIndex(data)
	if place == nil {
		return nil, at(name, "no line of the form \"code: 12\"")
	}
	out := append(data[:place[0]:place[0]], fmt.Sprintf("code: %d", code)...)
	out = append(out, data[place[1]:]...)
	if m, err := Parse(name, out); err != nil || m.Code != code {
		return nil, at(name, "the line of the field \"code\" is not found: write it as \"code: %d\"", code)
	}
	return out, nil
}
