// Package record reads recorded decisions, and asks what a policy decides about what was
// recorded: whoever compares, learns or explains begins here.
package record

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A Decision is one recorded decision.
type Decision = audit.Decision

// maxLine bounds a line, in bytes: no tender writes a longer one.
const maxLine = 64 << 10

// A Passed counts lines that are no decisions.
type Passed struct {
	Lines int
	First *policy.Error // the first of them; nil: none
}

// Read calls each for every decision of in, one JSON object on a line, as `lorica logs
// --decisions -o json` prints them and spools hold them. Lines without anything are passed
// over. With damaged, so is what is no decision, and counted; without, it ends the reading
// with a *policy.Error that has the line, and what each was given before is to be
// forgotten. An error of each ends the reading, too.
func Read(in io.Reader, file string, damaged bool, each func(Decision) error) (Passed, error) {
	var passed Passed
	b := bufio.NewReaderSize(in, maxLine+2)
	for n := 1; ; n++ {
		line, err := b.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for err == bufio.ErrBufferFull {
			_, err = b.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return passed, fmt.Errorf("%s: %w", file, err)
		}
		var wrong error
		var d Decision
		if line = bytes.TrimRight(line, "\r\n"); long {
			wrong = fmt.Errorf("the line has more than %d bytes", maxLine)
		} else if len(bytes.TrimSpace(line)) > 0 {
			d, wrong = Parse(line)
		}
		switch {
		case wrong != nil:
			x := &policy.Error{Pos: api.Pos{File: file, Line: n, Column: 1}, Message: wrong.Error(),
				Fix: "records are what lorica logs --decisions -o json prints"}
			if !damaged {
				return passed, x
			}
			if passed.Lines++; passed.First == nil {
				passed.First = x
			}
		case d.ID != "":
			if err := each(d); err != nil {
				return passed, err
			}
		}
		if err == io.EOF {
			return passed, nil
		}
	}
}

// known reports whether a decision has a member of this name in JSON.
func known(name string) bool {
	t := reflect.TypeFor[Decision]()
	for i := range t.NumField() {
		if tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); tag == name {
			return true
		}
	}
	return false
}

// Parse reads one decision. Nothing is guessed: a member that is unknown, or there twice,
// may be what decides.
func Parse(line []byte) (Decision, error) {
	if err := strictjson.Find(line, nil, nil); err != nil {
		return Decision{}, fmt.Errorf("not a record: %w", err)
	}
	var names map[string]json.RawMessage
	if err := json.Unmarshal(line, &names); err != nil || names == nil {
		return Decision{}, errors.New("not a record: it is no JSON object")
	}
	for name := range names {
		if !known(name) {
			return Decision{}, fmt.Errorf("not a record of this version: the member %.40q is unknown", name)
		}
	}
	var d Decision
	if err := json.Unmarshal(line, &d); err != nil {
		var typed *json.UnmarshalTypeError
		if errors.As(err, &typed) {
			return Decision{}, fmt.Errorf("not a record: the member %q cannot be a %s", typed.Field, typed.Value)
		}
		return Decision{}, fmt.Errorf("not a record: %w", err)
	}
	return d, check(&d)
}

// check refuses what no tender writes.
func check(d *Decision) error {
	for _, x := range []struct {
		name  string
		wrong bool
	}{
		{"seq", d.Seq == 0}, {"time", d.Time.IsZero()}, {"instance", d.Instance == ""}, {"id", d.ID == ""}, {"stage", d.Stage == ""},
		{"rule", d.Rule == ""}, {"level", d.Level == ""}, {"program", !digest(d.Program)}, {"decision", d.Decision != "Allow" && d.Decision != "Deny"},
		{"dryRun", d.DryRun != nil && (d.DryRun.Decision != "Allow" && d.DryRun.Decision != "Deny" || d.DryRun.Stage == "" || d.DryRun.Rule == "")},
		{"partial", slices.ContainsFunc(d.Partial, func(s string) bool {
			return s != audit.FieldAttributes && !strings.HasPrefix(s, audit.FieldAttribute) && s != audit.FieldPrincipal && s != audit.FieldSource && s != audit.FieldPath && s != audit.FieldGroups
		})},
	} {
		if x.wrong {
			return fmt.Errorf("not a record: the member %q is missing or makes no sense", x.name)
		}
	}
	return nil
}

// digest reports whether s is written as program.Digest is.
func digest(s string) bool {
	b, err := hex.DecodeString(strings.TrimPrefix(s, "sha256:"))
	return err == nil && len(b) == len(program.Digest{}) && s == program.Digest(b).String()
}

// Workload is the name of the workload whose instance decided: instances are called by it,
// without its tenant, and something at random.
func Workload(r *Decision) string { return r.Instance[:max(0, strings.LastIndexByte(r.Instance, '-'))] }

// About says what a record is about, in words.
func About(r *Decision) string {
	if r.Method != "" {
		what := r.Method + " " + r.Path
		if r.Principal != "" {
			what += " as " + r.Principal
		}
		return what
	}
	what := strings.ToLower(r.Protocol) + " " + r.Source
	if r.Port != 0 {
		what += " -> :" + strconv.Itoa(int(r.Port))
	}
	return what
}
