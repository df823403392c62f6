package cedar

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMarksComeOutInOrder(t *testing.T) {
	const n = 10_000
	m, r := newMarks(n), rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		want := []uint32{0, 63, 64, 4095, 4096, n - 1}[:round%7]
		for range r.IntN(40) {
			want = append(want, r.Uint32N(n))
		}
		r.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
		for _, x := range append(want, want...) {
			m.add(x)
		}
		slices.Sort(want)
		want = slices.Compact(want)
		if got := m.drain(nil); !slices.Equal(got, want) {
			t.Fatalf("%d came out as %d", want, got)
		}
	}
}
