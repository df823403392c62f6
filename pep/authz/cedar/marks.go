package cedar

import "math/bits"

// marks is a set of rules that comes out in order: a bit for each rule, and one for each
// word of those.
type marks struct{ rules, words []uint64 }

func newMarks(rules int) marks {
	words := rules/64 + 1
	return marks{make([]uint64, words), make([]uint64, words/64+1)}
}

func (m *marks) add(rule uint32) {
	m.rules[rule/64] |= 1 << (rule % 64)
	m.words[rule/4096] |= 1 << (rule / 64 % 64)
}

// drain appends the rules to list, and has none afterwards.
func (m *marks) drain(list []uint32) []uint32 {
	for i, words := range m.words {
		for ; words != 0; words &= words - 1 {
			at := 64*i + bits.TrailingZeros64(words)
			for rules := m.rules[at]; rules != 0; rules &= rules - 1 {
				list = append(list, uint32(64*at+bits.TrailingZeros64(rules)))
			}
			m.rules[at] = 0
		}
		m.words[i] = 0
	}
	return list
}
