package audit

import (
	"fmt"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// A Would is what would have been decided if what is tried were enforced.
type Would struct {
	Verdict abi.Verdict
	Stage   string
	Rule    abi.Rule
	Reason  string // in words, for a denial
}

// Kinds of a Would in a record; 0: none.
const (
	wouldDeny  = 1
	wouldAllow = 2
)

func (x *Would) kind() uint8 {
	switch {
	case x == nil:
		return 0
	case x.Verdict == abi.Allow:
		return wouldAllow
	}
	return wouldDeny
}

func (x *Would) texts() []*string { return []*string{&x.Stage, &x.Rule.ID, &x.Rule.Line, &x.Reason} }

func (x *Would) append(w *wire.Writer) {
	if x == nil {
		return
	}
	for _, s := range x.texts() {
		w.String(Cut(*s, MaxField))
	}
}

func readWould(rd *wire.Reader, kind uint8) *Would {
	if kind == 0 {
		return nil
	}
	x := &Would{Verdict: abi.Deny}
	switch kind {
	case wouldDeny:
	case wouldAllow:
		x.Verdict = abi.Allow
	default:
		rd.Fail(fmt.Errorf("audit: what would have been, %d, is unknown", kind))
	}
	for _, s := range x.texts() {
		*s = text(rd, MaxField)
	}
	return x
}
