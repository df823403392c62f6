package program

import "fmt"

// A Batch is what has been in force of the programs that were signed under one
// revision, one for each level: whoever changes the level selects one of them, and makes
// none. The zero Batch follows nothing: any program may be the first.
type Batch struct {
	revision uint64
	level    string // in force
	sums     map[string]Digest
}

// Follows reports why a program may not come after what is in force: its revision must
// be above, or its level another one of the same batch. Of a level that was in force before, a batch has the same bytes.
func (b *Batch) Follows(revision uint64, level string, sum Digest) error {
	if b.sums == nil || revision > b.revision {
		return nil
	}
	if revision < b.revision {
		return fmt.Errorf("its revision %d is not above %d, which is in force", revision, b.revision)
	}
	if level == b.level {
		return fmt.Errorf("its revision %d is not above %d, which is in force at the same level", revision, b.revision)
	}
	if before, ok := b.sums[level]; ok && before != sum {
		return fmt.Errorf("its level %q had another program under revision %d", level, b.revision)
	}
	return nil
}

// Enter notes that a program is in force.
func (b *Batch) Enter(revision uint64, level string, sum Digest) {
	if b.sums == nil || revision != b.revision {
		b.sums = make(map[string]Digest)
	}
	b.revision, b.level = revision, level
	b.sums[level] = sum
}
