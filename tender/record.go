package tender

import (
	"encoding/json"
	"fmt"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
)

// A Decision is one line of the audit spool. Its text is printable.
type Decision = audit.Decision

func (t *tender) decision(r *audit.Record, seq uint64) ([]byte, error) {
	d := Kept(r)
	d.Seq, d.Instance, d.Tier = seq, t.cfg.Instance, t.tier
	return json.Marshal(d)
}

// Kept returns what a spool keeps of a record.
func Kept(r *audit.Record) Decision {
	d := Decision{
		Time: time.Unix(0, r.Time).UTC(),
		ID:   printable(r.ID), Decision: r.Verdict.String(), Stage: printable(r.Stage),
		Rule: printable(r.Rule.ID), Line: printable(r.Rule.Line), Reason: printable(r.Reason), Status: r.Status,
		Principal: printable(r.Principal), Source: printable(r.Source), Protocol: flow.Protocol(r.Protocol).Text(), Port: r.Port, Method: printable(r.Method),
		Route: printable(r.Route), Path: printable(r.Path), Level: printable(r.Level), Revision: r.Revision,
		Program: program.Digest(r.Program).String(),
	}
	partial := r.Partial
	note := func(field audit.Partial, changed bool) {
		if changed {
			partial |= field
		}
	}
	note(audit.PartialPrincipal, d.Principal != r.Principal)
	note(audit.PartialSource, d.Source != r.Source)
	note(audit.PartialPath, d.Path != r.Path)
	for _, g := range r.Groups {
		d.Groups = append(d.Groups, printable(g))
		note(audit.PartialGroups, d.Groups[len(d.Groups)-1] != g)
	}
	if w := r.DryRun; w != nil {
		d.DryRun = &audit.DryRun{Decision: w.Verdict.String(), Stage: printable(w.Stage),
			Rule: printable(w.Rule.ID), Line: printable(w.Rule.Line), Reason: printable(w.Reason)}
	}
	d.Partial = partial.Fields()
	for _, f := range r.Facts {
		name, value := printable(f.Name), printable(f.Value)
		if d.Facts == nil {
			d.Facts = make(map[string]*string)
		}
		switch f.State {
		case audit.FactAbsent:
			d.Facts[name] = nil
			continue
		case audit.FactUnread:
		default:
			d.Facts[name] = &value
		}
		if f.State != audit.FactWhole || value != f.Value {
			d.Partial = append(d.Partial, audit.FieldAttribute+name)
		}
	}
	return d
}

// Where a line of the log comes from.
const (
	FromTender = "tender"
	FromImage  = "image"  // said on the control channel
	FromOutput = "output" // written to standard output or error
)

// A LogLine is one line of an instance's log. Its text is printable.
type LogLine struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	From string    `json:"from"`
	Line string    `json:"line"`
}

// maxText bounds a line of the log, in bytes, before it is made printable.
const maxText = 4096

// log adds one line to the log. A log that cannot be written stops nothing:
// decisions do.
func (t *tender) log(from, format string, args ...any) {
	text := audit.Cut(fmt.Sprintf(format, args...), maxText)
	t.logs.append(1, func(_ int, n uint64) ([]byte, error) {
		return json.Marshal(LogLine{Seq: n, Time: time.Now().UTC(), From: from, Line: printable(text)})
	})
}

// keep implements keeper. An image that sends more than a server could decide
// is read more slowly.
func (t *tender) keep(records []audit.Record) error {
	err := t.decisions.append(len(records), func(i int, seq uint64) ([]byte, error) { return t.decision(&records[i], seq) })
	if excess, rest, _ := t.records.add(time.Now(), len(records)); excess > 0 {
		time.Sleep(rest)
	}
	return err
}

// restEvery is after how many lines that are not kept an image is not read for a
// millisecond.
const restEvery = 64

// note implements keeper: a line of the image. One that writes too many loses
// some, and is read more slowly, though fast enough to die of a long trace.
func (t *tender) note(from, line string) {
	excess, _, past := t.lines.add(time.Now(), 1)
	if past > 0 {
		t.log(FromTender, "%d lines of the image were dropped: it writes more than %d a second", past, linesPerSecond)
	}
	if excess == 0 {
		t.log(from, "%s", line)
	} else if excess%restEvery == 0 {
		time.Sleep(time.Millisecond)
	}
}

// released implements keeper.
func (t *tender) released(slot uint8) error { return t.memory.release(slot) }

// enforced implements keeper.
func (t *tender) enforced(slot uint8) { t.memory.enforce(slot) }
