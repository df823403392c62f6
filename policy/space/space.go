// Package space finds what a policy tells apart: the packets and the requests that each of
// its rules decides, and those that two policies decide differently.
//
// What it finds it shows: a packet or a call that the reference evaluator of package policy
// was asked about. That there is none it says only where all was looked at; beyond the
// budget, or where values have no finite number of kinds, it says that it does not know.
package space

import (
	"context"
	"fmt"
)

// A Status answers whether there is something of a kind.
type Status uint8

// The zero Status says that it is not known.
const (
	NotAnalysed Status = iota
	Found              // a witness shows it
	None               // all was looked at
)

func (s Status) String() string {
	return [...]string{"not analysed", "found", "none"}[s]
}

// DefaultSteps is a budget of a second or two.
const DefaultSteps = 20_000_000

// A Budget bounds what is looked at. It counts steps rather than time: the same documents
// have the same answers on every machine.
type Budget struct {
	ctx    context.Context
	parent *Budget
	all    int64
	left   int64
	until  int64 // the context is asked when this many are left
}

// NewBudget returns one of so many steps, that ends with ctx as well.
func NewBudget(ctx context.Context, steps int64) *Budget {
	return &Budget{ctx: ctx, all: steps, left: steps, until: steps}
}

// part returns a budget within b.
func (b *Budget) part(steps int64) *Budget {
	steps = max(0, min(steps, b.left))
	return &Budget{ctx: b.ctx, parent: b, all: steps, left: steps, until: steps}
}

// spend reports whether there were so many steps left.
func (b *Budget) spend(n int) bool {
	b.left -= int64(n)
	if b.parent != nil {
		b.parent.left -= int64(n)
	}
	if b.left <= b.until {
		b.until = b.left - 1<<14
		if b.ctx.Err() != nil {
			b.left = min(b.left, -1)
		}
	}
	return b.left >= 0
}

// Err is that of the context.
func (b *Budget) Err() error { return b.ctx.Err() }

// Left returns how many steps are left.
func (b *Budget) Left() int64 { return max(0, b.left) }

// why says why something was not analysed.
func (b *Budget) why() string {
	if b.ctx.Err() != nil {
		return "it was interrupted"
	}
	if b.parent != nil && b.parent.left <= 0 {
		return b.parent.why()
	}
	return fmt.Sprintf("%d steps were not enough", b.all)
}
